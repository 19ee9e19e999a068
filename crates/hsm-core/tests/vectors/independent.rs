//! Post-quantum signatures of the embedded token, checked by implementations that it is not made of.

use fips204::traits::{SerDes as _, Verifier as _};
use hsm_core::key::ParameterSet;
use hsm_core::{Algorithm, KeySpec, KeyType, Label, NewKey, PublicKey, Sign};

use crate::{Bench, ml_dsa};

const DATA: &[u8] = b"what is signed";
const CONTEXTS: [&[u8]; 3] = [b"", b"a context", &[7; 255]];

/// A new key's public half, and a way to sign with it.
fn key_of(bench: &Bench, set: ParameterSet) -> (Vec<u8>, impl Fn(Algorithm, &[u8]) -> Vec<u8>) {
    let new = NewKey::new(KeySpec::PostQuantum(set), Label::parse(set.name()).unwrap());
    let key = bench.hsm.generate(new).wait().unwrap();
    let Some(PublicKey::PostQuantum { key: public, .. }) = key.public_key else {
        panic!("{set}: no public key");
    };
    let sign = move |algorithm: Algorithm, context: &[u8]| {
        let request = Sign {
            algorithm: algorithm.into(),
            context: (!context.is_empty()).then(|| context.to_vec()),
            ..Sign::new(key.id.clone(), DATA)
        };
        bench.hsm.sign(request).wait().unwrap().signature
    };
    (public, sign)
}

#[test]
fn ml_dsa_signatures_are_right_by_another_implementation() {
    let bench = Bench::embedded();
    for set in ParameterSet::of(KeyType::MlDsa) {
        let (public, sign) = key_of(&bench, set);
        for context in CONTEXTS {
            let signature = sign(Algorithm::MlDsa, context);
            assert!(ml_dsa::is_right(set, &public, DATA, context, &signature), "{set}");
            assert!(!ml_dsa::is_right(set, &public, DATA, b"another", &signature), "{set}");
        }
    }
}

#[test]
fn hash_ml_dsa_signatures_are_right_by_another_implementation() {
    use fips204::pre_hash::{SHA2_256, SHA2_384, SHA2_512};
    use sha2::Digest as _;
    let hashes = [
        (
            Algorithm::HashMlDsaSha256,
            sha2::Sha256::digest(DATA).to_vec(),
            SHA2_256,
        ),
        (
            Algorithm::HashMlDsaSha384,
            sha2::Sha384::digest(DATA).to_vec(),
            SHA2_384,
        ),
        (
            Algorithm::HashMlDsaSha512,
            sha2::Sha512::digest(DATA).to_vec(),
            SHA2_512,
        ),
    ];
    let bench = Bench::embedded();
    for set in ParameterSet::of(KeyType::MlDsa) {
        let (public, sign) = key_of(&bench, set);
        for (algorithm, digest, oid) in &hashes {
            macro_rules! verify {
                ($set:ident, $signature:expr, $context:expr) => {{
                    let key = fips204::$set::PublicKey::try_from_bytes(public[..].try_into().unwrap()).unwrap();
                    key.hash_verify(digest, $signature[..].try_into().unwrap(), $context, oid)
                }};
            }
            let is_right = |signature: &[u8], context: &[u8]| match set {
                ParameterSet::MlDsa44 => verify!(ml_dsa_44, signature, context),
                ParameterSet::MlDsa65 => verify!(ml_dsa_65, signature, context),
                _ => verify!(ml_dsa_87, signature, context),
            };
            for context in CONTEXTS {
                let signature = sign(*algorithm, context);
                assert!(is_right(&signature, context), "{set} {algorithm:?}");
                assert!(!is_right(&signature, b"another"), "{set} {algorithm:?}");
            }
        }
    }
}

#[test]
fn slh_dsa_signatures_are_right_by_another_implementation() {
    use fips205::traits::{SerDes as _, Verifier as _};
    let bench = Bench::embedded();
    // The quick ones of the smallest category, one of each hash.
    for set in [ParameterSet::SlhDsaSha2F128, ParameterSet::SlhDsaShakeF128] {
        let (public, sign) = key_of(&bench, set);
        macro_rules! verify {
            ($set:ident, $signature:expr, $context:expr) => {{
                let key = fips205::$set::PublicKey::try_from_bytes(public[..].try_into().unwrap()).unwrap();
                key.verify(DATA, $signature[..].try_into().unwrap(), $context)
            }};
        }
        let is_right = |signature: &[u8], context: &[u8]| match set {
            ParameterSet::SlhDsaSha2F128 => verify!(slh_dsa_sha2_128f, signature, context),
            _ => verify!(slh_dsa_shake_128f, signature, context),
        };
        for context in CONTEXTS {
            let signature = sign(Algorithm::SlhDsa, context);
            assert!(is_right(&signature, context), "{set}");
            assert!(!is_right(&signature, b"another"), "{set}");
        }
    }
}
