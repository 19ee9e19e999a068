use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use keymgmt::managed::record::GatewayKeys;
use keymgmt::store::{AuditHead, Done, Query, Store, StoreError};

use crate::place::{Database, at, block_on, full, id, on_token, wrapped};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn head() -> AuditHead {
    AuditHead {
        seq: 17,
        hash: "ab".repeat(32),
    }
}

fn export(store: &Store) -> Vec<u8> {
    let out = Shared::default();
    let written = block_on(store.export(out.clone(), head())).unwrap();
    let bytes = out.0.lock().unwrap().clone();
    assert!(String::from_utf8(bytes.clone()).unwrap().contains(&written.sha256));
    bytes
}

fn filled(database: &Database) -> Store {
    let store = database.open();
    // More than are read at once.
    let mut records: Vec<_> = (0..600).map(|n| wrapped(&format!("k{n}"))).collect();
    records.push(full("full", "01"));
    block_on(store.create_many(records)).unwrap();
    let keys = GatewayKeys {
        version: 1,
        kek: on_token("0a"),
        mac: on_token("0b"),
        created_at: at(0),
    };
    block_on(store.add_gateway_keys(keys, Done::default())).unwrap();
    store
}

fn moves(from: &Database, to: &Database) {
    let (from, to) = (filled(from), to.open());
    let bytes = export(&from);
    let read = block_on(to.import(Cursor::new(bytes.clone()))).unwrap();
    assert_eq!((read.keys, read.gateway_keys, read.audit), (601, 1, head()));
    let all = |store: &Store| {
        block_on(store.page(Query {
            limit: 1000,
            ..Query::default()
        }))
        .unwrap()
    };
    assert_eq!(all(&to), all(&from));
    assert_eq!(
        block_on(to.gateway_keys()).unwrap(),
        block_on(from.gateway_keys()).unwrap()
    );
    assert_eq!(block_on(to.changes(0)).unwrap().names, None, "everything is new");
    let again = block_on(to.import(Cursor::new(bytes.clone())));
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[1..lines.len() - 1].to_vec()
    };
    assert_eq!(lines(&export(&to)), lines(&bytes), "the copy of a copy is the same");
}

#[test]
fn a_backup_goes_from_sqlite_to_sqlite() {
    moves(&Database::sqlite(), &Database::sqlite());
}

#[test]
fn a_backup_goes_from_sqlite_to_postgres() {
    moves(&Database::sqlite(), &Database::postgres());
}

#[test]
fn a_backup_goes_from_postgres_to_sqlite() {
    moves(&Database::postgres(), &Database::sqlite());
}

#[test]
fn a_backup_goes_from_postgres_to_postgres() {
    moves(&Database::postgres(), &Database::postgres());
}

#[test]
fn a_damaged_backup_restores_nothing() {
    let database = Database::sqlite();
    let bytes = export(&filled(&database));
    let text = String::from_utf8(bytes).unwrap();
    let place = Database::sqlite();
    let store = place.open();
    let last = text.trim_end().rfind('\n').unwrap();
    let second = text.find('\n').unwrap() + 1;
    let third = second + text[second..].find('\n').unwrap() + 1;
    let cases = [
        ("", "cut off"),
        (&text[..last + 1], "cut off"),
        (&text[..text.len() - 1], "cut off"),
        (&format!("{}{}", &text[..second], &text[third..]), "do not fit"),
        (
            &text.replacen("\"state\":\"enabled\"", "\"state\":\"disabled\"", 1),
            "do not fit",
        ),
        (
            &text.replacen("\"key_type\":\"AES\"", "\"key_type\":\"DES\"", 1),
            "key_type",
        ),
        (&format!("{text}{text}"), "follows its end"),
        (&text.replacen("\"version\":1", "\"version\":2", 1), "format 2"),
        (&text.replacen("hsm-gateway-store", "something", 1), "does not begin"),
    ];
    for (text, why) in cases {
        let read = block_on(store.import(Cursor::new(text.to_owned().into_bytes())));
        assert!(
            matches!(&read, Err(StoreError::Corrupt(said)) if said.contains(why)),
            "{why}: {read:?}"
        );
    }
    assert_eq!(block_on(store.key(&id("k1"))).unwrap(), None);
    block_on(store.import(Cursor::new(text.into_bytes()))).unwrap();
    assert!(block_on(store.key(&id("k1"))).unwrap().is_some());
}
