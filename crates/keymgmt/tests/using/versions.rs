//! Which version does what, and in which state.

use keymgmt::managed::change::Update;
use keymgmt::managed::record::{KeyState, VersionState};

use super::*;

fn goes_through_versions(protection: Protection) {
    let world = World::new();
    world.make("orders", aes(), protection);
    let (done, first) = world.encrypt("orders", b"one").unwrap();
    assert_eq!((done.key_id.as_str(), done.key_version), ("orders", Some(1)));
    world.rotate("orders");
    let (done, second) = world.encrypt("orders", b"two").unwrap();
    assert_eq!(done.key_version, Some(2));

    assert_eq!(world.decrypt("orders", Some(1), &first).unwrap(), b"one");
    assert_eq!(world.decrypt("orders", Some(2), &second).unwrap(), b"two");
    assert_eq!(world.decrypt("orders", None, &second).unwrap(), b"two");
    refused!(
        world.decrypt("orders", None, &first),
        Error::Hsm(hsm_core::Error::DecryptionFailed)
    );
    refused!(
        world.decrypt("orders", Some(3), &first),
        Error::VersionNotFound { version: 3, .. }
    );
    refused!(world.encrypt("nobody", b"x"), Error::KeyNotFound(_));

    let request = |key: KeyRef| Decrypt::new(key, first.clone());
    let (done, rewrapped) = wait(world.service.rewrap(&caller(), id("orders"), Some(1), request)).unwrap();
    assert_eq!(done.key_version, Some(2));
    assert_eq!(world.decrypt("orders", Some(2), &rewrapped).unwrap(), b"one");

    let (done, sealed, plain) = wait(world.service.datakey(&caller(), id("orders"), 256)).unwrap();
    assert_eq!((done.key_version, plain.len()), (Some(2), 32));
    assert_eq!(world.decrypt("orders", None, &sealed).unwrap(), *plain);
    refused!(
        wait(world.service.datakey(&caller(), id("orders"), 100)),
        Error::Invalid { field: "key_size", .. }
    );

    // encrypt twice, decrypt five times, rewrap, a data key: what failed does not count.
    let managed = wait(world.service.managed(&name("orders"))).unwrap();
    assert_eq!(managed.operations, 9);
    assert!(managed.last_used_at.is_some());

    let versions: Vec<_> = world
        .records("encrypt")
        .iter()
        .map(|record| record.key_version)
        .collect();
    assert_eq!(
        versions,
        [None, Some(2), Some(1)],
        "newest first; the first one names a key that is not there"
    );
    assert!(
        world
            .records("rewrap")
            .iter()
            .all(|record| record.key_version == Some(2))
    );
    assert_eq!(world.records("datakey").len(), 1);
}

#[test]
fn versions_on_the_token_decrypt_what_they_encrypted() {
    goes_through_versions(Protection::Hsm);
}

#[test]
fn wrapped_versions_decrypt_what_they_encrypted() {
    goes_through_versions(Protection::Wrapped);
}

#[test]
fn what_is_not_enabled_is_not_used_by_whatever_id() {
    let world = World::new();
    let managed = world.make("signer", p256(), Protection::Hsm);
    let first = on_token(&managed, 1).to_string();
    let second = on_token(&world.rotate("signer"), 2).to_string();
    assert_eq!(
        world.service.managed_by(&HsmKeyId::parse(&first).unwrap()),
        Some(name("signer"))
    );
    for key in ["signer", &first, &second] {
        world.sign(key, b"data").unwrap();
    }
    assert_eq!(wait(world.service.managed(&name("signer"))).unwrap().operations, 3);

    let set = |state| wait(world.service.update_version(&caller(), &name("signer"), 1, state)).unwrap();
    set(VersionState::Disabled);
    refused!(world.sign(&first, b"data"), Error::KeyDisabled(_));
    world.sign(&second, b"data").unwrap();
    assert_eq!(wait(world.service.jwks(&id("signer"))).unwrap().keys.len(), 1);
    set(VersionState::Enabled);
    world.sign(&first, b"data").unwrap();
    let jwks = wait(world.service.jwks(&id("signer"))).unwrap();
    let kids: Vec<_> = jwks.keys.iter().map(|(kid, _)| kid.as_str()).collect();
    assert_eq!(kids, ["signer:1", "signer:2"]);

    let update = Update {
        state: Some(KeyState::Disabled),
        ..Update::default()
    };
    wait(world.service.update(&caller(), &name("signer"), update)).unwrap();
    for key in ["signer", &first, &second] {
        refused!(world.sign(key, b"data"), Error::KeyDisabled(_));
    }
    wait(world.service.schedule_destruction(&caller(), &name("signer"), 7)).unwrap();
    for key in ["signer", &first, &second] {
        refused!(world.sign(key, b"data"), Error::KeyDestroyed(_));
    }
}

#[test]
fn a_key_of_the_token_has_no_versions() {
    let world = World::new();
    let plain = world.plain("plain", aes()).to_string();
    let (done, encrypted) = world.encrypt(&plain, b"data").unwrap();
    assert_eq!(done.key_version, None);
    assert_eq!(world.decrypt(&plain, None, &encrypted).unwrap(), b"data");
    refused!(
        world.decrypt(&plain, Some(1), &encrypted),
        Error::Invalid {
            field: "key_version",
            ..
        }
    );
}

#[test]
fn a_version_that_the_token_lost_is_no_missing_key() {
    let world = World::new();
    let managed = world.make("orders", aes(), Protection::Hsm);
    world.encrypt("orders", b"data").unwrap();
    let object = on_token(&managed, 1);
    assert_eq!(world.hsm.destroy_all(&object).wait().unwrap(), 1);
    let Err(Error::Hsm(error @ hsm_core::Error::Device(_))) = world.encrypt("orders", b"data") else {
        panic!("the device is at fault");
    };
    let text = error.to_string();
    assert!(text.contains("version 1 of the key `orders`"), "{text}");
    assert!(!text.contains(&object.to_string()), "{text}");
    refused!(
        world.encrypt(&object.to_string(), b"data"),
        Error::Hsm(hsm_core::Error::KeyNotFound(_))
    );
}

#[test]
fn a_certificate_is_asked_for_with_a_version() {
    let world = World::new();
    world.make("signer", p256(), Protection::Wrapped);
    world.rotate("signer");
    let names = hsm_core::csr::Names::parse("CN=host.example", &["host.example"]).unwrap();
    let caller = caller();
    for version in [None, Some(1)] {
        let csr = world
            .service
            .csr(&caller, id("signer"), version, names.clone(), hsm_core::Choice::BY_KEY);
        let (done, csr) = wait(csr).unwrap();
        assert_eq!(done.key_version, version.or(Some(2)));
        assert!(csr.to_pem().contains("CERTIFICATE REQUEST"));
    }
}
