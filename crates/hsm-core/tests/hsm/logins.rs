//! PINs that are entered at the device, keys that ask for the PIN at each use, and tokens that nothing can be changed on.

use std::thread;
use std::time::Duration;

use hsm_core::key::Material;
use hsm_core::{Error, Import, KeyAttributes, KeyInfo, KeyType, Label, Login, OpenError, Options, Usages};
use softhsm_test::{FaultyToken, Token};

use crate::{Faulty, assert_signs, assert_unavailable, id, open_behind, options, p256, sign};

/// CKF_PROTECTED_AUTHENTICATION_PATH
const PROTECTED_PATH: &str = "C_GetTokenInfo flags=0x100";
/// CKF_WRITE_PROTECTED
const WRITE_PROTECTED: &str = "C_GetTokenInfo flags=0x2";

fn without_pin(token: &FaultyToken) -> Options {
    Options {
        pin: None,
        ..options(token.token())
    }
}

#[test]
fn a_pin_may_be_entered_at_the_device() {
    let token = FaultyToken::over(Token::softhsm());
    let entered = token.token().pin().to_owned();
    token.fault(&format!("{PROTECTED_PATH}\nC_Login enter={entered}"));
    let hsm = open_behind(&token, without_pin(&token)).unwrap();
    assert_eq!(hsm.status().login, Login::LoggedIn);
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
    assert_eq!(token.calls("C_Login"), 1);
    token.fault(&format!("{PROTECTED_PATH}\nC_Login enter={entered}\nlogout"));
    assert_signs(&hsm, &key);
    assert_eq!(token.calls("C_Login"), 2);
}

#[test]
fn a_pin_that_is_not_entered_right_is_asked_for_once() {
    let token = FaultyToken::over(Token::softhsm());
    token.fault(&format!("{PROTECTED_PATH}\nC_Login rv=0xa0"));
    let error = open_behind(&token, without_pin(&token)).err().unwrap();
    let OpenError::Pin(why) = &error else {
        panic!("{error:?}");
    };
    assert!(
        why.contains("CKR_PIN_INCORRECT") && why.contains("at the device"),
        "{why}"
    );
    assert_eq!(token.calls("C_Login"), 1);
}

/// SoftHSM takes no login without a PIN.
#[test]
fn a_configured_pin_is_used_in_any_case() {
    let token = FaultyToken::over(Token::softhsm());
    token.fault(PROTECTED_PATH);
    let hsm = open_behind(&token, options(token.token())).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
}

#[test]
fn nothing_is_changed_on_a_write_protected_token() {
    let token = FaultyToken::over(Token::softhsm());
    let hsm = open_behind(&token, options(token.token())).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    hsm.stop(Duration::from_secs(30));
    token.fault(WRITE_PROTECTED);
    let hsm = open_behind(&token, options(token.token())).unwrap();
    assert_signs(&hsm, &key);
    assert_eq!(hsm.key(&key.id).wait().unwrap().label, key.label);
    let signed = sign(&hsm, &key, b"data").unwrap();
    let verify = hsm_core::Verify {
        signed: crate::sign_request(&key, b"data"),
        signature: signed.signature,
    };
    assert!(hsm.verify(verify).wait().unwrap());
    let import = Import {
        material: Material::Secret {
            key_type: KeyType::Aes,
            value: vec![7; 32].into(),
        },
        attributes: KeyAttributes {
            id: None,
            label: Label::parse("another").unwrap(),
            extractable: false,
            usages: Usages::default_for(KeyType::Aes),
        },
    };
    token.forget_calls();
    let refused = [
        hsm.generate(p256("another")).wait().unwrap_err(),
        hsm.delete(&key.id).wait().unwrap_err(),
        hsm.relabel(&key.id, Label::parse("another").unwrap())
            .wait()
            .unwrap_err(),
        hsm.import(import).wait().unwrap_err(),
    ];
    for error in refused {
        assert!(
            matches!(&error, Error::NotSupported(why) if why.contains("CKF_WRITE_PROTECTED")),
            "{error:?}"
        );
    }
    assert!(token.call_log().is_empty(), "{:?}", token.call_log());
}

/// A token with a key that asks for the PIN at each use.
fn with_a_careful_key() -> (Faulty, KeyInfo) {
    let faulty = Faulty::new();
    let token = faulty.token.token();
    token.make_foreign_key_with("0a0b", "careful", "EC:prime256v1", &["--always-auth"]);
    let key = faulty.hsm.key(&id("hsm:0a0b")).wait().unwrap();
    faulty.token.forget_calls();
    (faulty, key)
}

#[test]
fn a_key_may_ask_for_the_pin_at_each_use() {
    let (Faulty { hsm, token }, key) = with_a_careful_key();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert_signs(&hsm, &key)));
        }
    });
    assert_eq!(token.calls("C_Login"), 20);
    assert_eq!(hsm.status().login, Login::LoggedIn);
}

/// Several threads want to use the key at the same time, and the PIN is tried once.
#[test]
fn a_wrong_pin_for_one_use_is_tried_once() {
    let (Faulty { hsm, token }, key) = with_a_careful_key();
    let other = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Login rv=0xa0");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_unavailable(sign(&hsm, &key, b"data"), "PIN"));
        }
    });
    token.clear();
    for key in [&key, &other] {
        assert_unavailable(sign(&hsm, key, b"data"), "CKR_PIN_INCORRECT");
    }
    assert_eq!(token.calls("C_Login"), 1);
    assert_eq!(hsm.status().login, Login::Refused);
}

/// A login that fails for another reason says nothing of the PIN.
#[test]
fn a_login_for_one_use_may_fail_without_blame_for_the_pin() {
    let (Faulty { hsm, token }, key) = with_a_careful_key();
    token.fault("C_Login rv=0x30 count=1");
    let error = sign(&hsm, &key, b"data").unwrap_err();
    assert!(
        matches!(&error, Error::Device(why) if why.contains("CKR_DEVICE_ERROR")),
        "{error:?}"
    );
    assert_signs(&hsm, &key);
}

fn no_pin_is_tried_for_one_use_at(flag: &str, name: &str) {
    let (Faulty { hsm, token }, key) = with_a_careful_key();
    let other = hsm.generate(p256("signer")).wait().unwrap();
    token.fault(&format!("C_GetTokenInfo flags={flag}"));
    assert_unavailable(sign(&hsm, &key, b"data"), name);
    token.clear();
    for key in [&key, &other] {
        assert_unavailable(sign(&hsm, key, b"data"), name);
    }
    assert_eq!(token.calls("C_Login"), 0);
    assert_eq!(hsm.status().login, Login::Refused);
}

#[test]
fn a_pin_near_its_end_is_not_tried_for_one_use() {
    no_pin_is_tried_for_one_use_at("0x20000", "CKF_USER_PIN_FINAL_TRY");
}

#[test]
fn a_pin_that_is_locked_is_not_tried_for_one_use() {
    no_pin_is_tried_for_one_use_at("0x40000", "CKF_USER_PIN_LOCKED");
}

/// SoftHSM leaves the operation active that the login was for, and a session with one takes no other.
#[test]
fn a_login_that_failed_for_one_use_leaves_no_operation_behind() {
    let (Faulty { hsm, token }, key) = with_a_careful_key();
    let other = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Login rv=0x30 count=1");
    sign(&hsm, &key, b"data").unwrap_err();
    token.forget_calls();
    for _ in 0..20 {
        assert_signs(&hsm, &other);
    }
    assert_eq!(token.calls("C_SignInit"), 20);
}
