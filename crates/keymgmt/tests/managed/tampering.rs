//! Records that no gateway wrote, or that are older than the audit log knows them.

use hsm_core::{Usage, Usages as Set};
use keymgmt::store::Done;

use super::*;

/// As somebody would who can write to the database alone.
fn change(folder: &Path, record: KeyRecord) {
    let store = Store::open(Place::Sqlite(folder.join("store.sqlite"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let there = store.key(&record.name).await.unwrap().unwrap();
        store.remove(&record.name, there.revision).await.unwrap();
        store.create(record, Done::default()).await.unwrap();
    });
    store.close();
}

fn refused(gateway: &Gateway, key: &str) {
    let read = gateway.run(gateway.service.managed(&name(key)));
    assert!(matches!(read, Err(Error::Tampered(_))), "{read:?}");
    let rotated = gateway.run(gateway.service.rotate(&caller(), &name(key), None));
    assert!(matches!(rotated, Err(Error::Tampered(_))), "{rotated:?}");
    gateway.wait_until("it is not used either", |gateway| {
        matches!(gateway.encrypt(key), Err(Error::Tampered(_)))
    });
}

#[test]
fn a_changed_record_is_refused() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    let other = gateway.create("other", Protection::Wrapped).record;
    type Tamper = fn(&mut KeyRecord, &KeyRecord);
    let changes: [(&str, Tamper); 4] = [
        ("swapped", |record, other| {
            record.versions[0].material = other.versions[0].material.clone();
        }),
        ("usages", |record, _| {
            record.usages = Set::NONE.with(Usage::Encrypt).with(Usage::Wrap);
        }),
        ("type", |record, _| record.key_type = hsm_core::KeyType::Hmac),
        ("tags", |record, _| drop(record.tags.insert("team".into(), "b".into()))),
    ];
    for (key, tamper) in changes {
        let mut record = gateway.create(key, Protection::Wrapped).record;
        gateway.encrypt(key).unwrap();
        tamper(&mut record, &other);
        change(folder.path(), record);
        refused(&gateway, key);
    }
    gateway.encrypt("other").unwrap();
    gateway.close();
}

#[test]
fn an_older_record_in_place_of_a_newer_is_refused_also_after_a_restart() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let place = Where::of(&token);
    let hsm = place.open();
    let gateway = Gateway::on(hsm.clone(), folder.path());
    let older = gateway.create("orders", Protection::Wrapped).record;
    gateway.rotate("orders");
    change(folder.path(), older);
    refused(&gateway, "orders");
    gateway.close();

    let gateway = Gateway::on(hsm, folder.path());
    refused(&gateway, "orders");
    gateway.close();
}
