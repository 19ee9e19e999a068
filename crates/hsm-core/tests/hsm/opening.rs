//! How a token is found and logged in to, and what is said if that fails.

use hsm_core::pkcs11::Module;
use hsm_core::{Encrypt, Hsm, KeyQuery, Login, OpenError, Options};
use softhsm_test::{FaultyToken, Token};

use crate::{Faulty, assert_signs, assert_unavailable, id, open_behind, options, p256};

const WRONG_PIN: &str = "pin-0000-wrong";

fn open(token: &Token, options: Options) -> Result<Hsm, OpenError> {
    token.apply_env();
    Hsm::open(Module::load(token.module(), token.init_args()).unwrap(), options)
}

#[test]
fn a_token_that_is_not_there_is_told_with_those_that_are() {
    let tokens = Token::several(&["one", "two"]);
    let mut wanted = options(&tokens[0]);
    wanted.token.label = Some("three".into());
    let error = open(&tokens[0], wanted).err().unwrap();
    let OpenError::TokenNotFound { wanted, present } = &error else {
        panic!("{error:?}");
    };
    assert!(wanted.contains("three"), "{wanted}");
    let mut present = present.clone();
    present.sort();
    assert_eq!(present, ["one", "two"]);
}

#[test]
fn no_initialised_token_is_told() {
    let token = Token::uninitialised();
    let error = open(&token, Options::default()).err().unwrap();
    assert!(
        matches!(&error, OpenError::TokenNotFound { present, .. } if present.is_empty()),
        "{error:?}"
    );
}

#[test]
fn several_tokens_that_fit_are_told() {
    let tokens = Token::several(&["one", "two"]);
    let error = open(&tokens[0], Options::default()).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, OpenError::SeveralTokens(found) if found.len() == 2));
    assert!(
        text.contains("`one`") && text.contains("`two`") && text.contains("pkcs11:"),
        "{text}"
    );
}

#[test]
fn the_only_initialised_token_needs_no_name() {
    let token = Token::softhsm();
    let unnamed = Options {
        pin: Some(token.pin().into()),
        ..Options::default()
    };
    let hsm = open(&token, unnamed).unwrap();
    assert_eq!(hsm.token().label, token.label());
}

#[test]
fn one_of_several_tokens_is_chosen_by_its_label() {
    let tokens = Token::several(&["one", "two"]);
    let hsm = open(&tokens[1], options(&tokens[1])).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
    assert_eq!((tokens[0].objects().len(), tokens[1].objects().len()), (0, 2));
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let token = FaultyToken::over(Token::softhsm());
    let wrong = Options {
        pin: Some(WRONG_PIN.into()),
        ..options(token.token())
    };
    let error = open_behind(&token, wrong).err().unwrap();
    let OpenError::Pin(why) = &error else {
        panic!("{error:?}");
    };
    assert!(why.contains("CKR_PIN_INCORRECT") && why.contains("HSM_PIN"), "{why}");
    assert!(!format!("{error:?}").contains(WRONG_PIN));
    assert_eq!(token.calls("C_Login"), 1);
}

fn no_login_is_tried_with(flag: &str, name: &str) {
    let token = FaultyToken::over(Token::softhsm());
    token.fault(&format!("C_GetTokenInfo flags={flag}"));
    let error = open_behind(&token, options(token.token())).err().unwrap();
    assert!(matches!(&error, OpenError::Pin(why) if why.contains(name)), "{error:?}");
    assert_eq!(token.calls("C_Login"), 0);
}

#[test]
fn the_final_try_is_left_to_people() {
    no_login_is_tried_with("0x20000", "CKF_USER_PIN_FINAL_TRY");
}

#[test]
fn a_locked_pin_is_not_tried() {
    no_login_is_tried_with("0x40000", "CKF_USER_PIN_LOCKED");
}

/// A PIN that was changed while the token was in use: one attempt, then never again.
#[test]
fn a_pin_that_is_refused_later_is_tried_once() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
    token.fault("C_Login rv=0xa0\nlogout");
    token.forget_calls();
    for _ in 0..20 {
        assert_unavailable(hsm.sign(crate::sign_request(&key, b"data")).wait(), "PIN");
    }
    assert_eq!(token.calls("C_Login"), 1);
    let status = hsm.status();
    assert_eq!(status.login, Login::Refused);
    assert!(status.unavailable.unwrap().contains("CKR_PIN_INCORRECT"));
    token.clear();
    assert_unavailable(hsm.random(8).wait(), "PIN");
    assert_eq!(token.calls("C_Login"), 1);
}

#[test]
fn without_a_pin_what_needs_a_login_is_refused() {
    let Faulty { hsm, token } = Faulty::with(|options| options.pin = None);
    let status = hsm.status();
    assert_eq!((status.login, status.unavailable), (Login::NoPin, None));
    assert!(hsm.slots().wait().unwrap().len() > 1);
    assert_unavailable(hsm.generate(p256("signer")).wait(), "HSM_PIN");
    assert_unavailable(
        hsm.keys(KeyQuery {
            limit: 10,
            ..KeyQuery::default()
        })
        .wait(),
        "HSM_PIN",
    );
    assert_unavailable(hsm.key(&id("hsm:00")).wait(), "HSM_PIN");
    assert_unavailable(hsm.delete(&id("hsm:00")).wait(), "HSM_PIN");
    assert_unavailable(hsm.encrypt(Encrypt::new(id("hsm:00"), b"data")).wait(), "HSM_PIN");
    assert_eq!(hsm.status().unavailable, None);
    assert_eq!(token.calls("C_Login"), 0);
}

#[test]
fn no_more_sessions_are_opened_than_the_token_states() {
    let token = FaultyToken::over(Token::softhsm());
    token.fault("C_GetTokenInfo max_sessions=3");
    let many = Options {
        max_sessions: Some(16),
        ..options(token.token())
    };
    let hsm = open_behind(&token, many).unwrap();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
    assert_eq!((hsm.status().load.workers, token.calls("C_OpenSession")), (2, 3));
}
