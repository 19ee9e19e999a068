//! Paths, methods, tokens, scopes, and the order in which they are looked at.

use serde_json::{Value, json};

use super::{KEYS, SIGN};
use crate::support::{Server, text};

#[test]
fn what_is_not_there_is_404_for_everyone() {
    let server = Server::softhsm();
    for caller in [server.anonymous(), server.all(), server.bearer("wrong")] {
        for path in [
            "/api",
            "/api/v1",
            "/api/v2/hsm/keys",
            "/api/v1/hsm",
            "/api/v1/hsm/keys/hsm:00/x",
            "/nothing",
            "/api/v1/hsm/rewrap",
            "/api/v1/hsm/keys/import/x",
            "/api/v1/random",
            "/api/v1/hsm/datakeys",
            "/api/v1/keys/orders/nothing",
            "/api/v1/hsm/../hsm/nothing",
            "/%00",
            "/%ff",
        ] {
            caller.get(path).problem(404, "not_found");
            caller.post(path, &json!({})).problem(404, "not_found");
        }
    }
}

#[test]
fn a_refusal_says_what_was_sent() {
    let server = Server::softhsm();
    let plain = Some("Bearer realm=\"hsm\"");
    let reply = server.anonymous().get(KEYS);
    reply.problem(401, "unauthenticated");
    assert_eq!(reply.header("www-authenticate"), plain);
    for authorization in ["", "Basic dXNlcjpwYXNz", "Digest x"] {
        let reply = server
            .anonymous()
            .raw("GET", KEYS, &[("Authorization", authorization)], b"");
        reply.problem(401, "unauthenticated");
        assert_eq!(reply.header("www-authenticate"), plain, "{authorization:?}");
    }
    let reply = server.bearer("garbage").get(KEYS);
    reply.problem(401, "unauthenticated");
    let how = reply.header("www-authenticate").unwrap();
    assert!(
        how.starts_with("Bearer realm=\"hsm\"") && how.contains("error=\"invalid_token\""),
        "{how}"
    );
    let reply = server.caller("crypto:verify").post(SIGN, &json!({}));
    reply.problem_naming(403, "forbidden", "crypto:sign");
    let how = "Bearer realm=\"hsm\", error=\"insufficient_scope\", scope=\"crypto:sign\"";
    assert_eq!(reply.header("www-authenticate"), Some(how));
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let server = Server::softhsm();
    let caller = server.all();
    for (method, path, allowed) in [
        ("PUT", KEYS, &["GET", "POST"][..]),
        ("DELETE", KEYS, &["GET", "POST"]),
        ("POST", "/api/v1/hsm/keys/hsm:00", &["GET", "PATCH", "DELETE"]),
        ("GET", "/api/v1/hsm/keys/import", &["POST"]),
        ("DELETE", "/api/v1/hsm/keys/import", &["POST"]),
        ("GET", "/api/v1/hsm/batch", &["POST"]),
        ("PUT", "/api/v1/hsm/keys/hsm:00/csr", &["POST"]),
        ("GET", SIGN, &["POST"]),
        ("DELETE", "/api/v1/encrypt", &["POST"]),
        ("POST", "/api/v1/hsm/slots", &["GET"]),
        ("POST", "/api/v1/audit", &["GET"]),
        ("BREW", KEYS, &["GET", "POST"]),
    ] {
        let reply = caller.raw(method, path, &[], b"");
        reply.problem(405, "method_not_allowed");
        let allow = reply.header("allow").unwrap();
        for name in allowed {
            assert!(allow.split(", ").any(|is| is == *name), "{method} {path}: {allow}");
        }
        assert!(!allow.split(", ").any(|is| is == method), "{method} {path}: {allow}");
    }
}

#[test]
fn checks_come_in_their_order() {
    let server = Server::softhsm();
    let (all, anonymous, none) = (server.all(), server.anonymous(), server.caller("slots:read"));
    let token = server.token();
    let aes = all.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let ec = all.key(json!({"key_type": "EC", "curve": "P-256", "usages": ["verify"]}))["key_id"].clone();
    token.make_foreign_key("0a", "first", "AES:32");
    token.make_foreign_key("0a", "second", "AES:32");
    let huge = "x".repeat(2_000_000);
    let text_type = [("Content-Type", "text/plain")];
    let json_type = [("Content-Type", "application/json")];

    // route · 401 · 405 · 403
    anonymous
        .raw("PUT", "/api/v1/nothing", &text_type, huge.as_bytes())
        .problem(404, "not_found");
    anonymous
        .raw("PUT", SIGN, &text_type, huge.as_bytes())
        .problem(401, "unauthenticated");
    none.raw("PUT", SIGN, &text_type, huge.as_bytes())
        .problem(405, "method_not_allowed");
    none.raw("POST", SIGN, &text_type, huge.as_bytes())
        .problem(403, "forbidden");
    // 415 · 413 · body
    all.raw("POST", SIGN, &text_type, huge.as_bytes())
        .problem(415, "unsupported_media_type");
    all.raw("POST", SIGN, &json_type, huge.as_bytes())
        .problem(413, "payload_too_large");
    let ask = |operation: &str, body: Value| all.hsm(operation, &body);
    ask("sign", json!({"key_id": "hsm:00", "data": "?", "algorithm": "none"})).problem(400, "invalid_request");
    ask("sign", json!({"key_id": "hsm:0", "data": "", "algorithm": "none"})).problem(400, "invalid_key_id");
    // key · algorithm · key type · usage · lengths · 501
    ask("sign", json!({"key_id": "hsm:00", "data": "", "algorithm": "none"})).problem(404, "key_not_found");
    ask("sign", json!({"key_id": "hsm:0a", "data": "", "algorithm": "none"})).problem(409, "ambiguous_key");
    ask("sign", json!({"key_id": aes, "data": "", "algorithm": "none"})).problem(400, "unsupported_algorithm");
    ask(
        "sign",
        json!({"key_id": aes, "data": "", "algorithm": "ECDSA-SHA256", "message_type": "digest"}),
    )
    .problem(400, "key_type_mismatch");
    ask(
        "sign",
        json!({"key_id": ec, "data": "", "algorithm": "ECDSA-SHA256", "message_type": "digest"}),
    )
    .problem(400, "usage_not_permitted");
    let body =
        json!({"key_id": ec, "data": "", "algorithm": "ECDSA-SHA256", "message_type": "digest", "signature": ""});
    ask("verify", body).problem(400, "invalid_request");
}

#[test]
fn request_ids_are_taken_over_or_made() {
    let server = Server::softhsm();
    let caller = server.anonymous();
    let longest = "x".repeat(128);
    for id in ["a", "0", "A-Za-z0-9._:-", "6f1b:2.c_d-e", longest.as_str()] {
        let reply = caller.raw("GET", "/health/live", &[("x-request-id", id)], b"");
        assert_eq!(reply.request_id(), id);
        let reply = caller.raw("GET", KEYS, &[("X-Request-ID", id)], b"");
        assert_eq!(reply.problem(401, "unauthenticated")["request_id"], id);
    }
    let too_long = "x".repeat(129);
    for id in ["", " ", "a b", "a/b", "é", "a\"b", "<script>", "a,b", too_long.as_str()] {
        let reply = caller.raw("GET", KEYS, &[("x-request-id", id)], b"");
        reply.problem(401, "unauthenticated");
        assert_ne!(reply.request_id(), id);
    }
    let mut made: Vec<String> = (0..50)
        .map(|_| caller.get("/health/live").request_id().to_owned())
        .collect();
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 50);
}

#[test]
fn each_problem_has_its_page() {
    let server = Server::softhsm();
    let reply = server.anonymous().get(KEYS);
    let problem = reply.problem(401, "unauthenticated");
    let (page, anchor) = text(&problem["type"]).split_once('#').unwrap();
    let page = server.anonymous().get(page);
    assert_eq!(page.status, 200);
    assert!(page.text().contains(&format!("\"{anchor}\"")), "{anchor}");
}
