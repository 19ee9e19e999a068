//! Keys that come from elsewhere and go elsewhere, batches, and what is told of tokens. Another library has the last word on
//! what came out.

mod batches;
mod deriving;
mod importing;
mod scopes;
mod telling;
mod unrecorded;
mod wrapping;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};

use crate::support::{Caller, Reply, Scratch, Server, base64, bytes, merged, run, text};
use crate::tools::audit_records;

const IMPORT: &str = "/api/v1/hsm/keys/import";
const MESSAGE: &[u8] = b"Hello World!";

/// Imports a key in clear, with a label of its own; the answer, whatever it is.
#[track_caller]
fn import(caller: &Caller, key_type: &str, format: &str, material: &[u8], more: Value) -> Reply {
    let body = json!({
        "key_type": key_type,
        "format": format,
        "key_material": base64(material),
        "key_label": format!("imported {}", text(&caller.post("/api/v1/hsm/random", &json!({"length": 6})).good(200)["data"])),
    });
    caller.post(IMPORT, &merged(&body, more))
}

/// That the token's key is this AES-256 key: what it encrypts, another library decrypts.
#[track_caller]
fn is_aes_256(caller: &Caller, id: &Value, key: &[u8]) {
    let sealed = caller
        .hsm(
            "encrypt",
            &json!({"key_id": id, "data": base64(MESSAGE), "aad": base64("aad")}),
        )
        .good(200);
    let nonce = Nonce::try_assume_unique_for_key(&bytes(&sealed["iv"])).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut text = [bytes(&sealed["ciphertext"]), bytes(&sealed["tag"])].concat();
    assert_eq!(key.open_in_place(nonce, Aad::from(b"aad"), &mut text).unwrap(), MESSAGE);
}

/// What a command of OpenSSL writes.
#[track_caller]
fn openssl(args: &[&str]) -> Vec<u8> {
    let ended = run("openssl", args.iter().copied());
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    ended.stdout
}

/// A private key made by OpenSSL: PKCS#8 in DER, and its public half as PEM.
#[track_caller]
fn foreign_pair(args: &[&str]) -> (Vec<u8>, String) {
    let scratch = Scratch::new();
    let pem = openssl(&[&["genpkey"], args].concat());
    let file = scratch.file("private.pem", pem);
    let file = file.to_str().unwrap();
    let private = openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", file, "-outform", "DER"]);
    let public = openssl(&["pkey", "-in", file, "-pubout"]);
    (private, String::from_utf8(public).unwrap())
}

/// The last record of this action, as far as it tells what happened.
#[track_caller]
fn recorded(server: &Server, action: &str) -> Value {
    let records = audit_records(server);
    let of_action = records.iter().rfind(|record| record["action"] == action);
    let record = of_action.unwrap_or_else(|| panic!("no record of {action}"));
    json!([
        record["key_id"],
        record["algorithm"],
        record["outcome"],
        record["status"],
        record["code"]
    ])
}
