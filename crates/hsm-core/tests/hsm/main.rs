//! [`hsm_core::Hsm`] as its user sees it, on SoftHSM, on the embedded token, and on SoftHSM behind a module that fails on
//! command.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

mod batches;
mod creating;
mod devices;
mod everyday;
mod halfway;
mod healing;
mod limits;
mod listing;
mod logins;
mod opening;
mod sessions;
mod sharing;
mod threads;
mod wrapped;

use std::time::{Duration, Instant};

use hsm_core::pkcs11::Module;
use hsm_core::software::{self, Message};
use hsm_core::{
    Curve, Error, Hsm, HsmKeyId, KeyInfo, KeySpec, Label, NewKey, OpenError, Options, Result, Sign, SignatureFormat,
    Signed,
};
use softhsm_test::{FaultyToken, Token};

/// Makes two tests of a function: one on SoftHSM, one on the embedded token.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn softhsm() {
                super::$name(&crate::Fixture::on(softhsm_test::Token::softhsm()));
            }

            #[test]
            fn embedded() {
                super::$name(&crate::Fixture::on(softhsm_test::Token::embedded()));
            }
        })*
    };
}
pub(crate) use on_both;

/// How long is waited for what must come at some time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A token in use.
struct Fixture {
    hsm: Hsm,
    token: Token,
}

impl Fixture {
    fn on(token: Token) -> Fixture {
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let hsm = Hsm::open(module, options(&token)).unwrap();
        Fixture { hsm, token }
    }
}

/// A SoftHSM token in use through the module that fails on command.
struct Faulty {
    hsm: Hsm,
    token: FaultyToken,
}

impl Faulty {
    fn new() -> Faulty {
        Faulty::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Faulty {
        let token = FaultyToken::over(Token::softhsm());
        let mut options = options(token.token());
        change(&mut options);
        let hsm = open_behind(&token, options).unwrap();
        token.forget_calls();
        Faulty { hsm, token }
    }

    fn key_objects(&self) -> usize {
        self.token.token().objects().len()
    }
}

fn open_behind(token: &FaultyToken, options: Options) -> Result<Hsm, OpenError> {
    token.apply_env();
    Hsm::open(Module::load(token.module(), None).unwrap(), options)
}

/// The token by its label, with its PIN.
fn options(token: &Token) -> Options {
    let mut options = Options {
        pin: Some(token.pin().into()),
        ..Options::default()
    };
    options.token.label = Some(token.label().to_owned());
    options
}

fn new_key(spec: KeySpec, label: &str) -> NewKey {
    NewKey::new(spec, Label::parse(label).unwrap())
}

fn p256(label: &str) -> NewKey {
    new_key(KeySpec::Curve(Curve::P256), label)
}

fn aes(label: &str) -> NewKey {
    new_key(KeySpec::Aes { bits: 256 }, label)
}

fn id(text: &str) -> HsmKeyId {
    HsmKeyId::parse(text).unwrap()
}

/// ECDSA with the signature as r‖s, which is how it is checked in software.
fn sign_request(key: &KeyInfo, data: &[u8]) -> Sign {
    Sign {
        format: Some(SignatureFormat::P1363),
        ..Sign::new(key.id.clone(), data)
    }
}

fn sign(hsm: &Hsm, key: &KeyInfo, data: &[u8]) -> Result<Signed> {
    hsm.sign(sign_request(key, data)).wait()
}

/// Whether the signature is this very key's over this very data, told without the token.
fn is_right(key: &KeyInfo, data: &[u8], signed: &Signed) -> bool {
    let public = key.public_key.as_ref().unwrap();
    software::verify(public, signed.algorithm.scheme(), Message::Raw(data), &signed.signature).unwrap()
}

fn assert_signs(hsm: &Hsm, key: &KeyInfo) {
    let signed = sign(hsm, key, b"data").unwrap();
    assert!(is_right(key, b"data", &signed));
}

fn assert_unavailable<T: std::fmt::Debug>(result: Result<T>, saying: &str) {
    match result {
        Err(Error::Unavailable(why)) => assert!(why.contains(saying), "{why}"),
        other => panic!("not unavailable: {other:?}"),
    }
}

/// Waits until `done` says so.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
