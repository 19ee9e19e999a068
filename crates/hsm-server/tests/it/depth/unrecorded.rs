//! What was done and can't be recorded is undone, where that is possible.

use std::fs;

use serde_json::{Value, json};

use super::{IMPORT, import, recorded};
use crate::support::{Server, base64, merged, text};
use crate::tools::wait_until;

/// Does `act` while the audit log can't be written; it must be refused. The log can be written again afterwards.
#[track_caller]
fn without_a_log(server: &Server, act: impl FnOnce()) {
    let folder = server.data_dir().join("audit");
    let aside = server.data_dir().join("aside");
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "in the way").unwrap();
    act();
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    wait_until("the audit log is written again", || {
        server.anonymous().get("/health/ready").status == 200
    });
}

/// That a key that `body` makes is gone when its record could not be written, and that its label is free.
#[track_caller]
fn is_undone(server: &Server, path: &str, body: &Value) {
    let caller = server.all();
    let before = server.token().objects().len();
    without_a_log(server, || {
        caller.post(path, body).problem(503, "audit_unavailable");
        wait_until("the key is gone", || server.token().objects().len() == before);
    });
    caller.post(path, body).good(201);
}

#[test]
fn an_import() {
    let body = json!({"key_type": "AES", "format": "raw", "key_material": base64([1; 32]), "key_label": "undone"});
    is_undone(&Server::softhsm(), IMPORT, &body);
}

#[test]
fn an_unwrapped_key() {
    let server = Server::softhsm();
    let caller = server.all();
    let usages = json!({"usages": ["wrap", "unwrap"]});
    let kek = import(&caller, "AES", "raw", &[2; 32], usages).good(201)["key_id"].clone();
    let target = caller.key(json!({"key_type": "AES", "key_size": 256, "extractable": true}));
    let body = json!({"key_id": kek, "target_key_id": target["key_id"], "algorithm": "AES-KW"});
    let wrapped = caller.post("/api/v1/hsm/wrap", &body).good(200);
    let body = json!({
        "format": "wrapped", "wrapping_key_id": kek, "algorithm": "AES-KW", "key_material": wrapped["wrapped_key"],
        "key_type": "AES", "key_label": "undone",
    });
    is_undone(&server, IMPORT, &body);
}

#[test]
fn a_derived_key() {
    let server = Server::embedded();
    let caller = server.all();
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256", "usages": ["derive"]}));
    let body = json!({
        "key_id": pair["key_id"], "algorithm": "ECDH", "public_key": pair["public_key_pem"],
        "key_type": "AES", "key_size": 256, "key_label": "undone",
    });
    is_undone(&server, "/api/v1/hsm/derive", &body);
}

#[test]
fn a_new_label_is_recorded_first() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "before"}));
    let path = format!("/api/v1/hsm/keys/{}", text(&key["key_id"]));
    let headers = [("Content-Type", "application/json")];
    without_a_log(&server, || {
        let reply = caller.raw("PATCH", &path, &headers, br#"{"key_label":"after"}"#);
        reply.problem(503, "audit_unavailable");
    });
    let changed = merged(
        &key,
        json!({"key_label": "after", "pkcs11_uri": caller.get(&path).good(200)["pkcs11_uri"]}),
    );
    assert_eq!(caller.get(&path).good(200), changed);
    assert_eq!(
        recorded(&server, "update"),
        json!([key["key_id"], null, "success", 200, null])
    );
}
