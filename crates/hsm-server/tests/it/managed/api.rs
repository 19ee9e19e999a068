//! Making and changing keys: the shape of every answer.

use serde_json::{Value, json};

use super::{KEYS, aes, at, call, change, digits, has_members, is_time, is_valid, key, made, opens, sealed, signed};
use crate::support::{Caller, Server, base64, merged, text};

const MEMBERS: [&str; 16] = [
    "key_id",
    "protection",
    "key_type",
    "usages",
    "token",
    "state",
    "destroy_at",
    "primary_version",
    "versions",
    "tags",
    "rotation_period_days",
    "rotate_after_operations",
    "next_rotation_at",
    "operations",
    "last_used_at",
    "created_at",
];

/// That a fresh key is answered as the contract has it.
#[track_caller]
fn is_fresh(key: &Value, asked: &Value) {
    let size = ["key_size", "curve", "parameter_set"];
    let sized = size.iter().find(|name| key.get(**name).is_some()).unwrap();
    has_members(key, &[&MEMBERS[..], &[sized]].concat());
    assert_eq!(key["key_id"], asked["name"]);
    for name in ["protection", "key_type", "key_size", "curve", "parameter_set"] {
        if let Some(value) = asked.get(name) {
            assert_eq!(&key[name], value, "{name}");
        }
    }
    let expected = json!({
        "state": "enabled", "primary_version": 1, "tags": {}, "rotation_period_days": null, "next_rotation_at": null,
        "rotate_after_operations": null, "operations": 0, "last_used_at": null, "destroy_at": null, "token": null,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&key[name], value, "{name}");
    }
    is_time(&key["created_at"]);
    assert!(!key["usages"].as_array().unwrap().is_empty());
    let [version] = key["versions"].as_array().unwrap().as_slice() else {
        panic!("one version: {key}");
    };
    let pair = ["RSA", "EC", "ED", "ML-DSA", "ML-KEM", "SLH-DSA"].contains(&text(&key["key_type"]));
    let public: &[&str] = if pair {
        &["public_key_pem", "public_key_jwk"]
    } else {
        &[]
    };
    has_members(
        version,
        &[&["version", "state", "hsm_key_id", "created_at"][..], public].concat(),
    );
    assert_eq!((&version["version"], &version["state"]), (&json!(1), &json!("enabled")));
    is_time(&version["created_at"]);
    match text(&key["protection"]) {
        "hsm" => assert_eq!(digits(text(&version["hsm_key_id"])).len(), 16),
        _ => assert_eq!(version["hsm_key_id"], Value::Null),
    }
}

/// A smallest key of every type that the token says it can make.
fn possible(caller: &Caller) -> Vec<Value> {
    let told = caller.get("/api/v1/hsm/capabilities").good(200);
    let types = told["tokens"][0]["key_types"].as_array().unwrap();
    let mut bodies = Vec::new();
    for one in types.iter().filter(|one| one["support"] != "no") {
        for size in one["sizes"].as_array().unwrap() {
            let field = match (text(&one["key_type"]), size) {
                (_, Value::Number(_)) => "key_size",
                ("EC" | "ED", _) => "curve",
                _ => "parameter_set",
            };
            // The larger ones take long and show nothing more.
            if one["key_type"] == "RSA" && size != 2048 || one["key_type"] == "SLH-DSA" && size != "SLH-DSA-SHA2-128f" {
                continue;
            }
            bodies.push(json!({"key_type": one["key_type"], field: size}));
        }
    }
    assert!(bodies.len() > 5, "{told}");
    bodies
}

fn every_type_can_be_made_with_either_protection(server: &Server, not_wrapped: &[&str]) {
    let caller = server.all();
    for (number, body) in possible(&caller).iter().enumerate() {
        for protection in ["hsm", "wrapped"] {
            let name = format!("{protection}-{number}");
            let body = merged(body, json!({"name": name, "protection": protection}));
            let reply = caller.post(KEYS, &body);
            if protection == "wrapped" && not_wrapped.contains(&text(&body["key_type"])) {
                reply.problem_naming(501, "mechanism_not_supported", "`hsm`");
                caller.get(&at(&name)).problem(404, "key_not_found");
                continue;
            }
            let fresh = reply.good(201);
            assert_eq!(reply.header("location"), Some(at(&name).as_str()));
            is_fresh(&fresh, &body);
            assert_eq!(key(&caller, &name), fresh);
            let usages = fresh["usages"].as_array().unwrap();
            if usages.contains(&json!("encrypt")) {
                let sealed = sealed(&caller, &name);
                assert_eq!((&sealed["key_id"], &sealed["key_version"]), (&json!(name), &json!(1)));
                opens(&caller, &sealed);
            }
            if usages.contains(&json!("sign")) {
                let signed = signed(&caller, &name);
                assert_eq!((&signed["key_id"], &signed["key_version"]), (&json!(name), &json!(1)));
                assert!(is_valid(&caller, &signed), "{signed}");
                let other = merged(&signed, json!({"data": base64(b"Hello World?")}));
                assert!(!is_valid(&caller, &other), "{other}");
            }
            let used = key(&caller, &name);
            if used["operations"] != 0 {
                is_time(&used["last_used_at"]);
            }
        }
    }
}

#[test]
fn every_type_of_softhsm_can_be_made_with_either_protection() {
    every_type_can_be_made_with_either_protection(&Server::softhsm(), &["ED"]);
}

#[test]
fn every_type_of_the_embedded_token_can_be_made_with_either_protection() {
    let post_quantum = ["ML-DSA", "ML-KEM", "SLH-DSA"];
    every_type_can_be_made_with_either_protection(&Server::embedded(), &post_quantum);
}

#[test]
fn what_is_left_out_has_the_value_that_the_contract_says() {
    let server = Server::softhsm();
    let caller = server.all();
    let plain = made(&caller, &json!({"name": "plain", "key_type": "AES", "key_size": 128}));
    assert_eq!(plain["protection"], "hsm");
    assert_eq!(plain["usages"], json!(["encrypt", "decrypt"]));
    let hmac = made(
        &caller,
        &json!({"name": "hmac", "key_type": "HMAC", "protection": "wrapped"}),
    );
    assert_eq!(
        (&hmac["key_size"], &hmac["usages"]),
        (&json!(256), &json!(["sign", "verify"]))
    );
    let full = json!({
        "name": "full", "key_type": "AES", "key_size": 256, "protection": "wrapped", "usages": ["encrypt", "wrap"],
        "rotation_period_days": 30, "rotate_after_operations": 1000, "tags": {"team": "billing", "env": ""},
    });
    let key = made(&caller, &full);
    for name in [
        "key_size",
        "protection",
        "usages",
        "rotation_period_days",
        "rotate_after_operations",
        "tags",
    ] {
        assert_eq!(key[name], full[name], "{name}");
    }
    is_time(&key["next_rotation_at"]);
    assert!(text(&key["next_rotation_at"]) > text(&key["created_at"]));
    call(&caller, "decrypt", &sealed(&caller, "full")).problem(400, "usage_not_permitted");
}

#[test]
fn what_is_set_already_is_no_error() {
    let server = Server::softhsm();
    let caller = server.all();
    let fresh = made(&caller, &aes("a", "wrapped"));
    for same in [
        json!({}),
        json!({"state": "enabled"}),
        json!({"tags": {}}),
        json!({"primary_version": 1}),
        json!({"rotation_period_days": null}),
        json!({"rotate_after_operations": null}),
    ] {
        assert_eq!(change(&caller, "a", same), fresh);
    }
    let tags = json!({"team": "billing"});
    let changed = change(
        &caller,
        "a",
        json!({"tags": tags, "rotation_period_days": 7, "rotate_after_operations": 9}),
    );
    assert_eq!(changed["tags"], tags);
    assert_eq!(
        (&changed["rotation_period_days"], &changed["rotate_after_operations"]),
        (&json!(7), &json!(9))
    );
    is_time(&changed["next_rotation_at"]);
    assert_eq!(key(&caller, "a"), changed);
    let off = change(
        &caller,
        "a",
        json!({"rotation_period_days": null, "rotate_after_operations": null}),
    );
    assert_eq!((&off["tags"], &off["next_rotation_at"]), (&tags, &Value::Null));
    assert_eq!(change(&caller, "a", json!({"tags": {}}))["tags"], json!({}));
}
