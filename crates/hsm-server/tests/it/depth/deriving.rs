//! Keys made of keys: ECDH, HKDF, ML-KEM.

use aws_lc_rs::hkdf;
use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{MESSAGE, foreign_pair, import, is_aes_256, openssl, recorded};
use crate::support::{ABSENT, Scratch, Server, base64, bytes, merged, text};

const DERIVE: &str = "/api/v1/hsm/derive";

on_both_tokens! {
    openssl_agrees_on_the_secret,
    what_can_t_be_agreed_on_is_refused,
}

fn openssl_agrees_on_the_secret(server: &Server) {
    let caller = server.all();
    for curve in ["P-256", "P-384", "P-521"] {
        let key = caller.key(json!({"key_type": "EC", "curve": curve, "usages": ["derive"]}));
        let (private, public) = foreign_pair(&["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")]);
        let body = json!({
            "key_id": key["key_id"], "algorithm": "ECDH", "public_key": public,
            "key_type": "AES", "key_size": 256, "key_label": format!("secret of {curve}"),
        });
        let reply = caller.post(DERIVE, &body);
        let made = reply.good(201);
        assert_eq!(
            reply.header("location").unwrap(),
            format!("/api/v1/hsm/keys/{}", text(&made["key_id"]))
        );
        assert_eq!(
            (&made["key_size"], &made["usages"]),
            (&json!(256), &json!(["encrypt", "decrypt"]))
        );
        let scratch = Scratch::new();
        let private = scratch.file("private.der", private);
        let peer = scratch.file("peer.pem", text(&key["public_key_pem"]));
        let (private, peer) = (private.to_str().unwrap(), peer.to_str().unwrap());
        let secret = openssl(&[
            "pkeyutl", "-derive", "-inkey", private, "-keyform", "DER", "-peerkey", peer,
        ]);
        is_aes_256(&caller, &made["key_id"], &secret[secret.len() - 32..]);
        assert_eq!(
            recorded(server, "derive"),
            json!([made["key_id"], "ECDH", "success", 201, null])
        );
    }
}

fn what_can_t_be_agreed_on_is_refused(server: &Server) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256", "usages": ["derive"]}));
    let signer = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let (_, public) = foreign_pair(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (_, other_curve) = foreign_pair(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let before = server.token().objects().len();
    let good = json!({
        "key_id": key["key_id"], "algorithm": "ECDH", "public_key": public,
        "key_type": "AES", "key_size": 256, "key_label": "derived",
    });
    for (field, more) in [
        ("public_key", json!({"public_key": ABSENT})),
        ("public_key", json!({"public_key": "AAAA"})),
        ("public_key", json!({"public_key": other_curve})),
        ("key_size", json!({"key_type": "HMAC", "key_size": 512})),
        ("key_size", json!({"key_size": 255})),
        ("key_size", json!({"key_size": ABSENT})),
        ("key_type", json!({"key_type": "RSA"})),
        ("salt", json!({"salt": "AA=="})),
        ("info", json!({"info": "AA=="})),
        ("algorithm", json!({"algorithm": ABSENT})),
    ] {
        caller
            .post(DERIVE, &merged(&good, more))
            .problem_naming(400, "invalid_request", field);
    }
    for (code, more) in [
        ("unsupported_algorithm", json!({"algorithm": "ECDSA-SHA256"})),
        (
            "key_type_mismatch",
            json!({"algorithm": "HKDF-SHA256", "public_key": ABSENT}),
        ),
        ("usage_not_permitted", json!({"key_id": signer["key_id"]})),
    ] {
        caller.post(DERIVE, &merged(&good, more)).problem(400, code);
    }
    assert_eq!(
        recorded(server, "derive"),
        json!([signer["key_id"], "ECDH", "failure", 400, "usage_not_permitted"])
    );
    let unknown = merged(&good, json!({"key_id": "hsm:00ff"}));
    caller.post(DERIVE, &unknown).problem(404, "key_not_found");
    let taken = merged(&good, json!({"key_label": key["key_label"]}));
    caller.post(DERIVE, &taken).problem(409, "conflict");
    assert_eq!(server.token().objects().len(), before);
}

#[test]
fn hkdf_gives_what_another_library_gives() {
    let server = Server::embedded();
    let caller = server.all();
    let secret = [0x0b; 32];
    let base = import(&caller, "HMAC", "raw", &secret, json!({"usages": ["derive"]})).good(201);
    for (salt, info) in [(&b"salt"[..], &b"info"[..]), (b"", b"")] {
        let body = json!({
            "key_id": base["key_id"], "algorithm": "HKDF-SHA256", "salt": base64(salt), "info": base64(info),
            "key_type": "AES", "key_size": 256, "key_label": format!("of {}", salt.len()),
        });
        let made = caller.post(DERIVE, &body).good(201);
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, salt);
        let mut expected = [0; 32];
        let info = [info];
        let expanded = salt.extract(&secret);
        expanded
            .expand(&info, hkdf::HKDF_SHA256)
            .unwrap()
            .fill(&mut expected)
            .unwrap();
        is_aes_256(&caller, &made["key_id"], &expected);
    }
    let body = json!({
        "key_id": base["key_id"], "algorithm": "HKDF-SHA256", "public_key": text(&caller.key(json!({"key_type": "EC", "curve": "P-256"}))["public_key_pem"]),
        "key_type": "AES", "key_size": 256, "key_label": "x",
    });
    caller
        .post(DERIVE, &body)
        .problem_naming(400, "invalid_request", "public_key");
    let softhsm = Server::softhsm();
    let caller = softhsm.all();
    let base = import(&caller, "HMAC", "raw", &secret, json!({"usages": ["derive"]})).good(201);
    let body = json!({
        "key_id": base["key_id"], "algorithm": "HKDF-SHA256",
        "key_type": "AES", "key_size": 256, "key_label": "x",
    });
    caller
        .post(DERIVE, &body)
        .problem_naming(501, "mechanism_not_supported", "CKM_HKDF_DERIVE");
}

#[test]
fn both_sides_of_ml_kem_have_one_secret() {
    let server = Server::embedded();
    let caller = server.all();
    let pair = caller.key(json!({"key_type": "ML-KEM", "parameter_set": "ML-KEM-768"}));
    let id = &pair["key_id"];
    let new = |label: &str| json!({"key_id": id, "key_type": "AES", "key_size": 256, "key_label": label});
    let reply = caller.post("/api/v1/hsm/encapsulate", &new("sent"));
    let sent = reply.good(201);
    let names: Vec<_> = sent.as_object().unwrap().keys().collect();
    assert_eq!(names, ["ciphertext", "secret_key_id"]);
    assert_eq!(
        reply.header("location").unwrap(),
        format!("/api/v1/hsm/keys/{}", text(&sent["secret_key_id"]))
    );
    assert_eq!(
        recorded(&server, "encapsulate"),
        json!([sent["secret_key_id"], "ML-KEM", "success", 201, null])
    );
    let decapsulate = |ciphertext: &Value, label: &str| {
        let body = merged(&new(label), json!({"ciphertext": ciphertext}));
        caller.post("/api/v1/hsm/decapsulate", &body)
    };
    let received = decapsulate(&sent["ciphertext"], "received").good(201);
    assert_eq!(received["secret_key_id"], received["key_id"]);
    assert_eq!(received["key_label"], "received");
    let body = json!({"key_id": sent["secret_key_id"], "data": base64(MESSAGE)});
    let sealed = caller.hsm("encrypt", &body).good(200);
    let opened = caller
        .hsm("decrypt", &merged(&sealed, json!({"key_id": received["key_id"]})))
        .good(200);
    assert_eq!(bytes(&opened["data"]), MESSAGE);

    // Another library encapsulates.
    let public = URL_SAFE_NO_PAD.decode(text(&pair["public_key_jwk"]["pub"])).unwrap();
    let (ciphertext, secret) = EncapsulationKey::new(&ML_KEM_768, &public)
        .unwrap()
        .encapsulate()
        .unwrap();
    let made = decapsulate(&json!(base64(ciphertext.as_ref())), "from outside").good(201);
    is_aes_256(&caller, &made["key_id"], secret.as_ref());

    decapsulate(&json!("AAAA"), "short").problem_naming(400, "invalid_request", "ciphertext");
    assert_eq!(
        recorded(&server, "decapsulate"),
        json!([id, "ML-KEM", "failure", 400, "invalid_request"])
    );
    for (field, more) in [
        ("key_size", json!({"key_size": 128})),
        ("key_type", json!({"key_type": "EC"})),
        ("usages", json!({"usages": []})),
    ] {
        let body = merged(&new("wrong"), more);
        caller
            .post("/api/v1/hsm/encapsulate", &body)
            .problem_naming(400, "invalid_request", field);
    }
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let body = merged(&new("wrong"), json!({"key_id": aes["key_id"]}));
    caller
        .post("/api/v1/hsm/encapsulate", &body)
        .problem(400, "key_type_mismatch");
}

#[test]
fn a_context_is_part_of_the_signature() {
    let server = Server::embedded();
    let caller = server.all();
    let pair = caller.key(json!({"key_type": "ML-DSA", "parameter_set": "ML-DSA-65"}));
    let body = json!({"key_id": pair["key_id"], "data": base64(MESSAGE), "context": base64("orders")});
    let signed = caller.hsm("sign", &body).good(200);
    assert_eq!(signed["algorithm"], "ML-DSA");
    let check = merged(&signed, json!({"data": base64(MESSAGE)}));
    let with = |context: &str| merged(&check, json!({"context": base64(context)}));
    assert_eq!(caller.hsm("verify", &with("orders")).good(200), json!({"valid": true}));
    for wrong in [with("invoices"), check.clone()] {
        assert_eq!(caller.hsm("verify", &wrong).good(200), json!({"valid": false}));
    }
    let long = merged(&body, json!({"context": base64([1; 256])}));
    caller
        .hsm("sign", &long)
        .problem_naming(400, "invalid_request", "context");
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = merged(&body, json!({"key_id": ec["key_id"]}));
    caller
        .hsm("sign", &body)
        .problem_naming(400, "invalid_request", "context");
}
