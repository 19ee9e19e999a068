//! Made, rotated, changed, destroyed.

use keymgmt::managed::record::{KeyState, VersionState};
use keymgmt::service::{Adopt, Update};

use super::*;

#[test]
fn a_key_is_made_rotated_and_destroyed_and_all_of_it_recorded() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    let made = gateway.create("orders", Protection::Hsm);
    assert_eq!(made.record.latest_version(), 1);
    let rotated = gateway.rotate("orders").record;
    assert_eq!((rotated.primary_version, rotated.versions.len()), (2, 2));
    let ids = ids_of(&rotated);
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| on_token(&token).contains(id)));
    let label = token.attributes(&ids[1])[0].label.clone();
    assert_eq!(label, "orders:2");

    gateway.destroy("orders");
    gateway.wait_until("the key is gone", |gateway| {
        let record = gateway.record("orders");
        record.state == KeyState::Destroyed && record.versions.iter().all(|one| one.state == VersionState::Destroyed)
    });
    assert!(ids.iter().all(|id| !on_token(&token).contains(id)));
    let again = gateway.run(
        gateway
            .service
            .create_managed(&caller(), new_aes("orders", Protection::Hsm), None),
    );
    assert!(matches!(again, Err(Error::Conflict(_))));

    let of_key = |action: &str, version, subject: Option<&str>| {
        (
            action.to_owned(),
            Some("orders".to_owned()),
            version,
            subject.map(str::to_owned),
        )
    };
    let expected = [
        of_key("create", Some(1), Some("alice")),
        of_key("rotate", Some(2), Some("alice")),
        of_key("delete", None, Some("alice")),
        of_key("destroy", None, None),
        of_key("create", None, Some("alice")),
    ];
    assert_eq!(gateway.actions(), expected);
    gateway.close();
}

#[test]
fn a_wrapped_key_leaves_nothing_on_the_token_and_works() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    gateway.create("first", Protection::Wrapped);
    let before = on_token(&token);
    assert_eq!(before.len(), 2, "the gateway's own keys");
    gateway.create("orders", Protection::Wrapped);
    gateway.rotate("orders");
    assert_eq!(gateway.encrypt("orders").unwrap().0, 2);
    gateway.close();
    assert_eq!(on_token(&token), before);
}

#[test]
fn what_uses_nothing_up_and_what_is_refused() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    let before = gateway.create("orders", Protection::Hsm).record;
    let update = |update: Update| gateway.run(gateway.service.update(&caller(), &name("orders"), update));
    let to = |state| Update {
        state: Some(state),
        ..Update::default()
    };
    assert_eq!(update(to(KeyState::Enabled)).unwrap().record, before);
    update(to(KeyState::Disabled)).unwrap();
    let refused = gateway.run(gateway.service.rotate(&caller(), &name("orders"), None));
    assert!(matches!(refused, Err(Error::KeyDisabled(_))));
    assert!(matches!(gateway.encrypt("orders"), Err(Error::KeyDisabled(_))));
    update(to(KeyState::Enabled)).unwrap();
    gateway
        .run(gateway.service.schedule_destruction(&caller(), &name("orders"), 30))
        .unwrap();
    assert!(matches!(gateway.encrypt("orders"), Err(Error::KeyDestroyed(_))));
    gateway
        .run(gateway.service.restore(&caller(), &name("orders")))
        .unwrap();
    assert_eq!(gateway.encrypt("orders").unwrap().0, 1);
    assert_eq!(gateway.rotate("orders").record.latest_version(), 2);
    gateway.close();
}

#[test]
fn an_adopted_key_is_used_and_deleted_by_its_name_alone() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    let new = NewKey::new(KeySpec::Aes { bits: 256 }, Label::parse("there before").unwrap());
    let there = gateway.run(gateway.service.create(&caller(), None, new, None)).unwrap();
    let adopt = |key: &str| {
        let adopt = Adopt {
            name: name(key),
            hsm_key_id: there.id.clone(),
            rotation: Rotation::default(),
            tags: BTreeMap::new(),
        };
        gateway.run(gateway.service.adopt(&caller(), adopt, None))
    };
    assert_eq!(adopt("orders").unwrap().record.size, there.size);
    assert!(matches!(adopt("twice"), Err(Error::Conflict(_))));
    let id = KeyId::Hsm(there.id.clone());
    let deleted = gateway.run(gateway.service.delete(&caller(), id));
    assert!(matches!(deleted, Err(Error::Conflict(_))));
    let label = Label::parse("other").unwrap();
    let relabelled = gateway.run(gateway.service.relabel(&caller(), &there.id, label));
    assert!(matches!(relabelled, Err(Error::Conflict(_))));
    assert_eq!(gateway.rotate("orders").record.latest_version(), 2);
    gateway.close();
}

#[test]
fn keys_are_rotated_after_so_many_operations() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    let mut new = new_aes("orders", Protection::Hsm);
    new.rotation.after_operations = Some(5);
    gateway
        .run(gateway.service.create_managed(&caller(), new, None))
        .unwrap();
    for _ in 0..5 {
        gateway.encrypt("orders").unwrap();
    }
    gateway.wait_until("it is rotated", |gateway| {
        gateway.record("orders").latest_version() == 2
    });
    assert_eq!(
        gateway
            .run(gateway.service.managed(&name("orders")))
            .unwrap()
            .operations,
        5
    );
    gateway.wait_until("it is recorded", |gateway| {
        let rotated = ("rotate".to_owned(), Some("orders".to_owned()), Some(2), None);
        gateway.actions().contains(&rotated)
    });
    gateway.close();
}

#[test]
fn new_gateway_keys_take_over_what_lies_under_the_old_ones() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    for key in ["a", "b", "c"] {
        gateway.create(key, Protection::Wrapped);
    }
    gateway.create("d", Protection::Hsm);
    let before = gateway.record("a");
    let mut told = Vec::new();
    let version = gateway
        .run(gateway.service.rotate_kek(&[], |done, left| told.push((done, left))))
        .unwrap();
    assert_eq!(version, 2);
    assert_eq!(told, [(1, 3), (2, 2), (3, 1), (4, 0)]);
    let status = gateway.run(gateway.service.kek_status()).unwrap();
    assert_eq!((status.keys.len(), status.outdated), (2, 0));
    let after = gateway.record("a");
    assert_ne!(after.versions[0].material, before.versions[0].material);
    assert_eq!((after.seal.version, after.changed_at), (2, before.changed_at));
    for key in ["a", "b", "c", "d"] {
        gateway.encrypt(key).unwrap();
    }
    gateway.close();
}

#[test]
fn two_gateways_rotate_a_key_once_and_hear_of_each_other() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let hsm = Where::of(&token).open();
    let one = Gateway::on(hsm.clone(), folder.path());
    // Each has a log of its own, and both the same database.
    let second = TempDir::new().unwrap();
    std::os::unix::fs::symlink(folder.path().join("store.sqlite"), second.path().join("store.sqlite")).unwrap();
    let other = Gateway::on(hsm, second.path());
    let mut new = new_aes("orders", Protection::Hsm);
    new.rotation.after_operations = Some(3);
    one.run(one.service.create_managed(&caller(), new, None)).unwrap();
    for gateway in [&one, &other, &one] {
        assert_eq!(gateway.encrypt("orders").unwrap().0, 1);
    }
    other.wait_until("the other uses the new version", |other| {
        other.encrypt("orders").unwrap().0 >= 2
    });
    // By now there may be a third.
    one.wait_until("and so does the one", |one| one.encrypt("orders").unwrap().0 >= 2);
    let of_rotation = |gateway: &Gateway| {
        gateway
            .actions()
            .iter()
            .filter(|(action, ..)| action == "rotate")
            .count()
    };
    one.wait_until("every rotation is recorded by one of them", |one| {
        of_rotation(one) + of_rotation(&other) == one.record("orders").versions.len() - 1
    });
    let update = keymgmt::service::Update {
        state: Some(KeyState::Disabled),
        ..Update::default()
    };
    one.run(one.service.update(&caller(), &name("orders"), update)).unwrap();
    other.wait_until("the other hears of it", |other| {
        matches!(other.encrypt("orders"), Err(Error::KeyDisabled(_)))
    });
    one.close();
    other.close();
}

#[test]
fn of_two_rotations_at_once_one_uses_no_number() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    for protection in [Protection::Hsm, Protection::Wrapped] {
        let key = protection.name();
        gateway.create(key, protection);
        let mut rotated = 0;
        for _ in 0..10 {
            let name = name(key);
            let rotate = || gateway.service.clone();
            let (one, other) = (rotate(), rotate());
            let caller = caller();
            let both = gateway
                .run(async { tokio::join!(one.rotate(&caller, &name, None), other.rotate(&caller, &name, None)) });
            for result in [both.0, both.1] {
                match result {
                    Ok(_) => rotated += 1,
                    Err(Error::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let record = gateway.record(key);
        let numbers: Vec<_> = record.versions.iter().map(|one| one.version).collect();
        assert_eq!(numbers, (1..=1 + rotated).collect::<Vec<u32>>());
        assert!(rotated >= 10);
    }
    gateway.wait_until("nothing is left of those that lost", |gateway| {
        on_token(&token).len() == 2 + ids_of(&gateway.record("hsm")).len()
    });
    gateway.close();
}
