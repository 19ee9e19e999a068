//! A program that has the token linked in is its own PKCS#11 module.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "a test: the crate cryptoki calls the reserved argument unsafe, and a failure should stop it"
)]

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::ptr::NonNull;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

fn initialised(args: &str) -> Pkcs11 {
    let module = Pkcs11::new_from_self().unwrap();
    let reserved = CString::new(args).unwrap().into_raw();
    // SAFETY: the text outlives the call that reads it.
    let init = unsafe {
        CInitializeArgs::new_with_reserved(CInitializeFlags::OS_LOCKING_OK, NonNull::new(reserved.cast()).unwrap())
    };
    module.initialize(init).unwrap();
    // SAFETY: it came from `into_raw` above, and C_Initialize is over.
    drop(unsafe { CString::from_raw(reserved) });
    module
}

#[test]
fn a_program_finds_the_token_in_itself_and_keys_survive_it() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("token.sql");
    let args = embedded_token::init_args(&database).unwrap();
    closed_file(&database);
    let (so_pin, pin) = (AuthPin::from("12345678"), AuthPin::from("87654321"));

    let module = initialised(&args);
    let slot = module.get_slots_with_token().unwrap().remove(0);
    assert!(!module.get_token_info(slot).unwrap().token_initialized());
    module.init_token(slot, &so_pin, "linked in").unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&so_pin)).unwrap();
    session.init_pin(&pin).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin)).unwrap();
    session
        .generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[
                // The object identifier of P-256.
                Attribute::EcParams(vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]),
                Attribute::Token(true),
                Attribute::Verify(true),
            ],
            &[Attribute::Token(true), Attribute::Sign(true), Attribute::Id(vec![7])],
        )
        .unwrap();
    session.close().unwrap();
    module.finalize().unwrap();

    let module = initialised(&args);
    let slot = module.get_slots_with_initialized_token().unwrap().remove(0);
    assert_eq!(module.get_token_info(slot).unwrap().label(), "linked in");
    let session = module.open_ro_session(slot).unwrap();
    session.login(UserType::User, Some(&pin)).unwrap();
    let key = session.find_objects(&[Attribute::Id(vec![7])]).unwrap().remove(0);
    let signature = session.sign(&Mechanism::EcdsaSha256, key, b"data").unwrap();
    assert_eq!(signature.len(), 64);
    session.close().unwrap();
    module.finalize().unwrap();

    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(&database).unwrap()) & 0o777,
        0o600
    );
}

/// An empty file is a new database: made beforehand it has the mode that it should have from the start.
fn closed_file(path: &Path) {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).unwrap();
}
