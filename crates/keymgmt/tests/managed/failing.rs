//! What is left when the audit log or the store goes away in the middle.

use std::fs;
use std::thread;

use futures_executor::block_on;
use keymgmt::managed::record::{KeyState, VersionState};
use keymgmt::service::Adopt;
use softhsm_test::{FaultyToken, Postgres};

use super::*;

/// The ids of the objects that outlive the sessions.
fn lasting(token: &Token) -> BTreeSet<String> {
    let lasting = token.objects().into_iter().filter(|object| object.token == Some(true));
    lasting.map(|object| object.id).collect()
}

#[test]
fn a_creation_that_can_not_be_recorded_is_undone() {
    let (token, folder) = (Token::softhsm(), TempDir::new().unwrap());
    let gateway = Gateway::open(&Where::of(&token), folder.path());
    gateway.create("first", Protection::Hsm);
    let new = NewKey::new(KeySpec::Aes { bits: 256 }, Label::parse("there before").unwrap());
    let there = gateway.run(gateway.service.create(&caller(), None, new, None)).unwrap();
    let adopt = || Adopt {
        name: name("adopted"),
        hsm_key_id: there.id.clone(),
        rotation: Rotation::default(),
        tags: BTreeMap::new(),
    };
    let before = lasting(&token);
    let audit = folder.path().join("audit");
    let make = |key: &str| match key {
        "adopted" => gateway.run(gateway.service.adopt(&caller(), adopt(), None)),
        "wrapped" => {
            let new = new_aes(key, Protection::Wrapped);
            gateway.run(gateway.service.create_managed(&caller(), new, None))
        }
        _ => {
            let new = new_aes(key, Protection::Hsm);
            gateway.run(gateway.service.create_managed(&caller(), new, None))
        }
    };
    for key in ["hsm", "wrapped", "adopted"] {
        // It is noticed only when the record is written.
        fs::remove_dir_all(&audit).unwrap();
        fs::write(&audit, "in the way").unwrap();
        let made = make(key);
        assert!(matches!(made, Err(Error::AuditUnavailable)), "{key}: {made:?}");
        let found = gateway.run(gateway.service.managed(&name(key)));
        assert!(matches!(found, Err(Error::KeyNotFound(_))), "{key}: {found:?}");
        assert!(matches!(gateway.encrypt(key), Err(Error::AuditUnavailable)));
        fs::remove_file(&audit).unwrap();
        gateway.wait_until("it can be recorded again", |gateway| gateway.service.audit().writable());
        gateway.wait_until("nothing is left on the token", |_| lasting(&token) == before);
        assert!(matches!(gateway.encrypt(key), Err(Error::KeyNotFound(_))));
    }
    for key in ["hsm", "wrapped", "adopted"] {
        assert_eq!(make(key).unwrap().record.latest_version(), 1, "its name is free: {key}");
        assert_eq!(gateway.encrypt(key).unwrap().0, 1);
    }
    gateway.close();
}

/// A service on PostgreSQL and on a token that waits on command.
struct Shaky {
    token: FaultyToken,
    server: Postgres,
    gateway: Gateway,
    _folder: TempDir,
}

impl Shaky {
    fn new() -> Shaky {
        let (token, server, folder) = (
            FaultyToken::over(Token::softhsm()),
            Postgres::start(),
            TempDir::new().unwrap(),
        );
        token.apply_env();
        let place = Where {
            module: token.module().to_owned(),
            label: token.token().label().to_owned(),
            pin: token.token().pin().to_owned(),
        };
        let store = Place::Postgres(server.url().into());
        let gateway = Gateway::keeping(&Tokens::one(place.open()), folder.path(), store, 1000);
        Shaky {
            token,
            server,
            gateway,
            _folder: folder,
        }
    }

    /// The store goes away when the token was called, and before it answers; when the work has ended, the store is back.
    fn meanwhile<T: Send>(&mut self, function: &str, work: impl FnOnce(&KeyService) -> T + Send) -> T {
        self.token.forget_calls();
        self.token.fault(&format!("{function} hang"));
        let (token, server, service) = (&self.token, &mut self.server, &self.gateway.service);
        thread::scope(|scope| {
            let working = scope.spawn(|| work(service));
            let begun = Instant::now();
            while token.calls(function) == 0 {
                assert!(begun.elapsed() < PATIENCE, "{function} was not called");
                sleep(Duration::from_millis(20));
            }
            server.stop();
            token.clear();
            let done = working.join().unwrap();
            server.start_again();
            done
        })
    }

    /// Tries until nothing of what was cut short is in the way any more.
    fn until_done(&self, work: impl Fn(&KeyService) -> keymgmt::Result<Managed>) -> Managed {
        let begun = Instant::now();
        loop {
            match work(&self.gateway.service) {
                Ok(done) => return done,
                Err(Error::Conflict(_) | Error::StoreUnavailable(_)) if begun.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(50));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_change_that_the_store_leaves_in_the_middle_is_undone_or_finished() {
    let mut world = Shaky::new();
    world.gateway.create("first", Protection::Hsm);
    for protection in [Protection::Hsm, Protection::Wrapped] {
        let key = protection.name();
        let before = lasting(world.token.token());
        let create = |service: &KeyService| block_on(service.create_managed(&caller(), new_aes(key, protection), None));
        let made = world.meanwhile("C_GenerateKey", create);
        assert!(matches!(made, Err(Error::StoreUnavailable(_))), "{made:?}");
        world.gateway.wait_until("nothing is left of the creation", |gateway| {
            let found = gateway.run(gateway.service.managed(&name(key)));
            matches!(found, Err(Error::KeyNotFound(_))) && lasting(world.token.token()) == before
        });
        world.until_done(create);

        let before = lasting(world.token.token());
        let (_, encrypted) = world.gateway.encrypt(key).unwrap();
        let rotate = |service: &KeyService| block_on(service.rotate(&caller(), &name(key), None));
        let rotated = world.meanwhile("C_GenerateKey", rotate);
        assert!(matches!(rotated, Err(Error::StoreUnavailable(_))), "{rotated:?}");
        world.gateway.wait_until("nothing is left of the rotation", |gateway| {
            let found = gateway.run(gateway.service.managed(&name(key)));
            found.is_ok_and(|found| found.record.latest_version() == 1) && lasting(world.token.token()) == before
        });
        assert_eq!(
            world.until_done(rotate).record.latest_version(),
            2,
            "no number is used up"
        );
        assert_eq!(world.gateway.encrypt(key).unwrap().0, 2);
        let request = |key: KeyRef| hsm_core::Decrypt::new(key, encrypted);
        let service = &world.gateway.service;
        let data = block_on(service.decrypt(&caller(), KeyId::Managed(name(key)), Some(1), request)).unwrap();
        assert_eq!(*data, b"plaintext");
    }
    let ids = ids_of(&world.gateway.record("hsm"));
    world.meanwhile("C_DestroyObject", |service| {
        block_on(service.schedule_destruction(&caller(), &name("hsm"), 0)).unwrap();
    });
    world.gateway.wait_until("the destruction is finished", |gateway| {
        let found = gateway.run(gateway.service.managed(&name("hsm")));
        found.is_ok_and(|found| {
            let mut versions = found.record.versions.iter();
            found.record.state == KeyState::Destroyed && versions.all(|one| one.state == VersionState::Destroyed)
        })
    });
    let left = lasting(world.token.token());
    assert!(ids.iter().all(|id| !left.contains(id)));
    world.gateway.close();
}
