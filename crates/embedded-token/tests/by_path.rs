//! A program that exports the entry points of its own token can load other modules by path: they keep to themselves.

#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "a test: it sets variables for a module, and a failure should stop it"
)]

use std::env;
use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use softhsm_test::{FaultyToken, Token};

/// Names of the maker that the module at `path` and the token inside give.
fn makers(path: &Path) -> [String; 2] {
    // Keeps the entry points in this program.
    embedded_token::init_args(Path::new("/token.sql")).unwrap();
    let other = Pkcs11::new(path).unwrap();
    let inside = Pkcs11::new_from_self().unwrap();
    other
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    [other, inside].map(|module| module.get_library_info().unwrap().manufacturer_id().to_owned())
}

fn stays_apart(path: &Path) {
    let [other, inside] = makers(path);
    assert_eq!((other.as_str(), inside.as_str()), ("SoftHSM", "Kryoptic"));
}

#[test]
fn softhsm() {
    let token = Token::softhsm();
    token.apply_env();
    stays_apart(token.module());
}

#[test]
fn a_module_that_forwards_to_softhsm() {
    let faulty = FaultyToken::over(Token::softhsm());
    faulty.apply_env();
    stays_apart(faulty.module());
}

#[test]
fn opensc_spy_before_softhsm() {
    const SPY: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
        "/usr/lib64/pkcs11-spy.so",
    ];
    let spy = SPY.iter().map(Path::new).find(|path| path.exists());
    let spy = spy.expect("pkcs11-spy.so, which comes with OpenSC");
    let token = Token::softhsm();
    token.apply_env();
    // SAFETY: the test has its process for itself.
    unsafe {
        env::set_var("PKCS11SPY", token.module());
        env::set_var("PKCS11SPY_OUTPUT", "/dev/null");
    }
    stays_apart(spy);
}
