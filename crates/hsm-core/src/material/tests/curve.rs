//! Curves: scalars, seeds and points.

use super::*;

const WEIERSTRASS: [(Curve, &str, &str); 4] = [
    (
        Curve::P256,
        P256,
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    ),
    (
        Curve::P384,
        P384,
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    ),
    (
        Curve::P521,
        P521,
        "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
    ),
    (
        Curve::Secp256k1,
        SECP256K1,
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
    ),
];

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn parts(pem: &str) -> (Curve, Vec<u8>, Vec<u8>) {
    let key_type = if pem == ED25519 || pem == ED448 {
        KeyType::Ed
    } else {
        KeyType::Ec
    };
    match import(key_type, Format::Pkcs8, pem.as_bytes()).unwrap() {
        Material::Curve { curve, private, point } => (curve, private.to_vec(), point),
        _ => panic!("no key on a curve"),
    }
}

/// ECPrivateKey (RFC 5915) in a PrivateKeyInfo.
fn ec_key(curve: Curve, scalar: &[u8], inner: Option<Curve>, public: Option<&[u8]>) -> Vec<u8> {
    let parameters = inner
        .map(|curve| tlv(0xa0, encoding::curve_params(curve)))
        .unwrap_or_default();
    let public = public
        .map(|bits| tlv(0xa1, &tlv(0x03, &[&[0], bits].concat())))
        .unwrap_or_default();
    let key = sequence(&[&[0x02, 0x01, 0x01], &tlv(0x04, scalar), &parameters, &public]);
    private_key_info(&algorithm(&point(curve, &[])), &key, None)
}

fn ed_key(curve: Curve, seed: &[u8], public: Option<&[u8]>) -> Vec<u8> {
    private_key_info(&algorithm(&point(curve, &[])), &tlv(0x04, seed), public)
}

#[test]
fn scalars_go_from_one_to_the_order() {
    for (curve, _, order) in WEIERSTRASS {
        let order = hex(order);
        let length = curve.field_bytes();
        let import = |scalar: &[u8]| import(KeyType::Ec, Format::Pkcs8, &ec_key(curve, scalar, None, None));
        let mut one = vec![0; length];
        one[length - 1] = 1;
        let mut last = order.clone();
        last[length - 1] -= 1;
        assert!(import(&one).is_ok() && import(&last).is_ok(), "{curve}");
        for wrong in [
            vec![0; length],
            order.clone(),
            vec![0xff; length],
            one[1..].to_vec(),
            [&[0], &one[..]].concat(),
        ] {
            assert!(import(&wrong).is_err(), "{curve}");
        }
    }
}

#[test]
fn a_public_key_inside_has_to_be_its_own() {
    for (curve, pem, _) in WEIERSTRASS {
        let (_, scalar, own) = parts(pem);
        let with = |public: &[u8]| ec_key(curve, &scalar, Some(curve), Some(public));
        let compressed = [&[2 + (own[own.len() - 1] & 1)], &own[1..=curve.field_bytes()]].concat();
        for good in [&own, &compressed] {
            assert!(import(KeyType::Ec, Format::Pkcs8, &with(good)).is_ok(), "{curve}");
        }
        let mut other = compressed.clone();
        other[0] ^= 1;
        for bad in [&other[..], &own[..own.len() - 1], &[0], &[]] {
            is_refused(KeyType::Ec, Format::Pkcs8, &with(bad), "does not belong");
        }
        let outside = |public: &[u8]| {
            let key = sequence(&[&[0x02, 0x01, 0x01], &tlv(0x04, &scalar)]);
            private_key_info(&algorithm(&point(curve, &[])), &key, Some(public))
        };
        assert!(import(KeyType::Ec, Format::Pkcs8, &outside(&own)).is_ok(), "{curve}");
        is_refused(KeyType::Ec, Format::Pkcs8, &outside(&other), "does not belong");
    }
    for pem in [ED25519, ED448] {
        let (curve, seed, own) = parts(pem);
        assert!(import(KeyType::Ed, Format::Pkcs8, &ed_key(curve, &seed, Some(&own))).is_ok());
        let mut other = own.clone();
        other[3] ^= 1;
        is_refused(
            KeyType::Ed,
            Format::Pkcs8,
            &ed_key(curve, &seed, Some(&other)),
            "does not belong",
        );
    }
}

#[test]
fn the_curve_inside_has_to_be_the_one_outside() {
    let (_, scalar, _) = parts(P256);
    let twofold = ec_key(Curve::P256, &scalar, Some(Curve::Secp256k1), None);
    is_refused(KeyType::Ec, Format::Pkcs8, &twofold, "another than the one outside");
}

#[test]
fn seeds_have_the_length_of_their_curve_and_are_not_zero() {
    for curve in [Curve::Ed25519, Curve::Ed448] {
        let length = curve.field_bytes();
        for wrong in [0, length - 1, length + 1] {
            is_refused(
                KeyType::Ed,
                Format::Pkcs8,
                &ed_key(curve, &vec![1; wrong], None),
                "bytes",
            );
        }
        is_refused(
            KeyType::Ed,
            Format::Pkcs8,
            &ed_key(curve, &vec![0; length], None),
            "zero",
        );
        let bare = private_key_info(&algorithm(&point(curve, &[])), &vec![1; length], None);
        is_refused(KeyType::Ed, Format::Pkcs8, &bare, "OCTET STRING");
    }
}

#[test]
fn a_compressed_point_is_written_out() {
    let key = import(KeyType::Ec, Format::Spki, P256_COMPRESSED.as_bytes()).unwrap();
    assert_eq!(encoding::public_key_pem(&key.public_key().unwrap()), P256_PUBLIC);
}

#[test]
fn points_off_the_curve_are_refused() {
    for (curve, pem, _) in WEIERSTRASS {
        let (_, _, mut off) = parts(pem);
        let last = off.len() - 1;
        off[last] ^= 1;
        is_refused(
            KeyType::Ec,
            Format::Spki,
            &encoding::public_key_der(&point(curve, &off)),
            "not on",
        );
        let mut beyond = vec![0xff; off.len()];
        beyond[0] = 4;
        is_refused(
            KeyType::Ec,
            Format::Spki,
            &encoding::public_key_der(&point(curve, &beyond)),
            "not on",
        );
        let infinity = encoding::public_key_der(&point(curve, &[0]));
        refusal(KeyType::Ec, Format::Spki, &infinity);
    }
    let mut off = parts(ED25519).2;
    while encoding::point_fault(Curve::Ed25519, &off).is_none() {
        off[0] = off[0].wrapping_add(1);
    }
    is_refused(
        KeyType::Ed,
        Format::Spki,
        &encoding::public_key_der(&point(Curve::Ed25519, &off)),
        "not on",
    );
    let mut off = parts(ED448).2;
    while encoding::point_fault(Curve::Ed448, &off).is_none() {
        off[0] = off[0].wrapping_add(1);
    }
    is_refused(
        KeyType::Ed,
        Format::Spki,
        &encoding::public_key_der(&point(Curve::Ed448, &off)),
        "not on",
    );
}

#[test]
fn edwards_points_of_small_order_or_written_otherwise_are_refused() {
    let refused = |curve, bytes: &[u8], why| {
        is_refused(
            KeyType::Ed,
            Format::Spki,
            &encoding::public_key_der(&point(curve, bytes)),
            why,
        );
    };
    // The points of order 1, 2, 4 and 8 of Ed25519.
    for text in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ] {
        refused(Curve::Ed25519, &hex(text), "small order");
    }
    // y = 1 as p + 1; y = 1 with the sign of an x that is 0; y of order 4 as p.
    for text in [
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        refused(Curve::Ed25519, &hex(text), "not written");
    }
    // Ed448: y = 1, y = -1, y = 0 with both signs of x.
    let y = |first: u8, last: u8| [&[first][..], &[0; 55], &[last]].concat();
    let minus_one = [&[0xfe][..], &[0xff; 27], &[0xfe], &[0xff; 27], &[0]].concat();
    for bytes in [y(1, 0), minus_one, y(0, 0), y(0, 0x80)] {
        refused(Curve::Ed448, &bytes, "small order");
    }
    // y = 1 with the sign of an x that is 0, and with bits that belong to nothing; y = 0 as p.
    let p = [&[0xff; 28][..], &[0xfe], &[0xff; 27], &[0]].concat();
    for bytes in [y(1, 0x80), y(1, 0x01), y(1, 0x40), p] {
        refused(Curve::Ed448, &bytes, "not written");
    }
}

#[test]
fn ed448_is_that_of_rfc_8032() {
    // §7.4, the first key.
    let seed = "6c82a562cb808d10d632be89c8513ebf6c929f34ddfa8c9f63c9960ef6e348a3528c8a3fcc2f044e39a3fc5b94492f8f032e7549a20098f95b";
    let public = "5fd7449b59b461fd2ce787ec616ad46a1da1342485a70e1f8a0ea75d80e96778edf124769b46c7061bd6783df1e50f6cd1fa1abeafe8256180";
    let key = import(KeyType::Ed, Format::Pkcs8, &ed_key(Curve::Ed448, &hex(seed), None)).unwrap();
    assert_eq!(key.public_key(), Some(point(Curve::Ed448, &hex(public))));
}
