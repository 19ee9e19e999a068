//! Data keys, ciphertexts brought under the primary version, keys wrapped by managed keys, and batches over keys of every
//! kind.

use serde_json::{Value, json};

use super::{
    MESSAGE, aes, call, ec, has_members, imported, is_valid, made, merged, opens, plaintext, rotate, sealed, signed,
};
use crate::support::{ABSENT, Server, base64, bytes, text};

const DATAKEY: [&str; 6] = ["key_id", "key_version", "algorithm", "ciphertext", "iv", "tag"];

#[test]
fn a_data_key_is_answered_in_clear_and_encrypted() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("hsm-kept", "hsm"));
    made(&caller, &aes("wrapped-kept", "wrapped"));
    let rsa = json!({"name": "rsa", "key_type": "RSA", "key_size": 2048, "usages": ["encrypt", "decrypt"]});
    made(&caller, &rsa);
    rotate(&caller, "wrapped-kept");
    let plain = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for (id, version) in [
        ("hsm-kept", json!(1)),
        ("wrapped-kept", json!(2)),
        ("rsa", json!(1)),
        (text(&plain["key_id"]), Value::Null),
    ] {
        for (bits, length) in [(None, 32), (Some(128), 16), (Some(192), 24), (Some(256), 32)] {
            let mut body = json!({"key_id": id});
            if let Some(bits) = bits {
                body["key_size"] = bits.into();
            }
            let datakey = call(&caller, "datakeys", &body).good(200);
            has_members(&datakey, &[&DATAKEY[..], &["plaintext"]].concat());
            assert_eq!((&datakey["key_id"], &datakey["key_version"]), (&json!(id), &version));
            let clear = plaintext(&datakey);
            assert_eq!(clear.len(), length);
            assert!(!seen.contains(&clear));
            let as_it_stands = merged(&datakey, json!({"plaintext": ABSENT}));
            let opened = call(&caller, "decrypt", &as_it_stands).good(200);
            assert_eq!(bytes(&opened["data"]), clear);
            seen.push(clear);

            let hidden = call(&caller, "datakeys", &merged(&body, json!({"plaintext": false}))).good(200);
            has_members(&hidden, &DATAKEY);
            let opened = call(&caller, "decrypt", &hidden).good(200);
            assert_eq!(bytes(&opened["data"]).len(), length);
        }
    }
    for (field, value) in [
        ("key_size", json!(127)),
        ("key_size", json!(512)),
        ("key_size", json!("256")),
        ("plaintext", json!("yes")),
        ("algorithm", json!("AES-GCM")),
    ] {
        let body = json!({"key_id": "hsm-kept", field: value});
        call(&caller, "datakeys", &body).problem_naming(400, "invalid_request", field);
    }
    call(&caller, "datakeys", &json!({})).problem_naming(400, "invalid_request", "key_id");
    made(&caller, &ec("signer", "wrapped"));
    call(&caller, "datakeys", &json!({"key_id": "signer"})).problem(400, "key_type_mismatch");
    made(
        &caller,
        &merged(&aes("wrapper", "wrapped"), json!({"usages": ["wrap"]})),
    );
    call(&caller, "datakeys", &json!({"key_id": "wrapper"})).problem(400, "usage_not_permitted");
    caller
        .post("/api/v1/hsm/datakeys", &json!({"key_id": "x"}))
        .problem(404, "not_found");
}

fn a_ciphertext_is_brought_under_the_primary_version(server: &Server) {
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(&caller, &aes(&name, protection));
        let aad = json!({"aad": base64(b"context")});
        let body = merged(&json!({"key_id": name, "data": base64(MESSAGE)}), aad.clone());
        let first = call(&caller, "encrypt", &body).good(200);
        rotate(&caller, &name);
        let old = merged(&first, aad.clone());
        let fresh = call(&caller, "rewrap", &old).good(200);
        has_members(&fresh, &DATAKEY);
        assert_eq!((&fresh["key_id"], &fresh["key_version"]), (&json!(name), &json!(2)));
        assert_ne!(fresh["ciphertext"], first["ciphertext"]);
        opens(&caller, &merged(&fresh, aad));
        call(&caller, "decrypt", &fresh).problem(400, "decryption_failed");
        call(&caller, "rewrap", &first).problem(400, "decryption_failed");
        let wrong = merged(&old, json!({"key_version": 2}));
        call(&caller, "rewrap", &wrong).problem(400, "decryption_failed");
        call(&caller, "rewrap", &merged(&old, json!({"key_version": 7}))).problem_naming(404, "key_not_found", "7");
        call(&caller, "rewrap", &merged(&old, json!({"data": ""}))).problem_naming(400, "invalid_request", "data");
    }
    let plain = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let first = sealed(&caller, text(&plain["key_id"]));
    let fresh = call(&caller, "rewrap", &first).good(200);
    assert_eq!(fresh["key_version"], Value::Null);
    assert_ne!(fresh["iv"], first["iv"]);
    opens(&caller, &fresh);
}

on_both_tokens!(
    a_ciphertext_is_brought_under_the_primary_version,
    a_managed_key_wraps_keys_of_the_token,
);

#[test]
fn rsa_ciphertexts_and_other_algorithms_are_rewrapped_with_what_they_had() {
    let server = Server::softhsm();
    let caller = server.all();
    let rsa = json!({"name": "rsa", "key_type": "RSA", "key_size": 2048, "protection": "wrapped"});
    made(&caller, &rsa);
    made(&caller, &aes("ctr", "wrapped"));
    for (name, algorithm) in [("rsa", Value::Null), ("ctr", json!("AES-CTR"))] {
        let mut body = json!({"key_id": name, "data": base64(MESSAGE)});
        if !algorithm.is_null() {
            body["algorithm"] = algorithm;
        }
        let first = call(&caller, "encrypt", &body).good(200);
        rotate(&caller, name);
        let fresh = call(&caller, "rewrap", &first).good(200);
        assert_eq!(
            (&fresh["key_version"], &fresh["algorithm"]),
            (&json!(2), &first["algorithm"])
        );
        opens(&caller, &fresh);
    }
}

#[test]
fn what_was_encrypted_can_be_sent_back_however_long_it_is() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "wrapped"));
    let empty = json!({"key_id": "a", "data": ""}).to_string();
    let data = base64(vec![7; (1024 * 1024 - empty.len()) / 4 * 3]);
    let body = json!({"key_id": "a", "data": data});
    let first = call(&caller, "encrypt", &body).good(200);
    assert!(first.to_string().len() > 1024 * 1024);
    rotate(&caller, "a");
    let fresh = call(&caller, "rewrap", &first).good(200);
    for ciphertext in [first, fresh] {
        assert_eq!(call(&caller, "decrypt", &ciphertext).good(200)["data"], data);
    }
    let longer = json!({"key_id": "a", "data": base64(vec![7; 1024 * 1024])});
    for operation in ["encrypt", "datakeys"] {
        call(&caller, operation, &longer).problem(413, "payload_too_large");
    }
}

fn a_managed_key_wraps_keys_of_the_token(server: &Server) {
    let caller = server.all();
    let material = [5; 32];
    let target = imported(&caller, "AES", &material, json!({"extractable": true}));
    let kept = imported(&caller, "AES", &[6; 32], json!({}));
    for protection in ["hsm", "wrapped"] {
        let name = format!("w-{protection}");
        made(
            &caller,
            &merged(&aes(&name, protection), json!({"usages": ["wrap", "unwrap"]})),
        );
        rotate(&caller, &name);
        let wrapped = call(&caller, "wrap", &json!({"key_id": name, "target_key_id": target})).good(200);
        has_members(&wrapped, &["wrapped_key", "key_id", "key_version", "algorithm"]);
        assert_eq!((&wrapped["key_id"], &wrapped["key_version"]), (&json!(name), &json!(2)));
        assert!(bytes(&wrapped["wrapped_key"]).len() > material.len());
        let not = json!({"key_id": name, "target_key_id": kept});
        call(&caller, "wrap", &not).problem(400, "not_extractable");
        let none = json!({"key_id": name, "target_key_id": "hsm:00ff"});
        call(&caller, "wrap", &none).problem(404, "key_not_found");
    }
}

#[test]
fn what_a_managed_key_wrapped_is_that_key() {
    let server = Server::softhsm();
    let caller = server.all();
    let material = [5; 32];
    let target = imported(&caller, "AES", &material, json!({"extractable": true}));
    let wrapper = made(
        &caller,
        &merged(&aes("w", "hsm"), json!({"usages": ["wrap", "unwrap"]})),
    );
    let wrapped = call(&caller, "wrap", &json!({"key_id": "w", "target_key_id": target})).good(200);
    let import = json!({"format": "wrapped", "wrapping_key_id": super::hsm_id(&wrapper, 1),
        "algorithm": wrapped["algorithm"], "key_material": wrapped["wrapped_key"], "key_type": "AES", "key_label": "back"});
    let back = caller.post("/api/v1/hsm/keys/import", &import).good(201);
    let ciphertext = sealed(&caller, &target);
    opens(&caller, &merged(&ciphertext, json!({"key_id": back["key_id"]})));
}

#[test]
fn a_batch_takes_keys_of_every_kind() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("h", "hsm"));
    made(&caller, &aes("w", "wrapped"));
    made(&caller, &ec("s", "wrapped"));
    made(&caller, &aes("off", "wrapped"));
    let plain = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let plain = text(&plain["key_id"]);
    let old = sealed(&caller, "w");
    let disabled = sealed(&caller, "off");
    let proof = signed(&caller, "s");
    rotate(&caller, "w");
    rotate(&caller, "s");
    super::change(&caller, "off", json!({"state": "disabled"}));
    let data = base64(MESSAGE);
    let with = |operation: &str, body: Value| merged(&body, json!({"operation": operation}));
    let operations = json!([
        {"operation": "encrypt", "key_id": "h", "data": data},
        {"operation": "encrypt", "key_id": plain, "data": data},
        {"operation": "encrypt", "key_id": "w", "data": data},
        with("decrypt", old.clone()),
        with("rewrap", old.clone()),
        {"operation": "datakeys", "key_id": "h", "key_size": 128},
        {"operation": "datakeys", "key_id": plain, "plaintext": false},
        {"operation": "sign", "key_id": "s", "data": data},
        with("verify", proof.clone()),
        with("decrypt", disabled),
        {"operation": "encrypt", "key_id": "nobody", "data": data},
        with("decrypt", merged(&old, json!({"key_version": 9}))),
        {"operation": "encrypt", "key_id": ".x", "data": data},
        {"operation": "datakeys", "key_id": "h", "key_size": 1},
        {"operation": "wrap", "key_id": "h", "target_key_id": plain},
    ]);
    let answer = call(&caller, "batch", &json!({"operations": operations})).good(200);
    has_members(&answer, &["results"]);
    let results = answer["results"].as_array().unwrap();
    let told: Vec<Value> = results
        .iter()
        .map(|one| one.get("code").unwrap_or(&one["key_version"]).clone())
        .collect();
    assert_eq!(
        json!(told),
        json!([
            1,
            null,
            2,
            null,
            2,
            1,
            null,
            2,
            null,
            "key_disabled",
            "key_not_found",
            "key_not_found",
            "invalid_key_id",
            "invalid_request",
            "invalid_request"
        ])
    );
    let answered = |at: usize| merged(&results[at], json!({"status": ABSENT}));
    for at in [0, 1, 2, 4] {
        opens(&caller, &answered(at));
    }
    assert_eq!(results[3]["data"], data);
    assert_eq!(results[8]["valid"], true);
    assert!(is_valid(&caller, &merged(&answered(7), json!({"data": data}))));
    let clear = plaintext(&results[5]);
    let hidden = merged(&answered(5), json!({"plaintext": ABSENT}));
    assert_eq!(bytes(&call(&caller, "decrypt", &hidden).good(200)["data"]), clear);
    has_members(&answered(6), &DATAKEY);
    // On the token's own path: no managed keys, and neither of the new operations.
    let hsm = caller
        .hsm(
            "batch",
            &json!({"operations": [operations[0], operations[5], operations[4]]}),
        )
        .good(200);
    let codes: Vec<_> = hsm["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].clone())
        .collect();
    assert_eq!(codes, ["invalid_key_id", "invalid_request", "invalid_request"]);
}
