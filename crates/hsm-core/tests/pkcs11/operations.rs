//! Encryption and signatures: by the token, and with the public key here.

use hsm_core::algorithm::Scheme;
use hsm_core::backend::{Mechanism, Used};
use hsm_core::software::{Message, PreparedKey};
use hsm_core::{Ckr, Curve, Hash, KeySpec, Usage, encoding};

use crate::{Fixture, on_both};

on_both!(
    aes_encrypts_and_decrypts,
    gcm_refuses_what_was_changed,
    ctr_counts_the_whole_block,
    aes_cmac_and_hmac_sign_and_verify,
    rsa_signatures_are_valid_here_and_there,
    rsa_oaep_decrypts_what_was_encrypted_here_and_there,
    ecdsa_signatures_are_valid_here_and_there,
    eddsa_signatures_are_valid_here_and_there,
);

const SHA2: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

fn aes_encrypts_and_decrypts(fixture: &mut Fixture) {
    let spec = KeySpec::Aes { bits: 256 };
    let key = fixture.make_secret(spec, &[Usage::Encrypt, Usage::Decrypt]);
    let large = vec![0x5a; 700 * 1024];
    for data in [&b""[..], b"x", &[1; 16], &[2; 33], &large] {
        let padded = data.len() / 16 * 16 + 16;
        for (mechanism, length) in [
            (
                Mechanism::AesGcm {
                    iv: vec![9; 12],
                    aad: vec![],
                },
                data.len() + 16,
            ),
            (
                Mechanism::AesGcm {
                    iv: vec![9; 12],
                    aad: b"more".to_vec(),
                },
                data.len() + 16,
            ),
            (Mechanism::AesCtr { counter: [0xfe; 16] }, data.len()),
            (Mechanism::AesCbcPad { iv: [3; 16] }, padded),
        ] {
            let encrypted = fixture.session.encrypt(&mut mechanism.clone(), key, data);
            let encrypted = encrypted.unwrap_or_else(|why| panic!("{mechanism:?}: {why}"));
            assert_eq!(encrypted.len(), length, "{mechanism:?}");
            let decrypted = fixture.session.decrypt(&mechanism, Used::freely(key), &encrypted);
            let decrypted = decrypted.unwrap_or_else(|why| panic!("{mechanism:?} of {}: {why}", data.len()));
            assert_eq!(decrypted, data, "{mechanism:?}");
        }
    }
}

fn gcm_refuses_what_was_changed(fixture: &mut Fixture) {
    let spec = KeySpec::Aes { bits: 128 };
    let key = fixture.make_secret(spec, &[Usage::Encrypt, Usage::Decrypt]);
    let with = |iv: u8, aad: &[u8]| Mechanism::AesGcm {
        iv: vec![iv; 12],
        aad: aad.to_vec(),
    };
    let encrypted = fixture.session.encrypt(&mut with(1, b"aad"), key, b"hello").unwrap();
    let mut changed = encrypted.clone();
    changed[2] ^= 1;
    let mut tag = encrypted.clone();
    tag[20] ^= 1;
    for (mechanism, data) in [
        (with(1, b"aad"), &changed),
        (with(1, b"aad"), &tag),
        (with(2, b"aad"), &encrypted),
        (with(1, b"dad"), &encrypted),
        (with(1, b"aad"), &encrypted[..20].to_vec()),
    ] {
        let failure = fixture
            .session
            .decrypt(&mechanism, Used::freely(key), data)
            .unwrap_err();
        let expected = match fixture.is_softhsm {
            true => [Ckr::GeneralError, Ckr::EncryptedDataLenRange],
            false => [Ckr::EncryptedDataInvalid, Ckr::EncryptedDataLenRange],
        };
        assert!(expected.contains(&failure.rv.unwrap()), "{failure}");
        assert_eq!(failure.function, "C_Decrypt");
    }
    let decrypted = fixture.session.decrypt(&with(1, b"aad"), Used::freely(key), &encrypted);
    assert_eq!(decrypted.unwrap(), b"hello");
}

/// SoftHSM does not let the counter run over; the embedded token does.
fn ctr_counts_the_whole_block(fixture: &mut Fixture) {
    let spec = KeySpec::Aes { bits: 128 };
    let key = fixture.make_secret(spec, &[Usage::Encrypt, Usage::Decrypt]);
    let mut encrypt = |counter: u128, data: &[u8]| {
        let counter = counter.to_be_bytes();
        fixture.session.encrypt(&mut Mechanism::AesCtr { counter }, key, data)
    };
    for counter in [0xffff, (1 << 64) - 1, u128::MAX - 1] {
        let together = encrypt(counter, &[0; 32]).unwrap();
        assert_eq!(together[16..], encrypt(counter + 1, &[0; 16]).unwrap(), "{counter:x}");
    }
    match encrypt(u128::MAX, &[0; 17]) {
        Ok(encrypted) => assert_eq!(encrypted[16..], encrypt(0, &[0]).unwrap()),
        Err(failure) => {
            assert_eq!(failure.to_string(), "C_Encrypt answered CKR_DATA_LEN_RANGE");
            assert!(fixture.is_softhsm);
        }
    }
}

fn aes_cmac_and_hmac_sign_and_verify(fixture: &mut Fixture) {
    let usages = &[Usage::Sign, Usage::Verify];
    let aes = fixture.make_secret(KeySpec::Aes { bits: 256 }, usages);
    let hmac = fixture.make_secret(KeySpec::Hmac { bits: 512 }, usages);
    let hashed = SHA2.map(|hash| (Mechanism::Hmac(hash), hmac, hash.len()));
    for (mechanism, key, length) in hashed.into_iter().chain([(Mechanism::AesCmac, aes, 16)]) {
        for data in [&b""[..], b"data"] {
            let mac = fixture.session.sign(&mechanism, Used::freely(key), data).unwrap();
            assert_eq!(mac.len(), length);
            let mut check = |data: &[u8], mac: &[u8]| fixture.session.verify(&mechanism, key, data, mac).unwrap();
            assert!(check(data, &mac));
            assert!(!check(b"other", &mac));
            assert!(!check(data, &mac[1..]));
            assert!(!check(data, b""));
            assert!(!check(data, &vec![0; length]));
        }
    }
}

fn rsa_signatures_are_valid_here_and_there(fixture: &mut Fixture) {
    let spec = KeySpec::Rsa { bits: 2048 };
    let (public, private) = fixture.make_pair("rsa", spec, &[Usage::Sign, Usage::Verify]);
    let key = fixture.read(public).public_key.unwrap();
    let key = PreparedKey::new(&key).unwrap();
    for hash in SHA2 {
        let digest = encoding::digest(hash, b"data");
        let info = encoding::digest_info(hash, &digest);
        for (mechanism, scheme, input) in [
            (Mechanism::RsaPkcs1(Some(hash)), Scheme::Pkcs1(hash), &b"data"[..]),
            (Mechanism::RsaPkcs1(None), Scheme::Pkcs1(hash), &info),
            (Mechanism::RsaPss(hash), Scheme::Pss(hash), b"data"),
            (Mechanism::RsaPssDigest(hash), Scheme::Pss(hash), &digest),
        ] {
            let signature = fixture.session.sign(&mechanism, Used::freely(private), input).unwrap();
            let mut there = |signature: &[u8]| fixture.session.verify(&mechanism, public, input, signature).unwrap();
            let here = |message, signature: &[u8]| key.verify(scheme, message, signature).unwrap();
            assert!(there(&signature) && here(Message::Raw(b"data"), &signature));
            assert!(here(Message::Digest(&digest), &signature));
            assert!(!here(Message::Raw(b"other"), &signature));
            let mut changed = signature.clone();
            changed[100] ^= 1;
            let longer = [&signature[..], &[0]].concat();
            let front = [&[0], &signature[..]].concat();
            for wrong in [&changed, &signature[1..], &longer, &front, b"", &[0xff; 256]] {
                assert!(!there(wrong), "{mechanism:?} {}", wrong.len());
                assert!(!here(Message::Raw(b"data"), wrong), "{mechanism:?} {}", wrong.len());
            }
        }
    }
}

fn rsa_oaep_decrypts_what_was_encrypted_here_and_there(fixture: &mut Fixture) {
    let spec = KeySpec::Rsa { bits: 2048 };
    let (public, private) = fixture.make_pair("rsa", spec, &[Usage::Encrypt, Usage::Decrypt]);
    let key = PreparedKey::new(&fixture.read(public).public_key.unwrap()).unwrap();
    for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512] {
        let mechanism = Mechanism::RsaOaep(hash);
        let capacity = key.oaep_capacity(hash).unwrap();
        for data in [vec![], b"data".to_vec(), vec![7; capacity]] {
            let here = key.encrypt_oaep(hash, &data).unwrap();
            let decrypted = fixture.session.decrypt(&mechanism, Used::freely(private), &here);
            if fixture.is_softhsm && hash != Hash::Sha1 {
                let failure = decrypted.unwrap_err();
                assert_eq!(failure.to_string(), "C_DecryptInit answered CKR_ARGUMENTS_BAD");
                continue;
            }
            assert_eq!(decrypted.unwrap(), data);
            let there = fixture.session.encrypt(&mut mechanism.clone(), public, &data).unwrap();
            assert_eq!(
                fixture
                    .session
                    .decrypt(&mechanism, Used::freely(private), &there)
                    .unwrap(),
                data
            );
        }
    }
    // Neither token has the standard's code for it.
    let code = match fixture.is_softhsm {
        true => Ckr::GeneralError,
        false => Ckr::DeviceError,
    };
    for length in [0, 255, 256, 257] {
        let data = vec![1; length];
        let mechanism = Mechanism::RsaOaep(Hash::Sha1);
        let failure = fixture
            .session
            .decrypt(&mechanism, Used::freely(private), &data)
            .unwrap_err();
        assert_eq!((failure.function, failure.rv), ("C_Decrypt", Some(code)), "{length}");
    }
}

fn ecdsa_signatures_are_valid_here_and_there(fixture: &mut Fixture) {
    for curve in fixture.curves() {
        if curve.key_type() != hsm_core::KeyType::Ec {
            continue;
        }
        let spec = KeySpec::Curve(curve);
        let (public, private) = fixture.make_pair(curve.name(), spec, &[Usage::Sign, Usage::Verify]);
        let key = PreparedKey::new(&fixture.read(public).public_key.unwrap()).unwrap();
        // Several, for s in both halves of its range.
        for (turn, hash) in SHA2.into_iter().cycle().take(12).enumerate() {
            let data = [turn.to_string().as_bytes(), b" data"].concat();
            let digest = encoding::digest(hash, &data);
            let native = match fixture.is_softhsm {
                true => None,
                false => Some((Mechanism::Ecdsa(Some(hash)), &data)),
            };
            for (mechanism, input) in native.into_iter().chain([(Mechanism::Ecdsa(None), &digest)]) {
                let signed = fixture.session.sign(&mechanism, Used::freely(private), input);
                let signature = signed.unwrap_or_else(|why| panic!("{curve} {hash:?}: {why}"));
                assert_eq!(signature.len(), 2 * curve.field_bytes());
                let der = encoding::ecdsa_to_der(&signature, curve).unwrap();
                assert_eq!(encoding::ecdsa_from_der(&der, curve).as_ref(), Some(&signature));
                let scheme = Scheme::Ecdsa(hash);
                assert_eq!(key.verify(scheme, Message::Raw(&data), &signature), Ok(true));
                assert_eq!(key.verify(scheme, Message::Raw(b"other"), &signature), Ok(false));
                let session = &mut fixture.session;
                assert!(session.verify(&mechanism, public, input, &signature).unwrap());
                for wrong in [&signature[1..], &[1; 64], &[0; 64], b""] {
                    assert!(!session.verify(&mechanism, public, input, wrong).unwrap(), "{curve}");
                    assert_eq!(key.verify(scheme, Message::Raw(&data), wrong), Ok(false));
                }
            }
        }
    }
}

fn eddsa_signatures_are_valid_here_and_there(fixture: &mut Fixture) {
    for (curve, length) in [(Curve::Ed25519, 64), (Curve::Ed448, 114)] {
        let spec = KeySpec::Curve(curve);
        let (public, private) = fixture.make_pair(curve.name(), spec, &[Usage::Sign, Usage::Verify]);
        let key = fixture.read(public).public_key.unwrap();
        let mechanism = Mechanism::Eddsa {
            ed448: curve == Curve::Ed448,
        };
        for data in [&b""[..], b"data"] {
            let signed = fixture.session.sign(&mechanism, Used::freely(private), data);
            let signature = signed.unwrap_or_else(|why| panic!("{curve}: {why}"));
            assert_eq!(signature.len(), length);
            let mut there =
                |data: &[u8], signature: &[u8]| fixture.session.verify(&mechanism, public, data, signature).unwrap();
            assert!(there(data, &signature));
            assert!(!there(b"other", &signature));
            for wrong in [&signature[1..], b"", &vec![1; length]] {
                assert!(!there(data, wrong), "{curve} {}", wrong.len());
            }
            if curve == Curve::Ed25519 {
                let key = PreparedKey::new(&key).unwrap();
                let here = |data, signature| key.verify(Scheme::EdDsa, Message::Raw(data), signature).unwrap();
                assert!(here(data, &signature) && !here(b"other", &signature));
            }
        }
    }
}
