//! Wrapped keys: nothing of them stays on the token, more of them than are loaded at once, and what does not need them goes
//! on after a restart.

use serde_json::{Value, json};

use super::{aes, is_valid, made, opens, rotate, sealed, signed};
use crate::support::{Server, merged};

fn using_wrapped_keys_leaves_nothing_on_the_token(server: &Server) {
    let caller = server.all();
    made(&caller, &aes("first", "wrapped"));
    let objects = server.token().objects().len();
    for (number, body) in [
        json!({"key_type": "AES", "key_size": 128}),
        json!({"key_type": "HMAC", "key_size": 512}),
        json!({"key_type": "EC", "curve": "P-384"}),
        json!({"key_type": "RSA", "key_size": 2048}),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("w{number}");
        let key = made(&caller, &merged(body, json!({"name": name, "protection": "wrapped"})));
        rotate(&caller, &name);
        if key["usages"].as_array().unwrap().contains(&json!("sign")) {
            assert!(is_valid(&caller, &signed(&caller, &name)));
        } else {
            opens(&caller, &sealed(&caller, &name));
        }
    }
    assert_eq!(server.token().objects().len(), objects);
    let labels: Vec<_> = server
        .token()
        .objects()
        .into_iter()
        .map(|object| object.label)
        .collect();
    assert!(
        labels.iter().all(|label| label.starts_with("hsm-gateway:")),
        "{labels:?}"
    );
}

on_both_tokens!(using_wrapped_keys_leaves_nothing_on_the_token);

#[test]
fn wrapped_keys_are_there_after_a_restart() {
    for server in [Server::softhsm(), Server::linked_embedded()] {
        let caller = server.all();
        let names: Vec<String> = (0..5).map(|number| format!("w{number}")).collect();
        for name in &names {
            made(&caller, &aes(name, "wrapped"));
        }
        let before: Vec<Value> = names.iter().map(|name| sealed(&caller, name)).collect();
        rotate(&caller, "w0");
        let shown: Vec<Value> = names.iter().map(|name| super::key(&caller, name)).collect();
        let server = server.end("KILL").start();
        let caller = server.all();
        for ((name, ciphertext), shown) in names.iter().zip(&before).zip(shown) {
            let now = super::key(&caller, name);
            for field in ["versions", "state", "primary_version", "created_at", "tags"] {
                assert_eq!(now[field], shown[field], "{field}");
            }
            opens(&caller, ciphertext);
        }
        assert_eq!(sealed(&caller, "w0")["key_version"], 2);
    }
}

#[test]
fn a_key_is_wrapped_for_itself_alone() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("one", "wrapped"));
    made(&caller, &aes("two", "wrapped"));
    let ciphertext = sealed(&caller, "one");
    let crossed = merged(&ciphertext, json!({"key_id": "two"}));
    super::call(&caller, "decrypt", &crossed).problem(400, "decryption_failed");
    opens(&caller, &ciphertext);
}
