//! Which algorithm goes with which key, and under which path.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{DATA, is_valid, opens, signs};
use crate::support::{ABSENT, Server, base64, bytes, merged, text};

on_both_tokens! {
    jose_names_fix_what_jose_fixes,
    algorithms_are_of_their_operation_and_key,
    keys_are_used_as_they_were_made_for,
    an_hsm_key_is_used_like_any_other,
}

fn jose_names_fix_what_jose_fixes(server: &Server) {
    let caller = server.all();
    for (curve, jose, bits, length) in [
        ("P-256", "ES256", "256", 64),
        ("P-384", "ES384", "384", 96),
        ("P-521", "ES512", "512", 132),
    ] {
        let key = caller.key(json!({"key_type": "EC", "curve": curve}));
        let body = json!({"key_id": key["key_id"], "data": DATA});
        let answer = signs(&caller, merged(&body, json!({"algorithm": jose})));
        assert_eq!(answer["algorithm"], format!("ECDSA-SHA{bits}"));
        assert_eq!(answer["signature_format"], "p1363");
        assert_eq!(bytes(&answer["signature"]).len(), length);
        let check = json!({"key_id": key["key_id"], "data": DATA, "algorithm": jose, "signature": answer["signature"]});
        assert!(is_valid(&caller, &check));
        let answer = signs(
            &caller,
            merged(&body, json!({"algorithm": jose, "signature_format": "der"})),
        );
        assert_eq!(answer["signature_format"], "der");
        for other in ["ES256", "ES384", "ES512", "ES256K"]
            .into_iter()
            .filter(|name| *name != jose)
        {
            caller
                .hsm("sign", &merged(&body, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
        }
    }
    for (bits, jose) in [(128, "A128GCM"), (192, "A192GCM"), (256, "A256GCM")] {
        let key = caller.key(json!({"key_type": "AES", "key_size": bits}));
        let body = json!({"key_id": key["key_id"], "data": DATA});
        let answer = caller
            .hsm("encrypt", &merged(&body, json!({"algorithm": jose})))
            .good(200);
        assert_eq!(answer["algorithm"], "AES-GCM");
        opens(&caller, &merged(&answer, json!({"algorithm": jose})), DATA);
        for other in ["A128GCM", "A192GCM", "A256GCM"]
            .into_iter()
            .filter(|name| *name != jose)
        {
            caller
                .hsm("encrypt", &merged(&body, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
            caller
                .hsm("decrypt", &merged(&answer, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
        }
    }
}

fn algorithms_are_of_their_operation_and_key(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let hmac = caller.key(json!({"key_type": "HMAC"}))["key_id"].clone();
    let ask = |operation: &str, id: &Value, algorithm: &str| {
        let body = json!({"key_id": id, "data": DATA, "algorithm": algorithm});
        caller.hsm(operation, &body)
    };
    for wrong in [
        "",
        "none",
        "aes-gcm",
        "AES-ECB",
        "AES-GCM ",
        "RSA-PKCS1",
        "RSA1_5",
        "ECDSA-SHA256",
        "HS256",
        "AES-KW",
        "AES-CMAC",
        "dir",
    ] {
        ask("encrypt", &aes, wrong).problem(400, "unsupported_algorithm");
        let body = json!({"key_id": aes, "algorithm": wrong, "ciphertext": "", "iv": null, "tag": null});
        caller.hsm("decrypt", &body).problem(400, "unsupported_algorithm");
    }
    for wrong in [
        "",
        "none",
        "NONE",
        "ECDSA-SHA1",
        "ecdsa-sha256",
        "RSA-PKCS1-SHA1",
        "AES-GCM",
        "A256GCM",
        "RSA-OAEP",
        "HMAC-SHA1",
    ] {
        ask("sign", &ec, wrong).problem(400, "unsupported_algorithm");
        let body = json!({"key_id": ec, "algorithm": wrong, "data": DATA, "signature": ""});
        caller.hsm("verify", &body).problem(400, "unsupported_algorithm");
    }
    for (operation, id, algorithm) in [
        ("encrypt", &aes, "RSA-OAEP-SHA256"),
        ("encrypt", &ec, "AES-GCM"),
        ("encrypt", &hmac, "AES-GCM"),
        ("sign", &aes, "ECDSA-SHA256"),
        ("sign", &aes, "HMAC-SHA256"),
        ("sign", &ec, "RSA-PSS-SHA256"),
        ("sign", &ec, "EdDSA"),
        ("sign", &ec, "RS256"),
        ("sign", &hmac, "AES-CMAC"),
        ("sign", &hmac, "ES256"),
    ] {
        ask(operation, id, algorithm).problem(400, "key_type_mismatch");
    }
    // A verifier that may be told to take a public key for a secret is none.
    let confused = json!({"key_id": ec, "algorithm": "HS256", "data": DATA, "signature": "AAAA"});
    caller.hsm("verify", &confused).problem(400, "key_type_mismatch");
    let aad = json!({"key_id": aes, "data": DATA, "algorithm": "AES-CTR", "aad": base64("x")});
    caller
        .hsm("encrypt", &aad)
        .problem_naming(400, "invalid_request", "aad");
    for name in ["message_type", "signature_format"] {
        let body = json!({"key_id": ec, "data": DATA, name: "DER"});
        caller.hsm("sign", &body).problem_naming(400, "invalid_request", name);
    }
    // Nothing but a client's IV would make it possible to use one twice.
    let own_iv = json!({"key_id": aes, "data": DATA, "iv": base64([0; 12])});
    caller
        .hsm("encrypt", &own_iv)
        .problem_naming(400, "invalid_request", "iv");
}

fn keys_are_used_as_they_were_made_for(server: &Server) {
    let caller = server.all();
    let key = |body: Value| caller.key(body)["key_id"].clone();
    let encrypts = key(json!({"key_type": "AES", "key_size": 256, "usages": ["encrypt"]}));
    let answer = caller
        .hsm("encrypt", &json!({"key_id": encrypts, "data": DATA}))
        .good(200);
    caller.hsm("decrypt", &answer).problem(400, "usage_not_permitted");
    let decrypts = key(json!({"key_type": "AES", "key_size": 256, "usages": ["decrypt"]}));
    caller
        .hsm("encrypt", &json!({"key_id": decrypts, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let default_aes = key(json!({"key_type": "AES", "key_size": 256}));
    caller
        .hsm("sign", &json!({"key_id": default_aes, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let verifies = key(json!({"key_type": "EC", "curve": "P-256", "usages": ["verify"]}));
    caller
        .hsm("sign", &json!({"key_id": verifies, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let signs_only = key(json!({"key_type": "HMAC", "usages": ["sign"]}));
    let answer = caller
        .hsm("sign", &json!({"key_id": signs_only, "data": DATA}))
        .good(200);
    caller
        .hsm("verify", &merged(&answer, json!({"data": DATA})))
        .problem(400, "usage_not_permitted");
    let rsa = key(json!({"key_type": "RSA", "key_size": 2048, "usages": ["sign", "verify"]}));
    caller
        .hsm("encrypt", &json!({"key_id": rsa, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let body = json!({"key_id": rsa, "ciphertext": base64(vec![1; 256]), "iv": null, "tag": null});
    caller.hsm("decrypt", &body).problem(400, "usage_not_permitted");
}

fn an_hsm_key_is_used_like_any_other(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let post = |operation: &str, body: &Value| caller.post(&format!("/api/v1/{operation}"), body);

    let answer = post(
        "encrypt",
        &json!({"key_id": aes["key_id"], "data": DATA, "aad": base64("x")}),
    )
    .good(200);
    assert_eq!(answer.as_object().unwrap().len(), 6, "{answer}");
    assert_eq!(
        (&answer["key_version"], &answer["algorithm"]),
        (&Value::Null, &json!("AES-GCM"))
    );
    let back = merged(&answer, json!({"aad": base64("x")}));
    assert_eq!(post("decrypt", &back).good(200), json!({"data": DATA}));
    assert_eq!(
        post("decrypt", &merged(&back, json!({"key_version": ABSENT}))).good(200),
        json!({"data": DATA})
    );

    let signed = post("sign", &json!({"key_id": ec["key_id"], "data": DATA})).good(200);
    assert_eq!(signed.as_object().unwrap().len(), 6, "{signed}");
    assert_eq!(signed.get("key_version"), Some(&Value::Null));
    let check = merged(&signed, json!({"data": DATA}));
    assert_eq!(post("verify", &check).good(200), json!({"valid": true}));
    assert_eq!(
        post("verify", &merged(&check, json!({"data": "AAAA"}))).good(200),
        json!({"valid": false})
    );
    // Signed here and verified there.
    assert!(is_valid(&caller, &merged(&check, json!({"key_version": ABSENT}))));
    caller
        .hsm("verify", &check)
        .problem_naming(400, "invalid_request", "key_version");

    let list = caller.get("/api/v1/keys").good(200);
    let listed: HashSet<&str> = list["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| text(&key["key_id"]))
        .collect();
    assert_eq!(listed, HashSet::from([text(&aes["key_id"]), text(&ec["key_id"])]));
    let path = format!("/api/v1/keys/{}", text(&ec["key_id"]));
    assert_eq!(caller.get(&path).good(200)["key_id"], ec["key_id"]);
    for unknown in ["orders", "a", "A-Z_0.9", "abcdef"] {
        let path = format!("/api/v1/keys/{unknown}");
        caller.get(&path).problem(404, "key_not_found");
        caller.delete(&path).problem(404, "key_not_found");
        post("encrypt", &json!({"key_id": unknown, "data": DATA})).problem(404, "key_not_found");
        post("sign", &json!({"key_id": unknown, "data": DATA})).problem(404, "key_not_found");
        post("verify", &json!({"key_id": unknown, "data": DATA, "signature": ""})).problem(404, "key_not_found");
        let body = json!({"key_id": unknown, "ciphertext": "", "iv": null, "tag": null});
        post("decrypt", &body).problem(404, "key_not_found");
    }
    caller.delete(&path).good(204);
    caller.get(&path).problem(404, "key_not_found");
    assert!(
        server
            .token()
            .attributes(text(&ec["key_id"]).strip_prefix("hsm:").unwrap())
            .is_empty()
    );
}
