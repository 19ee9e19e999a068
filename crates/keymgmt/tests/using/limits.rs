//! The encryptions that a version may do.

use super::*;

const LIMIT: u64 = 1 << 32;

fn reserved(world: &World, key: &str) -> u64 {
    let record = wait(world.store.key(&name(key))).unwrap().unwrap();
    record.versions.last().unwrap().encryptions_reserved
}

#[test]
fn encryptions_are_reserved_before_they_are_done() {
    let world = World::new();
    world.make("orders", aes(), Protection::Wrapped);
    world.make("signer", p256(), Protection::Hsm);
    for _ in 0..3 {
        world.encrypt("orders", b"data").unwrap();
        world.sign("signer", b"data").unwrap();
    }
    assert!(reserved(&world, "orders") >= 3);
    assert!(reserved(&world, "orders") <= 1 << 17, "not anew for each");
    assert_eq!(reserved(&world, "signer"), 0);
}

#[test]
fn a_version_stops_at_the_limit_and_the_next_one_goes_on() {
    let world = World::new();
    let managed = world.make("orders", aes(), Protection::Hsm);
    let used = LIMIT - 5;
    wait(world.store.reserve(vec![(name("orders"), 1, used)])).unwrap();
    let object = on_token(&managed, 1).to_string();
    let (_, encrypted) = world.encrypt("orders", b"data").unwrap();
    for key in ["orders", &object, "orders", &object] {
        world.encrypt(key, b"data").unwrap();
    }
    for key in ["orders", &object] {
        let Err(Error::Conflict(text)) = world.encrypt(key, b"data") else {
            panic!("the sixth is one too many");
        };
        assert!(text.contains("rotate the key"), "{text}");
    }
    refused!(
        wait(world.service.datakey(&caller(), id("orders"), 256)),
        Error::Conflict(_)
    );
    let request = |key: KeyRef| Decrypt::new(key, encrypted.clone());
    refused!(
        wait(world.service.rewrap(&caller(), id("orders"), None, request)),
        Error::Conflict(_)
    );
    // What was encrypted is not lost, and without random IVs there is no limit.
    assert_eq!(world.decrypt("orders", Some(1), &encrypted).unwrap(), b"data");
    let counter = |key: KeyRef| Encrypt {
        algorithm: hsm_core::Algorithm::AesCtr.into(),
        ..Encrypt::new(key, *b"data")
    };
    wait(world.service.encrypt(&caller(), id("orders"), counter)).unwrap();

    world.rotate("orders");
    let (done, _) = world.encrypt("orders", b"data").unwrap();
    assert_eq!(done.key_version, Some(2));
}

#[test]
fn more_is_reserved_than_done_by_many_at_once() {
    // Fast enough to use up more than one block.
    let world = World::recording(settings(), Sync::Interval(Duration::from_secs(60)));
    world.make("orders", aes(), Protection::Wrapped);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1500 {
                    world.encrypt("orders", b"data").unwrap();
                }
            });
        }
    });
    let reserved = reserved(&world, "orders");
    assert!(reserved >= 6000, "{reserved}");
    let managed = wait(world.service.managed(&name("orders"))).unwrap();
    assert_eq!(managed.operations, 6000);
}

#[test]
fn counts_are_written_and_survive() {
    let world = World::new();
    world.make("orders", aes(), Protection::Wrapped);
    for _ in 0..7 {
        world.encrypt("orders", b"data").unwrap();
    }
    until("the counts are written", || {
        let record = wait(world.store.key(&name("orders"))).unwrap().unwrap();
        assert!(record.usage.operations <= 7);
        (record.usage.operations == 7 && record.usage.last_used_at.is_some()).then_some(())
    });
    until("what is written is not counted twice", || {
        let managed = wait(world.service.managed(&name("orders"))).unwrap();
        (managed.operations == 7).then_some(())
    });
}
