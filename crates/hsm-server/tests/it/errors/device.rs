//! What the token does wrong, or not at all, or too late.

use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::json;
use softhsm_test::{FaultyToken, Token};

use super::DATA;
use crate::support::{Server, merged};

#[test]
fn without_a_pin_what_needs_one_is_unavailable() {
    let token = Token::softhsm();
    token.make_foreign_key("0a", "private", "EC:prime256v1");
    let server = Server::with(token).without("HSM_PIN").start();
    let caller = server.all();
    caller.get("/api/v1/hsm/slots").good(200);
    for body in [
        json!({"key_type": "AES", "key_size": 256}),
        json!({"key_type": "EC", "curve": "P-256"}),
    ] {
        caller.create(body).problem_naming(503, "hsm_unavailable", "HSM_PIN");
    }
    caller
        .hsm("sign", &json!({"key_id": "hsm:0a", "data": DATA}))
        .problem_naming(503, "hsm_unavailable", "HSM_PIN");
    // No breaker opens: it is not the token that is ill.
    for _ in 0..20 {
        caller
            .hsm("sign", &json!({"key_id": "hsm:0a", "data": DATA}))
            .problem(503, "hsm_unavailable");
    }
    caller.get("/api/v1/hsm/slots").good(200);
    assert_eq!(server.anonymous().get("/health/ready").status, 200);
    assert!(server.log().contains("HSM_PIN"), "{}", server.log());
}

#[test]
fn a_key_that_takes_too_long_is_not_left_behind() {
    for body in [
        json!({"key_type": "RSA", "key_size": 2048}),
        json!({"key_type": "RSA", "key_size": 4096}),
    ] {
        let server = Server::with(Token::softhsm())
            .env("HSM_LIMITS__KEYGEN_TIMEOUT_MS", "1")
            .start();
        let caller = server.all();
        let label = json!({"key_label": "too late"});
        caller.create(merged(&body, label)).problem(504, "hsm_timeout");
        let token = server.token().clone();
        caller.get("/api/v1/hsm/slots").good(200);
        server.stop();
        assert!(token.objects().is_empty(), "{:?}", token.objects());
    }
}

#[test]
fn a_call_that_hangs_is_answered_and_the_server_goes_on() {
    let server = Server::with_faulty(FaultyToken::over(Token::softhsm()))
        .env("HSM_LIMITS__HSM_TIMEOUT_MS", "300")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let body = json!({"key_id": id, "data": DATA});
    caller.hsm("sign", &body).good(200);
    server.fault("C_Sign hang count=1");
    caller.hsm("sign", &body).problem(504, "hsm_timeout");
    caller.hsm("sign", &body).good(200);
    assert_eq!(server.anonymous().get("/health/live").status, 200);
    server.fault("");
    caller.hsm("sign", &body).good(200);
}

#[test]
fn a_full_queue_is_busy_at_once() {
    let server = Server::with_faulty(FaultyToken::over(Token::softhsm()))
        .env("HSM_LIMITS__QUEUE", "0")
        .env("HSM_LIMITS__MAX_SESSIONS", "1")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let body = json!({"key_id": id, "data": DATA});
    caller.hsm("sign", &body).good(200);
    server.faulty_token().forget_calls();
    server.fault("C_Sign hang");
    thread::scope(|scope| {
        let first = scope.spawn(|| caller.hsm("sign", &body));
        while server.faulty_token().calls("C_Sign") == 0 {
            sleep(Duration::from_millis(5));
        }
        for _ in 0..3 {
            caller.hsm("sign", &body).problem(503, "busy");
        }
        assert_eq!(server.anonymous().get("/health/ready").status, 200);
        server.fault("");
        first.join().unwrap().good(200);
    });
    caller.hsm("sign", &body).good(200);
}

#[test]
fn a_call_that_waits_too_long_is_a_timeout_too() {
    let server = Server::with_faulty(FaultyToken::over(Token::softhsm()))
        .env("HSM_LIMITS__HSM_TIMEOUT_MS", "500")
        .env("HSM_LIMITS__MAX_SESSIONS", "1")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let body = json!({"key_id": id, "data": DATA});
    server.fault("C_Sign hang");
    thread::scope(|scope| {
        let callers: Vec<_> = (0..6).map(|_| scope.spawn(|| caller.hsm("sign", &body))).collect();
        for caller in callers {
            caller.join().unwrap().problem(504, "hsm_timeout");
        }
    });
    server.fault("");
    caller.hsm("sign", &body).good(200);
}

#[test]
fn an_ill_token_is_502_and_its_code_is_named() {
    let server = Server::faulty();
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let sign = json!({"key_id": ec, "data": DATA});
    let encrypt = json!({"key_id": aes, "data": DATA});
    for (rv, name) in [
        ("0x30", "CKR_DEVICE_ERROR"),
        ("0x80000001", "0x80000001"),
        ("0x31", "CKR_DEVICE_MEMORY"),
        ("0x5", "CKR_GENERAL_ERROR"),
        ("0x1ff", "0x000001ff"),
    ] {
        server.fault(&format!(
            "C_Sign rv={rv}\nC_Encrypt rv={rv}\nC_GenerateKey rv={rv}\nC_GenerateKeyPair rv={rv}"
        ));
        caller.hsm("sign", &sign).problem_naming(502, "hsm_error", name);
        caller.hsm("encrypt", &encrypt).problem_naming(502, "hsm_error", name);
        caller
            .create(json!({"key_type": "AES", "key_size": 256}))
            .problem_naming(502, "hsm_error", name);
        caller
            .create(json!({"key_type": "EC", "curve": "P-256"}))
            .problem_naming(502, "hsm_error", name);
    }
    // An ill token opens no breaker.
    server.fault("");
    caller.hsm("sign", &sign).good(200);
    caller.hsm("encrypt", &encrypt).good(200);
    assert_eq!(server.token().objects().len(), 3);
}

#[test]
fn a_token_that_is_gone_is_unavailable_and_comes_back() {
    let server = Server::faulty();
    let caller = server.all();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let sign = json!({"key_id": ec, "data": DATA});
    server.fault("* rv=0x32");
    caller.hsm("sign", &sign).problem(503, "hsm_unavailable");
    server.fault("");
    let answers = (0..600).map(|_| {
        sleep(Duration::from_millis(50));
        caller.hsm("sign", &sign)
    });
    let healed = answers
        .into_iter()
        .find(|reply| reply.status != 503)
        .expect("it comes back");
    healed.good(200);
}

#[test]
fn what_the_token_lacks_is_501() {
    let server = Server::faulty();
    let caller = server.all();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let sign = json!({"key_id": ec, "data": DATA});
    for rv in ["0x70", "0x71", "0x54", "0x140", "0x7"] {
        server.fault(&format!("C_SignInit rv={rv}"));
        caller.hsm("sign", &sign).problem(501, "mechanism_not_supported");
    }
    server.fault("C_GenerateKey rv=0xe2");
    caller
        .create(json!({"key_type": "AES", "key_size": 256}))
        .problem(501, "mechanism_not_supported");
    server.fault("C_SignInit rv=0x68");
    caller.hsm("sign", &sign).problem(400, "usage_not_permitted");
    server.fault("C_GenerateKey rv=0x13");
    caller
        .create(json!({"key_type": "AES", "key_size": 256}))
        .problem(400, "invalid_request");
    server.fault("");
    caller.hsm("sign", &sign).good(200);
}

#[test]
fn a_signature_that_does_not_verify_is_not_given_out() {
    let server = Server::faulty();
    let caller = server.all();
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}))["key_id"].clone();
    server.fault("C_Sign corrupt");
    for algorithm in ["RSA-PSS-SHA256", "RSA-PKCS1-SHA256"] {
        caller
            .hsm("sign", &json!({"key_id": rsa, "data": DATA, "algorithm": algorithm}))
            .problem(502, "hsm_error");
    }
    server.fault("");
    caller.hsm("sign", &json!({"key_id": rsa, "data": DATA})).good(200);
}

#[test]
fn a_generator_that_repeats_itself_is_not_trusted() {
    let server = Server::faulty();
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let encrypt = json!({"key_id": aes, "data": DATA});
    let ctr = merged(&encrypt, json!({"algorithm": "AES-CTR"}));
    let before = server.token().objects().len();
    server.fault("C_GenerateRandom zero");
    caller.hsm("encrypt", &encrypt).problem(502, "hsm_error");
    caller.hsm("encrypt", &ctr).problem(502, "hsm_error");
    caller
        .create(json!({"key_type": "AES", "key_size": 256}))
        .problem(502, "hsm_error");
    server.fault("C_GenerateRandom repeat");
    let replies: Vec<_> = (0..3).map(|_| caller.hsm("encrypt", &encrypt)).collect();
    assert!(replies[0].status == 200 || replies[0].status == 502);
    replies[1].problem(502, "hsm_error");
    replies[2].problem(502, "hsm_error");
    caller
        .create(json!({"key_type": "AES", "key_size": 256}))
        .problem(502, "hsm_error");
    assert_eq!(server.token().objects().len(), before);
    server.fault("");
    caller.hsm("encrypt", &encrypt).good(200);
}
