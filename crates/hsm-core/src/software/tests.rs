#![allow(
    clippy::unwrap_used,
    reason = "a test may stop at the first thing that is not as expected"
)]

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn prepared(curve: Curve, point: &str) -> PreparedKey {
    let point = hex(point);
    PreparedKey::new(&PublicKey::Curve { curve, point }).unwrap()
}

/// RFC 6979 appendix A.2.5
const P256: &str = "04 60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
                       7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299";

#[test]
fn ecdsa_of_rfc_6979_is_valid_and_nothing_near_it() {
    let key = prepared(Curve::P256, P256);
    let scheme = Scheme::Ecdsa(Hash::Sha256);
    let signature = hex("EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
         F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8");
    let check = |message, signature: &[u8]| key.verify(scheme, message, signature).unwrap();
    let digest = encoding::digest(Hash::Sha256, b"sample");
    assert!(check(Message::Raw(b"sample"), &signature));
    assert!(check(Message::Digest(&digest), &signature));
    assert!(!check(Message::Raw(b"test"), &signature));
    for position in 0..signature.len() {
        let mut other = signature.clone();
        other[position] ^= 1;
        assert!(!check(Message::Raw(b"sample"), &other));
    }
    for wrong in [&[][..], &[0; 64], &[0xff; 64], &signature[..63], &[7; 65]] {
        assert!(!check(Message::Raw(b"sample"), wrong));
    }
    let short = key.verify(scheme, Message::Digest(&digest[1..]), &signature);
    assert!(matches!(short, Err(Error::InvalidRequest { field: "data", .. })));
}

#[test]
fn a_short_hash_on_a_long_curve_and_the_reverse() {
    // RFC 6979 appendix A.2.7, SHA-256, "sample".
    let key = prepared(
        Curve::P521,
        "04 01894550D0785932E00EAA23B694F213F8C3121F86DC97A04E5A7167DB4E5BCD371123D46E45DB6B5D5370A7F20FB633155D38FFA16D2BD761DCAC474B9A2F5023A4
            00493101C962CD4D2FDDF782285E64584139C2F91B47F87FF82354D6630F746A28A0DB25741B5B34A828008B22ACC23F924FAAFBD4D33F81EA66956DFEAA2BFDFCF5",
    );
    let signature = hex(
        "01511BB4D675114FE266FC4372B87682BAECC01D3CC62CF2303C92B3526012659D16876E25C7C1E57648F23B73564D67F61C6F14D527D54972810421E7D87589E1A7
         004A171143A83163D6DF460AAF61522695F207A58B95C0644D87E52AA1A347916E4F7A72930B1BC06DBE22CE3F58264AFD23704CBB63B29B931F7DE6C9D949A7ECFC",
    );
    let scheme = Scheme::Ecdsa(Hash::Sha256);
    assert_eq!(key.verify(scheme, Message::Raw(b"sample"), &signature), Ok(true));

    // RFC 6979 appendix A.2.5, SHA-512, "sample".
    let key = prepared(Curve::P256, P256);
    let signature = hex("8496A60B5E9B47C825488827E0495B0E3FA109EC4568FD3F8D1097678EB97F00
         2362AB1ADBE2B8ADF9CB9EDAB740EA6049C028114F2460F96554F61FAE3302FE");
    let scheme = Scheme::Ecdsa(Hash::Sha512);
    assert_eq!(key.verify(scheme, Message::Raw(b"sample"), &signature), Ok(true));
}

#[test]
fn ed25519_of_rfc_8032() {
    let key = prepared(
        Curve::Ed25519,
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    );
    let signature = hex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00");
    let check = |data: &[u8], signature: &[u8]| key.verify(Scheme::EdDsa, Message::Raw(data), signature).unwrap();
    assert!(check(&[0x72], &signature));
    assert!(!check(&[0x73], &signature));
    assert!(!check(&[0x72], &signature[..63]));
    let digest = key.verify(Scheme::EdDsa, Message::Digest(&[0; 64]), &signature);
    assert!(matches!(digest, Err(Error::InvalidRequest { .. })));
}

#[test]
fn what_is_no_key_is_refused() {
    let curve = |curve, point| PreparedKey::new(&PublicKey::Curve { curve, point });
    let refused = [
        curve(Curve::P256, vec![4; 65]),
        curve(Curve::P256, vec![]),
        curve(Curve::P384, hex(P256)),
        curve(Curve::Secp256k1, hex(P256)),
        curve(Curve::Ed25519, vec![2; 31]),
        curve(Curve::Ed448, vec![0; 57]),
    ];
    for key in refused {
        assert!(matches!(key, Err(Error::NotSupported(_))), "{key:?}");
    }
}

#[test]
fn rsa_keys_of_1024_to_8192_bits_with_small_exponents_are_taken() {
    let key = |bits: usize, last: u8, exponent: &[u8]| {
        let mut modulus = vec![0xff; bits / 8];
        *modulus.last_mut().unwrap() = last;
        let exponent = exponent.to_vec();
        PreparedKey::new(&PublicKey::Rsa { modulus, exponent })
    };
    for bits in [1024, 2048, 4096, 8192] {
        assert!(key(bits, 0xfd, &[1, 0, 1]).is_ok(), "{bits}");
    }
    assert!(key(2048, 0xfd, &[3]).is_ok());
    for refused in [
        key(1016, 0xfd, &[1, 0, 1]),
        key(8200, 0xfd, &[1, 0, 1]),
        key(2048, 0xfc, &[1, 0, 1]),
        key(2048, 0xfd, &[1]),
        key(2048, 0xfd, &[]),
        key(2048, 0xfd, &[4]),
        key(2048, 0xfd, &[2, 0, 0, 0, 1]),
        PreparedKey::new(&PublicKey::Rsa {
            modulus: vec![],
            exponent: vec![],
        }),
    ] {
        assert!(matches!(refused, Err(Error::NotSupported(_))), "{refused:?}");
    }
}

#[test]
fn oaep_says_how_much_it_takes() {
    let modulus = [vec![0xff; 255], vec![0xfd]].concat();
    let exponent = vec![1, 0, 1];
    let key = PreparedKey::new(&PublicKey::Rsa { modulus, exponent }).unwrap();
    assert_eq!(key.oaep_capacity(Hash::Sha256), Some(190));
    assert_eq!(key.oaep_capacity(Hash::Sha1), Some(214));
    assert_eq!(key.encrypt_oaep(Hash::Sha256, &[0; 190]).unwrap().len(), 256);
    let error = key.encrypt_oaep(Hash::Sha256, &[0; 191]).unwrap_err();
    assert_eq!(error.to_string(), "data: at most 190 bytes with this key and algorithm");

    let curve = prepared(Curve::P256, P256);
    assert!(matches!(
        curve.encrypt_oaep(Hash::Sha1, b"x"),
        Err(Error::KeyTypeMismatch(_))
    ));
    let verified = curve.verify(Scheme::Pss(Hash::Sha256), Message::Raw(b"x"), b"");
    assert!(matches!(verified, Err(Error::KeyTypeMismatch(_))));
}
