//! Sessions, logins, modules and tokens that are lost, and come back.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hsm_core::{Decrypt, Encrypt, Error, Hsm, KeyInfo, KeyQuery, Login};
use softhsm_test::FaultyToken;

use crate::{Faulty, aes, assert_signs, assert_unavailable, is_right, p256, sign, sign_request, until};

/// CKR_CRYPTOKI_NOT_INITIALIZED to the operation and to the first look for the token: what SoftHSM says until C_Initialize
/// is called again. Its handles then begin at 1 again.
const BEGIN_ANEW: &str = "C_SignInit rv=0x190 count=1\nC_GetSlotList rv=0x190 count=1";

fn keys(hsm: &Hsm, count: usize) -> Vec<KeyInfo> {
    (0..count)
        .map(|n| hsm.generate(p256(&format!("signer {n}"))).wait().unwrap())
        .collect()
}

#[test]
fn what_is_lost_once_is_not_seen() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let cipher = hsm.generate(aes("cipher")).wait().unwrap();
    let everything = || {
        assert_signs(&hsm, &key);
        let encrypted = hsm.encrypt(Encrypt::new(cipher.id.clone(), b"data")).wait().unwrap();
        let back = hsm.decrypt(Decrypt::new(cipher.id.clone(), encrypted)).wait();
        assert_eq!(back.unwrap().as_slice(), b"data");
        let listed = KeyQuery {
            limit: 10,
            ..KeyQuery::default()
        };
        assert_eq!(hsm.keys(listed).wait().unwrap().keys.len(), 2);
        assert_eq!(hsm.key(&key.id).wait().unwrap().public_key, key.public_key);
        assert_eq!(hsm.status().login, Login::LoggedIn);
    };
    for lost in [
        "forget-sessions",
        "logout",
        "C_SignInit rv=0xb3 count=1",
        "C_Sign rv=0xb0 count=1",
        "C_Sign rv=0x101 count=1",
        "C_SignInit rv=0x82 count=1",
        "C_SignInit rv=0x60 count=1",
        "C_SignInit rv=0x90 count=1",
        "C_Sign rv=0x190 count=1",
        "C_EncryptInit rv=0xb3 count=1",
        "C_DecryptInit rv=0xb3 count=1",
        "C_FindObjectsInit rv=0xb3 count=1",
        "C_GetAttributeValue rv=0xb3 count=1",
    ] {
        token.fault(lost);
        everything();
        token.clear();
        everything();
    }
}

/// A login that is lost is found lost at every place, never a key.
#[test]
fn a_lost_login_is_never_a_lost_key() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    for _ in 0..20 {
        token.fault("logout");
        assert_eq!(hsm.key(&key.id).wait().unwrap().usages, key.usages);
        token.fault("logout");
        assert_signs(&hsm, &key);
        token.fault("logout");
        let absent = hsm.key(&crate::id("hsm:00")).wait().unwrap_err();
        assert!(matches!(absent, Error::KeyNotFound(_)), "{absent:?}");
    }
    token.fault("logout");
    let taken = hsm.generate(p256("signer")).wait().unwrap_err();
    assert!(matches!(taken, Error::Conflict(_)), "{taken:?}");
    token.fault("logout");
    hsm.delete(&key.id).wait().unwrap();
    assert!(token.token().objects().is_empty());
}

#[test]
fn a_module_that_was_finalised_begins_anew() {
    let Faulty { hsm, token } = Faulty::new();
    let keys = keys(&hsm, 3);
    token.fault(BEGIN_ANEW);
    token.forget_calls();
    assert_signs(&hsm, &keys[2]);
    assert_eq!((token.calls("C_Finalize"), token.calls("C_Initialize")), (1, 1));
    for key in &keys {
        assert_signs(&hsm, key);
    }
}

#[test]
fn a_token_that_was_away_comes_back() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    for gone in ["* rv=0xe0", "* rv=0x32", "* rv=0x190"] {
        token.fault(gone);
        assert_unavailable(sign(&hsm, &key, b"data"), "CKR_");
        let status = hsm.status();
        assert_eq!(status.login, Login::LoggedOut);
        assert!(status.unavailable.unwrap().contains("CKR_"));
        // At once, without a call of the token.
        token.forget_calls();
        for _ in 0..100 {
            assert_unavailable(sign(&hsm, &key, b"data"), "CKR_");
        }
        assert_eq!(token.calls("C_Sign") + token.calls("C_SignInit"), 0);
        token.clear();
        until("the token", || hsm.status().unavailable.is_none());
        assert_signs(&hsm, &key);
        assert_eq!(hsm.status().login, Login::LoggedIn);
    }
}

/// What is no loss of the token does not close the way to it.
#[test]
fn a_device_error_is_one_call_s() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Sign rv=0x30");
    for _ in 0..5 {
        let error = sign(&hsm, &key, b"data").unwrap_err();
        assert!(
            matches!(&error, Error::Device(why) if why.contains("CKR_DEVICE_ERROR")),
            "{error:?}"
        );
        assert_eq!(hsm.status().unavailable, None);
    }
    token.clear();
    assert_signs(&hsm, &key);
}

/// What can't be healed ends after the second try.
#[test]
fn a_session_that_is_lost_for_ever_is_tried_twice() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_SignInit rv=0xb3");
    token.forget_calls();
    let error = sign(&hsm, &key, b"data").unwrap_err();
    assert!(
        matches!(&error, Error::Device(why) if why.contains("CKR_SESSION_HANDLE_INVALID")),
        "{error:?}"
    );
    assert_eq!(token.calls("C_SignInit"), 2);
    token.clear();
    assert_signs(&hsm, &key);
}

/// Threads sign, each with a key of its own, while `disturb` is done to the token again and again. Handles die, and their
/// numbers are given to other objects; no signature may be another key's, and no key may seem to be gone.
fn nothing_is_mixed_up_while(disturbed: impl Fn(&Faulty, usize)) {
    let faulty = Faulty::new();
    let hsm = &faulty.hsm;
    let keys = keys(hsm, 6);
    let (over, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    let work = |key: &KeyInfo, n: usize| {
        let mut turn = 0;
        while !over.load(Ordering::Relaxed) {
            turn += 1;
            let data = format!("thread {n}, turn {turn}").into_bytes();
            match hsm.sign(sign_request(key, &data)).wait() {
                Ok(signed) => {
                    assert!(is_right(key, &data, &signed), "the signature is not this key's");
                    good.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => assert!(
                    !matches!(error, Error::KeyNotFound(_) | Error::Internal(_)),
                    "{error:?}"
                ),
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(n, key)| scope.spawn(move || work(key, n)))
            .collect();
        for turn in 0..30 {
            disturbed(&faulty, turn);
            let before = good.load(Ordering::Relaxed);
            until("more signatures", || {
                good.load(Ordering::Relaxed) > before + 20 || threads.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    faulty.token.clear();
    until("the token", || hsm.status().unavailable.is_none());
    for key in &keys {
        assert_signs(hsm, key);
    }
}

#[test]
fn no_key_is_mixed_up_when_sessions_are_lost() {
    nothing_is_mixed_up_while(|faulty, _| faulty.token.fault("forget-sessions"));
}

#[test]
fn no_key_is_mixed_up_when_the_login_is_lost() {
    nothing_is_mixed_up_while(|faulty, _| faulty.token.fault("logout"));
}

#[test]
fn no_key_is_mixed_up_when_the_module_begins_anew() {
    nothing_is_mixed_up_while(|faulty, turn| {
        faulty.token.fault(BEGIN_ANEW);
        until("a new beginning", || faulty.token.calls("C_Initialize") > turn as u64);
    });
}

#[test]
fn no_key_is_mixed_up_when_everything_is_lost_and_keys_come_and_go() {
    let rules = ["forget-sessions", BEGIN_ANEW, "logout", "C_SignInit rv=0xe0 count=1"];
    nothing_is_mixed_up_while(|faulty, turn| {
        faulty.token.fault(rules[turn % rules.len()]);
        // Other objects take other numbers.
        if let Ok(key) = faulty.hsm.generate(p256(&format!("passing {turn}"))).wait() {
            thread::sleep(Duration::from_millis(5));
            drop(faulty.hsm.delete(&key.id).wait());
        }
    });
}

/// A token in use, with one worker; then another one in its slot, with another PIN and nothing on it.
struct Swapped {
    hsm: Hsm,
    key: KeyInfo,
    token: FaultyToken,
}

impl Swapped {
    fn new() -> Swapped {
        let Faulty { hsm, token } = Faulty::with(|options| options.max_sessions = Some(1));
        let key = hsm.generate(p256("signer")).wait().unwrap();
        assert_signs(&hsm, &key);
        token.forget_calls();
        Swapped { hsm, key, token }
    }

    fn swap(&self) {
        self.put_in(self.token.token().label(), "stranger", "another PIN");
    }

    fn put_in(&self, old: &str, new: &str, pin: &str) {
        let token = self.token.token();
        let mut util = Command::new("softhsm2-util");
        util.args(["--init-token", "--token", old, "--label", new])
            .args(["--so-pin", token.so_pin(), "--pin", pin])
            .envs(token.module_env().iter().cloned());
        assert!(util.output().unwrap().status.success());
    }

    /// Nothing was done on the other token and no PIN tried but the one operation that found out; the own one is found again.
    fn assert_left_alone_and_found_again(&self) {
        let Swapped { hsm, key, token } = self;
        let looks = token.calls("C_GetSlotList");
        until("a look", || token.calls("C_GetSlotList") > looks + 2);
        for _ in 0..3 {
            assert_unavailable(sign(hsm, key, b"data"), "");
            assert_unavailable(hsm.generate(p256("another")).wait(), "");
        }
        let calls = ["C_Login", "C_SignInit", "C_GenerateKeyPair"].map(|function| token.calls(function));
        assert_eq!(calls, [0, 1, 0]);
        assert_eq!(hsm.status().login, Login::LoggedOut);
        self.put_in("stranger", token.token().label(), token.token().pin());
        until("the token", || hsm.status().unavailable.is_none());
        let key = hsm.generate(p256("another")).wait().unwrap();
        assert_signs(hsm, &key);
    }
}

#[test]
fn a_session_that_is_lost_is_not_opened_on_another_token() {
    let swapped = Swapped::new();
    swapped.swap();
    swapped.token.fault("forget-sessions");
    assert_unavailable(sign(&swapped.hsm, &swapped.key, b"data"), "not in its slot");
    swapped.assert_left_alone_and_found_again();
}

#[test]
fn what_waits_when_the_token_is_lost_is_not_done_on_another() {
    let swapped = Swapped::new();
    let Swapped { hsm, key, token } = &swapped;
    token.fault("C_Sign hang\nC_Sign rv=0xe0");
    let [first, second] = [(); 2].map(|()| hsm.sign(sign_request(key, b"data")));
    until("the call", || token.calls("C_Sign") > 0);
    swapped.swap();
    token.clear();
    assert_unavailable(first.wait(), "CKR_TOKEN_NOT_PRESENT");
    assert_unavailable(second.wait(), "");
    swapped.assert_left_alone_and_found_again();
}
