//! Types, sizes, usages, and what the token itself says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use softhsm_test::Class;

use super::{KEYS, hex, path};
use crate::support::{Caller, Server, merged, text};

on_both_tokens! {
    every_type_and_size,
    usages_are_those_asked_for,
    the_token_itself_says_the_same,
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

#[test]
fn what_the_token_lacks_is_501() {
    let server = Server::softhsm();
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
        let mechanism = format!("CKM_{}_KEY_PAIR_GEN", key_type.replace('-', "_"));
        reply.problem_naming(501, "mechanism_not_supported", &mechanism);
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
        eprintln!("{body}");
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
