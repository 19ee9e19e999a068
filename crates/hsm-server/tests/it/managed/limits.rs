//! Names, fields, queries, paths and scopes: what is refused, and that the answer names it.

use serde_json::{Value, json};

use super::{HSM_KEYS, KEYS, MESSAGE, aes, at, bare, call, change, ec, key, made, opens, patch, sealed, signed};
use crate::support::{ABSENT, Caller, Server, base64, merged, text};

#[test]
fn names_have_limits() {
    let server = Server::softhsm();
    let caller = server.all();
    let longest = "x".repeat(64);
    for name in ["a", "-", "_.", "A-z_0.9", "hsm", "import", longest.as_str()] {
        let fresh = made(&caller, &aes(name, "wrapped"));
        assert_eq!(fresh["key_id"], name);
        assert_eq!(key(&caller, name), fresh);
        opens(&caller, &sealed(&caller, name));
    }
    let too_long = "x".repeat(65);
    for name in [
        "",
        ".",
        ".a",
        "a b",
        "a/b",
        "a:b",
        "ä",
        "a\u{0}",
        "hsm:00ff",
        too_long.as_str(),
    ] {
        caller.post(KEYS, &aes(name, "hsm")).problem(400, "invalid_key_id");
    }
    for path in [".a", "a%20b", "%C3%A4", too_long.as_str()] {
        caller.get(&at(path)).problem(400, "invalid_key_id");
        caller.delete(&at(path)).problem(400, "invalid_key_id");
    }
    for id in ["", ".a", "a b"] {
        let body = json!({"key_id": id, "data": ""});
        call(&caller, "encrypt", &body).problem(400, "invalid_key_id");
    }
    let managed = json!({"key_id": "a", "data": base64(MESSAGE)});
    caller.hsm("encrypt", &managed).problem(400, "invalid_key_id");
    caller.get(&format!("{HSM_KEYS}/a")).problem(400, "invalid_key_id");
    call(&caller, "encrypt", &json!({"key_id": "nobody", "data": ""})).problem(404, "key_not_found");
    caller.get(&at("nobody")).problem(404, "key_not_found");
    caller.delete(&at("nobody")).problem(404, "key_not_found");
    for rest in ["rotate", "restore"] {
        bare(&caller, &at(&format!("nobody/{rest}"))).problem(404, "key_not_found");
        bare(&caller, &at(&format!("hsm:00ff/{rest}"))).problem(400, "invalid_key_id");
    }
    patch(&caller, &at("nobody"), &json!({})).problem(404, "key_not_found");
    patch(&caller, &at("hsm:00ff"), &json!({})).problem(400, "invalid_key_id");
}

#[test]
fn fields_have_limits_and_what_breaks_them_is_named() {
    let server = Server::softhsm();
    let caller = server.all();
    let most: serde_json::Map<String, Value> = (0..50).map(|n| (format!("tag {n}"), "x".into())).collect();
    let wide = json!({"n".repeat(128): "v".repeat(256), "ä": "ö:"});
    let fits = [
        json!({"tags": most}),
        json!({"tags": wide}),
        json!({"rotation_period_days": 1}),
        json!({"rotation_period_days": 3650}),
        json!({"rotate_after_operations": 1}),
        json!({"rotate_after_operations": 4_294_967_296_u64}),
    ];
    for (number, more) in fits.iter().enumerate() {
        let name = format!("fits-{number}");
        let key = made(&caller, &merged(&aes(&name, "wrapped"), more.clone()));
        for (field, value) in more.as_object().unwrap() {
            assert_eq!(&key[field], value);
        }
        assert_eq!(change(&caller, &name, more.clone()), key);
    }
    let mut too_many = most.clone();
    too_many.insert("one more".into(), "x".into());
    for (field, value) in [
        ("tags", json!(too_many)),
        ("tags", json!({"n".repeat(129): ""})),
        ("tags", json!({"": ""})),
        ("tags", json!({"n": "v".repeat(257)})),
        ("tags", json!({"a:b": ""})),
        ("tags", json!({"a\n": ""})),
        ("tags", json!({"a": "\u{7f}"})),
        ("tags", json!({"a": 1})),
        ("tags", json!([])),
        ("rotation_period_days", json!(0)),
        ("rotation_period_days", json!(3651)),
        ("rotation_period_days", json!(-1)),
        ("rotation_period_days", json!(1.5)),
        ("rotation_period_days", json!("1")),
        ("rotate_after_operations", json!(0)),
        ("rotate_after_operations", json!(4_294_967_297_u64)),
    ] {
        let more = json!({field: value});
        let body = merged(&aes("wrong", "wrapped"), more.clone());
        caller.post(KEYS, &body).problem_naming(400, "invalid_request", field);
        patch(&caller, &at("fits-0"), &more).problem_naming(400, "invalid_request", field);
    }
    let twice = r#"{"name":"wrong","key_type":"AES","key_size":256,"tags":{"a":"1","a":"2"}}"#;
    caller
        .post_text(KEYS, twice)
        .problem_naming(400, "invalid_request", "tags");
    for (field, value) in [
        ("name", json!(ABSENT)),
        ("name", json!(7)),
        ("key_type", json!(ABSENT)),
        ("key_type", json!("DES")),
        ("key_size", json!(ABSENT)),
        ("key_size", json!(255)),
        ("protection", json!("paper")),
        ("usages", json!([])),
        ("usages", json!(["encrypt", "encrypt"])),
        ("usages", json!(["derive"])),
        ("label", json!("unknown field")),
        ("extractable", json!(true)),
    ] {
        let body = merged(&aes("wrong", "wrapped"), json!({field: value}));
        caller.post(KEYS, &body).problem_naming(400, "invalid_request", field);
    }
    for (field, value) in [
        ("state", json!("destroyed")),
        ("state", json!("scheduled_for_destruction")),
        ("primary_version", json!(0)),
        ("primary_version", json!(2)),
        ("name", json!("other")),
        ("usages", json!(["encrypt"])),
    ] {
        patch(&caller, &at("fits-0"), &json!({field: value})).problem_naming(400, "invalid_request", field);
    }
    for days in ["31", "-1", "x", ""] {
        let path = at(&format!("fits-0?window_days={days}"));
        caller
            .delete(&path)
            .problem_naming(400, "invalid_request", "window_days");
    }
    caller.delete(&at("fits-0?window=0")).problem(400, "invalid_request");
    caller.get(&at("fits-0?x=1")).problem(400, "invalid_request");
    assert_eq!(key(&caller, "fits-0")["state"], "enabled");
    caller.get(&at("wrong")).problem(404, "key_not_found");
}

#[test]
fn the_paths_are_those_of_the_contract() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "wrapped"));
    for path in ["a/versions", "a/other", "a/versions/1/x", "a/rotate/x"] {
        caller.get(&at(path)).problem(404, "not_found");
    }
    for (method, path, allowed) in [
        ("PUT", "a", "PATCH"),
        ("GET", "a/rotate", "POST"),
        ("GET", "a/versions/1", "PATCH"),
        ("POST", "a/jwks", "GET"),
    ] {
        let reply = caller.raw(method, &at(path), &[], b"");
        reply.problem(405, "method_not_allowed");
        assert!(reply.header("allow").unwrap().contains(allowed), "{method} {path}");
    }
    for version in ["x", "0", "-1", "99999999999"] {
        let path = at(&format!("a/versions/{version}"));
        let reply = patch(&caller, &path, &json!({"state": "enabled"}));
        assert!(matches!(reply.status, 400 | 404), "{version}: {}", reply.text());
    }
    patch(&caller, &at("a/versions/2"), &json!({"state": "enabled"})).problem_naming(404, "key_not_found", "2");
    for body in [
        json!({}),
        json!({"state": "destroyed"}),
        json!({"state": "enabled", "x": 1}),
    ] {
        patch(&caller, &at("a/versions/1"), &body).problem(400, "invalid_request");
    }
    caller
        .post(&at("a/rotate"), &json!({"x": 1}))
        .problem(400, "invalid_request");
}

#[test]
fn each_call_asks_for_its_scopes() {
    let server = Server::softhsm();
    let all = server.all();
    made(&all, &aes("a", "wrapped"));
    made(&all, &ec("e", "wrapped"));
    let data = json!({"key_id": "a", "data": base64(MESSAGE)});
    let first = sealed(&all, "a");
    let proof = signed(&all, "e");
    let state = json!({"state": "enabled"});
    let calls = [
        ("GET", at("a"), json!(null), "keys:read"),
        ("GET", KEYS.to_owned(), json!(null), "keys:read"),
        ("GET", at("e/jwks"), json!(null), "keys:read"),
        ("POST", KEYS.to_owned(), aes("b", "wrapped"), "keys:create"),
        ("PATCH", at("a"), state.clone(), "keys:update"),
        ("PATCH", at("a/versions/1"), state, "keys:update"),
        ("POST", at("a/rotate"), json!(null), "keys:update"),
        ("POST", "/api/v1/encrypt".into(), data, "crypto:encrypt"),
        ("POST", "/api/v1/decrypt".into(), first.clone(), "crypto:decrypt"),
        (
            "POST",
            "/api/v1/datakeys".into(),
            json!({"key_id": "a"}),
            "crypto:encrypt",
        ),
        (
            "POST",
            "/api/v1/sign".into(),
            json!({"key_id": "e", "data": ""}),
            "crypto:sign",
        ),
        ("POST", "/api/v1/verify".into(), proof, "crypto:verify"),
        ("POST", at("e/csr"), json!({"subject": "CN=a"}), "crypto:sign"),
        ("DELETE", at("a"), json!(null), "keys:delete"),
        ("POST", at("a/restore"), json!(null), "keys:update"),
    ];
    let scopes = [
        "keys:read",
        "keys:create",
        "keys:update",
        "keys:delete",
        "crypto:encrypt",
        "crypto:decrypt",
        "crypto:sign",
        "crypto:verify",
        "crypto:wrap",
    ];
    let sent = |caller: &Caller, method: &str, path: &str, body: &Value| {
        let headers = [("Content-Type", "application/json")];
        match body {
            Value::Null => caller.raw(method, path, &[], b""),
            body => caller.raw(method, path, &headers, body.to_string().as_bytes()),
        }
    };
    for (method, path, body, scope) in calls {
        sent(&server.anonymous(), method, &path, &body).problem(401, "unauthenticated");
        let others: Vec<_> = scopes.iter().copied().filter(|other| *other != scope).collect();
        let refused = sent(&server.caller(&others.join(" ")), method, &path, &body);
        refused.problem_naming(403, "forbidden", scope);
        assert!(refused.header("www-authenticate").unwrap().contains(scope));
        let reply = sent(&server.caller(scope), method, &path, &body);
        assert!(matches!(reply.status, 200..=202), "{method} {path}: {}", reply.text());
    }
    let wrap = json!({"key_id": "a", "target_key_id": "hsm:00ff"});
    call(&server.caller("crypto:encrypt"), "wrap", &wrap).problem_naming(403, "forbidden", "crypto:wrap");
    for (has, lacks) in [
        ("crypto:encrypt", "crypto:decrypt"),
        ("crypto:decrypt", "crypto:encrypt"),
    ] {
        call(&server.caller(has), "rewrap", &first).problem_naming(403, "forbidden", lacks);
        let batch = json!({"operations": [merged(&first, json!({"operation": "rewrap"}))]});
        let answer = call(&server.caller(has), "batch", &batch).good(200);
        assert_eq!(answer["results"][0]["code"], "forbidden", "{answer}");
        assert!(text(&answer["results"][0]["detail"]).contains(lacks));
    }
    call(&server.caller("crypto:encrypt crypto:decrypt"), "rewrap", &first).good(200);
}
