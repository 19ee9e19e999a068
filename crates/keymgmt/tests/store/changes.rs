use std::time::Duration;

use keymgmt::ManagedId;
use keymgmt::managed::record::GatewayKeys;
use keymgmt::store::{Done, StoreError};

use crate::place::{Database, at, block_on, id, next, on_both, on_token, wrapped};

on_both!(no_change_is_missed, every_change_is_told, the_gateways_keys_are_kept);

fn no_change_is_missed(database: &Database) {
    let stores = [database.open(), database.open()];
    let writers = [0, 1].map(|who: usize| {
        let store = stores[who].clone();
        std::thread::spawn(move || {
            let mut written = Vec::new();
            for n in 0..40 {
                let name = format!("k{who}-{n}");
                block_on(store.create(wrapped(&name), Done::default())).unwrap();
                written.push(id(&name));
            }
            written
        })
    });
    let (mut seen, mut since) = (Vec::new(), 0);
    let mut look = || {
        let changes = block_on(stores[0].changes(since)).unwrap();
        seen.extend(changes.names.unwrap());
        since = changes.seq;
    };
    while writers.iter().any(|writer| !writer.is_finished()) {
        look();
    }
    look();
    let mut written: Vec<ManagedId> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    written.sort();
    seen.sort();
    assert_eq!(seen, written);
    assert_eq!(since, 80);
}

fn every_change_is_told(database: &Database) {
    let store = database.open();
    let since = block_on(store.change_seq()).unwrap();
    let record = wrapped("a");
    block_on(store.create(record.clone(), Done::default())).unwrap();
    let created = block_on(store.changes(since)).unwrap();
    assert_eq!(created.names, Some([id("a")].into()));
    assert!(!created.gateway_keys);
    block_on(store.update(next(&record, |_| {}), Done::default())).unwrap();
    let updated = block_on(store.changes(created.seq)).unwrap();
    assert_eq!((updated.seq, updated.names), (created.seq + 1, Some([id("a")].into())));
    block_on(store.update(next(&record, |_| {}), Done::default())).unwrap_err();
    assert_eq!(
        block_on(store.change_seq()).unwrap(),
        updated.seq,
        "what failed takes no number"
    );
    block_on(store.remove(&id("a"), 2)).unwrap();
    assert_eq!(block_on(store.change_seq()).unwrap(), updated.seq + 1);
    block_on(store.create_many((0..6_000).map(|n| wrapped(&format!("k{n}"))).collect())).unwrap();
    assert_eq!(block_on(store.changes(updated.seq)).unwrap().names, None, "too many");
    assert_eq!(
        block_on(store.changes(1 << 40)).unwrap().names,
        None,
        "a number of another database"
    );
}

fn the_gateways_keys_are_kept(database: &Database) {
    let store = database.open();
    let keys = |version| GatewayKeys {
        version,
        kek: on_token("0a"),
        mac: on_token("0b"),
        created_at: at(0),
    };
    block_on(store.add_gateway_keys(keys(2), Done::default())).unwrap();
    block_on(store.add_gateway_keys(keys(1), Done::default())).unwrap();
    assert_eq!(block_on(store.gateway_keys()).unwrap(), [keys(1), keys(2)]);
    let twice = block_on(store.add_gateway_keys(keys(2), Done::default()));
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    let changes = block_on(store.changes(0)).unwrap();
    assert_eq!(
        (changes.seq, changes.names, changes.gateway_keys),
        (2, Some([].into()), true)
    );
}

#[test]
fn postgres_gives_notice_of_changes() {
    let mut database = Database::postgres();
    let (writer, listener) = (database.open(), database.open());
    let (to, told) = std::sync::mpsc::channel();
    let mut notices = listener.on_notice();
    std::thread::spawn(move || while to.send(block_on(notices.next())).is_ok() {});
    let wait = || told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(wait(), None, "listening begins with a look");
    block_on(writer.create(wrapped("a"), Done::default())).unwrap();
    assert_eq!(wait(), Some(id("a")));
    let Database::Postgres(server) = &mut database else {
        unreachable!()
    };
    server.start_again();
    assert_eq!(wait(), None, "something can have been missed");
    while block_on(writer.create(wrapped("b"), Done::default())).is_err() {}
    assert_eq!(wait(), Some(id("b")));
}
