//! Several tokens of one module, each with an [`Hsm`] of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hsm_core::pkcs11::Module;
use hsm_core::{Error, Hsm, KeyInfo, KeyQuery, Login, OpenError, Options, SharedBackend, Stopped, TokenName};
use softhsm_test::{FaultyToken, Token};

use crate::{assert_signs, assert_unavailable, id, is_right, options, p256, sign, sign_request, until};

/// CKR_CRYPTOKI_NOT_INITIALIZED to the operation and to the first look for the token.
const BEGIN_ANEW: &str = "C_SignInit rv=0x190 count=1\nC_GetSlotList rv=0x190 count=1";

/// Two tokens behind the module that fails on command: the default one, and one with a name.
struct Pair {
    first: Hsm,
    second: Hsm,
    module: SharedBackend,
    tokens: Vec<Token>,
    faulty: FaultyToken,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(|_| {})
    }

    fn with(change: impl Fn(&mut Options)) -> Pair {
        let tokens = Token::several(&["one", "two"]);
        let faulty = FaultyToken::over(tokens[0].clone());
        faulty.apply_env();
        let module = SharedBackend::new(Module::load(faulty.module(), None).unwrap());
        let open = |token: &Token, name: Option<&str>| {
            let mut options = Options {
                name: name.and_then(TokenName::parse),
                ..options(token)
            };
            change(&mut options);
            Hsm::open(module.clone(), options).unwrap()
        };
        let (first, second) = (open(&tokens[0], None), open(&tokens[1], Some("second")));
        faulty.forget_calls();
        Pair {
            first,
            second,
            module,
            tokens,
            faulty,
        }
    }

    fn both(&self) -> [&Hsm; 2] {
        [&self.first, &self.second]
    }

    fn keys(&self) -> [KeyInfo; 2] {
        self.both().map(|hsm| hsm.generate(p256("signer")).wait().unwrap())
    }
}

#[test]
fn tokens_of_one_module_are_used_side_by_side() {
    let pair = Pair::new();
    let keys = pair.keys();
    assert_eq!(pair.tokens.iter().map(|token| token.objects().len()).sum::<usize>(), 4);
    thread::scope(|scope| {
        for (hsm, key) in pair.both().into_iter().zip(&keys) {
            scope.spawn(move || (0..200).for_each(|_| assert_signs(hsm, key)));
        }
    });
    assert_eq!(pair.first.token().label, "one");
    assert_eq!(pair.second.token().label, "two");
}

#[test]
fn ids_name_their_token() {
    let pair = Pair::new();
    let [own, other] = pair.keys();
    assert_eq!((pair.first.name(), own.id.token()), (None, None));
    assert!(other.id.to_string().starts_with("hsm:second:"), "{}", other.id);
    let listed = |hsm: &Hsm| {
        let query = KeyQuery {
            limit: 10,
            ..KeyQuery::default()
        };
        let page = hsm.keys(query).wait().unwrap();
        page.keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&pair.first), std::slice::from_ref(&own.id));
    assert_eq!(listed(&pair.second), std::slice::from_ref(&other.id));
    let hex = other.id.to_string().replace("hsm:second:", "");
    for (hsm, foreign) in [
        (&pair.first, other.id.clone()),
        (&pair.first, id(&format!("hsm:{hex}"))),
        (&pair.second, own.id.clone()),
        (&pair.second, id(&format!("hsm:{hex}"))),
        (&pair.second, id(&format!("hsm:third:{hex}"))),
    ] {
        assert_eq!(
            hsm.key(&foreign).wait().unwrap_err(),
            Error::KeyNotFound(foreign.clone())
        );
        let signed = hsm.sign(hsm_core::Sign::new(foreign.clone(), b"data")).wait();
        assert_eq!(signed.unwrap_err(), Error::KeyNotFound(foreign.clone()));
        assert_eq!(hsm.delete(&foreign).wait().unwrap_err(), Error::KeyNotFound(foreign));
    }
    assert_eq!(pair.second.delete(&other.id).wait().unwrap().id, other.id);
    assert_signs(&pair.first, &own);
}

#[test]
fn a_token_is_opened_once() {
    let Pair {
        first,
        second,
        module,
        tokens,
        ..
    } = Pair::new();
    let again = Options {
        name: TokenName::parse("again"),
        ..options(&tokens[1])
    };
    let error = Hsm::open(module.clone(), again.clone()).err().unwrap();
    assert!(
        matches!(&error, OpenError::InUse { label, .. } if label == "two"),
        "{error:?}"
    );
    assert!(error.to_string().contains("under another name"), "{error}");
    assert_eq!(second.stop(Duration::from_secs(30)), Stopped::Clean);
    let second = Hsm::open(module.clone(), again.clone()).unwrap();
    drop(second);
    let second = Hsm::open(module, again).unwrap();
    let key = second.generate(p256("signer")).wait().unwrap();
    assert_signs(&second, &key);
    assert_eq!(first.status().unavailable, None);
}

#[test]
fn the_last_one_that_is_stopped_finalises_the_module() {
    let pair = Pair::new();
    let [_, key] = pair.keys();
    assert_eq!(pair.first.stop(Duration::from_secs(30)), Stopped::Clean);
    assert_eq!(pair.first.stop(Duration::from_secs(30)), Stopped::Clean);
    assert_eq!((pair.faulty.calls("C_Logout"), pair.faulty.calls("C_Finalize")), (1, 0));
    assert_signs(&pair.second, &key);
    assert_eq!(pair.second.stop(Duration::from_secs(30)), Stopped::Clean);
    assert_eq!((pair.faulty.calls("C_Logout"), pair.faulty.calls("C_Finalize")), (2, 1));
    assert_eq!(pair.faulty.call_log().last().unwrap(), "C_Finalize");
}

#[test]
fn a_module_that_another_token_hangs_in_is_not_finalised() {
    let pair = Pair::with(|options| options.max_sessions = Some(2));
    let keys = pair.keys();
    pair.faulty.fault("C_Sign hang");
    let hanging = pair.first.sign(sign_request(&keys[0], b"data"));
    until("the call", || pair.faulty.calls("C_Sign") > 0);
    assert_eq!(pair.first.stop(Duration::from_millis(200)), Stopped::Hanging);
    assert_eq!(pair.second.stop(Duration::from_secs(30)), Stopped::Hanging);
    assert_eq!(pair.faulty.calls("C_Finalize"), 0);
    pair.faulty.clear();
    assert!(is_right(&keys[0], b"data", &hanging.wait().unwrap()));
}

/// The PIN is tried by each token's own login, and what one token says of it holds for that token.
#[test]
fn each_token_has_a_login_of_its_own() {
    let pair = Pair::new();
    let keys = pair.keys();
    pair.faulty.fault("C_Login rv=0xa0 count=1\nlogout");
    assert_unavailable(sign(&pair.first, &keys[0], b"data"), "PIN");
    assert_signs(&pair.second, &keys[1]);
    assert_eq!(pair.first.status().login, Login::Refused);
    assert_eq!(pair.second.status().login, Login::LoggedIn);
    assert_eq!(pair.faulty.calls("C_Login"), 2);
    assert_unavailable(sign(&pair.first, &keys[0], b"data"), "PIN");
    assert_eq!(pair.faulty.calls("C_Login"), 2);
}

#[test]
fn a_token_that_is_away_leaves_the_other_alone() {
    let pair = Pair::new();
    let keys = pair.keys();
    pair.faulty.fault("C_SignInit rv=0xe0 count=1\nC_OpenSession rv=0xe0");
    assert_unavailable(sign(&pair.first, &keys[0], b"data"), "CKR_TOKEN_NOT_PRESENT");
    for _ in 0..20 {
        assert_signs(&pair.second, &keys[1]);
    }
    assert!(pair.first.status().unavailable.is_some());
    assert_eq!(pair.second.status().unavailable, None);
    pair.faulty.clear();
    until("the token", || pair.first.status().unavailable.is_none());
    assert_signs(&pair.first, &keys[0]);
}

/// A new beginning kills the handles of both, and their numbers are given anew.
#[test]
fn a_new_beginning_mixes_nothing_up() {
    let pair = Pair::new();
    let keys = pair.keys();
    let (over, good) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let work = |n: usize| {
        let (hsm, key) = (pair.both()[n], &keys[n]);
        while !over.load(Ordering::Relaxed) {
            match sign(hsm, key, b"data") {
                Ok(signed) => {
                    assert!(is_right(key, b"data", &signed), "the signature is not this key's");
                    good[n].fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => assert!(
                    !matches!(error, Error::KeyNotFound(_) | Error::Internal(_)),
                    "{error:?}"
                ),
            }
        }
    };
    thread::scope(|scope| {
        let threads = [0, 0, 1, 1].map(|n| scope.spawn(move || work(n)));
        for turn in 0..15 {
            pair.faulty.fault(BEGIN_ANEW);
            until("a new beginning", || pair.faulty.calls("C_Initialize") > turn);
            let before = [0, 1].map(|n| good[n].load(Ordering::Relaxed));
            until("more signatures", || {
                (0..2).all(|n| good[n].load(Ordering::Relaxed) > before[n] + 20)
                    || threads.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    for (hsm, key) in pair.both().into_iter().zip(&keys) {
        until("the token", || hsm.status().unavailable.is_none());
        assert_signs(hsm, key);
        assert_eq!(hsm.status().login, Login::LoggedIn);
    }
}

#[test]
fn nothing_begins_anew_while_another_token_s_call_hangs() {
    let pair = Pair::with(|options| {
        options.timeout = Duration::from_millis(500);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let keys = pair.keys();
    pair.faulty
        .fault("C_Sign hang count=1\nC_SignInit rv=0x190 skip=1 count=1\nC_GetSlotList rv=0x190");
    assert_eq!(sign(&pair.first, &keys[0], b"data").unwrap_err(), Error::Timeout);
    assert_unavailable(sign(&pair.second, &keys[1], b"data"), "CKR_CRYPTOKI_NOT_INITIALIZED");
    pair.faulty.forget_calls();
    until("some looks", || pair.faulty.calls("C_GetSlotList") > 2);
    assert_eq!(pair.faulty.calls("C_Finalize"), 0);
    pair.faulty.clear();
    for (hsm, key) in pair.both().into_iter().zip(&keys) {
        until("the token", || hsm.status().unavailable.is_none());
        assert_signs(hsm, key);
    }
}
