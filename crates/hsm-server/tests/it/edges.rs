//! Where two things meet: other programs and the index, the key's choice and the record, names and sizes.

use serde_json::json;
use softhsm_test::Token;

use crate::support::{Scratch, Server, base64, bytes, text};
use crate::tools::audit_records;

const KEYS: &str = "/api/v1/hsm/keys";

#[test]
fn a_key_that_becomes_ambiguous_is_told_at_once() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 128}));
    let id = text(&key["key_id"]);
    let hex = id.strip_prefix("hsm:").unwrap();
    server.token().make_foreign_key(hex, "another", "AES:16");
    caller.get(&format!("{KEYS}/{id}")).problem(409, "ambiguous_key");
    let body = json!({"key_id": id, "data": ""});
    caller.post("/api/v1/hsm/encrypt", &body).problem(409, "ambiguous_key");
}

#[test]
fn a_key_that_lost_a_half_is_there_and_may_less() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let id = text(&key["key_id"]);
    let hex = id.strip_prefix("hsm:").unwrap();
    let body = json!({"key_id": id, "data": base64("data")});
    caller.post("/api/v1/hsm/sign", &body).good(200);
    let gone = server
        .token()
        .pkcs11_tool(&["--delete-object", "--type", "privkey", "--id", hex]);
    assert!(gone.status.success());
    caller
        .post("/api/v1/hsm/sign", &body)
        .problem(400, "usage_not_permitted");
    let left = caller.get(&format!("{KEYS}/{id}")).good(200);
    assert_eq!(left["usages"], json!(["verify"]));
    assert_eq!(caller.delete(&format!("{KEYS}/{id}")).status, 204);
    caller.get(&format!("{KEYS}/{id}")).problem(404, "key_not_found");
}

#[test]
fn an_id_that_is_set_later_is_found() {
    let server = Server::softhsm();
    let caller = server.all();
    let made = server
        .token()
        .pkcs11_tool(&["--keygen", "--key-type", "AES:16", "--label", "nameless"]);
    assert!(made.status.success());
    assert_eq!(caller.get(KEYS).good(200)["keys"], json!([]));
    let set = server
        .token()
        .pkcs11_tool(&["--set-id", "0a0b", "--type", "secrkey", "--label", "nameless"]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let body = json!({"key_id": "hsm:0a0b", "data": base64("data")});
    caller.post("/api/v1/hsm/encrypt", &body).good(200);
}

#[test]
fn records_name_the_algorithm_that_the_key_decides() {
    let server = Server::softhsm();
    let caller = server.all();
    let signer = caller.key(json!({"key_type": "EC", "curve": "P-384"}));
    let mut body = json!({"key_id": signer["key_id"], "data": base64("data")});
    let signed = caller.post("/api/v1/hsm/sign", &body).good(200);
    body["signature"] = signed["signature"].clone();
    caller.post("/api/v1/hsm/verify", &body).good(200);
    let cipher = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let broken = json!({"key_id": cipher["key_id"], "ciphertext": "", "iv": base64([0; 12]), "tag": base64([0; 16])});
    caller
        .post("/api/v1/hsm/decrypt", &broken)
        .problem(400, "decryption_failed");
    let named: Vec<_> = audit_records(&server)
        .iter()
        .filter(|record| record["action"] != "create")
        .map(|record| record["algorithm"].clone())
        .collect();
    assert_eq!(named, [json!("ECDSA-SHA384"), json!("ECDSA-SHA384"), json!("AES-GCM")]);
    // Ids are looked for as they are answered.
    let upper = text(&cipher["key_id"]).to_uppercase().replace("HSM:", "hsm:");
    let page = caller.get(&format!("/api/v1/audit?key_id={upper}")).good(200);
    assert_eq!(page["records"].as_array().unwrap().len(), 2);
}

#[test]
fn rsa_keys_can_be_too_short() {
    let server = Server::softhsm();
    let caller = server.all();
    server.token().make_foreign_key("0c01", "short", "rsa:1024");
    let sign = |algorithm: &str| {
        let body = json!({"key_id": "hsm:0c01", "data": base64("data"), "algorithm": algorithm});
        caller.post("/api/v1/hsm/sign", &body)
    };
    for jose in ["RS256", "PS256", "RS512"] {
        sign(jose).problem(400, "key_type_mismatch");
    }
    // 128 bytes have no room for two digests of 64 and two bytes more.
    sign("RSA-PSS-SHA512").problem(400, "key_type_mismatch");
    assert_eq!(bytes(&sign("RSA-PSS-SHA256").good(200)["signature"]).len(), 128);
}

#[test]
fn the_document_takes_no_query() {
    let server = Server::softhsm();
    server
        .all()
        .get("/api/v1/openapi.json?x=1")
        .problem(400, "invalid_request");
}

#[test]
fn a_data_folder_of_ours_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let folder = scratch.path("open");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::with(Token::softhsm())
        .env("HSM_LIBRARY_PATH", "embedded")
        .env("HSM_PIN", "long enough")
        .without("HSM_TOKEN_LABEL")
        .env("HSM_DATA_DIR", folder.to_str().unwrap())
        .start();
    server.all().get(KEYS).good(200);
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}
