//! Keys that leave a token wrapped, and come back: to the same token, to another, and to another library.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _, KeyWrapPadded as _};
use serde_json::{Value, json};

use super::{IMPORT, MESSAGE, import, is_aes_256, recorded};
use crate::support::{Caller, Server, base64, bytes, merged, text};

const WRAP: &str = "/api/v1/hsm/wrap";
const KEK: [u8; 32] = [0x5a; 32];

on_both_tokens! {
    another_library_unwraps_and_wraps,
    a_wrapped_pair_comes_back,
    what_may_not_leave_does_not,
    what_does_not_unwrap_is_refused,
}

/// A key encryption key that the test knows.
fn kek(caller: &Caller) -> Value {
    let usages = json!({"usages": ["wrap", "unwrap"]});
    import(caller, "AES", "raw", &KEK, usages).good(201)["key_id"].clone()
}

fn unwrap(kek: &Value, wrapped: &Value, label: &str) -> Value {
    json!({
        "format": "wrapped", "wrapping_key_id": kek, "algorithm": wrapped["algorithm"],
        "key_material": wrapped["wrapped_key"], "key_type": "AES", "key_label": label,
    })
}

fn another_library_unwraps_and_wraps(server: &Server) {
    let caller = server.all();
    let kek = kek(&caller);
    let target = caller.key(json!({"key_type": "AES", "key_size": 256, "extractable": true}));
    let known = || AesKek::new(&AES_256, &KEK).unwrap();
    let mut out = [0; 64];
    for algorithm in ["AES-KW", "AES-KWP"] {
        let body = json!({"key_id": kek, "target_key_id": target["key_id"], "algorithm": algorithm});
        let wrapped = caller.post(WRAP, &body).good(200);
        assert_eq!((&wrapped["algorithm"], &wrapped["key_id"]), (&json!(algorithm), &kek));
        assert_eq!(recorded(server, "wrap"), json!([kek, algorithm, "success", 200, null]));
        let blob = bytes(&wrapped["wrapped_key"]);
        let secret = if algorithm == "AES-KW" {
            known().unwrap(&blob, &mut out).unwrap().to_vec()
        } else {
            known().unwrap_with_padding(&blob, &mut out).unwrap().to_vec()
        };
        is_aes_256(&caller, &target["key_id"], &secret);
        let back = caller.post(IMPORT, &unwrap(&kek, &wrapped, algorithm)).good(201);
        is_aes_256(&caller, &back["key_id"], &secret);
        assert_eq!(
            recorded(server, "unwrap"),
            json!([back["key_id"], algorithm, "success", 201, null])
        );
    }
    let secret = [0x77; 32];
    let blob = known().wrap_with_padding(&secret, &mut out).unwrap().to_vec();
    let wrapped = json!({"algorithm": "AES-KWP", "wrapped_key": base64(blob)});
    let key = caller.post(IMPORT, &unwrap(&kek, &wrapped, "from outside")).good(201);
    is_aes_256(&caller, &key["key_id"], &secret);
    // Under `/api/v1` too, where a key may have versions.
    let body = json!({"key_id": kek, "target_key_id": target["key_id"]});
    let wrapped = caller.post("/api/v1/wrap", &body).good(200);
    assert_eq!(wrapped["key_version"], Value::Null);
    for body in [
        json!({"key_id": "orders", "target_key_id": target["key_id"]}),
        json!({"key_id": kek, "target_key_id": "orders"}),
    ] {
        caller.post("/api/v1/wrap", &body).problem(404, "key_not_found");
        caller.post(WRAP, &body).problem(400, "invalid_key_id");
    }
}

fn a_wrapped_pair_comes_back(server: &Server) {
    let caller = server.all();
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048, "usages": ["wrap", "unwrap"]}));
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256", "extractable": true}));
    let body = json!({"key_id": rsa["key_id"], "target_key_id": pair["key_id"]});
    let wrapped = caller.post(WRAP, &body).good(200);
    assert_eq!(wrapped["algorithm"], "RSA-AES-KEY-WRAP");
    let body = merged(
        &unwrap(&rsa["key_id"], &wrapped, "the pair again"),
        json!({"key_type": "EC", "usages": ["sign"]}),
    );
    let back = caller.post(IMPORT, &body).good(201);
    assert_eq!(back["curve"], "P-256");
    assert_eq!(back["extractable"], false);
    let sign = json!({"key_id": back["key_id"], "data": base64(MESSAGE)});
    let signed = caller.hsm("sign", &sign).good(200);
    let check = merged(&signed, json!({"key_id": pair["key_id"], "data": base64(MESSAGE)}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
}

fn what_may_not_leave_does_not(server: &Server) {
    let caller = server.all();
    let kek = kek(&caller);
    let kept = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let free = caller.key(json!({"key_type": "AES", "key_size": 256, "extractable": true}));
    let ask = |key: &Value, target: &Value, more: Value| {
        caller.post(WRAP, &merged(&json!({"key_id": key, "target_key_id": target}), more))
    };
    ask(&kek, &kept["key_id"], json!({})).problem(400, "not_extractable");
    assert_eq!(recorded(server, "wrap")[4], "not_extractable");
    ask(&kept["key_id"], &free["key_id"], json!({})).problem(400, "usage_not_permitted");
    ask(&kek, &free["key_id"], json!({"algorithm": "AES-GCM"})).problem(400, "unsupported_algorithm");
    ask(&kek, &free["key_id"], json!({"algorithm": "RSA-OAEP-SHA1"})).problem(400, "key_type_mismatch");
    ask(&kek, &json!("hsm:00ff"), json!({})).problem(404, "key_not_found");
    ask(&json!("hsm:00ff"), &free["key_id"], json!({})).problem(404, "key_not_found");
    ask(&kek, &json!("hsm:other:00ff"), json!({})).problem_naming(400, "invalid_request", "target_key_id");
}

fn what_does_not_unwrap_is_refused(server: &Server) {
    let caller = server.all();
    let kek = kek(&caller);
    let before = server.token().objects().len();
    let target = AesKek::new(&AES_256, &KEK).unwrap();
    let mut out = [0; 64];
    let mut blob = target.wrap_with_padding(&[3; 32], &mut out).unwrap().to_vec();
    blob[7] ^= 1;
    let wrapped = |blob: &[u8]| json!({"algorithm": "AES-KWP", "wrapped_key": base64(blob)});
    let ask = |blob: &[u8], label: &str| caller.post(IMPORT, &unwrap(&kek, &wrapped(blob), label));
    for blob in [&blob[..], &blob[..24], &[], &[1], &[0; 20_000]] {
        ask(blob, "broken").problem(400, "invalid_request");
    }
    assert_eq!(
        recorded(server, "unwrap"),
        json!([kek, "AES-KWP", "failure", 400, "invalid_request"])
    );
    assert_eq!(server.token().objects().len(), before);
    // The label is free again.
    blob[7] ^= 1;
    let key = ask(&blob, "broken").good(201);
    assert_eq!(text(&key["key_label"]), "broken");
}

#[test]
fn a_key_moves_from_one_token_to_the_other() {
    let (from, to) = (Server::softhsm(), Server::embedded());
    let (one, other) = (from.all(), to.all());
    let (kek_here, kek_there) = (kek(&one), kek(&other));
    let key = one.key(json!({"key_type": "AES", "key_size": 256, "extractable": true}));
    let sealed = one
        .hsm("encrypt", &json!({"key_id": key["key_id"], "data": base64(MESSAGE)}))
        .good(200);
    let body = json!({"key_id": kek_here, "target_key_id": key["key_id"], "algorithm": "AES-KWP"});
    let wrapped = one.post(WRAP, &body).good(200);
    let moved = other.post(IMPORT, &unwrap(&kek_there, &wrapped, "moved")).good(201);
    let opened = other
        .hsm("decrypt", &merged(&sealed, json!({"key_id": moved["key_id"]})))
        .good(200);
    assert_eq!(bytes(&opened["data"]), MESSAGE);
}
