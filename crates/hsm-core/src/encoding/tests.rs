#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::point::point_bytes;
use super::public_key::rsa_from_numbers;
use super::*;
use crate::key::{HsmKeyId, Label, ParameterSet, PublicKey};

/// Public keys that OpenSSL wrote.
const PEMS: [&str; 4] = [
    "-----BEGIN PUBLIC KEY-----\n\
     MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyMxCYyRxSwl3SJi+gOcA\n\
     UQQhlGrt5VGLYWjLv9NyX6i0Q0W96vHVQ1RNwA0+uhhRug7Wnc4H+xlfVMkDyW0/\n\
     uRcCyD1ylJgl3BUDPKcBIL0UBerCcgQ1TBKwIjzoeB4RrfgJHyI4ZV/EIF5M1lbq\n\
     zI6++0LLAdZoHzWUIxKBSB6cFdjPsid+NXrUdHr8QIGGLfJa2GIohx2AZQoaAGcL\n\
     FLnx4SrXCfoZRjM2eCfrqBLFafP9pq4Axm5qP491hHvgdR03sGkkRKPyw+A3tHFN\n\
     1t38hJaYD1qxBTHiy55XBSbF5MFVcPPGKVKzr/V3VLX10x7C8AKk1ac3rvq1D8xw\n\
     zwIDAQAB\n\
     -----END PUBLIC KEY-----\n",
    "-----BEGIN PUBLIC KEY-----\n\
     MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQA/bVDA2ysqsVNzxq8cT8gKOh7YGdY\n\
     o5vn741hVt+7ZVNBDlZIjuYtGScwHacR6Rq8XyrOaliCWNgnGMAah+so6b4BMajx\n\
     0MGZS2bvQ6DCKE5CTJNKxJXDUpHn/wLcSamN5A//LGPjMxr4p2puxN/K37Zx5UfG\n\
     B7POpzzU5sU4XK/A3yo=\n\
     -----END PUBLIC KEY-----\n",
    "-----BEGIN PUBLIC KEY-----\n\
     MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE/XGGlOSDYOFguGFTlWKrfZ6O7MbWgNl+\n\
     EuVast6nrebvVc5fAgQLlmqTqqQbcv/utpiETc4DPwLTTRxRdrAV6Q==\n\
     -----END PUBLIC KEY-----\n",
    "-----BEGIN PUBLIC KEY-----\n\
     MEMwBQYDK2VxAzoA1as3fH4bqAWRYJwe5WnCsmrqRXmT1sbhHbRmYFOQZE6y9PZO\n\
     fNbbnxt3VCgf5U9xChd19TMr1MAA\n\
     -----END PUBLIC KEY-----\n",
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn openssls_keys_are_read_and_written_back_to_the_byte() {
    for pem in PEMS {
        let key = public_key_from_pem(pem).unwrap();
        assert_eq!(public_key_pem(&key), pem);
    }
}

#[test]
fn a_cut_or_lengthened_key_is_none() {
    for pem in PEMS {
        let der = public_key_der(&public_key_from_pem(pem).unwrap());
        for length in 0..der.len() {
            assert_eq!(public_key_from_der(&der[..length]), None);
        }
        assert_eq!(public_key_from_der(&[der, vec![0]].concat()), None);
    }
}

#[test]
fn ed25519_is_written_as_in_rfc_8410() {
    let pem = "-----BEGIN PUBLIC KEY-----\n\
               MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
               -----END PUBLIC KEY-----\n";
    let key = PublicKey::Curve {
        curve: Curve::Ed25519,
        point: hex("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"),
    };
    assert_eq!(public_key_pem(&key), pem);
    assert_eq!(public_key_from_pem(pem), Some(key));
}

#[test]
fn jwks_are_those_of_the_standards() {
    // RFC 7517 appendix A.1
    let (x, y) = (
        "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    );
    let [left, right] = [x, y].map(|text| URL_SAFE_NO_PAD.decode(text).unwrap());
    let key = jwk(&PublicKey::Curve {
        curve: Curve::P256,
        point: [vec![4], left, right].concat(),
    });
    assert_eq!((key.kty, key.crv), ("EC", Some("P-256")));
    assert_eq!((key.x.as_deref(), key.y.as_deref()), (Some(x), Some(y)));
    assert_eq!((key.n, key.e), (None, None));

    // RFC 8037 appendix A.2
    let key = jwk(&PublicKey::Curve {
        curve: Curve::Ed25519,
        point: hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
    });
    assert_eq!((key.kty, key.crv, key.y), ("OKP", Some("Ed25519"), None));
    assert_eq!(key.x.as_deref(), Some("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));

    let key = jwk(&PublicKey::Rsa {
        modulus: vec![0, 0xd2, 0xfc],
        exponent: vec![1, 0, 1],
    });
    assert_eq!((key.kty, key.crv), ("RSA", None));
    assert_eq!((key.n.as_deref(), key.e.as_deref()), (Some("0vw"), Some("AQAB")));
}

/// RFC 6979 appendix A.2.5, SHA-256, "sample".
const R: &str = "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716";
const S: &str = "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8";

#[test]
fn ecdsa_signatures_go_there_and_back() {
    let fixed = hex(&[R, S].concat());
    let der = ecdsa_to_der(&fixed, Curve::P256).unwrap();
    assert_eq!(der, hex(&format!("3046 022100{R} 022100{S}")));
    assert_eq!(ecdsa_from_der(&der, Curve::P256), Some(fixed));

    let mut small = vec![0; 132];
    (small[65], small[131]) = (0x7f, 0x80);
    let der = ecdsa_to_der(&small, Curve::P521).unwrap();
    assert_eq!(der, hex("3007 02017f 02020080"));
    assert_eq!(ecdsa_from_der(&der, Curve::P521), Some(small));

    let long = vec![0xff; 132];
    let der = ecdsa_to_der(&long, Curve::P521).unwrap();
    assert_eq!(der[..3], [0x30, 0x81, 0x8a]);
    assert_eq!(ecdsa_from_der(&der, Curve::P521), Some(long));
}

#[test]
fn only_the_one_right_encoding_of_a_signature_is_taken() {
    let wrong = [
        ("nothing", ""),
        ("a byte after it", "3006 020101 020102 00"),
        ("a byte after s", "3007 020101 020102 00"),
        ("a long length for a short value", "308106 020101 020102"),
        ("an indefinite length", "3080 020101 020102 0000"),
        ("a needless zero", "3007 02020001 020102"),
        ("a negative r", "3006 020180 020102"),
        ("r of zero", "3006 020100 020102"),
        ("s of zero", "3006 020101 020100"),
        ("an empty integer", "3005 0200 020102"),
        ("one integer", "3003 020101"),
        ("three integers", "3009 020101 020102 020103"),
        ("another tag", "3106 020101 020102"),
        ("another tag within", "3006 030101 020102"),
        ("a cut value", "3006 020101 0201"),
    ];
    for (what, der) in wrong {
        assert_eq!(ecdsa_from_der(&hex(der), Curve::P256), None, "{what}");
    }
    let too_long = hex(&format!("3027 0221 01{R} 020101"));
    assert_eq!(ecdsa_from_der(&too_long, Curve::P256), None);
    for length in [0, 1, 63, 65, 128] {
        assert_eq!(ecdsa_to_der(&vec![1; length], Curve::P256), None, "{length}");
    }
    assert_eq!(ecdsa_to_der(&[0; 64], Curve::P256), None);
}

#[test]
fn every_name_of_a_curve_is_understood() {
    for curve in Curve::ALL {
        assert_eq!(curve_from_params(curve_params(*curve)), Some(*curve));
    }
    let printable = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[0x13, length], text.as_bytes()].concat()
    };
    assert_eq!(curve_from_params(&printable("edwards25519")), Some(Curve::Ed25519));
    assert_eq!(curve_from_params(&printable("edwards448")), Some(Curve::Ed448));
    assert_eq!(curve_from_params(&hex("06092b06010401da470f01")), Some(Curve::Ed25519));
    for unknown in [hex("06052b81040021"), hex("3003020101"), vec![]] {
        assert_eq!(curve_from_params(&unknown), None);
    }
}

#[test]
fn points_are_taken_wrapped_and_bare() {
    for curve in Curve::ALL {
        let length = point_bytes(*curve);
        let point = vec![0x04; length];
        for value in [
            point.clone(),
            tlv(OCTET_STRING, &point),
            tlv(BIT_STRING, &[vec![0], point.clone()].concat()),
        ] {
            assert_eq!(point_from_attribute(&value, *curve), Some(point.clone()), "{curve}");
            let longer = [value.clone(), vec![0]].concat();
            assert_eq!(point_from_attribute(&longer, *curve), None);
            assert_eq!(point_from_attribute(&value[1..], *curve), None);
        }
        assert_eq!(point_from_attribute(&[], *curve), None);
    }
}

#[test]
fn compressed_points_are_written_out() {
    // RFC 5480 §2.2; SEC 1 §2.3.3: the sign of y is in the first byte.
    for pem in &PEMS[1..3] {
        let Some(PublicKey::Curve { curve, point }) = public_key_from_pem(pem) else {
            unreachable!("both are on curves")
        };
        let odd = point[point.len() - 1] & 1;
        let compressed = [&[2 + odd], &point[1..=curve.field_bytes()]].concat();
        for value in [compressed.clone(), tlv(OCTET_STRING, &compressed)] {
            assert_eq!(point_from_attribute(&value, curve), Some(point.clone()));
        }
        let written = PublicKey::Curve {
            curve,
            point: compressed.clone(),
        };
        let read = public_key_from_der(&public_key_der(&written));
        assert_eq!(read, Some(PublicKey::Curve { curve, point }));
        for wrong in [
            &compressed[1..],
            &[&[5], &compressed[1..]].concat(),
            &vec![0xff; compressed.len()],
        ] {
            assert_eq!(point_from_attribute(&tlv(OCTET_STRING, wrong), curve), None);
        }
        // No point of the curve has this x.
        let beyond = [vec![2], vec![0xff; curve.field_bytes()]].concat();
        assert_eq!(point_from_attribute(&beyond, curve), None);
    }
}

#[test]
fn keys_after_quantum_computers_have_an_encoding_each() {
    let mut seen = std::collections::HashSet::new();
    for parameter_set in ParameterSet::ALL.iter().copied() {
        let key = PublicKey::PostQuantum {
            parameter_set,
            key: vec![7; parameter_set.public_key_bytes()],
        };
        let der = public_key_der(&key);
        assert!(seen.insert(der[..24.min(der.len())].to_vec()), "{parameter_set}");
        assert_eq!(public_key_from_der(&der).as_ref(), Some(&key), "{parameter_set}");
        assert_eq!(public_key_from_pem(&public_key_pem(&key)).as_ref(), Some(&key));
        assert_eq!(public_key_from_der(&der[..der.len() - 1]), None);
        let short = PublicKey::PostQuantum {
            parameter_set,
            key: vec![7; parameter_set.public_key_bytes() - 1],
        };
        assert_eq!(public_key_from_der(&public_key_der(&short)), None);
        assert_eq!(check_point(&key), Ok(()));

        let jwk = jwk(&key);
        assert_eq!((jwk.kty, jwk.alg, jwk.crv), ("AKP", Some(parameter_set.name()), None));
        let public = URL_SAFE_NO_PAD.decode(jwk.public.unwrap()).unwrap();
        assert_eq!(public, vec![7; parameter_set.public_key_bytes()]);
    }
    // RFC 9881 §2 gives ML-DSA-44 this identifier, RFC 9935 §3 ML-KEM-1024 the other.
    for (set, oid) in [
        (ParameterSet::MlDsa44, "2.16.840.1.101.3.4.3.17"),
        (ParameterSet::SlhDsaShakeF256, "2.16.840.1.101.3.4.3.31"),
        (ParameterSet::MlKem1024, "2.16.840.1.101.3.4.4.3"),
    ] {
        let key = PublicKey::PostQuantum {
            parameter_set: set,
            key: vec![1; set.public_key_bytes()],
        };
        let oid = der::asn1::ObjectIdentifier::new_unwrap(oid);
        let der = public_key_der(&key);
        let written = tlv(SEQUENCE, &tlv(0x06, oid.as_bytes()));
        assert!(der.windows(written.len()).any(|window| window == written), "{set}");
    }
}

#[test]
fn parameters_where_none_belong_are_refused() {
    let ed = public_key_der(&public_key_from_pem(PEMS[3]).unwrap());
    // SEQUENCE { OID }, with a NULL put in.
    let with_null = tlv(SEQUENCE, &[&hex("3007 06032b6571 0500"), &ed[9..]].concat());
    assert_eq!(public_key_from_der(&with_null), None);
    let rsa = public_key_der(&public_key_from_pem(PEMS[0]).unwrap());
    let without_null = tlv(SEQUENCE, &[&hex("300b 06092a864886f70d010101"), &rsa[19..]].concat());
    assert_eq!(public_key_from_der(&without_null), None);
    let with_null = tlv(
        SEQUENCE,
        &[&hex("300d 06092a864886f70d010101 0500"), &rsa[19..]].concat(),
    );
    assert_eq!(with_null, rsa);
}

#[test]
fn a_certificate_gives_its_key() {
    let certificates = [
        (
            include_str!("../material/test_keys/ed25519.crt.pem"),
            include_str!("../material/test_keys/ed25519.pub.pem"),
        ),
        (
            include_str!("../material/test_keys/p256.crt.pem"),
            include_str!("../material/test_keys/p256.pub.pem"),
        ),
    ];
    for (certificate, key) in certificates {
        let (_, der) = der::pem::decode_vec(certificate.as_bytes()).unwrap();
        let found = public_key_from_certificate(&der).unwrap();
        assert_eq!(public_key_pem(&found), key);
        for length in 0..der.len() {
            assert_eq!(public_key_from_certificate(&der[..length]), None);
        }
        assert_eq!(public_key_from_certificate(&[&der[..], &[0]].concat()), None);
        assert_eq!(public_key_from_certificate(&public_key_der(&found)), None);
    }
}

#[test]
fn text_is_pem_or_base64_and_its_point_is_checked() {
    for pem in PEMS {
        let key = public_key_from_pem(pem).unwrap();
        let base64 = STANDARD.encode(public_key_der(&key));
        for text in [pem, &base64] {
            assert_eq!(public_key_from_text(text).as_ref(), Ok(&key));
        }
        for wrong in [
            &base64[1..],
            &format!("{base64}\n"),
            &format!("x{pem}"),
            &format!("{pem}x"),
            "",
        ] {
            assert!(public_key_from_text(wrong).is_err_and(|why| why.to_string().starts_with("public_key: ")));
        }
    }
    for (curve, point) in [
        (Curve::P256, vec![4; 65]),
        (Curve::P384, vec![4; 97]),
        (Curve::P521, vec![4; 133]),
        (Curve::Secp256k1, vec![4; 65]),
        (Curve::Ed25519, vec![0; 32]),
        (Curve::Ed448, vec![0; 57]),
    ] {
        let key = PublicKey::Curve { curve, point };
        assert!(check_point(&key).is_err());
        assert!(public_key_from_text(&public_key_pem(&key)).is_err(), "{curve}");
    }
}

fn curves() -> impl Strategy<Value = Curve> {
    proptest::sample::select(Curve::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn signatures_have_one_encoding_each(
        curve in curves(),
        bytes in proptest::collection::vec(any::<u8>(), 132),
        zeros in 0_usize..70,
    ) {
        let mut fixed = bytes[..2 * curve.field_bytes()].to_vec();
        let small = zeros.min(curve.field_bytes() - 1);
        fixed[..small].fill(0);
        let half = curve.field_bytes();
        prop_assume!(fixed[..half].iter().any(|b| *b != 0) && fixed[half..].iter().any(|b| *b != 0));
        let der = ecdsa_to_der(&fixed, curve).unwrap();
        prop_assert_eq!(ecdsa_from_der(&der, curve), Some(fixed));
    }

    #[test]
    fn what_is_read_as_a_signature_is_written_to_the_byte(
        curve in curves(),
        r in proptest::collection::vec(any::<u8>(), 0..70),
        s in proptest::collection::vec(any::<u8>(), 0..70),
        place in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut der = tlv(SEQUENCE, &[tlv(INTEGER, &r), tlv(INTEGER, &s)].concat());
        *place.get_mut(&mut der) = byte;
        if let Some(fixed) = ecdsa_from_der(&der, curve) {
            prop_assert_eq!(ecdsa_to_der(&fixed, curve), Some(der));
        }
    }

    #[test]
    fn public_keys_are_read_as_they_were_written(
        modulus in proptest::collection::vec(any::<u8>(), 1..300),
        exponent in proptest::collection::vec(any::<u8>(), 1..5),
        curve in curves(),
        point in proptest::collection::vec(any::<u8>(), 133),
    ) {
        if let Some(key) = rsa_from_numbers(&modulus, &exponent) {
            prop_assert_eq!(public_key_from_der(&public_key_der(&key)), Some(key));
        }
        let mut point = point[..point_bytes(curve)].to_vec();
        point[0] = 4;
        let key = PublicKey::Curve { curve, point };
        prop_assert_eq!(public_key_from_der(&public_key_der(&key)), Some(key));
    }

    #[test]
    fn key_ids_are_read_as_they_were_written(
        id in proptest::collection::vec(any::<u8>(), 1..=255),
        token in proptest::option::of("[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"),
    ) {
        let token = token.map(|token| crate::key::TokenName::parse(&token).unwrap());
        let id = HsmKeyId::on(token.as_ref(), &id).unwrap();
        prop_assert_eq!(HsmKeyId::parse(&id.to_string()).unwrap(), id);
    }

    #[test]
    fn labels_are_texts_of_1_to_255_bytes_without_control_characters(text in ".{0,300}|\\PC{0,80}") {
        let right = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
        prop_assert_eq!(Label::parse(&text).is_ok(), right);
        if let Ok(label) = Label::parse(&text) {
            prop_assert_eq!(label.as_str(), text);
        }
    }
}

#[test]
fn numbers_are_padded_and_measured() {
    assert_eq!(left_padded(&[0, 0, 1], 2), Some(vec![0, 1]));
    assert_eq!(left_padded(&[], 2), Some(vec![0, 0]));
    assert_eq!(left_padded(&[1, 2, 3], 2), None);
    assert_eq!(bit_length(&[0, 0x80, 0]), 16);
    assert_eq!(bit_length(&[1, 0]), 9);
    assert_eq!(bit_length(&[0]), 0);
}

#[test]
fn digests_are_those_of_fips_180() {
    for (hash, start) in [
        (Hash::Sha1, "a9993e364706816a"),
        (Hash::Sha256, "ba7816bf8f01cfea"),
        (Hash::Sha384, "cb00753f45a35e8b"),
        (Hash::Sha512, "ddaf35a193617aba"),
    ] {
        let digest = digest(hash, b"abc");
        assert_eq!((digest.len(), &digest[..8]), (hash.len(), &hex(start)[..]));
        let info = digest_info(hash, &digest);
        assert_eq!(usize::from(info[1]), info.len() - 2);
        assert_eq!(usize::from(info[info.len() - hash.len() - 1]), hash.len());
    }
}
