use std::fs;

use keymgmt::store::{Done, Store, StoreError};

use crate::place::{Database, block_on, id, wrapped};

fn unavailable(store: &Store, name: &str) -> String {
    let Err(StoreError::Unavailable(why)) = block_on(store.create(wrapped(name), Done::default())) else {
        panic!("the database is away");
    };
    why
}

#[test]
fn a_locked_database_is_said_and_heals() {
    let database = Database::sqlite();
    let store = database.open();
    let other = rusqlite::Connection::open(database.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let why = unavailable(&store, "a");
    assert!(why.contains("lock"), "{why}");
    assert!(block_on(store.key(&id("a"))).unwrap().is_none(), "it can still be read");
    other.execute_batch("COMMIT").unwrap();
    block_on(store.create(wrapped("a"), Done::default())).unwrap();
    assert!(store.status().available);
}

#[test]
fn a_file_that_is_gone_is_said_and_heals() {
    let database = Database::sqlite();
    let store = database.open();
    let (file, aside) = (database.file(), database.file().with_extension("aside"));
    fs::rename(&file, &aside).unwrap();
    let why = unavailable(&store, "a");
    assert!(why.contains("put it back"), "{why}");
    assert!(block_on(store.key(&id("a"))).is_err());
    fs::copy(&aside, &file).unwrap();
    let why = unavailable(&store, "a");
    assert!(why.contains("replaced"), "{why}");
    fs::rename(&aside, &file).unwrap();
    block_on(store.create(wrapped("a"), Done::default())).unwrap();
}

#[test]
fn a_server_that_stops_is_said_and_heals() {
    let mut database = Database::postgres();
    let store = database.open();
    block_on(store.create(wrapped("a"), Done::default())).unwrap();
    for _ in 0..2 {
        let Database::Postgres(server) = &mut database else {
            unreachable!()
        };
        server.stop();
        let why = unavailable(&store, "b");
        assert!(why.contains("see whether it"), "{why}");
        assert!(!store.status().available && store.status().fault.is_some());
        server.start_again();
        while block_on(store.key(&id("a"))).is_err() {}
        assert!(block_on(store.key(&id("a"))).unwrap().is_some());
        assert!(store.status().available);
    }
    block_on(store.create(wrapped("b"), Done::default())).unwrap();
}
