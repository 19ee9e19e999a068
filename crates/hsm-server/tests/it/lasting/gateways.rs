//! Several servers on one PostgreSQL: on one token, and on two tokens that share the gateway's keys.

use std::collections::BTreeSet;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm_test::{Postgres, Token};

use super::crash::{VARIABLE, settled};
use super::{
    Load, Sealed, Stop, aes, encrypt_body, kek_status, key, make, patch, path, rotate, seal, well,
    without_holes_or_twins,
};
use crate::support::{Builder, Caller, Server};
use crate::tools::wait_until;

const ROTATIONS: u64 = 5;

/// What becomes of a key that is disabled while it is used.
const DISABLED: &[(u16, &str)] = &[(409, "key_disabled")];

fn on(database: &Postgres, token: &Token) -> Builder {
    Server::with(token.clone()).env("HSM_STORE__URL", &database.url())
}

/// Waits until it is so, and tells how long that took.
#[track_caller]
fn seen(what: &str, is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    wait_until(what, is_so);
    eprintln!("{what}: after {} ms", started.elapsed().as_millis());
}

fn encrypts(caller: &Caller, id: &str) -> u16 {
    caller.post("/api/v1/encrypt", &encrypt_body(id, "x")).status
}

#[test]
fn one_token_under_load() {
    let (database, token) = (Postgres::start(), Token::softhsm());
    let (one, two) = (on(&database, &token).start(), on(&database, &token).start());
    let (first, second) = (one.all(), two.all());
    let names = ["inside", "outside"];
    make(&first, "inside", "hsm");
    make(&second, "outside", "wrapped");
    let stop = Stop::default();
    let sealed = thread::scope(|scope| {
        let both = [(first.clone(), second.clone()), (second.clone(), first.clone())];
        let clients = [both.clone(), both].concat();
        let load = Load::start(scope, &stop, &clients, &names, 30, DISABLED);
        for name in names {
            for turn in 0..ROTATIONS {
                let (own, other) = if turn % 2 == 0 {
                    (&first, &second)
                } else {
                    (&second, &first)
                };
                let version = turn + 2;
                assert_eq!(rotate(own, name).good(200)["primary_version"], version);
                seen(&format!("the other sees version {version} of {name}"), || {
                    seal(other, name).version() == version
                });
                sleep(Duration::from_millis(100));
            }
            // Rotations that meet each other.
            let asked = thread::scope(|scope| {
                let asked = [&first, &second]
                    .map(|caller| scope.spawn(move || (0..5).map(|_| rotate(caller, name)).collect::<Vec<_>>()));
                asked.map(|asked| asked.join().unwrap())
            });
            let mut numbers = BTreeSet::new();
            for reply in asked.iter().flatten() {
                if reply.status == 409 {
                    reply.problem(409, "conflict");
                } else {
                    let number = reply.good(200)["primary_version"].as_u64().unwrap();
                    assert!(numbers.insert(number), "{number} was answered twice");
                }
            }
            let count = without_holes_or_twins(&key(&first, name));
            assert_eq!(numbers, (ROTATIONS + 2..=count).collect());
            assert_eq!(key(&second, name)["versions"], key(&first, name)["versions"]);

            patch(&first, &path(name), json!({"state": "disabled"})).good(200);
            assert_eq!(encrypts(&first, name), 409);
            seen(&format!("the other sees that {name} is disabled"), || {
                encrypts(&second, name) == 409
            });
            patch(&second, &path(name), json!({"state": "enabled"})).good(200);
            assert_eq!(encrypts(&second, name), 200);
            seen(&format!("the other sees that {name} is enabled"), || {
                encrypts(&first, name) == 200
            });
            let version = format!("{}/versions/1", path(name));
            patch(&second, &version, json!({"state": "disabled"})).good(200);
            patch(&first, &version, json!({"state": "enabled"})).good(200);
        }
        load.end()
    });
    eprintln!("{} encryptions", sealed.len());
    for name in names {
        let versions = sealed.iter().filter(|one| one.answer["key_id"] == name);
        let versions: BTreeSet<_> = versions.map(Sealed::version).collect();
        assert!(versions.len() > 1, "{name} was rotated under load: {versions:?}");
        for caller in [&first, &second] {
            seen("the last change", || encrypts(caller, name) == 200);
            let version = key(caller, name)["primary_version"].as_u64().unwrap();
            seen("the last version", || seal(caller, name).version() == version);
        }
    }
    // All of it, on the server that did not encrypt it too.
    for (at, one) in sealed.iter().enumerate() {
        one.opens([&first, &second][at % 2]);
    }
    settled_on_both(&one, &two, &token);
}

/// What is on the token is what one of them knows: both record what they did.
#[track_caller]
fn settled_on_both(one: &Server, two: &Server, token: &Token) {
    let ids = |caller: &Caller| -> BTreeSet<String> {
        let keys = super::all_keys(caller);
        let versions = keys
            .iter()
            .flat_map(|key| key["versions"].as_array().into_iter().flatten());
        versions
            .filter_map(|one| one["hsm_key_id"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let versions = ids(&one.all());
    assert_eq!(versions, ids(&two.all()));
    wait_until("nothing else is on the token", || {
        let objects = token.objects();
        let others = objects
            .iter()
            .filter(|object| !object.label.starts_with("hsm-gateway:"));
        others
            .map(|object| format!("hsm:{}", object.id))
            .collect::<BTreeSet<_>>()
            == versions
    });
    // Of two that made the first ones at once, one has to take its own back.
    for name in ["kek", "mac"] {
        let label = format!("hsm-gateway:{name}:");
        wait_until("there is one of each", || {
            let objects = token.objects();
            objects.iter().filter(|object| object.label.starts_with(&label)).count() == 1
        });
    }
    let known = kek_status(one);
    for object in token.objects() {
        let own = object.label.starts_with("hsm-gateway:");
        assert!(
            !own || known.contains(&format!("hsm:{}", object.id)),
            "{object:?} {known}"
        );
    }
}

#[test]
fn the_first_keys_of_both_are_made_at_once() {
    let (database, token) = (Postgres::start(), Token::softhsm());
    let (one, two) = (on(&database, &token).start(), on(&database, &token).start());
    let callers = [one.all(), two.all()];
    thread::scope(|scope| {
        for (at, caller) in callers.iter().enumerate() {
            for protection in ["hsm", "wrapped"] {
                scope.spawn(move || make(caller, &format!("{protection}.{at}"), protection));
            }
        }
    });
    for (at, caller) in callers.iter().enumerate() {
        for protection in ["hsm", "wrapped"] {
            seal(caller, &format!("{protection}.{at}")).opens(&callers[1 - at]);
        }
    }
    settled_on_both(&one, &two, &token);
    // One name for both: one of them makes it.
    let made: Vec<_> = thread::scope(|scope| {
        let asked = callers
            .each_ref()
            .map(|caller| scope.spawn(move || caller.post("/api/v1/keys", &aes("same", "hsm")).status));
        asked.map(|asked| asked.join().unwrap()).to_vec()
    });
    assert!(made == [201, 409] || made == [409, 201], "{made:?}");
    settled_on_both(&one, &two, &token);
}

#[test]
fn a_rotation_that_is_due_happens_once() {
    const OPERATIONS: usize = 60;
    let (database, token) = (Postgres::start(), Token::softhsm());
    let servers = [on(&database, &token).start(), on(&database, &token).start()];
    let callers = servers.each_ref().map(Server::all);
    let names = ["inside", "outside"];
    for (name, protection) in names.into_iter().zip(["hsm", "wrapped"]) {
        let mut body = aes(name, protection);
        body["rotate_after_operations"] = OPERATIONS.into();
        callers[0].post("/api/v1/keys", &body).good(201);
    }
    let mut sealed = Vec::new();
    for name in names {
        for turn in 0..OPERATIONS {
            sealed.push(seal(&callers[turn % 2], name));
        }
    }
    for name in names {
        for caller in &callers {
            wait_until("it was rotated", || key(caller, name)["primary_version"] == 2);
            wait_until("it is used", || seal(caller, name).version() == 2);
        }
    }
    // Both look for what is due every second, and find nothing.
    sleep(Duration::from_secs(4));
    for name in names {
        for caller in &callers {
            let key = key(caller, name);
            assert_eq!(without_holes_or_twins(&key), 2, "{key}");
        }
    }
    for (at, one) in sealed.iter().enumerate() {
        one.opens(&callers[(at + 1) % 2]);
    }
    let mut recorded = Vec::new();
    for server in &servers {
        let records = crate::tools::audit_records(server).into_iter();
        recorded.extend(records.filter(|record| record["action"] == "rotate"));
    }
    let by_schedule = |record: &&Value| record["subject"].is_null() && record["key_version"] == 2;
    assert_eq!(recorded.iter().filter(by_schedule).count(), 2, "{recorded:?}");
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    settled_on_both(&servers[0], &servers[1], &token);
}

#[test]
fn one_dies_while_the_other_serves() {
    let (database, token) = (Postgres::start(), Token::softhsm());
    let lasting = on(&database, &token).start();
    let caller = lasting.all();
    make(&caller, "turning", "hsm");
    let stop = Stop::default();
    let sealed = thread::scope(|scope| {
        let clients = [(caller.clone(), caller.clone())];
        let load = Load::start(scope, &stop, &clients, &["turning"], 20, &[]);
        let body = aes("new", "hsm");
        let deaths = [
            ("rotate:after-token", "/api/v1/keys/turning/rotate", None),
            ("create:after-token", "/api/v1/keys", Some(&body)),
        ];
        for (point, path, body) in deaths {
            let mortal = on(&database, &token).env(VARIABLE, point).start();
            assert!(mortal.all().attempt("POST", path, &[], body).is_none());
            drop(mortal.died());
        }
        let left = || {
            token
                .objects()
                .iter()
                .filter(|object| !object.label.starts_with("hsm-gateway:"))
                .count()
        };
        assert_eq!(left(), 3, "what the dead made is there");
        assert_eq!(without_holes_or_twins(&key(&caller, "turning")), 1);
        seen("what the dead left behind is gone", || left() == 1);
        let rotated = rotate(&caller, "turning").good(200);
        assert_eq!(without_holes_or_twins(&rotated), 2);
        caller.post("/api/v1/keys", &body).good(201);
        load.end()
    });
    for one in &sealed {
        one.opens(&caller);
    }
    settled(&lasting);
}

#[test]
fn two_tokens_share_wrapped_keys() {
    let database = Postgres::start();
    let tokens = Token::several(&["one", "two"]);
    let one = on(&database, &tokens[0])
        .env("HSM_TOKENS__BACKUP__TOKEN_LABEL", tokens[1].label())
        .env("HSM_TOKENS__BACKUP__PIN", tokens[1].pin())
        .start();
    make(&one.all(), "older", "wrapped");
    let mut sealed = vec![seal(&one.all(), "older")];
    let said = well(one.run(&["kek", "rotate", "--to", "backup"]));
    assert!(said.contains("version 2"), "{said}");
    for token in &tokens {
        let objects = token.objects();
        let own: Vec<_> = objects
            .iter()
            .filter(|object| object.label.starts_with("hsm-gateway:") && object.label.contains(":2:"))
            .collect();
        assert_eq!(own.len(), 2, "{objects:?}");
        for object in own {
            assert_eq!(
                (object.extractable, object.sensitive),
                (Some(false), Some(true)),
                "{object:?}"
            );
            assert_eq!(object.value, None, "{object:?}");
        }
        let temporary = objects.iter().filter(|object| object.key_type == "CKK_RSA");
        assert_eq!(temporary.count(), 0, "{objects:?}");
    }

    let two = on(&database, &tokens[1]).start();
    let callers = [one.all(), two.all()];
    make(&callers[0], "newer", "wrapped");
    make(&callers[1], "other", "wrapped");
    for name in ["older", "newer", "other"] {
        for caller in &callers {
            sealed.push(seal(caller, name));
        }
    }
    rotate(&callers[1], "older").good(200);
    wait_until("the other sees it", || seal(&callers[0], "older").version() == 2);
    sealed.push(seal(&callers[0], "older"));
    for one in &sealed {
        for caller in &callers {
            one.opens(caller);
        }
    }
}
