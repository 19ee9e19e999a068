//! Lists of keys of every kind: what is in them, filters, pages.

use serde_json::{Value, json};

use super::{HSM_KEYS, KEYS, aes, at, change, destroy, ec, hsm_id, made, rotate};
use crate::support::{Caller, Server, merged, text};

#[track_caller]
fn ids(list: &Value) -> Vec<String> {
    let keys = list["keys"].as_array().unwrap();
    keys.iter().map(|key| text(&key["key_id"]).to_owned()).collect()
}

#[track_caller]
fn listed(caller: &Caller, query: &str) -> Vec<String> {
    let list = caller.get(&format!("{KEYS}?{query}")).good(200);
    super::has_members(&list, &["keys", "next_cursor"]);
    ids(&list)
}

/// Every page, one after the other.
#[track_caller]
fn paged(caller: &Caller, query: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = caller.get(&format!("{KEYS}?limit={limit}{query}{cursor}")).good(200);
        let found = ids(&page);
        assert!(found.len() <= limit);
        all.extend(found);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn keys_of_every_kind_are_listed_once() {
    let server = Server::softhsm();
    let caller = server.all();
    let plain = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "loose"}));
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let adopted = caller.key(json!({"key_type": "EC", "curve": "P-384"}));
    let tags = |tags: Value| json!({"tags": tags});
    let made = |body: Value, more: Value| made(&caller, &merged(&body, more));
    let a = made(aes("a", "hsm"), tags(json!({"team": "billing", "env": "test"})));
    made(aes("B", "wrapped"), tags(json!({"team": "billing", "url": "x:y/z ü"})));
    made(ec("c", "wrapped"), tags(json!({"team": "shop"})));
    made(json!({"name": "d", "hsm_key_id": adopted["key_id"]}), json!({}));
    made(aes("e", "wrapped"), tags(json!({"team": "shop"})));
    rotate(&caller, "a");
    let a = merged(&a, json!({}));
    change(&caller, "e", json!({"state": "disabled"}));
    made(aes("f", "hsm"), json!({}));
    caller.delete(&at("f")).good(202);
    made(aes("g", "wrapped"), json!({}));
    destroy(&caller, "g");

    let (plain, pair) = (text(&plain["key_id"]), text(&pair["key_id"]));
    let mut loose = [plain, pair];
    loose.sort_unstable();
    let all = [&["B", "a", "c", "d", "e", "f"][..], &loose].concat();
    assert_eq!(listed(&caller, ""), all);
    for limit in [1, 2, 5, 7, 8, 1000] {
        assert_eq!(paged(&caller, "", limit), all, "{limit}");
    }
    let none: [&str; 0] = [];
    for (query, expected) in [
        ("protection=wrapped", &["B", "c", "e"][..]),
        ("tag=team:billing", &["B", "a"]),
        ("tag=team:shop", &["c", "e"]),
        ("tag=team:", &none),
        ("tag=url:x:y/z%20%C3%BC", &["B"]),
        ("tag=team:shop&state=disabled", &["e"]),
        ("tag=team:shop&key_type=EC", &["c"]),
        ("state=disabled", &["e"]),
        ("state=scheduled_for_destruction", &["f"]),
        ("state=destroyed", &["g"]),
        ("key_type=RSA", &none),
        ("label=loose", &[plain]),
        ("label=a:1", &none),
    ] {
        assert_eq!(listed(&caller, query), expected, "{query}");
        assert_eq!(paged(&caller, &format!("&{query}"), 1), expected, "{query}");
    }
    assert_eq!(listed(&caller, "key_type=EC"), ["c", "d", pair]);
    assert_eq!(
        listed(&caller, "protection=hsm"),
        [&["a", "d", "f"][..], &loose].concat()
    );
    assert_eq!(
        listed(&caller, "state=enabled"),
        [&["B", "a", "c", "d"][..], &loose].concat()
    );

    let page = caller.get(&format!("{KEYS}?limit=1000")).good(200);
    for key in page["keys"].as_array().unwrap() {
        assert_eq!(&caller.get(&at(text(&key["key_id"]))).good(200), key);
    }
    let of_token = page["keys"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&of_token["state"], &of_token["protection"]),
        (&json!("enabled"), &json!("hsm"))
    );
    assert!(of_token["managed_by"].is_null());

    // The token's own list has the versions too, and says whose they are.
    let hsm = caller.get(&format!("{HSM_KEYS}?limit=1000")).good(200);
    let managed_by = |id: &str| {
        let mut keys = hsm["keys"].as_array().unwrap().iter();
        let key = keys
            .find(|key| key["key_id"] == id)
            .unwrap_or_else(|| panic!("{id}: {hsm}"));
        key["managed_by"].clone()
    };
    assert_eq!(managed_by(&hsm_id(&a, 1)), "a");
    assert_eq!(managed_by(text(&adopted["key_id"])), "d");
    assert_eq!((managed_by(plain), managed_by(pair)), (Value::Null, Value::Null));
    assert_eq!(hsm["keys"].as_array().unwrap().len(), 6);
}

#[test]
fn wrong_queries_are_refused_and_name_the_parameter() {
    let server = Server::softhsm();
    let caller = server.all();
    for number in 0..3 {
        made(&caller, &aes(&format!("a{number}"), "wrapped"));
    }
    for (name, value) in [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "x"),
        ("cursor", "x"),
        ("cursor", "a1"),
        ("cursor", ""),
        ("key_type", "DES"),
        ("tag", "team"),
        ("tag", ":x"),
        ("tag", ""),
        ("state", "gone"),
        ("state", ""),
        ("protection", "paper"),
        ("name", "a"),
    ] {
        let path = format!("{KEYS}?{name}={value}");
        caller.get(&path).problem_naming(400, "invalid_request", name);
    }
    let page = caller.get(&format!("{KEYS}?limit=1")).good(200);
    let cursor = text(&page["next_cursor"]);
    caller
        .get(&format!("{HSM_KEYS}?cursor={cursor}"))
        .problem_naming(400, "invalid_request", "cursor");
    caller
        .get(&format!("{KEYS}?cursor={cursor}x"))
        .problem(400, "invalid_request");
    assert_eq!(listed(&caller, &format!("cursor={cursor}")), ["a1", "a2"]);
}

#[test]
fn a_page_goes_on_though_its_last_key_is_gone() {
    let server = Server::softhsm();
    let caller = server.all();
    for number in 0..4 {
        made(&caller, &aes(&format!("a{number}"), "wrapped"));
    }
    let page = caller.get(&format!("{KEYS}?limit=2")).good(200);
    destroy(&caller, "a1");
    made(&caller, &aes("a00", "wrapped"));
    let cursor = text(&page["next_cursor"]);
    assert_eq!(listed(&caller, &format!("limit=2&cursor={cursor}")), ["a2", "a3"]);
}
