//! Calls with an `Idempotency-Key`: sent again, they are answered again and done once.

use std::thread;

use serde_json::{Value, json};

use super::{HSM_KEYS, KEYS, aes, at, key, made, version_states};
use crate::support::{Caller, Reply, Server, base64, merged, mint};

/// A call with an `Idempotency-Key`; without a body where that is null.
#[track_caller]
fn once(caller: &Caller, path: &str, idempotency_key: &str, body: &Value) -> Reply {
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", idempotency_key),
    ];
    match body {
        Value::Null => caller.raw("POST", path, &headers[1..], b""),
        body => caller.raw("POST", path, &headers, body.to_string().as_bytes()),
    }
}

/// The same answer: status, `Location` and body.
#[track_caller]
fn same(one: &Reply, other: &Reply) {
    assert_eq!((other.status, other.text()), (one.status, one.text()));
    assert_eq!(other.header("location"), one.header("location"));
    assert_eq!(other.header("content-type"), one.header("content-type"));
}

fn calls() -> [(String, Value, Value, u16); 5] {
    let token_key = json!({"key_type": "EC", "curve": "P-256", "key_label": "made"});
    let import = json!({"key_type": "AES", "format": "raw", "key_material": base64([8; 32]), "key_label": "imported"});
    let other_label = json!({"key_label": "other"});
    [
        (KEYS.into(), aes("h", "hsm"), aes("h2", "hsm"), 201),
        (KEYS.into(), aes("w", "wrapped"), aes("w", "hsm"), 201),
        (
            HSM_KEYS.into(),
            token_key.clone(),
            merged(&token_key, other_label.clone()),
            201,
        ),
        (
            format!("{HSM_KEYS}/import"),
            import.clone(),
            merged(&import, other_label),
            201,
        ),
        (at("there/rotate"), Value::Null, json!({}), 200),
    ]
}

#[test]
fn a_call_that_is_repeated_is_done_once() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("there", "hsm"));
    let mut done = Vec::new();
    for (number, (path, body, other, status)) in calls().into_iter().enumerate() {
        let idempotency_key = format!("5f0c{number}-!~");
        let first = once(&caller, &path, &idempotency_key, &body);
        first.good(status);
        let objects = server.token().objects().len();
        let again = once(&caller, &path, &idempotency_key, &body);
        again.good(status);
        same(&first, &again);
        assert_ne!(again.request_id(), first.request_id());
        assert_eq!(server.token().objects().len(), objects);
        if body != Value::Null {
            once(&caller, &path, &idempotency_key, &other).problem_naming(409, "conflict", "Idempotency-Key");
        }
        done.push((path, idempotency_key, body, first));
    }
    assert_eq!(version_states(&key(&caller, "there")).len(), 2);
    // Another key of the client is another call.
    once(&caller, &at("there/rotate"), "another", &Value::Null).good(200);
    assert_eq!(version_states(&key(&caller, "there")).len(), 3);
    // And the same one on another path.
    made(&caller, &aes("there-too", "wrapped"));
    once(&caller, &at("there-too/rotate"), "another", &Value::Null).good(200);
    assert_eq!(version_states(&key(&caller, "there-too")).len(), 2);

    // It holds over a restart, and after the key was changed.
    super::change(&caller, "h", json!({"tags": {"a": "b"}}));
    let server = server.end("KILL").start();
    let caller = server.all();
    for (path, idempotency_key, body, first) in &done {
        same(first, &once(&caller, path, idempotency_key, body));
    }
    assert_eq!(version_states(&key(&caller, "there")).len(), 3);
}

#[test]
fn another_subject_has_calls_of_its_own() {
    let server = Server::softhsm();
    let caller = server.all();
    let other = server.bearer(&mint(&json!({"scope": "*", "sub": "other"})));
    made(&caller, &aes("a", "wrapped"));
    let path = at("a/rotate");
    once(&caller, &path, "key", &Value::Null).good(200);
    let theirs = once(&other, &path, "key", &Value::Null).good(200);
    assert_eq!(theirs["primary_version"], 3);
    once(&caller, KEYS, "create", &aes("mine", "wrapped")).good(201);
    once(&other, KEYS, "create", &aes("theirs", "wrapped")).good(201);
    // Whoever has lost the scope since is not answered from what was kept.
    let poor = server.caller("keys:read");
    once(&poor, &path, "key", &Value::Null).problem(403, "forbidden");
}

#[test]
fn an_error_frees_the_key_of_the_call() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("taken", "wrapped"));
    for (number, (path, wrong, right)) in [
        (KEYS, aes("taken", "wrapped"), aes("free", "wrapped")),
        (
            KEYS,
            merged(&aes("x", "hsm"), json!({"usages": ["derive"]})),
            aes("x", "hsm"),
        ),
        (KEYS, json!({"name": "y", "hsm_key_id": "hsm:00ff"}), aes("y", "hsm")),
        (
            HSM_KEYS,
            json!({"key_type": "EC", "curve": "P-999", "key_label": "e"}),
            json!({"key_type": "EC", "curve": "P-256", "key_label": "e"}),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let idempotency_key = format!("again-{number}");
        for _ in 0..2 {
            let refused = once(&caller, path, &idempotency_key, &wrong);
            assert!(matches!(refused.status, 400 | 404 | 409), "{}", refused.text());
        }
        let made = once(&caller, path, &idempotency_key, &right);
        made.good(201);
        same(&made, &once(&caller, path, &idempotency_key, &right));
    }
}

#[test]
fn keys_of_calls_have_limits() {
    let server = Server::softhsm();
    let caller = server.all();
    let body = aes("a", "wrapped");
    let too_long = "x".repeat(256);
    for wrong in ["", "a b", "ä", too_long.as_str()] {
        once(&caller, KEYS, wrong, &body).problem_naming(400, "invalid_request", "Idempotency-Key");
    }
    let twice = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "a"),
        ("Idempotency-Key", "b"),
    ];
    let reply = caller.raw("POST", KEYS, &twice, body.to_string().as_bytes());
    reply.problem_naming(400, "invalid_request", "Idempotency-Key");
    once(&caller, KEYS, &"x".repeat(255), &body).good(201);
}

#[test]
fn calls_that_meet_are_done_once() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(&caller, &aes(&name, protection));
        let path = at(&format!("{name}/rotate"));
        let replies: Vec<Reply> = thread::scope(|scope| {
            let calls: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| once(&caller, &path, "one", &Value::Null)))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let good: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert!(!good.is_empty(), "{replies:?}");
        good.iter().for_each(|reply| same(good[0], reply));
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            reply.problem_naming(409, "conflict", "Idempotency-Key");
        }
        assert_eq!(version_states(&key(&caller, &name)).len(), 2);
    }
}
