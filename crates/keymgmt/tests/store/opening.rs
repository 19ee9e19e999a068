use std::os::unix::fs::PermissionsExt;

use keymgmt::store::{Done, Migration, OpenError, Place, Store};

use crate::place::{Database, block_on, id, on_both, wrapped};

on_both!(the_schema_is_made_once, a_newer_schema_is_refused);

fn the_schema_is_made_once(database: &Database) {
    let place = database.place();
    let before = Store::migration(&place).unwrap();
    assert_eq!(before, Migration { current: 0, latest: 1 });
    let openers = [0, 1, 2, 3].map(|_| {
        let place = place.clone();
        std::thread::spawn(move || Store::open(place).unwrap())
    });
    let stores = openers.map(|opener| opener.join().unwrap());
    block_on(stores[0].create(wrapped("a"), Done::default())).unwrap();
    assert!(block_on(stores[3].key(&id("a"))).unwrap().is_some());
    assert_eq!(Store::migration(&place).unwrap(), Migration { current: 1, latest: 1 });
    assert_ne!(stores[0].instance(), stores[1].instance());
}

fn a_newer_schema_is_refused(database: &Database) {
    drop(database.open());
    database.sql("UPDATE schema_version SET version = 99");
    let refused = Store::open(database.place()).err().unwrap();
    assert!(
        matches!(refused, OpenError::NewerSchema { found: 99, known: 1 }),
        "{refused}"
    );
    assert_eq!(Store::migration(&database.place()).unwrap().current, 99);
}

#[test]
fn a_file_is_its_owners_alone() {
    let database = Database::sqlite();
    let store = database.open();
    block_on(store.create(wrapped("a"), Done::default())).unwrap();
    let files: Vec<_> = std::fs::read_dir(database.file().parent().unwrap())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        files.iter().any(|file| file.file_name() == "store.sqlite-wal"),
        "{files:?}"
    );
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    store.close();
    drop(store);
    let left = std::fs::read_dir(database.file().parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["store.sqlite"]);
}

#[test]
fn a_place_that_cannot_be_made_is_named() {
    let refused = Store::open(Place::Sqlite("/proc/self/store.sqlite".into()))
        .err()
        .unwrap();
    assert!(refused.to_string().contains("/proc/self/store.sqlite"), "{refused}");
    for url in ["no url", "postgres:///x?host=/nonexistent"] {
        let refused = Store::open(Place::Postgres(url.to_owned().into())).err().unwrap();
        assert!(matches!(refused, OpenError::Unavailable(_)), "{refused}");
    }
}
