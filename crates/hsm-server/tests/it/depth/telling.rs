//! What is told of slots and tokens; labels, certification requests, random bytes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use softhsm_test::Token;

use super::{openssl, recorded};
use crate::support::{Scratch, Server, bytes, text};

const KEYS: &str = "/api/v1/hsm/keys";

on_both_tokens! {
    mechanisms_are_told_by_name,
    capabilities_name_every_algorithm,
    a_label_is_changed,
    openssl_verifies_certification_requests,
    random_bytes_are_the_token_s,
}

fn slot(server: &Server) -> u64 {
    let slots = server.all().get("/api/v1/hsm/slots").good(200)["slots"].clone();
    let slots = slots.as_array().unwrap();
    assert!(
        slots
            .iter()
            .all(|slot| slot["module"].is_null() && slot.get("module").is_some())
    );
    let ours = slots.iter().find(|slot| slot["initialized"] == true).unwrap();
    ours["id"].as_u64().unwrap()
}

fn mechanisms_are_told_by_name(server: &Server) {
    let caller = server.all();
    let path = |id: &str| format!("/api/v1/hsm/slots/{id}/mechanisms");
    let told = caller.get(&path(&slot(server).to_string())).good(200);
    let told = told["mechanisms"].as_array().unwrap();
    let gcm = told.iter().find(|told| told["name"] == "CKM_AES_GCM").unwrap();
    assert!(gcm["min_key_size"].is_u64() && gcm["max_key_size"].is_u64(), "{gcm}");
    let flags = gcm["flags"].as_array().unwrap();
    assert!(
        flags.contains(&json!("encrypt")) && flags.contains(&json!("decrypt")),
        "{gcm}"
    );
    let names: BTreeSet<&str> = told.iter().map(|told| text(&told["name"])).collect();
    assert_eq!(names.len(), told.len());
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("CKM_") || name.starts_with("0x")),
        "{names:?}"
    );
    // pkcs11-tool knows the same ones, as far as it has names for them.
    let tool = server.token().pkcs11_tool(&["--list-mechanisms"]);
    let tool = String::from_utf8_lossy(&tool.stdout).into_owned();
    for name in ["AES-GCM", "ECDSA", "RSA-PKCS-OAEP"] {
        let ours = format!("CKM_{}", name.replace('-', "_"));
        assert_eq!(tool.contains(name), names.contains(ours.as_str()), "{name}");
    }
    for unknown in ["4000000001", "18446744073709551616", "-1", "x", "%00", "0x0"] {
        caller.get(&path(unknown)).problem(404, "not_found");
    }
    let query = |query: &str| caller.get(&format!("{}?{query}", path("0")));
    query("tokens=x").problem_naming(400, "invalid_request", "tokens");
    query("token=nowhere").problem_naming(400, "invalid_request", "token");
    caller
        .get("/api/v1/hsm/capabilities?x=1")
        .problem(400, "invalid_request");
}

fn capabilities_name_every_algorithm(server: &Server) {
    let caller = server.all();
    let before = server.token().objects().len();
    let told = caller.get("/api/v1/hsm/capabilities").good(200);
    let [token] = &told["tokens"].as_array().unwrap()[..] else {
        panic!("{told}");
    };
    assert_eq!(
        (&token["name"], &token["label"]),
        (&Value::Null, &json!(server.token().label()))
    );
    let cells = token["algorithms"].as_array().unwrap();
    let cell = |algorithm: &str, operation: &str| {
        let mut found = cells
            .iter()
            .filter(|cell| cell["algorithm"] == algorithm && cell["operation"] == operation);
        let cell = found.next().unwrap_or_else(|| panic!("{algorithm} {operation}"));
        assert!(found.next().is_none());
        assert_eq!(cell["why"].is_null(), cell["support"] == "native", "{cell}");
        text(&cell["support"]).to_owned()
    };
    assert_eq!(cell("AES-GCM", "encrypt"), "native");
    assert_eq!(cell("RSA-OAEP-SHA1", "encrypt"), "composed");
    assert_ne!(cell("ECDSA-SHA256", "sign"), "no");
    assert!(cells.iter().all(|cell| cell["algorithm"] != "AES-CBC"));
    for cell in cells {
        assert!(["native", "composed", "no"].contains(&text(&cell["support"])), "{cell}");
    }
    let types = token["key_types"].as_array().unwrap();
    let rsa = types.iter().find(|told| told["key_type"] == "RSA").unwrap();
    assert_eq!(
        (&rsa["sizes"], &rsa["support"]),
        (&json!([2048, 3072, 4096]), &json!("native"))
    );
    for told in types {
        let none = told["sizes"] == json!([]);
        assert_eq!(told["support"], if none { "no" } else { "native" }, "{told}");
        // It is so.
        let (size, key_type) = (&told["sizes"][0], text(&told["key_type"]));
        let name = match key_type {
            "EC" | "ED" => "curve",
            "ML-DSA" | "ML-KEM" | "SLH-DSA" => "parameter_set",
            _ => continue,
        };
        if none {
            let any = if name == "curve" { "Ed25519" } else { "ML-DSA-44" };
            let any = match key_type {
                "ML-KEM" => "ML-KEM-512",
                "SLH-DSA" => "SLH-DSA-SHA2-128f",
                _ => any,
            };
            caller
                .create(json!({"key_type": key_type, name: any}))
                .problem(501, "mechanism_not_supported");
        } else {
            let key = caller.key(json!({"key_type": key_type, name: size}));
            caller.delete(&format!("{KEYS}/{}", text(&key["key_id"]))).good(204);
        }
    }
    assert_eq!(server.token().objects().len(), before);
}

#[test]
fn the_other_module_s_slots_have_its_token_s_name() {
    let (one, other) = (Token::softhsm(), Token::embedded());
    let builder = Server::with(one)
        .env("HSM_TOKENS__OTHER__LIBRARY_PATH", other.module().to_str().unwrap())
        .env("HSM_TOKENS__OTHER__TOKEN_LABEL", other.label())
        .env("HSM_TOKENS__OTHER__PIN", other.pin());
    let builder = other.init_args().iter().fold(builder, |builder, args| {
        builder.env("HSM_TOKENS__OTHER__INIT_ARGS", args)
    });
    let builder = other
        .module_env()
        .iter()
        .fold(builder, |builder, (name, value)| builder.env(name, value));
    let server = builder.start();
    let caller = server.all();
    let slots = caller.get("/api/v1/hsm/slots").good(200)["slots"].clone();
    let slots = slots.as_array().unwrap();
    let of = |module: Value| slots.iter().filter(|slot| slot["module"] == module).count();
    assert!(of(Value::Null) > 0 && of(json!("other")) > 0, "{slots:?}");
    assert_eq!(of(Value::Null) + of(json!("other")), slots.len());
    let slot = slots
        .iter()
        .find(|slot| slot["module"] == "other" && slot["initialized"] == true)
        .unwrap();
    let path = format!("/api/v1/hsm/slots/{}/mechanisms?token=other", slot["id"]);
    let told = caller.get(&path).good(200);
    assert!(told.to_string().contains("CKM_ML_KEM"), "{told}");
    let told = caller.get("/api/v1/hsm/capabilities").good(200);
    let names: Vec<_> = told["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| &token["name"])
        .collect();
    assert_eq!(names, [&Value::Null, &json!("other")]);
}

fn a_label_is_changed(server: &Server) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256", "key_label": "before"}));
    let other = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "other"}));
    let id = text(&key["key_id"]);
    let patch = |id: &str, body: &str| {
        let headers = [("Content-Type", "application/json")];
        caller.raw("PATCH", &format!("{KEYS}/{id}"), &headers, body.as_bytes())
    };
    let changed = patch(id, r#"{"key_label":"after"}"#).good(200);
    assert_eq!(changed["key_label"], "after");
    assert_eq!(caller.get(&format!("{KEYS}/{id}")).good(200), changed);
    assert_eq!(recorded(server, "update"), json!([id, null, "success", 200, null]));
    for object in server.token().objects() {
        assert_ne!(object.label, "before");
    }
    let taken = format!("{{\"key_label\":{}}}", other["key_label"]);
    patch(id, &taken).problem(409, "conflict");
    assert_eq!(
        recorded(server, "update"),
        json!([id, null, "failure", 409, "conflict"])
    );
    for (body, field) in [
        ("{}", "key_label"),
        (r#"{"key_label":null}"#, "key_label"),
        (r#"{"key_label":7}"#, "key_label"),
        (r#"{"key_label":""}"#, "key_label"),
        (r#"{"key_label":"a\u0000b"}"#, "key_label"),
        (r#"{"key_label":"x","extractable":true}"#, "extractable"),
        ("[]", "JSON"),
    ] {
        patch(id, body).problem_naming(400, "invalid_request", field);
    }
    patch("hsm:0", r#"{"key_label":"x"}"#).problem(400, "invalid_key_id");
    patch("orders", r#"{"key_label":"x"}"#).problem(400, "invalid_key_id");
    patch("hsm:00ff", r#"{"key_label":"x"}"#).problem(404, "key_not_found");
    patch(&format!("{id}?x=1"), r#"{"key_label":"x"}"#).problem(400, "invalid_request");
    caller
        .create(json!({"key_type": "AES", "key_size": 256, "key_label": "before"}))
        .good(201);
}

fn openssl_verifies_certification_requests(server: &Server) {
    let caller = server.all();
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-384"}));
    let ed = caller.key(json!({"key_type": "ED", "curve": "Ed25519"}));
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let path = |key: &Value| format!("{KEYS}/{}/csr", text(&key["key_id"]));
    let body = json!({"subject": "CN=host.example,O=Example", "subject_alt_names": ["host.example", "10.1.2.3"]});
    for (key, algorithm) in [(&rsa, "RSA-PKCS1-SHA256"), (&ec, "ECDSA-SHA384"), (&ed, "EdDSA")] {
        let pem = caller.post(&path(key), &body).good(200)["csr_pem"].clone();
        let scratch = Scratch::new();
        let file = scratch.file("request.pem", text(&pem));
        let told = openssl(&["req", "-in", file.to_str().unwrap(), "-verify", "-noout", "-text"]);
        let told = String::from_utf8(told).unwrap();
        for part in ["host.example", "Example", "DNS:host.example, IP Address:10.1.2.3"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let public = openssl(&["req", "-in", file.to_str().unwrap(), "-noout", "-pubkey"]);
        assert_eq!(String::from_utf8(public).unwrap(), text(&key["public_key_pem"]));
        assert_eq!(
            recorded(server, "csr"),
            json!([key["key_id"], algorithm, "success", 200, null])
        );
    }
    for (field, body) in [
        ("subject", json!({"subject": ""})),
        ("subject", json!({"subject": "no subject"})),
        (
            "subject_alt_names",
            json!({"subject": "CN=a", "subject_alt_names": ["not a name"]}),
        ),
    ] {
        caller
            .post(&path(&rsa), &body)
            .problem_naming(400, "invalid_request", field);
    }
    let with = |algorithm: &str| json!({"subject": "CN=a", "algorithm": algorithm});
    caller.post(&path(&rsa), &with("PS256")).good(200);
    caller
        .post(&path(&rsa), &with("none"))
        .problem(400, "unsupported_algorithm");
    caller
        .post(&path(&rsa), &with("ECDSA-SHA256"))
        .problem(400, "key_type_mismatch");
    caller
        .post(&path(&aes), &json!({"subject": "CN=a"}))
        .problem(400, "key_type_mismatch");
    let none = json!({"key_id": "hsm:00ff"});
    caller
        .post(&path(&none), &json!({"subject": "CN=a"}))
        .problem(404, "key_not_found");
    let verifier = caller.key(json!({"key_type": "EC", "curve": "P-256", "usages": ["verify"]}));
    caller
        .post(&path(&verifier), &json!({"subject": "CN=a"}))
        .problem(400, "usage_not_permitted");
}

fn random_bytes_are_the_token_s(server: &Server) {
    let caller = server.all();
    let ask = |length: Value| caller.post("/api/v1/hsm/random", &json!({"length": length}));
    let mut seen = BTreeSet::new();
    for length in [16, 32, 4096] {
        let data = bytes(&ask(json!(length)).good(200)["data"]);
        assert_eq!(data.len(), length);
        assert!(seen.insert(data[..16].to_vec()));
    }
    assert_eq!(bytes(&ask(json!(1)).good(200)["data"]).len(), 1);
    assert_eq!(recorded(server, "random"), json!([null, null, "success", 200, null]));
    for wrong in [json!(0), json!(4097), json!(-1), json!("16"), json!(1.5), Value::Null] {
        ask(wrong).problem_naming(400, "invalid_request", "length");
    }
}
