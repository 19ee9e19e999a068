//! Labels, ids and URIs.

use std::thread::{self};

use serde_json::{Value, json};

use super::{KEYS, hex, path};
use crate::support::{Server, text};

on_both_tokens! {
    labels_are_unique,
    two_objects_of_one_id_are_ambiguous,
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
