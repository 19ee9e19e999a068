//! Keys that are made at the same time, and keys whose making fails.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use hsm_core::{Error, KeySpec, KeyType, Usage, Usages};

use crate::{Faulty, Fixture, aes, assert_signs, new_key, on_both, p256, until};

on_both!(one_label_is_given_once, exactly_the_usages_that_were_asked_for);

/// CKR_DEVICE_ERROR after the key was made.
const LATE: [&str; 2] = [
    "C_GenerateKeyPair late_rv=0x30 count=1",
    "C_GenerateKey late_rv=0x30 count=1",
];

fn one_label_is_given_once(fixture: &Fixture) {
    for turn in 0..5 {
        let start = Barrier::new(4);
        let label = format!("label {turn}");
        let outcomes: Vec<_> = thread::scope(|scope| {
            let make = || {
                start.wait();
                fixture.hsm.generate(aes(&label)).wait()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            1,
            "{outcomes:?}"
        );
        let refused = outcomes.into_iter().filter_map(Result::err);
        assert!(refused.into_iter().all(|error| matches!(error, Error::Conflict(_))));
        assert_eq!(fixture.token.objects().len(), turn + 1);
    }
}

fn exactly_the_usages_that_were_asked_for(fixture: &Fixture) {
    let mut new = new_key(KeySpec::Rsa { bits: 2048 }, "decrypts");
    new.usages = [Usage::Encrypt, Usage::Decrypt].into_iter().collect::<Usages>();
    let key = fixture.hsm.generate(new.clone()).wait().unwrap();
    assert_eq!((key.key_type, key.usages), (KeyType::Rsa, new.usages));
    assert_eq!(fixture.hsm.key(&key.id).wait().unwrap().usages, new.usages);
    let signed = fixture.hsm.sign(hsm_core::Sign::new(key.id, b"data")).wait();
    assert!(matches!(signed, Err(Error::UsageNotPermitted(_))), "{signed:?}");
}

#[test]
fn what_fails_late_leaves_nothing() {
    let faulty = Faulty::new();
    for (rule, new) in LATE.iter().zip([p256("signer"), aes("cipher")]) {
        faulty.token.fault(rule);
        let error = faulty.hsm.generate(new.clone()).wait().unwrap_err();
        assert!(
            matches!(&error, Error::Device(why) if why.contains("CKR_DEVICE_ERROR")),
            "{error:?}"
        );
        assert_eq!(faulty.key_objects(), 0);
        let made = faulty.hsm.generate(new).wait().unwrap();
        faulty.hsm.delete(&made.id).wait().unwrap();
    }
}

#[test]
fn what_cannot_be_read_after_it_was_made_leaves_nothing() {
    let faulty = Faulty::new();
    faulty.token.fault("C_GetAttributeValue rv=0x30 count=1");
    assert!(matches!(
        faulty.hsm.generate(p256("signer")).wait(),
        Err(Error::Device(_))
    ));
    until("the end of the key", || faulty.key_objects() == 0);
    let key = faulty.hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&faulty.hsm, &key);
}

/// Sessions that are lost between the making and the answer: it is looked for by its id and destroyed.
#[test]
fn what_is_lost_with_its_session_leaves_nothing() {
    let faulty = Faulty::new();
    for rv in ["0xb3", "0xb0", "0x101"] {
        faulty.token.fault(&format!("C_GenerateKeyPair late_rv={rv} count=1"));
        assert!(faulty.hsm.generate(p256("signer")).wait().is_err());
        until("the end of the key", || faulty.key_objects() == 0);
    }
    faulty.token.fault("C_GenerateKeyPair late_rv=0xe0 count=1");
    assert!(matches!(
        faulty.hsm.generate(p256("signer")).wait(),
        Err(Error::Unavailable(_))
    ));
    until("the end of the key", || faulty.key_objects() == 0);
    until("the token", || faulty.hsm.status().unavailable.is_none());
    let key = faulty.hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&faulty.hsm, &key);
}

#[test]
fn what_is_ready_too_late_is_destroyed() {
    let faulty = Faulty::with(|options| options.keygen_timeout = Duration::from_millis(300));
    faulty.token.fault("C_GenerateKeyPair delay_ms=1500");
    let error = faulty.hsm.generate(p256("signer")).wait().unwrap_err();
    assert_eq!(error, Error::Timeout);
    until("the making", || faulty.token.calls("C_GenerateKeyPair") == 1);
    let again = faulty.hsm.generate(p256("signer")).wait();
    assert!(
        matches!(again, Err(Error::Conflict(_))),
        "the label is still being given: {again:?}"
    );
    // By who made it, or by the keeper, who looks for it from a second after the deadline on; or by both.
    until("the destruction", || faulty.token.calls("C_DestroyObject") >= 2);
    until("its end", || faulty.key_objects() == 0);
}

/// A creation is never repeated, whatever becomes of its session.
#[test]
fn a_creation_is_tried_once() {
    let faulty = Faulty::new();
    for rv in ["0xb3", "0x190", "0x82", "0x101"] {
        faulty.token.fault(&format!("C_GenerateKeyPair rv={rv}"));
        faulty.token.forget_calls();
        assert!(faulty.hsm.generate(p256("signer")).wait().is_err());
        assert_eq!(faulty.token.calls("C_GenerateKeyPair"), 1, "{rv}");
        faulty.token.clear();
        until("the token", || faulty.hsm.status().unavailable.is_none());
    }
    assert_eq!(faulty.key_objects(), 0);
}
