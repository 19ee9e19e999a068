//! Every example of the original system's page, literally: its paths, fields and values.

use serde_json::{Value, json};

use crate::support::{Server, bytes, text};

on_both_tokens! {
    slots_are_listed,
    the_key_is_made_as_the_page_says,
    the_page_s_key_encrypts_hello_world,
}

fn slots_are_listed(server: &Server) {
    let answer = server.caller("slots:read").get("/api/v1/hsm/slots").good(200);
    let slots = answer["slots"].as_array().unwrap();
    let ours: Vec<&Value> = slots
        .iter()
        .filter(|slot| slot["token_label"] == server.token().label())
        .collect();
    assert_eq!(ours.len(), 1, "{answer}");
    for slot in slots {
        check_slot(slot);
    }
    let slot = ours[0];
    assert_eq!(slot["has_token"], true);
    assert_eq!(slot["initialized"], true);
    for name in [
        "description",
        "manufacturer",
        "token_model",
        "token_serial",
        "token_manufacturer",
        "firmware_version",
    ] {
        assert_eq!(
            text(&slot[name]).trim(),
            text(&slot[name]),
            "{name} is not trimmed: {slot}"
        );
    }
}

fn check_slot(slot: &Value) {
    assert!(slot["id"].is_u64(), "{slot}");
    for name in ["description", "manufacturer"] {
        assert!(slot[name].is_string(), "{name}: {slot}");
    }
    for name in ["has_token", "initialized"] {
        assert!(slot[name].is_boolean(), "{name}: {slot}");
    }
    let members = [
        "token_label",
        "token_model",
        "token_serial",
        "token_manufacturer",
        "firmware_version",
        "module",
    ];
    for name in members {
        let value = slot.get(name).unwrap_or_else(|| panic!("{name}: {slot}"));
        assert!(value.is_string() || value.is_null(), "{name}: {slot}");
    }
    assert_eq!(slot.as_object().unwrap().len(), 11, "{slot}");
}

#[test]
fn softhsm_s_slot_reads_as_on_the_page() {
    let server = Server::softhsm();
    let answer = server.all().get("/api/v1/hsm/slots").good(200);
    let slots = answer["slots"].as_array().unwrap();
    let with_token: Vec<&Value> = slots.iter().filter(|slot| slot["initialized"] == true).collect();
    assert!(text(&with_token[0]["description"]).starts_with("SoftHSM slot"));
    assert!(text(&with_token[0]["manufacturer"]).starts_with("SoftHSM"));
    assert_eq!(with_token[0]["token_model"], "SoftHSM v2");
    // SoftHSM always shows one slot more, with a token that is not initialised.
    let empty: Vec<&Value> = slots.iter().filter(|slot| slot["initialized"] == false).collect();
    assert_eq!(empty.len(), 1, "{answer}");
    assert_eq!(
        (&empty[0]["has_token"], &empty[0]["token_label"]),
        (&json!(true), &Value::Null)
    );
}

fn the_key_is_made_as_the_page_says(server: &Server) {
    let caller = server.all();
    let body = r#"{
  "key_type": "RSA",
  "key_size": 2048,
  "key_label": "my_hsm_key",
  "extractable": false
}"#;
    let reply = caller.post_text("/api/v1/hsm/keys", body);
    let key = reply.good(201);
    for (name, value) in [
        ("key_type", json!("RSA")),
        ("key_size", json!(2048)),
        ("key_label", json!("my_hsm_key")),
        ("algorithm", json!("RSA")),
        ("extractable", json!(false)),
        ("sensitive", json!(true)),
    ] {
        assert_eq!(key[name], value, "{name}");
    }
    let id = text(&key["key_id"]);
    let digits = id.strip_prefix("hsm:").unwrap();
    assert!(
        digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
        "{id}"
    );

    let list = caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(list, json!({"keys": [key], "next_cursor": null}));

    let data = "SGVsbG8gV29ybGQh";
    let signed = caller
        .post("/api/v1/hsm/sign", &json!({"data": data, "key_id": id}))
        .good(200);
    let mut check = signed.clone();
    check["data"] = data.into();
    assert_eq!(
        caller.post("/api/v1/hsm/verify", &check).good(200),
        json!({"valid": true})
    );

    caller.delete(&format!("/api/v1/hsm/keys/{id}")).good(204);
    caller
        .get(&format!("/api/v1/hsm/keys/{id}"))
        .problem(404, "key_not_found");
}

fn the_page_s_key_encrypts_hello_world(server: &Server) {
    // The page's own id: a key that another program has put there.
    server
        .token()
        .make_foreign_key("1234567890abcdef", "my_hsm_key", "AES:32");
    let caller = server.all();
    let body = r#"{
  "data": "SGVsbG8gV29ybGQh",
  "key_id": "hsm:1234567890abcdef",
  "algorithm": "AES-GCM"
}"#;
    let answer = caller.post_text("/api/v1/hsm/encrypt", body).good(200);
    assert_eq!(answer["algorithm"], "AES-GCM");
    assert_eq!(answer["key_id"], "hsm:1234567890abcdef");
    assert_eq!(bytes(&answer["ciphertext"]).len(), 12);
    assert_eq!(bytes(&answer["iv"]).len(), 12);
    assert_eq!(bytes(&answer["tag"]).len(), 16);
    assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");

    let opened = caller.post("/api/v1/hsm/decrypt", &answer).good(200);
    assert_eq!(opened, json!({"data": "SGVsbG8gV29ybGQh"}));

    caller.delete("/api/v1/hsm/keys/hsm:1234567890abcdef").good(204);
    assert!(server.token().attributes("1234567890abcdef").is_empty());
}

#[test]
fn the_token_inside_the_binary_does_the_page_too() {
    let server = Server::linked_embedded();
    let caller = server.all();
    let slots = caller.get("/api/v1/hsm/slots").good(200);
    slots["slots"].as_array().unwrap().iter().for_each(check_slot);
    the_key_is_made_as_the_page_says(&server);
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let body = json!({"data": "SGVsbG8gV29ybGQh", "key_id": key["key_id"], "algorithm": "AES-GCM"});
    let answer = caller.post("/api/v1/hsm/encrypt", &body).good(200);
    assert_eq!(
        caller.post("/api/v1/hsm/decrypt", &answer).good(200),
        json!({"data": "SGVsbG8gV29ybGQh"})
    );
}

#[test]
fn keys_outlive_the_server() {
    for builder in [Server::with(softhsm_test::Token::softhsm()), Server::linked()] {
        let server = builder.start();
        let key = server.all().key(json!({"key_type": "EC", "curve": "P-256"}));
        let server = server.end("TERM").start();
        let list = server.all().get("/api/v1/hsm/keys").good(200);
        assert_eq!(list["keys"], json!([key]));
    }
}
