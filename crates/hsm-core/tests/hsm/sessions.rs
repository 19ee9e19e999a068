//! Tokens that allow few sessions, and those that others hold.

use std::thread;
use std::time::Duration;

use hsm_core::{Encrypt, Error, Hsm, KeyInfo, KeyQuery, Stopped};
use softhsm_test::{FaultyToken, Token};

use crate::{Faulty, aes, assert_signs, assert_unavailable, id, is_right, open_behind, options, p256, sign, until};

/// A token that states a limit, and holds to it.
fn limited(limit: usize, timeout: Duration) -> Faulty {
    let token = FaultyToken::over(Token::softhsm());
    token.fault(&rules(limit, ""));
    let mut options = options(token.token());
    options.timeout = timeout;
    options.max_sessions = Some(16);
    let hsm = open_behind(&token, options).unwrap();
    Faulty { hsm, token }
}

fn rules(limit: usize, more: &str) -> String {
    format!("C_GetTokenInfo max_sessions={limit}\nC_OpenSession room={limit}\n{more}")
}

fn everything_works(hsm: &Hsm, key: &KeyInfo) {
    let all = || KeyQuery {
        limit: 100,
        ..KeyQuery::default()
    };
    thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                for turn in 0..10 {
                    let cipher = hsm.generate(aes(&format!("cipher {n} {turn}"))).wait().unwrap();
                    assert_signs(hsm, key);
                    hsm.encrypt(Encrypt::new(cipher.id.clone(), b"data")).wait().unwrap();
                    assert!(hsm.keys(all()).wait().unwrap().keys.contains_id(&cipher));
                    let absent = hsm.encrypt(Encrypt::new(id("hsm:00"), b"data")).wait();
                    assert!(matches!(absent, Err(Error::KeyNotFound(_))), "{absent:?}");
                    hsm.delete(&cipher.id).wait().unwrap();
                }
            });
        }
    });
}

trait ContainsId {
    fn contains_id(&self, key: &KeyInfo) -> bool;
}

impl ContainsId for Vec<KeyInfo> {
    fn contains_id(&self, key: &KeyInfo) -> bool {
        self.iter().any(|other| other.id == key.id)
    }
}

#[test]
fn one_session_is_enough_for_everything() {
    let faulty = limited(1, Duration::from_secs(10));
    let Faulty { hsm, token } = &faulty;
    let key = hsm.generate(p256("signer")).wait().unwrap();
    everything_works(hsm, &key);
    assert_eq!((hsm.status().load.workers, token.calls("C_OpenSession")), (1, 1));
    assert_eq!(hsm.stop(Duration::from_secs(30)), Stopped::Clean);
    let ended = ["C_Login", "C_Logout", "C_CloseSession", "C_Finalize"].map(|function| token.calls(function));
    assert_eq!(ended, [1, 1, 1, 1]);
}

fn sessions_are_never_more_than(limit: usize) {
    let faulty = limited(limit, Duration::from_secs(10));
    let key = faulty.hsm.generate(p256("signer")).wait().unwrap();
    everything_works(&faulty.hsm, &key);
    assert_eq!(faulty.hsm.status().load.workers, limit - 1);
    assert_eq!(faulty.token.calls("C_OpenSession"), limit as u64);
}

#[test]
fn two_sessions_are_one_that_works_and_one_that_searches() {
    sessions_are_never_more_than(2);
}

#[test]
fn three_sessions_are_not_exceeded() {
    sessions_are_never_more_than(3);
}

#[test]
fn a_single_session_that_is_lost_is_opened_anew() {
    let faulty = limited(1, Duration::from_secs(10));
    let Faulty { hsm, token } = &faulty;
    let key = hsm.generate(p256("signer")).wait().unwrap();
    for lost in [
        "forget-sessions",
        "logout",
        "C_SignInit rv=0x101 count=1",
        "C_SignInit rv=0x90 count=1",
        "C_SignInit rv=0x190 count=1\nC_GetSlotList rv=0x190 count=1",
    ] {
        token.fault(&rules(1, lost));
        assert_signs(hsm, &key);
        assert_eq!(hsm.key(&key.id).wait().unwrap().label, key.label);
        until("the token", || hsm.status().unavailable.is_none());
    }
    token.fault(&rules(1, "C_SignInit rv=0xe0 count=1\nC_GetSlotList rv=0x5 count=3"));
    assert_unavailable(sign(hsm, &key, b"data"), "CKR_TOKEN_NOT_PRESENT");
    until("the token", || hsm.status().unavailable.is_none());
    assert_signs(hsm, &key);
}

fn nothing_replaces_what_hangs_with(limit: usize) {
    let faulty = limited(limit, Duration::from_millis(500));
    let Faulty { hsm, token } = &faulty;
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault(&rules(limit, "C_Sign hang"));
    for _ in 0..2 {
        assert_eq!(sign(hsm, &key, b"data").unwrap_err(), Error::Timeout);
    }
    let load = hsm.status().load;
    assert_eq!((load.workers, load.hung), (1, 1));
    assert_eq!(token.calls("C_OpenSession"), limit as u64);
    token.fault(&rules(limit, ""));
    until("the end of what hung", || hsm.status().load.hung == 0);
    assert_signs(hsm, &key);
}

/// What hangs still holds its session.
#[test]
fn the_only_session_that_hangs_is_not_replaced() {
    nothing_replaces_what_hangs_with(1);
}

#[test]
fn a_worker_that_hangs_is_not_replaced_where_there_is_no_room() {
    nothing_replaces_what_hangs_with(2);
}

#[test]
fn a_worker_that_hangs_is_replaced_where_there_is_room() {
    let token = FaultyToken::over(Token::softhsm());
    token.fault(&rules(5, ""));
    let mut options = options(token.token());
    options.timeout = Duration::from_millis(500);
    options.max_sessions = Some(1);
    let hsm = open_behind(&token, options).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault(&rules(5, "C_Sign hang count=1"));
    assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Timeout);
    until("the replacement", || hsm.status().load.workers == 2);
    assert_signs(&hsm, &key);
    token.clear();
}

#[test]
fn sessions_that_others_hold_are_waited_for() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("forget-sessions\nC_OpenSession rv=0xb1 count=8");
    let signed = sign(&hsm, &key, b"data").unwrap();
    assert!(is_right(&key, b"data", &signed));
    assert_signs(&hsm, &key);
}

#[test]
fn sessions_that_others_keep_are_told() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.timeout = Duration::from_millis(600);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("forget-sessions\nC_OpenSession rv=0xb1");
    assert_unavailable(sign(&hsm, &key, b"data"), "CKR_SESSION_COUNT");
    assert_eq!(hsm.status().unavailable, None);
    token.clear();
    assert_signs(&hsm, &key);
}

/// A worker that has no session leaves the work to those that have.
#[test]
fn those_that_have_sessions_do_the_work() {
    let token = FaultyToken::over(Token::softhsm());
    // The keeper's and one worker's; others hold the rest.
    token.fault("C_OpenSession room=2");
    let mut options = options(token.token());
    options.max_sessions = Some(4);
    options.timeout = Duration::from_secs(5);
    let hsm = open_behind(&token, options).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let calls: Vec<_> = (0..200).map(|_| hsm.sign(crate::sign_request(&key, b"data"))).collect();
    for call in calls {
        assert!(is_right(&key, b"data", &call.wait().unwrap()));
    }
}

/// A walk that hangs is given up, and lists work again before it returns.
#[test]
fn a_search_that_hangs_is_given_up_and_another_thread_searches() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.timeout = Duration::from_millis(500);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let list = || {
        hsm.keys(KeyQuery {
            limit: 10,
            ..KeyQuery::default()
        })
    };
    token.fault("C_FindObjectsInit hang count=1");
    assert_eq!(list().wait().unwrap_err(), Error::Timeout);
    let mut listed = list().wait();
    until("a list", || {
        listed = list().wait();
        listed.is_ok()
    });
    assert!(listed.unwrap().keys.contains_id(&key));
    assert_signs(&hsm, &key);
    assert_eq!(hsm.stop(Duration::from_millis(100)), Stopped::Hanging);
    assert_eq!(token.calls("C_Finalize"), 0);
    token.clear();
}
