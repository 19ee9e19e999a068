//! What goes on while the store does not answer, and what others change meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use keymgmt::managed::change::Update;
use keymgmt::managed::record::KeyState;

use super::*;

#[test]
fn what_is_in_memory_goes_on_while_the_store_is_away() {
    let world = World::new();
    world.make("orders", aes(), Protection::Wrapped);
    world.make("unused", aes(), Protection::Wrapped);
    world.make("signer", p256(), Protection::Hsm);
    world.encrypt("orders", b"data").unwrap();
    world.sign("signer", b"data").unwrap();
    let plain = world.plain("plain", aes()).to_string();

    world.store.close();
    let (_, encrypted) = world.encrypt("orders", b"data").unwrap();
    assert_eq!(world.decrypt("orders", Some(1), &encrypted).unwrap(), b"data");
    world.sign("signer", b"data").unwrap();
    world.encrypt(&plain, b"data").unwrap();
    refused!(world.encrypt("nobody", b"data"), Error::StoreUnavailable(_));
    // It is in memory, and no encryption with it can be counted.
    refused!(world.encrypt("unused", b"data"), Error::StoreUnavailable(_));
    // All of it is recorded.
    assert_eq!(world.records("encrypt").len(), 5);
}

#[test]
fn what_is_in_memory_ends_when_the_store_was_away_for_too_long() {
    let world = World::with(Settings {
        stale: Duration::from_secs(1),
        cached_keys: 10,
    });
    world.make("orders", aes(), Protection::Wrapped);
    world.encrypt("orders", b"data").unwrap();
    let plain = world.plain("plain", aes()).to_string();
    world.store.close();
    until("the key is not used any more", || {
        match world.encrypt("orders", b"data") {
            Ok(_) => None,
            Err(Error::StoreUnavailable(_)) => Some(()),
            Err(error) => panic!("{error}"),
        }
    });
    world.encrypt(&plain, b"data").unwrap();
}

#[test]
fn keys_that_do_not_fit_into_memory_are_read_again() {
    let world = World::with(Settings {
        stale: Duration::from_secs(300),
        cached_keys: 2,
    });
    let keys: Vec<_> = (0..6).map(|n| format!("key-{n}")).collect();
    for key in &keys {
        world.make(key, aes(), Protection::Wrapped);
    }
    for _ in 0..2 {
        for key in &keys {
            let (_, encrypted) = world.encrypt(key, b"data").unwrap();
            assert_eq!(world.decrypt(key, Some(1), &encrypted).unwrap(), b"data");
        }
    }
    let cached = world.service.cached();
    assert!(cached.most >= 2 && cached.keys <= cached.most, "{cached:?}");
    assert_eq!(cached.hits + cached.misses, 24, "{cached:?}");
    assert!(cached.hits > 0 && cached.misses > 0, "{cached:?}");
    assert_eq!(world.service.background_failures(), 0);
}

#[test]
fn changes_under_load_are_obeyed_at_once() {
    let world = World::new();
    world.make("orders", aes(), Protection::Wrapped);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let (done, encrypted) = world.encrypt("orders", b"data").unwrap();
                    assert_eq!(world.decrypt("orders", done.key_version, &encrypted).unwrap(), b"data");
                }
            });
        }
        let _ended = Ended(&stop);
        for expected in 2..=20 {
            assert_eq!(world.rotate("orders").record.primary_version, expected);
            let (done, _) = world.encrypt("orders", b"data").unwrap();
            assert_eq!(done.key_version, Some(expected), "a rotation that was answered is seen");
        }
    });
    let record = wait(world.store.key(&name("orders"))).unwrap().unwrap();
    let versions: Vec<_> = record.versions.iter().map(|one| one.version).collect();
    assert_eq!(versions, (1..=20).collect::<Vec<_>>());
}

/// Ends the load, also when the test fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn changes_by_another_gateway_are_obeyed() {
    let world = World::new();
    let managed = world.make("signer", p256(), Protection::Hsm);
    let first = on_token(&managed, 1).to_string();
    world.sign("signer", b"data").unwrap();
    world.sign(&first, b"data").unwrap();

    let other = KeyService::new(Parts {
        tokens: Tokens::one(world.hsm.clone()),
        audit: AuditLog::open(&world.folder.path().join("other"), Sync::Always).unwrap(),
        store: Store::open(Place::Sqlite(world.database())).unwrap(),
        hooks: Hooks {
            describe: |_| (500, "failed"),
            observe: Arc::new(|_, _, _| {}),
        },
        settings: settings(),
    })
    .unwrap();
    let rotated = wait(other.rotate(&caller(), &name("signer"), None)).unwrap();
    let second = on_token(&rotated, 2);
    until("the new version is known as one", || world.service.managed_by(&second));
    let (done, _) = wait(
        world
            .service
            .sign(&caller(), id("signer"), |key| Sign::new(key, *b"data")),
    )
    .unwrap();
    assert_eq!(done.key_version, Some(2));

    let update = Update {
        state: Some(KeyState::Disabled),
        ..Update::default()
    };
    wait(other.update(&caller(), &name("signer"), update)).unwrap();
    let second = second.to_string();
    for key in ["signer", &first, &second] {
        until("the key is not used any more", || match world.sign(key, b"data") {
            Ok(_) => None,
            Err(Error::KeyDisabled(_)) => Some(()),
            Err(error) => panic!("{error}"),
        });
    }
    other.close();
}
