//! Login, random bytes, and what a failure leaves behind in a session.

use hsm_core::backend::{Backend as _, Handle, Mechanism, Used};
use hsm_core::{Ckr, Curve, KeySpec, Usage};
use secrecy::SecretString;

use crate::{Fixture, on_both, pin};

on_both!(
    login_is_for_all_sessions_and_harmless_to_repeat,
    a_wrong_pin_is_told,
    random_bytes_differ,
    no_failure_leaves_an_operation_active,
);

fn login_is_for_all_sessions_and_harmless_to_repeat(fixture: &mut Fixture) {
    let mut other = fixture.module.open(fixture.slot).unwrap();
    assert!(other.logged_in().unwrap());
    other.login(Some(&pin(&fixture.token))).unwrap();
    fixture.session.logout().unwrap();
    assert!(!other.logged_in().unwrap());
    fixture.session.logout().unwrap();
    other.login(Some(&pin(&fixture.token))).unwrap();
    assert!(fixture.session.logged_in().unwrap());
}

fn a_wrong_pin_is_told(fixture: &mut Fixture) {
    fixture.session.logout().unwrap();
    let failure = fixture.session.login(Some(&SecretString::from("87654321-not")));
    assert_eq!(failure.unwrap_err().to_string(), "C_Login answered CKR_PIN_INCORRECT");
    assert!(!fixture.session.logged_in().unwrap());
}

fn random_bytes_differ(fixture: &mut Fixture) {
    let [mut one, mut other] = [[0; 32]; 2];
    fixture.session.random(&mut one).unwrap();
    fixture.session.random(&mut other).unwrap();
    assert_ne!(one, [0; 32]);
    assert_ne!(one, other);
    fixture.session.random(&mut []).ok();
}

/// What can go wrong with one call, each followed by the same calls done right in the same session.
fn no_failure_leaves_an_operation_active(fixture: &mut Fixture) {
    use hsm_core::Hash::Sha256;
    let aes = fixture.make_secret(
        KeySpec::Aes { bits: 256 },
        &[Usage::Encrypt, Usage::Decrypt, Usage::Sign, Usage::Verify],
    );
    let ec = KeySpec::Curve(Curve::P256);
    let (public, private) = fixture.make_pair("ec", ec, &[Usage::Sign, Usage::Verify]);
    let gcm = || Mechanism::AesGcm {
        iv: vec![7; 12],
        aad: vec![],
    };
    let cbc = Mechanism::AesCbcPad { iv: [7; 16] };
    let oaep = Mechanism::RsaOaep(Sha256);
    let raw = Mechanism::Ecdsa(None);
    let gone = Handle(987_654_321);
    let session = &mut fixture.session;
    let good = session.encrypt(&mut gcm(), aes, b"data").unwrap();
    for turn in 0..14 {
        let failed = match turn {
            0 => session.encrypt(&mut gcm(), gone, b"data").err(),
            1 => session.encrypt(&mut gcm(), public, b"data").err(),
            2 => session.encrypt(&mut oaep.clone(), aes, b"data").err(),
            3 => session.decrypt(&gcm(), Used::freely(aes), &[0; 40]).err(),
            4 => session.decrypt(&gcm(), Used::freely(aes), &[0; 15]).err(),
            5 => session.decrypt(&gcm(), Used::freely(aes), &[]).err(),
            6 => session.decrypt(&cbc, Used::freely(aes), &[0; 15]).err(),
            7 => session.decrypt(&cbc, Used::freely(aes), &[0; 32]).err(),
            8 => session.decrypt(&cbc, Used::freely(aes), &[]).err(),
            9 => session.sign(&raw, Used::freely(gone), &[0; 32]).err(),
            10 => session.sign(&raw, Used::freely(public), &[0; 32]).err(),
            11 => session.sign(&oaep, Used::freely(private), &[0; 32]).err(),
            12 => session.verify(&raw, private, &[0; 32], &[1; 64]).err(),
            _ => session.verify(&raw, gone, &[0; 32], &[1; 64]).err(),
        };
        let failed = failed.unwrap_or_else(|| panic!("turn {turn} did not fail"));
        assert_ne!(failed.rv, Some(Ckr::OperationActive), "turn {turn}");
        let again = session.encrypt(&mut gcm(), aes, b"data");
        assert_eq!(again.unwrap(), good, "after {failed}");
        assert_eq!(session.decrypt(&gcm(), Used::freely(aes), &good).unwrap(), b"data");
        let signature = session.sign(&raw, Used::freely(private), &[3; 32]).unwrap();
        assert!(session.verify(&raw, public, &[3; 32], &signature).unwrap());
        for wrong in [&signature[1..], &[0; 64], &[1; 64], &[1; 65], &[]] {
            assert!(!session.verify(&raw, public, &[3; 32], wrong).unwrap());
        }
    }
}
