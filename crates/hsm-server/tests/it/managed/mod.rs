//! Managed keys (contract §7): made or adopted, used by every call, rotated, disabled, destroyed; on real tokens.

mod adopting;
mod api;
mod counted;
mod datakeys;
mod idempotency;
mod limits;
mod lists;
mod recorded;
mod secrets;
mod states;
mod versions;
mod wrapped;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Builder, Caller, Reply, base64, bytes, merged, run, text};

const KEYS: &str = "/api/v1/keys";
const HSM_KEYS: &str = "/api/v1/hsm/keys";
const MESSAGE: &[u8] = b"Hello World!";

/// Where a managed key is, or a call of it: `at("orders/rotate")`.
fn at(key: &str) -> String {
    format!("{KEYS}/{key}")
}

/// An AES-256 key to be made.
fn aes(name: &str, protection: &str) -> Value {
    json!({"name": name, "key_type": "AES", "key_size": 256, "protection": protection})
}

/// A P-256 key to be made.
fn ec(name: &str, protection: &str) -> Value {
    json!({"name": name, "key_type": "EC", "curve": "P-256", "protection": protection})
}

#[track_caller]
fn made(caller: &Caller, body: &Value) -> Value {
    caller.post(KEYS, body).good(201)
}

#[track_caller]
fn key(caller: &Caller, name: &str) -> Value {
    caller.get(&at(name)).good(200)
}

#[track_caller]
fn patch(caller: &Caller, path: &str, body: &Value) -> Reply {
    let headers = [("Content-Type", "application/json")];
    caller.raw("PATCH", path, &headers, body.to_string().as_bytes())
}

/// Changes a key; the key.
#[track_caller]
fn change(caller: &Caller, name: &str, body: Value) -> Value {
    patch(caller, &at(name), &body).good(200)
}

/// Changes a version; the key.
#[track_caller]
fn change_version(caller: &Caller, name: &str, version: u32, state: &str) -> Value {
    let path = at(&format!("{name}/versions/{version}"));
    patch(caller, &path, &json!({"state": state})).good(200)
}

/// A call without a body.
#[track_caller]
fn bare(caller: &Caller, path: &str) -> Reply {
    caller.raw("POST", path, &[], b"")
}

/// Makes a new version; the key.
#[track_caller]
fn rotate(caller: &Caller, name: &str) -> Value {
    bare(caller, &at(&format!("{name}/rotate"))).good(200)
}

/// Has a key destroyed at once, and waits until it is.
#[track_caller]
fn destroy(caller: &Caller, name: &str) {
    let scheduled = caller.delete(&at(&format!("{name}?window_days=0"))).good(202);
    assert_eq!(scheduled["state"], "scheduled_for_destruction");
    crate::tools::wait_until("destroyed", || {
        let key = key(caller, name);
        let versions = key["versions"].as_array().unwrap();
        key["state"] == "destroyed" && versions.iter().all(|one| one["state"] == "destroyed")
    });
}

/// One of the calls under `/api/v1` that use a key.
#[track_caller]
fn call(caller: &Caller, operation: &str, body: &Value) -> Reply {
    caller.post(&format!("/api/v1/{operation}"), body)
}

/// Encrypts [`MESSAGE`]; the answer, which is a body for decrypt.
#[track_caller]
fn sealed(caller: &Caller, id: &str) -> Value {
    call(caller, "encrypt", &json!({"key_id": id, "data": base64(MESSAGE)})).good(200)
}

/// That a ciphertext decrypts to [`MESSAGE`].
#[track_caller]
fn opens(caller: &Caller, sealed: &Value) {
    let opened = call(caller, "decrypt", sealed).good(200);
    assert_eq!(opened, json!({"data": base64(MESSAGE)}), "{sealed}");
}

/// Signs [`MESSAGE`]; the answer with the data, which is a body for verify.
#[track_caller]
fn signed(caller: &Caller, id: &str) -> Value {
    let body = json!({"key_id": id, "data": base64(MESSAGE)});
    merged(&call(caller, "sign", &body).good(200), json!({"data": body["data"]}))
}

#[track_caller]
fn is_valid(caller: &Caller, signed: &Value) -> bool {
    let answer = call(caller, "verify", signed).good(200);
    answer["valid"].as_bool().unwrap_or_else(|| panic!("{answer}"))
}

/// The `hsm:` id of a version.
#[track_caller]
fn hsm_id(key: &Value, version: usize) -> String {
    text(&key["versions"][version - 1]["hsm_key_id"]).to_owned()
}

/// The CKA_ID in an id.
#[track_caller]
fn digits(id: &str) -> &str {
    id.strip_prefix("hsm:").unwrap()
}

/// The names of an object's members.
#[track_caller]
fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn has_members(object: &Value, names: &[&str]) {
    let mut names = names.to_vec();
    names.sort_unstable();
    assert_eq!(members(object), names, "{object}");
}

/// That a field is a time in UTC.
#[track_caller]
fn is_time(field: &Value) {
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text(field), format).unwrap();
    assert!(text(field).ends_with('Z') && time.offset().is_utc(), "{field}");
}

/// The versions' states, from version 1.
#[track_caller]
fn version_states(key: &Value) -> Vec<&str> {
    let versions = key["versions"].as_array().unwrap();
    for (at, version) in versions.iter().enumerate() {
        assert_eq!(version["version"], at + 1, "{key}");
    }
    versions.iter().map(|version| text(&version["state"])).collect()
}

/// Imports a secret key in clear; its id.
#[track_caller]
fn imported(caller: &Caller, key_type: &str, material: &[u8], more: Value) -> String {
    let body = json!({
        "key_type": key_type, "format": "raw", "key_material": base64(material),
        "key_label": format!("imported {}", text(&caller.post("/api/v1/hsm/random", &json!({"length": 6})).good(200)["data"])),
    });
    let key = caller
        .post(&format!("{HSM_KEYS}/import"), &merged(&body, more))
        .good(201);
    text(&key["key_id"]).to_owned()
}

/// The bytes of a data key in clear.
#[track_caller]
fn plaintext(datakey: &Value) -> Vec<u8> {
    bytes(&datakey["plaintext"])
}

/// The database of a server that is not running.
fn database(stopped: &Builder) -> PathBuf {
    stopped.scratch().path("data/store.sqlite")
}

/// Changes the database behind the server's back.
#[track_caller]
fn sql(database: &Path, statements: &str) {
    let program = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.executescript(sys.argv[2])\n\
        db.commit()\n\
        db.close()\n";
    let ended = run("python3", ["-c", program, database.to_str().unwrap(), statements]);
    assert_eq!(ended.code, Some(0), "{statements}: {}", ended.stderr);
}

/// The first value of what a query finds.
#[track_caller]
fn query(database: &Path, query: &str) -> String {
    let program = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        print(db.execute(sys.argv[2]).fetchone()[0])\n";
    let ended = run("python3", ["-c", program, database.to_str().unwrap(), query]);
    assert_eq!(ended.code, Some(0), "{query}: {}", ended.stderr);
    ended.line().to_owned()
}
