//! What a test may expect of its token.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as expected should stop them"
)]

use std::thread;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use softhsm_test::{Class, FaultyToken, Token};

fn holds_foreign_keys(token: &Token) {
    assert!(token.objects().is_empty());
    token.make_foreign_key("0a01", "pair", "EC:prime256v1");
    token.make_foreign_key_with("0a02", "secret", "AES:32", &["--sensitive"]);

    let pair = token.attributes("0A01");
    assert_eq!([pair[0].class, pair[1].class], [Class::PublicKey, Class::PrivateKey]);
    assert_eq!((pair[1].label.as_str(), pair[1].id.as_str()), ("pair", "0a01"));
    assert_eq!((pair[1].sign, pair[1].extractable), (Some(true), Some(false)));
    let secret = &token.attributes("0a02")[0];
    assert_eq!((secret.class, secret.sensitive), (Class::SecretKey, Some(true)));
    assert_eq!((secret.token, secret.value.as_deref()), (Some(true), None));

    assert_eq!(token.delete_foreign_key("0a01"), 2);
    assert_eq!(token.objects().len(), 1);
    token.make_many_keys(3);
    assert_eq!(token.objects().len(), 4);
}

#[test]
fn softhsm_holds_keys_of_other_programs() {
    holds_foreign_keys(&Token::softhsm());
}

#[test]
fn the_embedded_token_holds_keys_of_other_programs() {
    holds_foreign_keys(&Token::embedded());
}

#[test]
fn several_tokens_share_a_module_and_nothing_else() {
    let tokens = Token::several(&["first", "second"]);
    tokens[0].make_foreign_key("01", "key", "AES:16");
    assert_eq!(tokens[0].objects().len(), 1);
    assert_eq!(tokens[1].objects().len(), 0);
}

#[test]
fn nothing_is_left_behind() {
    let token = Token::fresh();
    let folder = token.folder().unwrap().to_owned();
    let copy = token.clone();
    drop(token);
    assert!(folder.exists());
    drop(copy);
    assert!(!folder.exists());
}

#[test]
fn an_uninitialised_token_has_no_label_to_set() {
    let token = Token::uninitialised();
    assert!(
        token
            .env()
            .iter()
            .all(|(name, _)| name != "HSM_TOKEN_LABEL" && name != "HSM_PIN")
    );
    token.apply_env();
    let module = Pkcs11::new(token.module()).unwrap();
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    assert!(module.get_slots_with_initialized_token().unwrap().is_empty());
    assert_eq!(module.get_slots_with_token().unwrap().len(), 1);
}

/// A session through the failing module, logged in, and an AES key.
fn through(faulty: &FaultyToken) -> (Pkcs11, Session, ObjectHandle) {
    faulty.apply_env();
    faulty.token().make_many_keys(1);
    let module = Pkcs11::new(faulty.module()).unwrap();
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let (session, key) = logged_in(faulty, &module);
    (module, session, key)
}

fn logged_in(faulty: &FaultyToken, module: &Pkcs11) -> (Session, ObjectHandle) {
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    session
        .login(UserType::User, Some(&AuthPin::from(faulty.token().pin())))
        .unwrap();
    let key = session.find_objects(&[Attribute::Encrypt(true)]).unwrap()[0];
    (session, key)
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> RvError {
    match result.unwrap_err() {
        Error::Pkcs11(code, _) => code,
        other => panic!("{other}"),
    }
}

const CBC: Mechanism<'_> = Mechanism::AesCbcPad([0; 16]);

#[test]
fn a_rule_fails_as_many_calls_as_it_says() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (_module, session, key) = through(&faulty);
    assert_eq!(faulty.calls("C_Login"), 1);
    faulty.forget_calls();

    faulty.fault("C_EncryptInit rv=0x30 skip=1 count=1");
    session.encrypt(&CBC, key, b"data").unwrap();
    assert!(matches!(
        code(session.encrypt(&CBC, key, b"data")),
        RvError::DeviceError
    ));
    let ciphertext = session.encrypt(&CBC, key, b"data").unwrap();
    assert_eq!(faulty.calls("C_EncryptInit"), 3);

    faulty.fault("C_Encrypt rv=0x30 count=1");
    assert!(matches!(
        code(session.encrypt(&CBC, key, b"data")),
        RvError::DeviceError
    ));
    session.encrypt(&CBC, key, b"data").unwrap();

    faulty.fault("C_Decrypt late_rv=0x5");
    assert!(matches!(
        code(session.decrypt(&CBC, key, &ciphertext)),
        RvError::GeneralError
    ));
    faulty.fault("C_EncryptInit mechanism=0x1085 rv=0x70\nC_GetMechanismList without=0x1085");
    assert!(matches!(
        code(session.encrypt(&CBC, key, b"data")),
        RvError::MechanismInvalid
    ));
    session.encrypt(&Mechanism::AesCbc([0; 16]), key, &[0; 16]).unwrap();
}

#[test]
fn answers_can_be_wrong() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (module, session, key) = through(&faulty);
    let slot = module.get_slots_with_initialized_token().unwrap()[0];

    let right = session.encrypt(&CBC, key, b"data").unwrap();
    faulty.fault("C_Encrypt corrupt");
    assert_eq!(session.encrypt(&CBC, key, b"data").unwrap()[15], right[15] ^ 1);
    faulty.fault("C_Encrypt length=3");
    assert_eq!(session.encrypt(&CBC, key, b"data").unwrap().len(), 3);
    faulty.fault("C_GenerateRandom zero");
    assert_eq!(session.generate_random_vec(8).unwrap(), [0; 8]);
    faulty.fault("C_GenerateRandom repeat");
    let same = session.generate_random_vec(8).unwrap();
    assert_eq!(session.generate_random_vec(8).unwrap(), same);
    faulty.fault("C_GetTokenInfo flags=0x40000\nC_GetTokenInfo max_sessions=2");
    let info = module.get_token_info(slot).unwrap();
    assert!(info.user_pin_locked());
    assert_eq!(format!("{:?}", info.max_session_count()), "Max(2)");
    faulty.fault("C_GetTokenInfo bad_clock");
    assert!(module.get_token_info(slot).is_err());
    faulty.fault("C_GetMechanismList without=0x1085");
    let left = module.get_mechanism_list(slot).unwrap();
    assert!(!left.contains(&MechanismType::AES_CBC_PAD) && left.contains(&MechanismType::AES_CBC));
}

#[test]
fn sessions_and_the_login_can_be_lost() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (module, session, key) = through(&faulty);
    faulty.fault("forget-sessions");
    assert!(matches!(
        code(session.encrypt(&CBC, key, b"data")),
        RvError::SessionHandleInvalid
    ));
    let (session, key) = logged_in(&faulty, &module);
    session.encrypt(&CBC, key, b"data").unwrap();
    faulty.fault("logout");
    session.encrypt(&CBC, key, b"data").unwrap_err();
    assert_eq!(
        format!("{:?}", session.get_session_info().unwrap().session_state()),
        "RwPublic"
    );
}

#[test]
fn a_hanging_call_goes_on_when_the_rule_is_gone() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (_module, session, key) = through(&faulty);
    faulty.forget_calls();
    faulty.fault("C_EncryptInit hang");
    let stuck = thread::spawn(move || session.encrypt(&CBC, key, b"data").map(|data| data.len()));
    while faulty.calls("C_EncryptInit") == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!stuck.is_finished());
    faulty.clear();
    assert_eq!(stuck.join().unwrap().unwrap(), 16);
}

#[test]
#[should_panic(expected = "C_Sign fly")]
fn a_rule_that_means_nothing_stops_the_test() {
    FaultyToken::over(Token::uninitialised()).fault("C_Sign fly");
}

#[test]
fn the_embedded_token_can_fail_too() {
    let faulty = FaultyToken::over(Token::embedded());
    let (_module, session, key) = through(&faulty);
    faulty.fault("C_Encrypt rv=0x30 count=1");
    assert!(matches!(
        code(session.encrypt(&CBC, key, b"data")),
        RvError::DeviceError
    ));
    session.encrypt(&CBC, key, b"data").unwrap();
}

#[test]
fn facts_can_be_read_beside_a_session_of_the_same_process() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (_module, session, key) = through(&faulty);
    assert_eq!(faulty.token().objects().len(), 1);
    session.encrypt(&CBC, key, b"data").unwrap();
    assert_eq!(faulty.token().attributes("ff000000")[0].label, "many 0");
    session.encrypt(&CBC, key, b"data").unwrap();
}

fn processes_see_each_other(token: &Token) {
    token.with_session(|session| {
        let found = || session.find_objects(&[Attribute::Id(vec![1])]).unwrap().len();
        assert_eq!(found(), 0);
        token.make_foreign_key("01", "key", "EC:prime256v1");
        assert_eq!(found(), 2);
        assert_eq!(token.delete_foreign_key("01"), 2);
        assert_eq!(found(), 0);
    });
}

#[test]
fn processes_share_a_softhsm_token() {
    processes_see_each_other(&Token::softhsm());
}

#[test]
fn processes_share_an_embedded_token() {
    processes_see_each_other(&Token::embedded());
}
