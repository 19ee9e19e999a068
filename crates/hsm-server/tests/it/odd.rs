//! Modules that lie, lack things, or have little room.

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Caller, Server, base64, bytes, merged};
use crate::tools::{behind, wait_until};

fn started(faulty: &FaultyToken) -> (Server, Caller) {
    let server = behind(faulty).start();
    let caller = server.all();
    (server, caller)
}

fn with_data(key: &Value) -> Value {
    json!({"key_id": key["key_id"], "data": base64(b"message")})
}

#[test]
fn a_clock_that_is_none() {
    let faulty = FaultyToken::over(Token::softhsm());
    faulty.fault("C_GetTokenInfo bad_clock");
    let (_server, caller) = started(&faulty);
    let slots = caller.get("/api/v1/hsm/slots").good(200);
    let labels: Vec<&Value> = slots["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| &slot["token_label"])
        .collect();
    assert!(labels.contains(&&json!("test token")), "{slots}");
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    caller.hsm("encrypt", &with_data(&key)).good(200);
}

#[test]
fn a_token_with_room_for_few_sessions() {
    for most in [2, 3] {
        let faulty = FaultyToken::over(Token::softhsm());
        faulty.fault(&format!("C_GetTokenInfo max_sessions={most}"));
        let server = behind(&faulty).env("HSM_LIMITS__MAX_SESSIONS", "16").start();
        let caller = server.all();
        let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| caller.hsm("sign", &with_data(&key)).good(200));
            }
        });
        caller.get("/api/v1/hsm/keys/hsm:00").problem(404, "key_not_found");
        let open = faulty.calls("C_OpenSession") - faulty.calls("C_CloseSession");
        assert!(open <= most, "{open} sessions are open, {most} are allowed");
    }
}

#[test]
fn mechanisms_that_are_missing() {
    let faulty = FaultyToken::over(Token::softhsm());
    // CKM_AES_GCM, CKM_RSA_PKCS_PSS and those with a hash, CKM_SHA256_RSA_PKCS.
    faulty.fault("C_GetMechanismList without=0x1087,0x0d,0x0e,0x43,0x44,0x45,0x40");
    let (_server, caller) = started(&faulty);
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    caller
        .hsm("encrypt", &with_data(&aes))
        .problem_naming(501, "mechanism_not_supported", "CKM_AES_GCM");
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let sign = |algorithm: &str| {
        let body = merged(&with_data(&rsa), json!({"algorithm": algorithm}));
        caller.hsm("sign", &body)
    };
    sign("RSA-PSS-SHA256").problem(501, "mechanism_not_supported");
    // Hashed here, signed by the bare mechanism.
    let signed = sign("RSA-PKCS1-SHA256").good(200);
    let check = merged(&signed, json!({"data": base64(b"message")}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    let ec = json!({"key_type": "ML-KEM", "parameter_set": "ML-KEM-768"});
    caller.create(ec).problem(501, "mechanism_not_supported");
}

#[test]
fn answers_of_a_wrong_length() {
    let faulty = FaultyToken::over(Token::softhsm());
    let server = behind(&faulty).env("HSM_VERIFY_AFTER_SIGN", "all").start();
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let hmac = caller.key(json!({"key_type": "HMAC"}));
    let sealed = caller.hsm("encrypt", &with_data(&aes)).good(200);
    for length in [0, 1, 3, 15, 4096] {
        for function in ["Sign", "SignFinal", "Encrypt", "EncryptUpdate", "EncryptFinal"] {
            faulty.fault(&format!("C_{function} length={length}"));
            for (operation, key) in [("sign", &rsa), ("sign", &ec), ("sign", &hmac), ("encrypt", &aes)] {
                let reply = caller.hsm(operation, &with_data(key));
                assert!(
                    matches!(reply.status, 200 | 502),
                    "C_{function} {length} {operation}: {}",
                    reply.text()
                );
                if reply.status == 200 {
                    // Only an answer that is right is given.
                    faulty.clear();
                    let again = reply.good(200);
                    let (operation, check) = match operation {
                        "sign" => ("verify", merged(&again, json!({"data": base64(b"message")}))),
                        _ => ("decrypt", again),
                    };
                    let checked = caller.hsm(operation, &check);
                    let answer = checked.good(200);
                    let right = answer["valid"] == json!(true) || answer["data"] == base64(b"message");
                    assert!(right, "C_{function} {length} {operation}: {answer}");
                    faulty.fault(&format!("C_{function} length={length}"));
                }
            }
        }
        for function in ["Decrypt", "DecryptUpdate", "DecryptFinal"] {
            faulty.fault(&format!("C_{function} length={length}"));
            let status = caller.hsm("decrypt", &sealed).status;
            assert!(matches!(status, 200 | 400 | 502), "C_{function} {length}: {status}");
        }
        faulty.clear();
        assert_eq!(bytes(&caller.hsm("decrypt", &sealed).good(200)["data"]), b"message");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.anonymous().get("/health/ready").good(200);
}

#[test]
fn every_function_that_fails_is_survived() {
    let faulty = FaultyToken::over(Token::softhsm());
    let (server, caller) = started(&faulty);
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let before = server.token().objects().len();
    let mut number = 0;
    for function in [
        "C_GetTokenInfo",
        "C_GetMechanismList",
        "C_OpenSession",
        "C_GetSessionInfo",
        "C_FindObjectsInit",
        "C_FindObjects",
        "C_GetAttributeValue",
        "C_GenerateRandom",
        "C_GenerateKey",
        "C_SignInit",
        "C_Sign",
        "C_EncryptInit",
        "C_Encrypt",
    ] {
        // CKR_DEVICE_ERROR, CKR_OBJECT_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN
        for code in ["0x30", "0x82", "0x101"] {
            faulty.fault(&format!("{function} rv={code}"));
            number += 1;
            let label = format!("made {number}");
            let replies = [
                caller.get("/api/v1/hsm/slots"),
                caller.get("/api/v1/hsm/keys?limit=1"),
                caller.get("/api/v1/hsm/keys/hsm:00"),
                caller.create(json!({"key_type": "AES", "key_size": 256, "key_label": label})),
                caller.hsm("sign", &with_data(&ec)),
                caller.hsm("sign", &with_data(&rsa)),
                caller.hsm("encrypt", &with_data(&aes)),
                caller.hsm("encrypt", &with_data(&rsa)),
            ];
            faulty.clear();
            for reply in replies {
                assert_ne!(reply.status, 500, "{function} {code}: {}", reply.text());
                // What has no handle after the second look is gone, as far as anyone can tell.
                if reply.status == 404 && code != "0x82" {
                    assert!(reply.text().contains("hsm:00"), "{function} {code}: {}", reply.text());
                }
                if reply.status == 201 {
                    let id = reply.json()["key_id"].as_str().unwrap().to_owned();
                    let gone = caller.delete(&format!("/api/v1/hsm/keys/{id}"));
                    assert!(matches!(gone.status, 204 | 404), "{}", gone.text());
                }
            }
            wait_until("it works again", || caller.hsm("sign", &with_data(&ec)).status == 200);
            caller.hsm("encrypt", &with_data(&aes)).good(200);
        }
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    wait_until("nothing is left of what failed", || {
        server.token().objects().len() == before
    });
    server.anonymous().get("/health/ready").good(200);
}
