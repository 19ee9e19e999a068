#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::key::{Curve, ParameterSet};

macro_rules! keys {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(const $name: &str = include_str!(concat!("test_keys/", $file));)*
    };
}

// Made by OpenSSL.
keys! {
    RSA = "rsa.pem", RSA_E3 = "rsa_e3.pem", RSA_1024 = "rsa_1024.pem", RSA_THREE_PRIMES = "rsa_three_primes.pem",
    RSA_COMPOSITE = "rsa_composite.pem",
    P256 = "p256.pem", P384 = "p384.pem", P521 = "p521.pem", SECP256K1 = "secp256k1.pem",
    ED25519 = "ed25519.pem", ED448 = "ed448.pem", X25519 = "x25519.pem", SEC1 = "sec1.pem", ENCRYPTED = "encrypted.pem",
    RSA_PUBLIC = "rsa.pub.pem", RSA_E3_PUBLIC = "rsa_e3.pub.pem", P256_PUBLIC = "p256.pub.pem",
    P256_COMPRESSED = "p256.compressed.pub.pem", P384_PUBLIC = "p384.pub.pem", P521_PUBLIC = "p521.pub.pem",
    SECP256K1_PUBLIC = "secp256k1.pub.pem", ED25519_PUBLIC = "ed25519.pub.pem", ED448_PUBLIC = "ed448.pub.pem",
}

// Of RFC 9909 appendix C and RFC 9935 appendix C.
keys! { SLH_DSA = "slh_dsa.pem", SLH_DSA_PUBLIC = "slh_dsa.pub.pem", ML_KEM_PUBLIC = "ml_kem_512.pub.pem" }

const PAIRS: [(KeyType, &str, &str); 8] = [
    (KeyType::Rsa, RSA, RSA_PUBLIC),
    (KeyType::Rsa, RSA_E3, RSA_E3_PUBLIC),
    (KeyType::Ec, P256, P256_PUBLIC),
    (KeyType::Ec, P384, P384_PUBLIC),
    (KeyType::Ec, P521, P521_PUBLIC),
    (KeyType::Ec, SECP256K1, SECP256K1_PUBLIC),
    (KeyType::Ed, ED25519, ED25519_PUBLIC),
    (KeyType::Ed, ED448, ED448_PUBLIC),
];

/// The keys of the examples of RFC 9881 and RFC 9935: SHA-256 of their PrivateKeyInfo with the expanded key, with both
/// forms, and of the SubjectPublicKeyInfo. The seeds count up from 0.
const SEEDED: [(ParameterSet, &str, &str, &str); 6] = [
    (
        ParameterSet::MlDsa44,
        "35cb529103b3a9ed502fecb438a671ff11bb05fb4afa99301d06240883a74106",
        "e355e29f28e537fcf3aff28354016415146d7f801a57136c241bb6e9addfaa30",
        "837832708c5236d951581f1fddf2b79991b3424a0486d16da1ddad0fd69701be",
    ),
    (
        ParameterSet::MlDsa65,
        "fae10810e47ed4b41851065b40bb60547e816ebf31b0738b4ed4af57337706ec",
        "5259463f8ec68e21b8c179a7e49dba184fd24280080bd5bb78af94d7a2a0ac81",
        "b8b62131bfbe84433efb2273d7f5b87f7a22854a2cfd366fc2aead86d837c52d",
    ),
    (
        ParameterSet::MlDsa87,
        "8e2e40f141d1d6788d074de4124a744ee3106697ae6c01faccf855510079ecb3",
        "c71913419ea426e99da06330e3b06b2ab47448f1aff520479358e3cb71f5c1d6",
        "07e57c4f14dbad1267f621ec3777b4e2e6c4fbc4c22fbb87510ff8e0b3c6a642",
    ),
    (
        ParameterSet::MlKem512,
        "38be7feecbbe6e6e466a0d7b5bb53e09040c3678e22fb2c0772c701c2372c858",
        "8426d7497a2ff1a4854b7d1ece4e8f976c721f314c3f653189f8e4b2a2bc5b0d",
        "0e3c8b89b54202d2545f7aba2e2aaa3cffa7b6191919ad738fab35b4f313cf71",
    ),
    (
        ParameterSet::MlKem768,
        "994f7473b34fad03c2b36a500af9002dad15afa50473cef5ea217325c7156f9e",
        "95738d2a0b7252a16b1474b9fb4e0c8ddaa6fe70db7903ade4a385909ee0d165",
        "c23e23dd3d485a9256cda09358a4a286e00b373db10761eadf99f710649ca31c",
    ),
    (
        ParameterSet::MlKem1024,
        "9cded660a340a6e7fdb93a4984e1e67764ade8e59be4db48b6921aeee5e6c795",
        "91004b1817d798dd3972439b8332a3a1b862f89c4e98b4ca2accd4f21afb9abb",
        "d2b7480ae006a14b37c1e8a8e45ea39022e32a9b1a7b90d594c84d869c6ac420",
    ),
];

fn import(key_type: KeyType, format: Format, bytes: &[u8]) -> Result<Material> {
    parse(key_type, format, Zeroizing::new(bytes.to_vec()))
}

/// The field and the text of a refusal.
#[track_caller]
fn refusal(key_type: KeyType, format: Format, bytes: &[u8]) -> (&'static str, String) {
    match import(key_type, format, bytes) {
        Err(Error::InvalidRequest { field, detail }) => (field, detail.to_string()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("this was taken"),
    }
}

#[track_caller]
fn is_refused(key_type: KeyType, format: Format, bytes: &[u8], why: &str) {
    let (field, detail) = refusal(key_type, format, bytes);
    assert_eq!(field, "key_material", "{detail}");
    assert!(detail.contains(why), "{detail}");
}

fn der(pem: &str) -> Vec<u8> {
    pem::decode_vec(pem.as_bytes()).unwrap().1
}

/// One value in DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let header = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header, content.to_vec()].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// The AlgorithmIdentifier of a SubjectPublicKeyInfo or PrivateKeyInfo of this public key.
fn algorithm(public: &PublicKey) -> Vec<u8> {
    let spki = encoding::public_key_der(public);
    let header = if spki[1] & 0x80 == 0 {
        2
    } else {
        2 + usize::from(spki[1] & 0x7f)
    };
    spki[header..header + 2 + usize::from(spki[header + 1])].to_vec()
}

/// A PrivateKeyInfo, of version 2 where it has a public key.
fn private_key_info(algorithm: &[u8], private: &[u8], public: Option<&[u8]>) -> Vec<u8> {
    let version = [0x02, 0x01, u8::from(public.is_some())];
    let public = public.map(|bits| tlv(0x81, &[&[0], bits].concat())).unwrap_or_default();
    sequence(&[&version, algorithm, &tlv(0x04, private), &public])
}

fn point(curve: Curve, point: &[u8]) -> PublicKey {
    let point = point.to_vec();
    PublicKey::Curve { curve, point }
}

#[test]
fn openssls_private_keys_are_read_with_the_public_halves_that_openssl_makes() {
    for (key_type, private, public) in PAIRS {
        for bytes in [private.as_bytes(), &der(private)] {
            let material = import(key_type, Format::Pkcs8, bytes).unwrap();
            assert_eq!(material.key_type(), key_type);
            let half = material.public_key().unwrap();
            assert_eq!(encoding::public_key_pem(&half), public);
        }
        for bytes in [public.as_bytes(), &der(public)] {
            let material = import(key_type, Format::Spki, bytes).unwrap();
            assert_eq!(encoding::public_key_pem(&material.public_key().unwrap()), public);
        }
    }
}

#[test]
fn a_cut_or_lengthened_key_is_refused() {
    for (key_type, private, public) in PAIRS {
        for (format, pem) in [(Format::Pkcs8, private), (Format::Spki, public)] {
            let whole = der(pem);
            for length in 0..whole.len() {
                refusal(key_type, format, &whole[..length]);
            }
            refusal(key_type, format, &[&whole[..], &[0]].concat());
            refusal(key_type, format, &[pem.as_bytes(), &whole[..]].concat());
            refusal(key_type, format, pem.replace("KEY---", "SEY---").as_bytes());
        }
        refusal(key_type, Format::Spki, &der(private));
        refusal(key_type, Format::Pkcs8, &der(public));
    }
}

#[test]
fn an_encrypted_key_another_label_and_a_strange_type_are_refused() {
    is_refused(KeyType::Ec, Format::Pkcs8, ENCRYPTED.as_bytes(), "unencrypted");
    is_refused(KeyType::Ec, Format::Pkcs8, SEC1.as_bytes(), "PRIVATE KEY");
    is_refused(KeyType::Ec, Format::Pkcs8, P256_PUBLIC.as_bytes(), "PRIVATE KEY");
    is_refused(KeyType::Ec, Format::Pkcs8, &der(ENCRYPTED), "PrivateKeyInfo");
    is_refused(
        KeyType::Ed,
        Format::Pkcs8,
        X25519.as_bytes(),
        "a type that the gateway has",
    );
}

#[test]
fn a_key_of_another_type_is_refused() {
    is_refused(KeyType::Ec, Format::Pkcs8, RSA.as_bytes(), "type RSA, not EC");
    is_refused(KeyType::Ed, Format::Pkcs8, P256.as_bytes(), "type EC, not ED");
    is_refused(KeyType::Rsa, Format::Spki, ED448_PUBLIC.as_bytes(), "type ED, not RSA");
    is_refused(KeyType::MlDsa, Format::Pkcs8, SLH_DSA.as_bytes(), "SLH-DSA");
}

#[test]
fn a_format_goes_with_its_types_alone() {
    for key_type in KeyType::ALL.iter().copied() {
        let symmetric = matches!(key_type, KeyType::Aes | KeyType::Hmac);
        for format in Format::ALL.iter().copied() {
            let (field, _) = refusal(key_type, format, b"no key");
            let goes = symmetric == (format == Format::Raw);
            assert_eq!(
                field,
                if goes { "key_material" } else { "format" },
                "{key_type} {format}"
            );
        }
    }
}

#[test]
fn secrets_have_the_lengths_of_their_type_and_are_not_zero() {
    for length in 0..=80 {
        let taken = |key_type, byte| import(key_type, Format::Raw, &vec![byte; length]).is_ok();
        assert_eq!(taken(KeyType::Aes, 1), [16, 24, 32].contains(&length), "{length}");
        assert_eq!(taken(KeyType::Hmac, 1), (32..=64).contains(&length), "{length}");
        assert!(!taken(KeyType::Aes, 0) && !taken(KeyType::Hmac, 0));
    }
    let Material::Secret { key_type, value } = import(KeyType::Aes, Format::Raw, &[9; 16]).unwrap() else {
        panic!("no secret")
    };
    assert_eq!((key_type, &value[..]), (KeyType::Aes, &[9; 16][..]));
}

#[test]
fn a_refusal_tells_nothing_of_the_value() {
    let mut wrong = der(P256);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let texts = [
        refusal(KeyType::Ec, Format::Pkcs8, &wrong).1,
        refusal(KeyType::Aes, Format::Raw, b"a secret of a wrong length").1,
        refusal(KeyType::Ec, Format::Pkcs8, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").1,
    ];
    for text in texts {
        for value in ["secret", "c2Vj", "MII"] {
            assert!(!text.contains(value), "{text}");
        }
    }
}

mod curve;
mod mutated;
mod post_quantum;
mod rsa;
