//! Modules that do what they should not: SoftHSM behind one that fails on command.

use hsm_core::backend::{Backend as _, Filter, Made, Mechanism, Session, Template};
use hsm_core::pkcs11::Module;
use hsm_core::{Ckr, KeySpec, Usages};
use softhsm_test::{FaultyToken, Token};

use crate::pin;

struct Faulty {
    session: Box<dyn Session>,
    module: Module,
    slot: u64,
    token: FaultyToken,
}

impl Faulty {
    fn new() -> Faulty {
        let token = FaultyToken::over(Token::softhsm());
        token.apply_env();
        let module = Module::load(token.module(), None).unwrap();
        let slots = module.slots().unwrap();
        let initialized = |slot: &&hsm_core::backend::Slot| slot.token.as_ref().unwrap().initialized;
        let slot = slots.iter().find(initialized).unwrap().id;
        let mut session = module.open(slot).unwrap();
        session.login(Some(&pin(token.token()))).unwrap();
        Faulty {
            session,
            module,
            slot,
            token,
        }
    }

    fn make_aes(session: &mut Box<dyn Session>) -> Result<Made, hsm_core::Ckr> {
        let spec = KeySpec::Aes { bits: 128 };
        let usages = Usages::default_for(spec.key_type());
        let template = Template {
            id: b"id",
            label: "label",
            extractable: false,
            usages,
            session_only: false,
        };
        session.generate(spec, &template).map_err(|failure| failure.rv.unwrap())
    }
}

const GCM_IV: [u8; 12] = [1; 12];

fn gcm() -> Mechanism {
    Mechanism::AesGcm {
        iv: GCM_IV.to_vec(),
        aad: vec![],
    }
}

#[test]
fn a_token_with_a_bad_clock_is_read_all_the_same() {
    let Faulty { module, token, .. } = Faulty::new();
    let before = format!("{:?}", module.slots().unwrap());
    token.fault("C_GetTokenInfo bad_clock");
    assert_eq!(format!("{:?}", module.slots().unwrap()), before);
}

#[test]
fn one_token_that_is_not_recognised_does_not_hide_the_others() {
    let Faulty {
        module, token, slot, ..
    } = Faulty::new();
    let slots = module.slots().unwrap();
    for (position, of) in slots.iter().enumerate() {
        for (rv, has_token) in [("0xe0", false), ("0xe1", true)] {
            token.fault(&format!("C_GetTokenInfo rv={rv} skip={position} count=1"));
            let now = module.slots().unwrap();
            assert_eq!(now.len(), slots.len());
            assert_eq!(now[position].token.is_some(), has_token);
            let other = now.iter().find(|other| other.id != of.id).unwrap();
            let initialized = other.token.as_ref().unwrap().initialized;
            assert_eq!(initialized, other.id == slot);
        }
    }
}

#[test]
fn flags_and_limits_of_a_token_are_told() {
    let Faulty {
        module, token, slot, ..
    } = Faulty::new();
    let found = |rules: &str| {
        token.fault(rules);
        let slots = module.slots().unwrap();
        let slot = slots.into_iter().find(|found| found.id == slot).unwrap();
        slot.token.unwrap()
    };
    assert_eq!(found("").max_sessions, None);
    assert_eq!(found("C_GetTokenInfo max_sessions=7").max_sessions, Some(7));
    assert!(found("C_GetTokenInfo flags=0x20000").user_pin_final_try);
    assert!(found("C_GetTokenInfo flags=0x40000").user_pin_locked);
    assert!(found("C_GetTokenInfo flags=0x2").write_protected);
    assert!(found("C_GetTokenInfo flags=0x100").protected_authentication_path);
}

#[test]
fn a_mechanism_that_is_listed_and_not_there_is_left_out() {
    let Faulty {
        module, token, slot, ..
    } = Faulty::new();
    let all = module.mechanisms(slot).unwrap().len();
    token.fault("C_GetMechanismInfo rv=0x70 count=1");
    assert_eq!(module.mechanisms(slot).unwrap().len(), all - 1);
    token.fault("C_GetMechanismInfo rv=0x30 count=1");
    assert_eq!(module.mechanisms(slot).unwrap_err().rv, Some(Ckr::DeviceError));
}

#[test]
fn a_write_protected_token_is_opened_for_reading() {
    let mut faulty = Faulty::new();
    faulty.token.fault("C_OpenSession rv=0xe2 count=1");
    let mut reading = faulty.module.open(faulty.slot).unwrap();
    assert!(reading.logged_in().unwrap());
    let failure = Faulty::make_aes(&mut reading);
    assert_eq!(failure.unwrap_err(), Ckr::SessionReadOnly);
    assert!(Faulty::make_aes(&mut faulty.session).is_ok());
    faulty.token.fault("C_OpenSession rv=0xe2");
    let failure = faulty.module.open(faulty.slot).map(|_| ()).unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::TokenWriteProtected));
}

#[test]
fn codes_that_nobody_knows_are_told_as_numbers() {
    let mut faulty = Faulty::new();
    for (rv, text) in [
        ("0xffffffffffffffff", "C_FindObjectsInit answered 0xffffffffffffffff"),
        ("0x80000001", "C_FindObjectsInit answered 0x80000001"),
        ("0x0000abcd", "C_FindObjectsInit answered 0x0000abcd"),
        ("0x201", "C_FindObjectsInit answered CKR_TOKEN_RESOURCE_EXCEEDED"),
    ] {
        faulty.token.fault(&format!("C_FindObjectsInit rv={rv} count=1"));
        let failure = faulty.session.find(&Filter::Id(b"id")).unwrap_err();
        assert_eq!(failure.to_string(), text);
    }
}

/// A module that fails to end an operation shows in the next one, and a new session is free of it.
#[test]
fn an_operation_left_active_is_told_by_the_next_and_not_in_another_session() {
    let mut faulty = Faulty::new();
    let Ok(Made::Secret(key)) = Faulty::make_aes(&mut faulty.session) else {
        panic!("an AES key");
    };
    let encrypt = |session: &mut Box<dyn Session>| {
        let encrypted = session.encrypt(&mut gcm(), key, b"data");
        encrypted.map_err(|failure| failure.to_string())
    };
    let good = encrypt(&mut faulty.session).unwrap();
    faulty.token.fault("C_EncryptInit late_rv=0x30 count=1");
    let failure = encrypt(&mut faulty.session).unwrap_err();
    assert_eq!(failure, "C_EncryptInit answered CKR_DEVICE_ERROR");
    for _ in 0..2 {
        let failure = encrypt(&mut faulty.session).unwrap_err();
        assert_eq!(failure, "C_EncryptInit answered CKR_OPERATION_ACTIVE");
    }
    let mut new = faulty.module.open(faulty.slot).unwrap();
    assert_eq!(encrypt(&mut new), Ok(good));
}

#[test]
fn sessions_close_unless_the_module_was_finalised_since() {
    let Faulty {
        module,
        token,
        slot,
        session,
    } = Faulty::new();
    drop(session);
    assert_eq!(token.calls("C_CloseSession"), 1);
    let old = module.open(slot).unwrap();
    module.restart().unwrap();
    drop(old);
    assert_eq!(token.calls("C_CloseSession"), 1);
    drop(module.open(slot).unwrap());
    assert_eq!(token.calls("C_CloseSession"), 2);
}

#[test]
fn a_restart_works_even_if_the_end_fails() {
    let Faulty {
        module, token, slot, ..
    } = Faulty::new();
    token.fault("C_Finalize late_rv=0x30 count=1");
    module.restart().unwrap();
    drop(module.open(slot).unwrap());
    token.fault("C_Finalize rv=0x30 count=1");
    let failure = module.restart().unwrap_err();
    assert_eq!(failure.to_string(), "C_Finalize answered CKR_DEVICE_ERROR");
    token.fault("C_Initialize rv=0x05 count=1");
    let failure = module.restart().unwrap_err();
    assert_eq!(failure.to_string(), "C_Initialize answered CKR_GENERAL_ERROR");
    module.restart().unwrap();
    drop(module.open(slot).unwrap());
}

/// Listing thousands of keys costs as many times what one costs.
#[test]
fn a_key_is_read_in_two_calls() {
    let mut faulty = Faulty::new();
    let Ok(Made::Secret(key)) = Faulty::make_aes(&mut faulty.session) else {
        panic!("an AES key");
    };
    faulty.token.forget_calls();
    faulty.session.read(key).unwrap().unwrap();
    assert_eq!(faulty.token.calls("C_GetAttributeValue"), 2);
    assert_eq!(faulty.token.call_log().len(), 2);
}
