//! The module itself: loading, slots, mechanisms, tokens made, the end.

use std::path::Path;

use hsm_core::Ckr;
use hsm_core::algorithm::MechanismId;
use hsm_core::backend::Backend as _;
use hsm_core::pkcs11::{LoadError, Module};
use secrecy::SecretString;

use crate::{Fixture, on_both, pin};

on_both!(
    slots_tell_what_is_in_them,
    mechanisms_tell_what_they_are_for,
    a_restart_makes_old_sessions_dead_and_new_ones_work,
    the_end_is_the_end_and_can_be_said_twice,
    a_module_in_use_is_not_taken_over,
);

fn slots_tell_what_is_in_them(fixture: &mut Fixture) {
    let slots = fixture.module.slots().unwrap();
    for slot in &slots {
        let token = slot.token.as_ref().unwrap();
        for text in [
            &slot.description,
            &slot.manufacturer,
            &token.label,
            &token.model,
            &token.serial,
            &token.manufacturer,
        ] {
            assert_eq!(text.trim(), text);
        }
        assert_eq!(token.initialized, slot.id == fixture.slot);
    }
    let slot = slots.iter().find(|slot| slot.id == fixture.slot).unwrap();
    let token = slot.token.as_ref().unwrap();
    assert_eq!(token.label, fixture.token.label());
    assert!(!token.model.is_empty() && !token.serial.is_empty());
    assert!(token.login_required && token.user_pin_initialized);
    assert!(!token.user_pin_locked && !token.user_pin_final_try);
    assert!(!token.write_protected && !token.protected_authentication_path);
    // SoftHSM always shows a free slot.
    assert_eq!(slots.len(), if fixture.is_softhsm { 2 } else { 1 });
}

fn mechanisms_tell_what_they_are_for(fixture: &mut Fixture) {
    let all = fixture.module.mechanisms(fixture.slot).unwrap();
    let of = |id| all.iter().find(|mechanism| mechanism.id == id);
    let gcm = of(MechanismId::AES_GCM).unwrap();
    assert!(
        gcm.flags.has("encrypt") && gcm.flags.has("decrypt") && !gcm.flags.has("sign") && !gcm.flags.has("generate")
    );
    let ecdsa = of(MechanismId::ECDSA).unwrap();
    assert!(ecdsa.flags.has("sign") && ecdsa.flags.has("verify") && !ecdsa.flags.has("encrypt"));
    let rsa = of(MechanismId::RSA_PKCS_KEY_PAIR_GEN).unwrap();
    assert!(rsa.flags.has("generate_key_pair") && rsa.min_key_size <= 2048 && rsa.max_key_size >= 4096);
    assert_eq!(of(MechanismId::ECDSA_SHA256).is_some(), !fixture.is_softhsm);
    let failure = fixture.module.mechanisms(123_456).unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::SlotIdInvalid));
}

fn a_restart_makes_old_sessions_dead_and_new_ones_work(fixture: &mut Fixture) {
    fixture.module.restart().unwrap();
    let mut new = fixture.module.open(fixture.slot).unwrap();
    assert!(!new.logged_in().unwrap());
    new.login(Some(&pin(&fixture.token))).unwrap();
    // The new session may have got the number of the old one; the old one must not pass for it, nor close it.
    let failure = fixture.session.logged_in().unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::SessionHandleInvalid));
    fixture.session = fixture.module.open(fixture.slot).unwrap();
    assert!(new.logged_in().unwrap());
    assert!(fixture.session.logged_in().unwrap());
}

fn the_end_is_the_end_and_can_be_said_twice(fixture: &mut Fixture) {
    fixture.module.finish().unwrap();
    fixture.module.finish().unwrap();
    let failure = fixture.module.open(fixture.slot).map(|_| ()).unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::CryptokiNotInitialized));
    assert_eq!(
        failure.to_string(),
        "C_OpenSession answered CKR_CRYPTOKI_NOT_INITIALIZED"
    );
    let failure = fixture.session.logged_in().unwrap_err();
    assert_eq!(failure.rv, Some(Ckr::SessionHandleInvalid));
}

fn a_module_in_use_is_not_taken_over(fixture: &mut Fixture) {
    let error = Module::load(fixture.token.module(), fixture.token.init_args()).unwrap_err();
    let text = format!(
        "{} does not start: C_Initialize answered CKR_CRYPTOKI_ALREADY_INITIALIZED",
        fixture.token.module().display()
    );
    assert_eq!(error.to_string(), text);
    assert!(fixture.session.logged_in().unwrap());
}

#[test]
fn what_is_no_module_is_told_in_one_line() {
    let refused = |path: &str| Module::load(Path::new(path), None).unwrap_err();

    let error = refused("/nonexistent/module.so");
    assert!(matches!(error, LoadError::NotFound(_)));
    assert_eq!(error.to_string(), "there is no file /nonexistent/module.so");

    let error = refused("no-such-library-anywhere.so");
    assert!(matches!(error, LoadError::NotLoadable { .. }), "{error}");

    let error = refused(file!());
    assert!(matches!(error, LoadError::NotLoadable { .. } | LoadError::NotFound(_)));

    let error = refused("libm.so.6");
    assert_eq!(
        error.to_string(),
        "libm.so.6 is not a PKCS#11 module: it has no C_GetFunctionList"
    );

    let error = Module::linked_in(None).unwrap_err();
    assert!(matches!(error, LoadError::NotAModule(_)), "{error}");

    let token = softhsm_test::Token::softhsm();
    let error = Module::load(token.module(), Some("a\0b")).unwrap_err();
    assert!(matches!(error, LoadError::InitArgs));
    for error in [refused("/etc/passwd"), refused("/")] {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_module_that_does_not_start_says_why() {
    let error = Module::load(softhsm_test::Token::embedded().module(), Some("/nonexistent/x.sql"));
    match error {
        Err(LoadError::Initialize { failure, .. }) => assert!(failure.rv.is_some(), "{failure}"),
        other => panic!("{other:?}"),
    }
}

/// Makes the token in a slot, logs in with its PIN, and makes another of it.
fn make_token(module: &Module, label: &str) {
    let free = |module: &Module| {
        let slots = module.slots().unwrap();
        let slot = slots.iter().find(|slot| !slot.token.as_ref().unwrap().initialized);
        slot.unwrap().id
    };
    let [so_pin, user_pin] = ["so-12345678", "user-12345678"].map(SecretString::from);
    module.init_token(free(module), &so_pin, label, &user_pin).unwrap();
    let slots = module.slots().unwrap();
    let slot = slots
        .iter()
        .find(|slot| slot.token.as_ref().unwrap().label == label)
        .unwrap();
    let token = slot.token.as_ref().unwrap();
    assert!(token.initialized && token.user_pin_initialized);
    let mut session = module.open(slot.id).unwrap();
    assert!(!session.logged_in().unwrap());
    session.login(Some(&user_pin)).unwrap();
    assert!(session.logged_in().unwrap());
}

#[test]
fn a_token_is_made_on_softhsm() {
    let token = softhsm_test::Token::uninitialised();
    token.apply_env();
    let module = Module::load(token.module(), None).unwrap();
    make_token(&module, "made here");
    make_token(&module, "and here");
}

#[test]
fn a_token_is_made_on_the_embedded_one() {
    let embedded = softhsm_test::Token::embedded();
    let database = embedded.folder().unwrap().join("new.sql");
    let module = Module::load(embedded.module(), database.to_str()).unwrap();
    make_token(&module, "made here");
}
