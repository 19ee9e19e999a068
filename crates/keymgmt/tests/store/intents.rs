use keymgmt::managed::record::{GatewayKeys, Protection, VersionMaterial};
use keymgmt::store::{Done, Intent, IntentKind, StoreError};

use crate::place::{Database, at, block_on, id, next, on_both, on_token, wrapped};

on_both!(
    an_intent_ends_with_its_change,
    an_abandoned_intent_is_found_and_its_name_is_free,
    intents_of_a_dead_process_are_taken_over,
    a_key_that_an_open_intent_names_is_nobody_elses,
);

fn intent(name: &str) -> Intent {
    Intent {
        kind: IntentKind::Create,
        name: Some(id(name)),
        ids: vec![on_token("01"), on_token("ffee")],
    }
}

fn an_intent_ends_with_its_change(database: &Database) {
    let store = database.open();
    let begun = block_on(store.begin(intent("a"))).unwrap();
    let twice = block_on(store.begin(intent("a")));
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    let done = |intent| Done {
        intent: Some(intent),
        ticket: None,
    };
    block_on(store.create(wrapped("a"), done(begun.clone()))).unwrap();
    let again = block_on(store.update(next(&wrapped("a"), |_| {}), done(begun.clone())));
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    assert_eq!(
        block_on(store.key(&id("a"))).unwrap().unwrap().revision,
        1,
        "nor was it changed"
    );
    let begun = block_on(store.begin(Intent {
        kind: IntentKind::Rotate,
        ..intent("a")
    }))
    .unwrap();
    block_on(store.end(&begun)).unwrap();
    for _ in 0..2 {
        block_on(store.begin(Intent {
            kind: IntentKind::TokenKey,
            name: None,
            ids: vec![],
        }))
        .unwrap();
    }
    let begun = block_on(store.begin(Intent {
        kind: IntentKind::GatewayKeys,
        name: None,
        ids: vec![],
    }))
    .unwrap();
    let keys = GatewayKeys {
        version: 1,
        kek: on_token("01"),
        mac: on_token("02"),
        created_at: at(0),
    };
    block_on(store.add_gateway_keys(keys, done(begun))).unwrap();
    assert_eq!(block_on(store.orphaned_intents()).unwrap(), []);
}

fn an_abandoned_intent_is_found_and_its_name_is_free(database: &Database) {
    let (store, other) = (database.open(), database.open());
    let begun = block_on(store.begin(intent("a"))).unwrap();
    assert_eq!(block_on(other.orphaned_intents()).unwrap(), [], "its process lives");
    block_on(store.abandon(&begun)).unwrap();
    block_on(store.begin(intent("a"))).unwrap();
    for _ in 0..2 {
        let found = block_on(store.orphaned_intents()).unwrap();
        assert_eq!(found.len(), 1, "until it is ended");
        assert_eq!((&found[0].id, &found[0].intent), (&begun, &intent("a")));
    }
    block_on(store.end(&begun)).unwrap();
    assert_eq!(block_on(store.orphaned_intents()).unwrap(), []);
}

fn intents_of_a_dead_process_are_taken_over(database: &Database) {
    let (dead, store, other) = (database.open(), database.open(), database.open());
    let begun = block_on(dead.begin(intent("a"))).unwrap();
    let instance = dead.instance().to_owned();
    if let Database::Postgres(_) = database {
        // What half a minute of silence does; the next sign of life is up to 5 seconds away.
        database.sql(&format!(
            "UPDATE instances SET seen_at = seen_at - 31000000 WHERE id = '{instance}'"
        ));
    } else {
        drop(dead);
        while database
            .file()
            .with_file_name(format!("store.sqlite.{instance}.lock"))
            .exists()
        {}
    }
    let found = block_on(store.orphaned_intents()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, &found[0].intent), (&begun, &intent("a")));
    assert_eq!(block_on(other.orphaned_intents()).unwrap(), [], "one process undoes it");
    let done = Done {
        intent: Some(begun.clone()),
        ticket: None,
    };
    let late = block_on(other.create(wrapped("a"), done));
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    block_on(store.end(&begun)).unwrap();
    assert_eq!(block_on(store.orphaned_intents()).unwrap(), []);
}

fn a_key_that_an_open_intent_names_is_nobody_elses(database: &Database) {
    let store = database.open();
    let making = Intent {
        kind: IntentKind::TokenKey,
        name: None,
        ids: vec![on_token("0a0b")],
    };
    let begun = block_on(store.begin(making)).unwrap();
    let adopted = || {
        let mut record = wrapped("adopted");
        record.protection = Protection::Hsm;
        record.versions[0].material = VersionMaterial::OnToken(on_token("0a0b"));
        record
    };
    let early = block_on(store.create(adopted(), Done::default()));
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    assert_eq!(block_on(store.version_on_token(&on_token("0a0b"))).unwrap(), None);
    block_on(store.end(&begun)).unwrap();
    block_on(store.create(adopted(), Done::default())).unwrap();
    let found = block_on(store.version_on_token(&on_token("0a0b"))).unwrap();
    assert_eq!(found, Some((id("adopted"), 1)));
}
