//! The server dies by SIGKILL at every step of what touches token and store: what was acknowledged is there, what was not
//! is there whole or not at all, and nothing is destroyed that was not to be.

use std::collections::BTreeSet;

use keymgmt::managed::fault::POINTS;
use serde_json::{Value, json};
use softhsm_test::Token;

use super::{Sealed, aes, all_keys, kek_status, key, make, path, rotate, seal, without_holes_or_twins};
use crate::support::{Builder, Caller, Reply, Server, base64, merged, text};
use crate::tools::{audit_records, wait_until};

/// What is asked for has happened when the server dies there.
const DONE: bool = true;
/// Nothing of it has happened.
const NOT_DONE: bool = false;

const CREATE: [(&str, bool); 4] = [
    ("create:after-intent", NOT_DONE),
    ("create:after-token", NOT_DONE),
    ("create:after-commit", DONE),
    ("create:after-record", DONE),
];
const ROTATE: [(&str, bool); 4] = [
    ("rotate:after-intent", NOT_DONE),
    ("rotate:after-token", NOT_DONE),
    ("rotate:after-commit", DONE),
    ("rotate:after-record", DONE),
];
const TOKEN_KEY: [(&str, bool); 4] = [
    ("token-key:after-intent", NOT_DONE),
    ("token-key:after-token", NOT_DONE),
    ("token-key:after-record", NOT_DONE),
    ("token-key:after-end", DONE),
];
pub(super) const GATEWAY_KEYS: [&str; 3] = [
    "gateway-keys:after-intent",
    "gateway-keys:after-token",
    "gateway-keys:after-commit",
];
const SCHEDULE: &str = "schedule-destruction:after-commit";
const DESTROY: [&str; 5] = [
    "destroy:after-state",
    "destroy:between-objects",
    "destroy:after-token",
    "destroy:after-record",
    "destroy:after-commit",
];
pub(super) const REWRAP: &str = "rewrap:after-one";
const RECOVER: &str = "recover:after-token";

/// Names the point at which the server dies.
pub(super) const VARIABLE: &str = "GATEWAY_FAULT_POINT";

#[test]
fn every_point_is_gone_through() {
    let listed: BTreeSet<_> = POINTS.iter().copied().collect();
    let expected = [CREATE, ROTATE, TOKEN_KEY]
        .into_iter()
        .flatten()
        .map(|(point, _)| point);
    let more = GATEWAY_KEYS
        .into_iter()
        .chain(DESTROY)
        .chain([SCHEDULE, REWRAP, RECOVER]);
    let gone_through: BTreeSet<_> = expected.chain(more).collect();
    assert_eq!(gone_through, listed);
}

/// Keys that nobody asks to be changed.
struct Steady {
    sealed: Vec<Sealed>,
}

impl Steady {
    #[track_caller]
    fn made(caller: &Caller) -> Steady {
        let mut sealed = Vec::new();
        for (name, protection) in [("steady", "hsm"), ("steady.wrapped", "wrapped")] {
            make(caller, name, protection);
            sealed.push(seal(caller, name));
            rotate(caller, name).good(200);
            sealed.push(seal(caller, name));
        }
        let on_token = caller.key(json!({"key_type": "AES", "key_size": 256}));
        sealed.push(seal(caller, text(&on_token["key_id"])));
        Steady { sealed }
    }

    #[track_caller]
    fn are_there(&self, caller: &Caller) {
        for one in &self.sealed {
            one.opens(caller);
        }
        for name in ["steady", "steady.wrapped"] {
            let key = key(caller, name);
            assert_eq!(key["state"], "enabled");
            assert_eq!(without_holes_or_twins(&key), 2);
        }
    }
}

/// A server that is to die again and again, on one token and one store.
struct Mortal {
    builder: Option<Builder>,
    steady: Steady,
}

impl Mortal {
    #[track_caller]
    fn new(prepare: impl FnOnce(&Server)) -> Mortal {
        let server = Server::softhsm();
        let steady = Steady::made(&server.all());
        prepare(&server);
        Mortal {
            builder: Some(server.end("TERM")),
            steady,
        }
    }

    /// It dies at this point, to which `act` takes it, and is started again.
    #[track_caller]
    fn dies(&mut self, point: &str, act: impl FnOnce(&Caller) -> Option<Reply>) -> Server {
        let server = self.builder.take().unwrap().env(VARIABLE, point).start();
        let answered = act(&server.all());
        if let Some(reply) = answered {
            assert!((200..300).contains(&reply.status), "{point}: {}", reply.text());
        }
        server.died().without(VARIABLE).start()
    }

    /// Looks at what has nothing to do with it, and is ready for the next death.
    #[track_caller]
    fn goes_on(&mut self, server: Server) {
        settled(&server);
        self.steady.are_there(&server.all());
        self.builder = Some(server.end("KILL"));
    }
}

/// Waits until everything on the token is accounted for, and all that should be there is.
#[track_caller]
pub(super) fn settled(server: &Server) {
    let mut said = None;
    wait_until("everything on the token is known", || {
        let objects = server.token().objects();
        let on_token: BTreeSet<String> = objects.iter().map(|object| format!("hsm:{}", object.id)).collect();
        let known = known(server);
        let settled = on_token == known;
        let differing: Vec<_> = on_token.symmetric_difference(&known).cloned().collect();
        if said.as_ref() != Some(&differing) {
            eprintln!("on the token or known, and not both: {differing:?}");
            said = Some(differing);
        }
        settled
    });
}

/// The gateway's own keys, the versions of managed keys, and what was made and not destroyed, as its record says.
fn known(server: &Server) -> BTreeSet<String> {
    let status = kek_status(server);
    let words = status.split([' ', ',', '\n']);
    let mut known: BTreeSet<String> = words
        .filter(|word| word.starts_with("hsm:"))
        .map(str::to_owned)
        .collect();
    for record in audit_records(server) {
        let Some(id) = record["key_id"].as_str().filter(|id| id.starts_with("hsm:")) else {
            continue;
        };
        if record["outcome"] == "success" {
            match text(&record["action"]) {
                "create" => known.insert(id.to_owned()),
                "delete" | "destroy" => known.remove(id),
                _ => continue,
            };
        }
    }
    for key in all_keys(&server.all()) {
        let versions = key["versions"].as_array().into_iter().flatten();
        known.extend(versions.filter_map(|one| one["hsm_key_id"].as_str()).map(str::to_owned));
    }
    known
}

/// Asks until no intent of a process that died is in the way any more.
#[track_caller]
fn at_last(what: &str, status: u16, ask: impl Fn() -> Reply) -> Value {
    let mut last = None;
    wait_until(what, || {
        let reply = ask();
        let again = reply.status == 409;
        last = Some(reply);
        !again
    });
    last.unwrap().good(status)
}

#[test]
fn creation() {
    let mut mortal = Mortal::new(|_| {});
    let wrapped = CREATE.into_iter().skip(1).map(|(point, done)| (point, done, "wrapped"));
    let all = CREATE
        .into_iter()
        .map(|(point, done)| (point, done, "hsm"))
        .chain(wrapped);
    for (at, (point, done, protection)) in all.enumerate() {
        let name = format!("new.{at}");
        let body = aes(&name, protection);
        let server = mortal.dies(point, |caller| caller.attempt("POST", "/api/v1/keys", &[], Some(&body)));
        let caller = server.all();
        if done {
            assert_eq!(without_holes_or_twins(&key(&caller, &name)), 1);
        } else {
            caller.get(&path(&name)).problem(404, "key_not_found");
            at_last("it can be made", 201, || caller.post("/api/v1/keys", &body));
        }
        seal(&caller, &name).opens(&caller);
        mortal.goes_on(server);
    }
}

#[test]
fn rotation() {
    let names = [("turning", "hsm"), ("turning.wrapped", "wrapped")];
    let mut mortal = Mortal::new(|server| {
        for (name, protection) in names {
            make(&server.all(), name, protection);
        }
    });
    for (name, protection) in names {
        let mut sealed: Vec<Sealed> = Vec::new();
        let mut count = 1;
        for (point, done) in ROTATE.into_iter().skip(usize::from(protection == "wrapped")) {
            let rotate_path = format!("{}/rotate", path(name));
            let server = mortal.dies(point, |caller| {
                sealed.push(seal(caller, name));
                caller.attempt("POST", &rotate_path, &[], None)
            });
            let caller = server.all();
            count += u64::from(done);
            let there = key(&caller, name);
            assert_eq!(without_holes_or_twins(&there), count, "{point}: {there}");
            assert_eq!(there["primary_version"], count);
            sealed.push(seal(&caller, name));
            assert_eq!(sealed.last().unwrap().version(), count);
            let rotated = at_last("it can be rotated", 200, || rotate(&caller, name));
            count += 1;
            assert_eq!(without_holes_or_twins(&rotated), count, "{point}: {rotated}");
            sealed.push(seal(&caller, name));
            for one in &sealed {
                one.opens(&caller);
            }
            mortal.goes_on(server);
        }
    }
}

#[test]
fn calls_that_can_be_repeated() {
    let mut mortal = Mortal::new(|server| drop(make(&server.all(), "turning", "hsm")));
    for (at, (point, _)) in CREATE.into_iter().enumerate() {
        let body = aes(&format!("once.{at}"), "hsm");
        let text = body.to_string();
        let value = format!("create-{at}");
        let headers = [
            ("Idempotency-Key", value.as_str()),
            ("Content-Type", "application/json"),
        ];
        let server = mortal.dies(point, |caller| {
            caller.attempt("POST", "/api/v1/keys", &headers[..1], Some(&body))
        });
        let caller = server.all();
        let ask = || caller.raw("POST", "/api/v1/keys", &headers, text.as_bytes());
        let made = at_last("it is repeated", 201, ask);
        assert_eq!(without_holes_or_twins(&made), 1);
        assert_eq!(ask().good(201), made);
        mortal.goes_on(server);
    }
    for (at, (point, _)) in ROTATE.into_iter().enumerate() {
        let value = format!("rotate-{at}");
        let headers = [("Idempotency-Key", value.as_str())];
        let server = mortal.dies(point, |caller| {
            caller.attempt("POST", "/api/v1/keys/turning/rotate", &headers, None)
        });
        let caller = server.all();
        let ask = || caller.raw("POST", "/api/v1/keys/turning/rotate", &headers, b"");
        let rotated = at_last("it is repeated", 200, ask);
        assert_eq!(without_holes_or_twins(&rotated), at as u64 + 2, "{point}: {rotated}");
        assert_eq!(ask().good(200), rotated);
        mortal.goes_on(server);
    }
}

#[test]
fn keys_of_the_token() {
    let mut mortal = Mortal::new(|_| {});
    for (point, done) in TOKEN_KEY {
        let body = json!({"key_type": "EC", "curve": "P-256", "key_label": point});
        let server = mortal.dies(point, |caller| {
            caller.attempt("POST", "/api/v1/hsm/keys", &[], Some(&body))
        });
        let caller = server.all();
        let listed = || {
            let all = all_keys(&caller).into_iter();
            all.filter(|key| key["key_label"] == point).collect::<Vec<_>>()
        };
        let key = if done {
            let mut there = listed();
            assert_eq!(there.len(), 1, "{there:?}");
            there.remove(0)
        } else {
            wait_until("it is gone", || {
                let objects = server.token().objects();
                objects.iter().all(|object| object.label != point) && listed().is_empty()
            });
            at_last("it can be made", 201, || caller.post("/api/v1/hsm/keys", &body))
        };
        signs(&caller, text(&key["key_id"]));
        mortal.goes_on(server);
    }
}

#[track_caller]
fn signs(caller: &Caller, id: &str) {
    let data = json!({"data": base64("message")});
    let signed = caller
        .post("/api/v1/sign", &merged(&data, json!({"key_id": id})))
        .good(200);
    let valid = caller.post("/api/v1/verify", &merged(&signed, data)).good(200);
    assert_eq!(valid["valid"], true);
}

#[test]
fn adoption() {
    let mut mortal = Mortal::new(|_| {});
    for (at, (point, _)) in CREATE.into_iter().filter(|(_, done)| *done).enumerate() {
        let name = format!("adopted.{at}");
        let mut before = None;
        let server = mortal.dies(point, |caller| {
            let made = caller.key(json!({"key_type": "AES", "key_size": 256}));
            let id = text(&made["key_id"]);
            before = Some((id.to_owned(), seal(caller, id)));
            let body = json!({"name": name, "hsm_key_id": id});
            caller.attempt("POST", "/api/v1/keys", &[], Some(&body))
        });
        let caller = server.all();
        let (id, sealed) = before.as_ref().unwrap();
        assert_eq!(key(&caller, &name)["versions"][0]["hsm_key_id"], *id);
        sealed.opens(&caller);
        let by_name = merged(&sealed.answer, json!({"key_id": name, "key_version": 1}));
        let opened = caller.post("/api/v1/decrypt", &by_name).good(200);
        assert_eq!(opened["data"], base64(&sealed.plain));
        caller.delete(&path(id)).problem_naming(409, "conflict", &name);
        mortal.goes_on(server);
    }
}

#[test]
fn the_first_gateway_keys() {
    for point in GATEWAY_KEYS {
        for protection in ["hsm", "wrapped"] {
            let body = aes("first", protection);
            let server = Server::with(Token::softhsm()).env(VARIABLE, point).start();
            let answered = server.all().attempt("POST", "/api/v1/keys", &[], Some(&body));
            assert!(answered.is_none(), "{answered:?}");
            let server = server.died().without(VARIABLE).start();
            let caller = server.all();
            caller.get(&path("first")).problem(404, "key_not_found");
            settled(&server);
            caller.post("/api/v1/keys", &body).good(201);
            seal(&caller, "first").opens(&caller);
            settled(&server);
            assert!(kek_status(&server).starts_with("version 1, in use"));
        }
    }
}

#[test]
fn a_destruction_that_is_only_scheduled() {
    let mut mortal = Mortal::new(|server| drop(make(&server.all(), "doomed", "hsm")));
    let mut sealed = None;
    let server = mortal.dies(SCHEDULE, |caller| {
        sealed = Some(seal(caller, "doomed"));
        caller.attempt("DELETE", "/api/v1/keys/doomed?window_days=1", &[], None)
    });
    let caller = server.all();
    assert_eq!(key(&caller, "doomed")["state"], "scheduled_for_destruction");
    let restored = caller.raw("POST", "/api/v1/keys/doomed/restore", &[], b"").good(200);
    assert_eq!(restored["state"], "enabled");
    sealed.as_ref().unwrap().opens(&caller);
    mortal.goes_on(server);
}

/// A key with several versions is destroyed, and the server dies at this point.
#[track_caller]
fn destruction(point: &str) {
    let names = [("doomed", "hsm"), ("spared", "hsm")];
    let mut mortal = Mortal::new(|server| {
        let caller = server.all();
        for (name, protection) in names {
            make(&caller, name, protection);
            rotate(&caller, name).good(200);
            rotate(&caller, name).good(200);
        }
        // One that is to be destroyed later is not destroyed sooner.
        caller.delete("/api/v1/keys/spared?window_days=1").good(202);
    });
    let mut doomed = Vec::new();
    let server = mortal.dies(point, |caller| {
        let versions = key(caller, "doomed")["versions"].clone();
        let ids = versions.as_array().unwrap().iter().map(|one| text(&one["hsm_key_id"]));
        doomed = ids.map(|id| id.trim_start_matches("hsm:").to_owned()).collect();
        caller.attempt("DELETE", "/api/v1/keys/doomed?window_days=0", &[], None)
    });
    let caller = server.all();
    assert_eq!(doomed.len(), 3);
    wait_until("it is destroyed", || {
        let key = key(&caller, "doomed");
        let versions = key["versions"].as_array().unwrap();
        key["state"] == "destroyed" && versions.iter().all(|one| one["state"] == "destroyed")
    });
    for id in &doomed {
        assert!(server.token().attributes(id).is_empty(), "{id}");
    }
    let refused = caller.post("/api/v1/encrypt", &super::encrypt_body("doomed", "x"));
    refused.problem(409, "key_destroyed");
    let records = audit_records(&server);
    let destroyed = |record: &&Value| record["action"] == "destroy" && record["key_id"] == "doomed";
    assert!(records.iter().any(|record| destroyed(&record)));
    assert_eq!(key(&caller, "spared")["state"], "scheduled_for_destruction");
    caller.raw("POST", "/api/v1/keys/spared/restore", &[], b"").good(200);
    let spared = seal(&caller, "spared");
    spared.opens(&caller);
    mortal.goes_on(server);
}

#[test]
fn destruction_that_is_begun() {
    destruction(DESTROY[0]);
}

#[test]
fn destruction_of_one_version_of_several() {
    destruction(DESTROY[1]);
}

#[test]
fn destruction_that_is_done_on_the_token() {
    destruction(DESTROY[2]);
}

#[test]
fn destruction_that_is_recorded() {
    destruction(DESTROY[3]);
}

#[test]
fn destruction_that_is_done() {
    destruction(DESTROY[4]);
}

#[test]
fn recovery_that_dies_too() {
    let mut mortal = Mortal::new(|server| drop(make(&server.all(), "turning", "hsm")));
    let server = mortal
        .builder
        .take()
        .unwrap()
        .env(VARIABLE, "rotate:after-token")
        .start();
    let rotate_path = "/api/v1/keys/turning/rotate";
    assert!(server.all().attempt("POST", rotate_path, &[], None).is_none());
    let builder = server.died().env(VARIABLE, RECOVER);
    for _ in 0..2 {
        let ended = builder.run(&["serve"]);
        assert_eq!(ended.code, None, "{}", ended.stderr);
    }
    let server = builder.without(VARIABLE).start();
    let caller = server.all();
    mortal.steady.are_there(&caller);
    assert_eq!(without_holes_or_twins(&key(&caller, "turning")), 1);
    settled(&server);
    let rotated = at_last("it can be rotated", 200, || rotate(&caller, "turning"));
    assert_eq!(without_holes_or_twins(&rotated), 2);
    settled(&server);
}
