use keymgmt::managed::record::{KeyState, Protection, VersionMaterial, VersionState};
use keymgmt::store::{Done, Due, Page, Query, StoreError, Used};

use crate::place::{Database, at, block_on, full, id, next, on_both, on_token, wrapped, wrapped_version};

on_both!(
    a_record_comes_back_as_it_was_put_in,
    a_change_wins_once,
    a_change_leaves_counts_alone,
    pages_have_every_key_once,
    pages_are_filtered,
    counts_add_up,
    blocks_are_reserved_once,
    what_is_due_is_found,
    older_gateway_keys_are_counted,
    a_token_key_is_one_keys_version,
    a_row_that_cannot_be_read_is_named,
);

fn a_record_comes_back_as_it_was_put_in(database: &Database) {
    let store = database.open();
    let (a, b) = (full("a", "01"), wrapped("B.x_-1"));
    block_on(store.create(a.clone(), Done::default())).unwrap();
    block_on(store.create_many(vec![b.clone()])).unwrap();
    assert_eq!(block_on(store.key(&id("a"))).unwrap(), Some(a.clone()));
    assert_eq!(block_on(store.key(&id("B.x_-1"))).unwrap(), Some(b.clone()));
    assert_eq!(block_on(store.key(&id("b.x_-1"))).unwrap(), None);
    let taken = block_on(store.create(wrapped("a"), Done::default()));
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    let many = block_on(store.create_many(vec![wrapped("c"), wrapped("a")]));
    assert!(matches!(many, Err(StoreError::Conflict(_))), "{many:?}");
    assert_eq!(block_on(store.key(&id("c"))).unwrap(), None, "all or none");
    assert_eq!(
        block_on(store.versions_on_token()).unwrap(),
        [(on_token("01"), id("a"), 1)]
    );

    let removed = block_on(store.remove(&id("a"), 4));
    assert!(matches!(removed, Err(StoreError::Conflict(_))), "{removed:?}");
    block_on(store.remove(&id("a"), 5)).unwrap();
    assert_eq!(block_on(store.key(&id("a"))).unwrap(), None);
    store.close();
    let away = block_on(store.key(&id("a")));
    assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");
    assert_eq!(block_on(database.open().key(&id("B.x_-1"))).unwrap(), Some(b));
}

fn a_change_wins_once(database: &Database) {
    let stores = [database.open(), database.open()];
    let mut record = wrapped("a");
    block_on(stores[0].create(record.clone(), Done::default())).unwrap();
    for round in 0..50_i64 {
        let threads = [0, 1].map(|who| {
            let (store, record) = (
                stores[who].clone(),
                next(&record, |record| record.changed_at = at(round * 2 + who as i64)),
            );
            std::thread::spawn(move || (block_on(store.update(record.clone(), Done::default())), record))
        });
        let results = threads.map(|thread| thread.join().unwrap());
        let won: Vec<_> = results.iter().filter(|(result, _)| result.is_ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {results:?}");
        assert!(
            results
                .iter()
                .any(|(result, _)| matches!(result, Err(StoreError::Conflict(_))))
        );
        record = won[0].1.clone();
        assert_eq!(block_on(stores[1].key(&id("a"))).unwrap(), Some(record.clone()));
    }
}

fn a_change_leaves_counts_alone(database: &Database) {
    let store = database.open();
    let first = wrapped("a");
    block_on(store.create(first.clone(), Done::default())).unwrap();
    let used = |operations| Used {
        name: id("a"),
        operations,
        last_used_at: at(9),
    };
    block_on(store.add_usage(vec![used(10)])).unwrap();
    assert_eq!(block_on(store.reserve(vec![(id("a"), 1, 100)])).unwrap(), [Some(0)]);
    let second = next(&first, |record| {
        record.versions[0].state = VersionState::Disabled;
        record.usage.operations_at_rotation = 4;
        record.tags.insert("x".into(), "y".into());
    });
    block_on(store.update(second.clone(), Done::default())).unwrap();
    let stored = block_on(store.key(&id("a"))).unwrap().unwrap();
    assert_eq!((stored.usage.operations, stored.usage.operations_at_rotation), (10, 0));
    assert_eq!(stored.versions[0].encryptions_reserved, 100);
    assert_eq!(stored.versions[0].state, VersionState::Disabled);
    assert_eq!(stored.tags, second.tags);

    let third = next(&second, |record| {
        record.versions.push(wrapped_version(2, 1));
        record.tags.clear();
    });
    block_on(store.update(third, Done::default())).unwrap();
    let stored = block_on(store.key(&id("a"))).unwrap().unwrap();
    assert_eq!((stored.usage.operations, stored.usage.operations_at_rotation), (10, 4));
    assert_eq!(
        (stored.versions.len(), stored.versions[0].encryptions_reserved),
        (2, 100)
    );
    assert!(stored.tags.is_empty());
}

fn pages_have_every_key_once(database: &Database) {
    let store = database.open();
    // Capitals before small letters, in both databases.
    let mut names: Vec<_> = (0..25)
        .map(|n| format!("{}{n}", if n % 2 == 0 { 'K' } else { 'k' }))
        .collect();
    block_on(store.create_many(names.iter().map(|name| wrapped(name)).collect())).unwrap();
    names.sort();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let query = Query {
            after: after.clone(),
            limit: 10,
            ..Query::default()
        };
        let Page { keys, more } = block_on(store.page(query)).unwrap();
        seen.extend(keys.iter().map(|key| key.name.to_string()));
        after = keys.last().map(|key| key.name.clone());
        if !more {
            break;
        }
        assert_eq!(keys.len(), 10);
    }
    assert_eq!(seen, names);
}

fn pages_are_filtered(database: &Database) {
    let store = database.open();
    let mut destroyed = wrapped("gone");
    destroyed.state = KeyState::Destroyed;
    let mut tagged = wrapped("tagged");
    tagged.tags.insert("team".into(), "red".into());
    block_on(store.create_many(vec![full("full", "01"), wrapped("plain"), destroyed, tagged])).unwrap();
    let names = |query: Query| {
        let page = block_on(store.page(Query { limit: 10, ..query })).unwrap();
        page.keys.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(Query::default()), ["full", "plain", "tagged"]);
    let tag = |value: &str| Query {
        tag: Some(("team".into(), value.into())),
        ..Query::default()
    };
    assert_eq!(names(tag("red")), ["full", "tagged"]);
    assert!(names(tag("blue")).is_empty());
    assert_eq!(
        names(Query {
            after: Some(id("full")),
            ..tag("red")
        }),
        ["tagged"]
    );
    let state = |state| Query {
        state: Some(state),
        ..Query::default()
    };
    assert_eq!(names(state(KeyState::Destroyed)), ["gone"]);
    assert_eq!(names(state(KeyState::Enabled)), ["plain", "tagged"]);
    assert_eq!(names(state(KeyState::ScheduledForDestruction)), ["full"]);
    let hsm = Query {
        protection: Some(Protection::Hsm),
        ..Query::default()
    };
    assert_eq!(names(hsm), ["full"]);
    let aes = Query {
        key_type: Some(hsm_core::KeyType::Aes),
        ..tag("red")
    };
    assert_eq!(names(aes), ["tagged"]);
}

fn counts_add_up(database: &Database) {
    let stores = [database.open(), database.open()];
    block_on(stores[0].create_many(vec![wrapped("a"), wrapped("b")])).unwrap();
    let threads = [0, 1].map(|who: usize| {
        let store = stores[who].clone();
        std::thread::spawn(move || {
            for round in 0..30 {
                let mut names = [id("a"), id("b"), id("no-such")];
                names.rotate_left(who);
                let used = names.map(|name| Used {
                    name,
                    operations: 3,
                    last_used_at: at(round),
                });
                block_on(store.add_usage(used.into())).unwrap();
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    for name in ["a", "b"] {
        let usage = block_on(stores[1].key(&id(name))).unwrap().unwrap().usage;
        assert_eq!((usage.operations, usage.last_used_at), (180, Some(at(29))));
    }
}

fn blocks_are_reserved_once(database: &Database) {
    let stores = [database.open(), database.open()];
    block_on(stores[0].create_many(vec![wrapped("a"), wrapped("b")])).unwrap();
    let threads = [0, 1].map(|who: usize| {
        let store = stores[who].clone();
        std::thread::spawn(move || {
            let mut blocks = Vec::new();
            for _ in 0..25 {
                let wanted = vec![(id("b"), 1, 1), (id("a"), 2, 5), (id("a"), 1, 10)];
                let before = block_on(store.reserve(wanted)).unwrap();
                assert_eq!(before[1], None, "there is no version 2");
                assert_eq!(before[0].unwrap() * 10, before[2].unwrap());
                blocks.push(before[2].unwrap());
            }
            blocks
        })
    });
    let mut blocks: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    blocks.sort_unstable();
    assert_eq!(blocks, (0..50).map(|n| n * 10).collect::<Vec<_>>());
}

fn what_is_due_is_found(database: &Database) {
    let store = database.open();
    let mut by_period = wrapped("period");
    by_period.next_rotation_at = Some(at(10));
    let mut by_use = wrapped("use");
    by_use.rotate_after_operations = Some(5);
    by_use.usage.operations = 7;
    by_use.usage.operations_at_rotation = 3;
    let mut disabled = by_period.clone();
    disabled.name = id("disabled");
    disabled.state = KeyState::Disabled;
    let mut destroyed = wrapped("unfinished");
    destroyed.state = KeyState::Destroyed;
    let mut finished = destroyed.clone();
    finished.name = id("finished");
    finished.versions[0].state = VersionState::Destroyed;
    finished.versions[0].material = VersionMaterial::Destroyed;
    let scheduled = full("scheduled", "01");
    block_on(store.create_many(vec![
        by_period,
        by_use,
        disabled,
        destroyed.clone(),
        finished,
        scheduled,
    ]))
    .unwrap();

    let early = Due {
        rotate: vec![],
        destroy: vec![id("unfinished")],
    };
    assert_eq!(block_on(store.due(at(2), 10)).unwrap(), early);
    let used = Used {
        name: id("use"),
        operations: 1,
        last_used_at: at(3),
    };
    block_on(store.add_usage(vec![used])).unwrap();
    let late = Due {
        rotate: vec![id("period"), id("use")],
        destroy: vec![id("unfinished"), id("scheduled")],
    };
    assert_eq!(block_on(store.due(at(10), 10)).unwrap(), late);
    assert_eq!(block_on(store.due(at(10), 1)).unwrap().rotate, [id("period")]);
    let erased = next(&destroyed, |record| {
        record.versions[0].state = VersionState::Destroyed;
        record.versions[0].material = VersionMaterial::Destroyed;
    });
    block_on(store.update(erased, Done::default())).unwrap();
    assert_eq!(block_on(store.due(at(10), 10)).unwrap().destroy, [id("scheduled")]);
}

fn older_gateway_keys_are_counted(database: &Database) {
    let store = database.open();
    let mut sealed_later = wrapped("c");
    sealed_later.seal.version = 2;
    let mut new = sealed_later.clone();
    new.name = id("d");
    new.versions = vec![wrapped_version(1, 2)];
    block_on(store.create_many(vec![full("a", "01"), wrapped("b"), sealed_later.clone(), new])).unwrap();
    assert_eq!(block_on(store.count_under_older(2)).unwrap(), 3);
    assert_eq!(
        block_on(store.wrapped_under_older(2, None, 2)).unwrap(),
        [id("a"), id("b")]
    );
    assert_eq!(
        block_on(store.wrapped_under_older(2, Some(id("b")), 2)).unwrap(),
        [id("c")]
    );
    let rewrapped = next(&sealed_later, |record| record.versions = vec![wrapped_version(1, 2)]);
    block_on(store.update(rewrapped, Done::default())).unwrap();
    assert_eq!(block_on(store.count_under_older(2)).unwrap(), 2);
    assert_eq!(block_on(store.count_under_older(1)).unwrap(), 0);
}

fn a_token_key_is_one_keys_version(database: &Database) {
    let store = database.open();
    block_on(store.create(full("a", "01"), Done::default())).unwrap();
    let twice = block_on(store.create(full("b", "01"), Done::default()));
    assert!(
        matches!(&twice, Err(StoreError::Conflict(why)) if why.contains("hsm:01")),
        "{twice:?}"
    );
}

fn a_row_that_cannot_be_read_is_named(database: &Database) {
    let store = database.open();
    let broken = [
        "UPDATE keys SET key_type = 'DES' WHERE name = 'broken'",
        "UPDATE keys SET key_type = 'AES'; UPDATE versions SET hsm_id = 'hsm:xx' WHERE name = 'broken'",
        "UPDATE versions SET version = 2 WHERE name = 'broken'",
    ];
    block_on(store.create(wrapped("broken"), Done::default())).unwrap();
    for sql in broken {
        database.sql(sql);
        let read = block_on(store.key(&id("broken")));
        assert!(
            matches!(&read, Err(StoreError::Corrupt(why)) if why.contains("broken")),
            "{read:?}"
        );
    }
}
