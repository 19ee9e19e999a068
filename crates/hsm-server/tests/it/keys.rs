//! Keys on the token: made, found, listed, deleted, and what the token itself says of them.

use std::collections::BTreeSet;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use softhsm_test::{Class, Token};

use crate::support::{Caller, Server, base64, merged, text};

const KEYS: &str = "/api/v1/hsm/keys";

on_both_tokens! {
    every_type_and_size,
    what_the_token_lacks_is_501,
    usages_are_those_asked_for,
    the_token_itself_says_the_same,
    labels_are_unique,
    deletion_takes_both_halves,
    keys_of_other_programs_are_used_at_once,
    half_a_pair_does_what_it_can,
    two_objects_of_one_id_are_ambiguous,
}

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", text(&key["key_id"]))
}

/// The CKA_ID of a key, in hex.
fn hex(key: &Value) -> &str {
    text(&key["key_id"]).strip_prefix("hsm:").unwrap()
}

/// What is made with `body`, and that the same is told again by id and in the list.
#[track_caller]
fn made(caller: &Caller, body: Value) -> Value {
    let reply = caller.create(body.clone());
    let key = reply.good(201);
    assert_eq!(reply.header("location"), Some(path(&key).as_str()));
    assert_eq!(key["algorithm"], key["key_type"]);
    for (name, value) in body.as_object().unwrap() {
        if key.get(name).is_some() {
            assert_eq!(&key[name], value, "{key}");
        }
    }
    assert_eq!(caller.get(&path(&key)).good(200), key);
    let list = caller
        .get(&format!("{KEYS}?label={}", text(&key["key_label"]).replace(' ', "%20")))
        .good(200);
    assert_eq!(list, json!({"keys": [key], "next_cursor": null}));
    key
}

/// The answer has this member and not the other ways to tell a size.
#[track_caller]
fn sized(key: &Value, name: &str, value: Value) {
    assert_eq!(key[name], value, "{key}");
    for other in ["key_size", "curve", "parameter_set"] {
        assert_eq!(key.get(other).is_some(), other == name, "{other}: {key}");
    }
}

#[track_caller]
fn is_pair(key: &Value, kty: &str, crv: Option<&str>) {
    let pem = text(&key["public_key_pem"]);
    assert!(
        pem.starts_with("-----BEGIN PUBLIC KEY-----\n") && pem.trim_end().ends_with("-----END PUBLIC KEY-----"),
        "{pem}"
    );
    let jwk = &key["public_key_jwk"];
    assert_eq!((&jwk["kty"], jwk["crv"].as_str()), (&json!(kty), crv), "{jwk}");
    for private in ["d", "p", "q", "k"] {
        assert!(jwk.get(private).is_none(), "{jwk}");
    }
}

#[track_caller]
fn is_secret(key: &Value) {
    assert!(
        key.get("public_key_pem").is_none() && key.get("public_key_jwk").is_none(),
        "{key}"
    );
}

fn every_type_and_size(server: &Server) {
    let caller = server.all();
    let rsa = made(&caller, json!({"key_type": "RSA", "key_size": 2048}));
    sized(&rsa, "key_size", json!(2048));
    is_pair(&rsa, "RSA", None);
    assert_eq!(rsa["usages"], json!(["encrypt", "decrypt", "sign", "verify"]));
    for bits in [128, 192, 256] {
        let key = made(&caller, json!({"key_type": "AES", "key_size": bits}));
        sized(&key, "key_size", json!(bits));
        is_secret(&key);
        assert_eq!(key["usages"], json!(["encrypt", "decrypt"]));
    }
    for (curve, bits) in [("P-256", 256), ("P-384", 384), ("P-521", 521)] {
        for size in [json!({"curve": curve}), json!({"key_size": bits})] {
            let reply = caller.create(merged(&json!({"key_type": "EC"}), size));
            let key = reply.good(201);
            sized(&key, "curve", json!(curve));
            is_pair(&key, "EC", Some(curve));
            assert_eq!(key["usages"], json!(["sign", "verify"]));
        }
    }
    let ed = made(&caller, json!({"key_type": "ED", "curve": "Ed25519"}));
    sized(&ed, "curve", json!("Ed25519"));
    is_pair(&ed, "OKP", Some("Ed25519"));
    assert_eq!(ed["usages"], json!(["sign", "verify"]));
    for bits in [256, 264, 384, 504, 512] {
        let key = made(&caller, json!({"key_type": "HMAC", "key_size": bits}));
        sized(&key, "key_size", json!(bits));
        is_secret(&key);
        assert_eq!(key["usages"], json!(["sign", "verify"]));
    }
    sized(&made(&caller, json!({"key_type": "HMAC"})), "key_size", json!(256));
}

#[test]
fn softhsm_makes_large_rsa_keys_and_secp256k1_and_ed448() {
    let server = Server::softhsm();
    let caller = server.all();
    for bits in [3072, 4096] {
        sized(
            &made(&caller, json!({"key_type": "RSA", "key_size": bits})),
            "key_size",
            json!(bits),
        );
    }
    for (key_type, curve, kty) in [("EC", "secp256k1", "EC"), ("ED", "Ed448", "OKP")] {
        let key = made(&caller, json!({"key_type": key_type, "curve": curve}));
        sized(&key, "curve", json!(curve));
        is_pair(&key, kty, Some(curve));
    }
}

#[test]
fn the_embedded_token_makes_ed448_and_not_secp256k1() {
    let server = Server::embedded();
    let caller = server.all();
    let key = made(&caller, json!({"key_type": "ED", "curve": "Ed448"}));
    is_pair(&key, "OKP", Some("Ed448"));
    caller
        .create(json!({"key_type": "EC", "curve": "secp256k1"}))
        .problem(501, "mechanism_not_supported");
    assert_eq!(server.token().objects().len(), 2);
}

fn what_the_token_lacks_is_501(server: &Server) {
    let caller = server.all();
    for (key_type, set) in [
        ("ML-DSA", "ML-DSA-44"),
        ("ML-DSA", "ML-DSA-65"),
        ("ML-DSA", "ML-DSA-87"),
        ("ML-KEM", "ML-KEM-512"),
        ("ML-KEM", "ML-KEM-768"),
        ("ML-KEM", "ML-KEM-1024"),
        ("SLH-DSA", "SLH-DSA-SHA2-128s"),
        ("SLH-DSA", "SLH-DSA-SHAKE-256f"),
    ] {
        let reply = caller.create(json!({"key_type": key_type, "parameter_set": set}));
        reply.problem_naming(501, "mechanism_not_supported", key_type);
    }
    assert!(server.token().objects().is_empty());
}

#[test]
fn impossible_types_and_sizes_are_named() {
    let server = Server::softhsm();
    let caller = server.all();
    for (field, body) in [
        ("key_type", json!({"key_type": "DES", "key_size": 168})),
        ("key_type", json!({"key_type": "rsa", "key_size": 2048})),
        ("key_type", json!({"key_type": "", "key_size": 2048})),
        ("key_type", json!({"key_size": 2048})),
        ("key_size", json!({"key_type": "RSA"})),
        ("key_size", json!({"key_type": "RSA", "key_size": 1024})),
        ("key_size", json!({"key_type": "RSA", "key_size": 2049})),
        ("key_size", json!({"key_type": "RSA", "key_size": 8192})),
        ("key_size", json!({"key_type": "RSA", "key_size": 0})),
        ("key_size", json!({"key_type": "RSA", "key_size": null})),
        ("key_size", json!({"key_type": "AES"})),
        ("key_size", json!({"key_type": "AES", "key_size": 32})),
        ("key_size", json!({"key_type": "AES", "key_size": 512})),
        ("key_size", json!({"key_type": "HMAC", "key_size": 248})),
        ("key_size", json!({"key_type": "HMAC", "key_size": 257})),
        ("key_size", json!({"key_type": "HMAC", "key_size": 520})),
        ("key_size", json!({"key_type": "EC", "key_size": 255})),
        ("curve", json!({"key_type": "EC"})),
        ("curve", json!({"key_type": "EC", "curve": "p256"})),
        ("curve", json!({"key_type": "EC", "curve": "Ed25519"})),
        ("curve", json!({"key_type": "ED", "curve": "P-256"})),
        ("curve", json!({"key_type": "ED"})),
        ("curve", json!({"key_type": "AES", "key_size": 256, "curve": "P-256"})),
        ("curve", json!({"key_type": "RSA", "key_size": 2048, "curve": "P-256"})),
        (
            "key_size",
            json!({"key_type": "ED", "curve": "Ed25519", "key_size": 256}),
        ),
        (
            "parameter_set",
            json!({"key_type": "AES", "key_size": 256, "parameter_set": "ML-DSA-44"}),
        ),
        ("parameter_set", json!({"key_type": "ML-DSA"})),
        (
            "parameter_set",
            json!({"key_type": "ML-DSA", "parameter_set": "ML-KEM-512"}),
        ),
        (
            "parameter_set",
            json!({"key_type": "SLH-DSA", "parameter_set": "SLH-DSA"}),
        ),
    ] {
        println!("{body}");
        caller.create(body).problem_naming(400, "invalid_request", field);
    }
    let contradiction = json!({"key_type": "EC", "curve": "P-384", "key_size": 256});
    caller.create(contradiction).problem(400, "invalid_request");
    assert!(server.token().objects().is_empty());
}

fn usages_are_those_asked_for(server: &Server) {
    let caller = server.all();
    let usages = |body: &Value, usages: Value| merged(body, json!({"usages": usages}));
    let (aes, ec) = (
        json!({"key_type": "AES", "key_size": 256}),
        json!({"key_type": "EC", "curve": "P-256"}),
    );
    let (hmac, ed) = (
        json!({"key_type": "HMAC"}),
        json!({"key_type": "ED", "curve": "Ed25519"}),
    );
    for (body, asked) in [
        (&aes, json!(["encrypt"])),
        (&aes, json!(["sign", "verify"])),
        (&aes, json!(["encrypt", "decrypt", "sign", "verify", "wrap", "unwrap"])),
        (&ec, json!(["sign"])),
        (&ec, json!(["derive"])),
        (&ec, json!(["sign", "verify", "derive"])),
        (&hmac, json!(["verify"])),
        (&hmac, json!(["sign", "verify", "derive"])),
        (&ed, json!(["sign"])),
    ] {
        let key = caller.key(usages(body, asked.clone()));
        let as_set = |value: &Value| {
            value
                .as_array()
                .unwrap()
                .iter()
                .map(|name| text(name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(as_set(&key["usages"]), as_set(&asked), "{key}");
        assert_eq!(caller.get(&path(&key)).good(200), key);
    }
    let before = server.token().objects().len();
    for (body, asked) in [
        (&aes, json!([])),
        (&aes, json!(["encrypt", "encrypt"])),
        (&aes, json!(["derive"])),
        (&aes, json!(["Encrypt"])),
        (&aes, json!(["fly"])),
        (&aes, json!("encrypt")),
        (&aes, json!([7])),
        (&ec, json!(["encrypt"])),
        (&ec, json!(["sign", "wrap"])),
        (&ed, json!(["derive"])),
        (&hmac, json!(["encrypt"])),
        (&json!({"key_type": "RSA", "key_size": 2048}), json!(["derive"])),
    ] {
        caller
            .create(usages(body, asked))
            .problem_naming(400, "invalid_request", "usages");
    }
    assert_eq!(server.token().objects().len(), before);
}

fn the_token_itself_says_the_same(server: &Server) {
    let caller = server.all();
    let yes = Some(true);
    for (body, extractable) in [
        (json!({"key_type": "AES", "key_size": 256}), false),
        (
            json!({"key_type": "AES", "key_size": 128, "extractable": true, "usages": ["sign", "wrap"]}),
            true,
        ),
        (json!({"key_type": "HMAC", "extractable": false}), false),
        (json!({"key_type": "HMAC", "key_size": 512, "extractable": true}), true),
        (json!({"key_type": "EC", "curve": "P-256"}), false),
        (json!({"key_type": "EC", "curve": "P-384", "extractable": true}), true),
        (json!({"key_type": "ED", "curve": "Ed25519"}), false),
        (
            json!({"key_type": "RSA", "key_size": 2048, "usages": ["sign", "verify"]}),
            false,
        ),
    ] {
        let key = caller.key(body);
        assert_eq!(
            (&key["extractable"], &key["sensitive"]),
            (&json!(extractable), &json!(true)),
            "{key}"
        );
        let objects = server.token().attributes(hex(&key));
        let has = |usage: &str| Some(key["usages"].as_array().unwrap().contains(&json!(usage)));
        let is_pair = matches!(text(&key["key_type"]), "RSA" | "EC" | "ED");
        assert_eq!(objects.len(), if is_pair { 2 } else { 1 }, "{objects:?}");
        for object in &objects {
            assert_eq!(object.token, yes, "{object:?}");
            assert_eq!(object.label, text(&key["key_label"]));
            assert_eq!(object.local, yes, "{object:?}");
        }
        let public = objects.iter().find(|object| object.class == Class::PublicKey);
        let secret = objects.iter().find(|object| object.class != Class::PublicKey).unwrap();
        assert_eq!((secret.private, secret.sensitive), (yes, yes), "{secret:?}");
        assert_eq!(secret.extractable, Some(extractable), "{secret:?}");
        assert_eq!(secret.always_sensitive, yes, "{secret:?}");
        assert_eq!(secret.never_extractable, Some(!extractable), "{secret:?}");
        assert_eq!(secret.value, None, "{secret:?}");
        assert_eq!(
            (secret.sign, secret.decrypt),
            (has("sign"), has("decrypt")),
            "{secret:?}"
        );
        assert_eq!(
            (secret.unwrap, secret.derive),
            (has("unwrap"), has("derive")),
            "{secret:?}"
        );
        let encrypting = public.unwrap_or(secret);
        assert_eq!(
            (encrypting.verify, encrypting.encrypt),
            (has("verify"), has("encrypt")),
            "{encrypting:?}"
        );
        assert_eq!(encrypting.wrap, has("wrap"), "{encrypting:?}");
    }
}

#[test]
fn pkcs11_uris_name_token_object_and_id() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 128, "key_label": "a;b=c/d é"}));
    let uri = text(&key["pkcs11_uri"]);
    let attributes: Vec<&str> = uri.strip_prefix("pkcs11:").unwrap().split(';').collect();
    assert!(attributes.contains(&"token=test%20token"), "{uri}");
    let id: Vec<String> = hex(&key)
        .as_bytes()
        .chunks(2)
        .map(|pair| format!("%{}", std::str::from_utf8(pair).unwrap()))
        .collect();
    let id = format!("id={}", id.concat());
    assert!(
        attributes.iter().any(|attribute| attribute.eq_ignore_ascii_case(&id)),
        "{uri}"
    );
    let object = attributes
        .iter()
        .find(|attribute| attribute.starts_with("object="))
        .unwrap();
    assert!(
        object.starts_with("object=a%3") && object.to_ascii_uppercase().ends_with("%C3%A9"),
        "{uri}"
    );
    // RFC 7512 tools find it by its URI.
    assert!(uri.is_ascii() && !uri.contains(' '), "{uri}");
}

fn labels_are_unique(server: &Server) {
    let caller = server.all();
    let aes = |label: &str| json!({"key_type": "AES", "key_size": 128, "key_label": label});
    let key = caller.key(aes("orders"));
    caller.create(aes("orders")).problem(409, "conflict");
    caller
        .create(json!({"key_type": "EC", "curve": "P-256", "key_label": "orders"}))
        .problem(409, "conflict");
    caller.create(aes("Orders")).good(201);
    caller.create(aes("orders ")).good(201);
    server.token().make_foreign_key("0b01", "made elsewhere", "AES:16");
    caller.create(aes("made elsewhere")).problem(409, "conflict");
    caller.delete(&path(&key)).good(204);
    caller.create(aes("orders")).good(201);
    assert_eq!(server.token().delete_foreign_key("0b01"), 1);
    caller.create(aes("made elsewhere")).good(201);
}

#[test]
fn labels_have_bounds() {
    let server = Server::softhsm();
    let caller = server.all();
    let aes = |label: Value| json!({"key_type": "AES", "key_size": 128, "key_label": label});
    for label in [
        "x".to_owned(),
        "x".repeat(255),
        "é".repeat(127),
        "🔑 für Ünïcode".to_owned(),
        " ".to_owned(),
        "a\"\\/b".to_owned(),
    ] {
        let key = caller.create(aes(json!(label))).good(201);
        assert_eq!(key["key_label"], label);
        assert_eq!(server.token().attributes(hex(&key))[0].label, label);
    }
    let before = server.token().objects().len();
    for label in [
        json!(""),
        json!("x".repeat(256)),
        json!("é".repeat(128)),
        json!("a\nb"),
        json!("a\u{0}b"),
        json!("\u{7f}"),
        json!("\u{85}"),
        json!("\u{1b}[31m"),
        json!(7),
        json!(null),
        json!(["x"]),
    ] {
        caller
            .create(aes(label))
            .problem_naming(400, "invalid_request", "key_label");
    }
    let missing = json!({"key_type": "AES", "key_size": 128});
    caller
        .post(KEYS, &missing)
        .problem_naming(400, "invalid_request", "key_label");
    assert_eq!(server.token().objects().len(), before);
}

#[test]
fn objects_without_an_id_are_not_there() {
    let server = Server::softhsm();
    let caller = server.all();
    let made = server
        .token()
        .pkcs11_tool(&["--keygen", "--key-type", "AES:16", "--label", "nameless"]);
    assert!(made.status.success());
    let objects = server.token().objects();
    assert_eq!((objects.len(), objects[0].id.as_str()), (1, ""), "{objects:?}");
    let key = caller.key(json!({"key_type": "AES", "key_size": 128, "key_label": "nameless"}));
    assert_eq!(caller.get(KEYS).good(200)["keys"], json!([key]));
}

#[test]
fn of_many_that_want_a_label_one_gets_it() {
    let server = Server::softhsm();
    let caller = server.all();
    let body = json!({"key_type": "EC", "curve": "P-256", "key_label": "wanted"});
    let statuses: Vec<u16> = thread::scope(|scope| {
        let askers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| caller.create(body.clone()).status))
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| matches!(status, 201 | 409)),
        "{statuses:?}"
    );
    assert_eq!(server.token().objects().len(), 2);
}

#[test]
fn ids_are_read_strictly() {
    let server = Server::softhsm();
    let caller = server.all();
    server.token().make_foreign_key("00abcdef", "foreign", "AES:32");
    server.token().make_foreign_key("0f", "short", "EC:prime256v1");
    let key = caller.get(&format!("{KEYS}/hsm:00abcdef")).good(200);
    assert_eq!(key["key_id"], "hsm:00abcdef");
    for same in ["hsm:00ABCDEF", "hsm:00AbCdEf", "hsm%3A00abcdef"] {
        assert_eq!(caller.get(&format!("{KEYS}/{same}")).good(200), key);
    }
    assert_eq!(caller.get(&format!("{KEYS}/hsm:0f")).good(200)["key_id"], "hsm:0f");
    let encrypted = caller
        .hsm("encrypt", &json!({"key_id": "hsm:00ABCDEF", "data": ""}))
        .good(200);
    assert_eq!(encrypted["key_id"], "hsm:00abcdef");

    let longest = format!("hsm:{}", "ab".repeat(255));
    let too_long = format!("hsm:{}", "ab".repeat(256));
    for absent in [
        "hsm:00abcde0",
        "hsm:abcdef",
        "hsm:00abcdef00",
        longest.as_str(),
        "hsm:other:00abcdef",
    ] {
        caller.get(&format!("{KEYS}/{absent}")).problem(404, "key_not_found");
        caller.delete(&format!("{KEYS}/{absent}")).problem(404, "key_not_found");
        caller
            .hsm("sign", &json!({"key_id": absent, "data": ""}))
            .problem(404, "key_not_found");
    }
    for wrong in [
        "hsm:",
        "hsm:abc",
        "hsm:xy",
        "hsm:0g",
        "hsm:%20%20",
        "orders",
        "00abcdef",
        "HSM:00abcdef",
        "hsm",
        "hsm:00abcde%C3%A9",
        &too_long,
    ] {
        caller.get(&format!("{KEYS}/{wrong}")).problem(400, "invalid_key_id");
        caller.delete(&format!("{KEYS}/{wrong}")).problem(400, "invalid_key_id");
    }
    for wrong in [
        "",
        "hsm:",
        "hsm:abc",
        "hsm:xy",
        "hsm: 00abcdef",
        "orders",
        "00abcdef",
        &too_long,
    ] {
        for operation in ["encrypt", "sign"] {
            caller
                .hsm(operation, &json!({"key_id": wrong, "data": ""}))
                .problem(400, "invalid_key_id");
        }
        let body = json!({"key_id": wrong, "ciphertext": "", "iv": "", "tag": ""});
        caller.hsm("decrypt", &body).problem(400, "invalid_key_id");
        caller
            .hsm("verify", &json!({"key_id": wrong, "data": "", "signature": ""}))
            .problem(400, "invalid_key_id");
    }
}

#[test]
fn lists_come_in_pages() {
    let server = Server::softhsm();
    let caller = server.all();
    let mut made = BTreeSet::new();
    for number in 0..7 {
        let body = match number % 3 {
            0 => json!({"key_type": "AES", "key_size": 128}),
            1 => json!({"key_type": "EC", "curve": "P-256"}),
            _ => json!({"key_type": "HMAC"}),
        };
        made.insert(text(&caller.key(body)["key_id"]).to_owned());
    }
    for limit in [1, 2, 3, 7, 8, 1000] {
        let pages = pages(&caller, &format!("limit={limit}"));
        assert_eq!(pages.len(), 7_usize.div_ceil(limit).max(1), "{limit}");
        assert!(pages.iter().all(|page| page.len() <= limit));
        let listed: Vec<String> = pages.concat();
        assert_eq!(listed.len(), 7);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), made, "{limit}");
    }
    assert_eq!(
        pages(&caller, "key_type=AES&limit=2")
            .iter()
            .map(Vec::len)
            .sum::<usize>(),
        3
    );
    assert_eq!(pages(&caller, "key_type=EC").concat().len(), 2);
    assert_eq!(pages(&caller, "key_type=RSA").concat().len(), 0);
    assert_eq!(pages(&caller, "label=no+such+label").concat().len(), 0);
    assert_eq!(
        caller.get(&format!("{KEYS}?key_type=RSA")).good(200),
        json!({"keys": [], "next_cursor": null})
    );

    for (field, query) in [
        ("limit", "limit=0"),
        ("limit", "limit=1001"),
        ("limit", "limit=-1"),
        ("limit", "limit=ten"),
        ("limit", "limit="),
        ("limit", "limit=1&limit=2"),
        ("cursor", "cursor=invented"),
        ("cursor", "cursor="),
        ("cursor", "cursor=AAAAAAAAAAAA"),
        ("cursor", "cursor=1"),
        ("key_type", "key_type=DES"),
        ("page", "page=2"),
        ("label", "label=%ff"),
    ] {
        caller
            .get(&format!("{KEYS}?{query}"))
            .problem_naming(400, "invalid_request", field);
    }
}

/// The ids of each page.
fn pages(caller: &Caller, query: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("{KEYS}?{query}{next}")).good(200);
        let ids = page["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| text(&key["key_id"]).to_owned());
        pages.push(ids.collect());
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return pages,
        }
        assert!(pages.len() < 100, "pages without end");
    }
}

#[test]
fn a_thousand_keys_are_listed() {
    let token = Token::softhsm();
    token.make_many_keys(1000);
    let server = Server::on(&token);
    let caller = server.all();
    assert_eq!(pages(&caller, "limit=1000")[0].len(), 1000);
    let by_default = pages(&caller, "key_type=AES");
    assert_eq!(by_default.iter().map(Vec::len).collect::<Vec<_>>(), [100; 10]);
    assert_eq!(by_default.concat().into_iter().collect::<BTreeSet<_>>().len(), 1000);
    let one = caller.get(&format!("{KEYS}?label=many%20617")).good(200);
    assert_eq!(one["keys"][0]["key_id"], "hsm:ff000269");
}

fn deletion_takes_both_halves(server: &Server) {
    let caller = server.all();
    for body in [
        json!({"key_type": "EC", "curve": "P-256"}),
        json!({"key_type": "ED", "curve": "Ed25519"}),
        json!({"key_type": "AES", "key_size": 256}),
    ] {
        let key = caller.key(body);
        let other = caller.key(json!({"key_type": "HMAC"}));
        caller.delete(&path(&key)).good(204);
        assert!(server.token().attributes(hex(&key)).is_empty());
        assert_eq!(server.token().attributes(hex(&other)).len(), 1);
        caller.get(&path(&key)).problem(404, "key_not_found");
        caller.delete(&path(&key)).problem(404, "key_not_found");
        caller
            .hsm("sign", &json!({"key_id": key["key_id"], "data": ""}))
            .problem(404, "key_not_found");
        assert_eq!(caller.get(KEYS).good(200)["keys"], json!([other]));
        caller.delete(&path(&other)).good(204);
    }
    server.token().make_foreign_key("0d01", "foreign", "EC:prime256v1");
    caller.delete(&format!("{KEYS}/hsm:0d01")).good(204);
    assert!(server.token().objects().is_empty());
}

fn keys_of_other_programs_are_used_at_once(server: &Server) {
    let caller = server.all();
    let token = server.token();
    caller.get(&format!("{KEYS}/hsm:0c01")).problem(404, "key_not_found");

    token.make_foreign_key("0c01", "foreign pair", "EC:prime256v1");
    let key = caller.get(&format!("{KEYS}/hsm:0c01")).good(200);
    assert_eq!(
        (&key["key_label"], &key["key_type"], &key["curve"]),
        (&json!("foreign pair"), &json!("EC"), &json!("P-256"))
    );
    assert!(key["usages"].as_array().unwrap().contains(&json!("sign")), "{key}");

    token.make_foreign_key("0c02", "foreign signer", "EC:prime256v1");
    let body = json!({"key_id": "hsm:0c02", "data": base64("hello")});
    let signed = caller.hsm("sign", &body).good(200);
    let check = merged(&signed, json!({"data": base64("hello")}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));

    token.make_foreign_key("0c03", "only listed", "AES:32");
    let wanted = json!("hsm:0c03");
    let started = Instant::now();
    while !caller.get(KEYS).good(200)["keys"]
        .as_array()
        .unwrap()
        .iter()
        .any(|key| key["key_id"] == wanted)
    {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "a foreign key is never listed"
        );
        sleep(Duration::from_millis(100));
    }

    assert_eq!(token.delete_foreign_key("0c02"), 2);
    caller.hsm("sign", &body).problem(404, "key_not_found");
    caller.get(&format!("{KEYS}/hsm:0c02")).problem(404, "key_not_found");
    assert_eq!(token.delete_foreign_key("0c01"), 2);
    caller.get(&format!("{KEYS}/hsm:0c01")).problem(404, "key_not_found");

    // One that takes the place of another under the same id is a key of its own.
    token.make_foreign_key("0c01", "another", "AES:16");
    let key = caller.get(&format!("{KEYS}/hsm:0c01")).good(200);
    assert_eq!(
        (&key["key_label"], &key["key_type"], &key["key_size"]),
        (&json!("another"), &json!("AES"), &json!(128))
    );
    caller
        .hsm("encrypt", &json!({"key_id": "hsm:0c01", "data": ""}))
        .good(200);
}

fn half_a_pair_does_what_it_can(server: &Server) {
    let caller = server.all();
    let token = server.token();
    let delete = |class: &str, id: &str| {
        let gone = token.pkcs11_tool(&["--delete-object", "--type", class, "--id", id]);
        assert!(gone.status.success(), "{gone:?}");
    };
    token.make_foreign_key_with("0e01", "signer", "EC:prime256v1", &["--usage-sign"]);
    let body = json!({"key_id": "hsm:0e01", "data": base64("hello")});
    let signed = caller.hsm("sign", &body).good(200);
    let check = merged(&signed, json!({"data": base64("hello")}));

    delete("privkey", "0e01");
    let lone = caller.get(&format!("{KEYS}/hsm:0e01")).good(200);
    check_usages(&lone, "verify", &["encrypt", "wrap"]);
    assert!(text(&lone["public_key_pem"]).contains("PUBLIC KEY"));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    caller.hsm("sign", &body).problem(400, "usage_not_permitted");

    token.make_foreign_key_with("0e02", "private alone", "EC:prime256v1", &["--usage-sign"]);
    delete("pubkey", "0e02");
    let lone = caller.get(&format!("{KEYS}/hsm:0e02")).good(200);
    check_usages(&lone, "sign", &["decrypt", "unwrap", "derive"]);
    caller.hsm("sign", &json!({"key_id": "hsm:0e02", "data": ""})).good(200);

    let ids: BTreeSet<String> = pages(&caller, "limit=1").concat().into_iter().collect();
    assert_eq!(ids, BTreeSet::from(["hsm:0e01".to_owned(), "hsm:0e02".to_owned()]));
    caller.delete(&format!("{KEYS}/hsm:0e01")).good(204);
    caller.delete(&format!("{KEYS}/hsm:0e02")).good(204);
    assert!(token.objects().is_empty());
}

/// It has this usage, and may have those, which a token gives to a key whose maker did not say.
#[track_caller]
fn check_usages(key: &Value, has: &str, may_have: &[&str]) {
    let usages: Vec<&str> = key["usages"].as_array().unwrap().iter().map(text).collect();
    assert!(usages.contains(&has), "{key}");
    assert!(
        usages.iter().all(|usage| *usage == has || may_have.contains(usage)),
        "{key}"
    );
}

fn two_objects_of_one_id_are_ambiguous(server: &Server) {
    let caller = server.all();
    let token = server.token();
    token.make_foreign_key("0a", "first", "AES:32");
    token.make_foreign_key("0a", "second", "EC:prime256v1");
    token.make_foreign_key("0b", "third", "AES:32");
    token.make_foreign_key("0b", "fourth", "AES:32");
    let before = token.objects().len();
    for id in ["hsm:0a", "hsm:0b"] {
        caller.get(&format!("{KEYS}/{id}")).problem(409, "ambiguous_key");
        caller.delete(&format!("{KEYS}/{id}")).problem(409, "ambiguous_key");
        caller
            .hsm("sign", &json!({"key_id": id, "data": ""}))
            .problem(409, "ambiguous_key");
        caller
            .hsm("encrypt", &json!({"key_id": id, "data": ""}))
            .problem(409, "ambiguous_key");
    }
    assert_eq!(token.objects().len(), before);
}
