//! What is wrong with a body or a query.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use softhsm_test::Token;

use super::{DATA, KEYS, SIGN};
use crate::support::{ABSENT, Caller, Server, merged};

#[test]
fn bad_bodies_change_nothing_and_the_server_still_serves() {
    let server = Server::softhsm();
    let caller = server.all();
    let aes = caller
        .key(json!({"key_type": "AES", "key_size": 256, "usages": ["encrypt", "decrypt", "sign", "verify"]}))["key_id"]
        .clone();
    let before = server.token().objects().len();
    let good = [
        (
            "/api/v1/hsm/keys",
            json!({"key_type": "AES", "key_size": 128, "key_label": "bad", "extractable": false, "usages": ["sign"]}),
        ),
        (
            "/api/v1/hsm/encrypt",
            json!({"key_id": aes, "data": DATA, "algorithm": "AES-GCM", "aad": "AA=="}),
        ),
        (
            "/api/v1/hsm/decrypt",
            json!({"key_id": aes, "ciphertext": DATA, "iv": "AAAA", "tag": "AAAA", "algorithm": "AES-GCM", "aad": "AA=="}),
        ),
        (
            "/api/v1/hsm/sign",
            json!({"key_id": aes, "data": DATA, "algorithm": "AES-CMAC", "message_type": "raw", "signature_format": null}),
        ),
        (
            "/api/v1/hsm/verify",
            json!({"key_id": aes, "data": DATA, "signature": "AAAA", "algorithm": "AES-CMAC", "message_type": "raw", "signature_format": null}),
        ),
        (
            "/api/v1/hsm/keys/import",
            json!({"key_type": "AES", "key_label": "bad", "format": "raw", "key_material": DATA, "usages": ["encrypt"], "extractable": true, "token": "none"}),
        ),
        (
            "/api/v1/hsm/keys/import",
            json!({"key_type": "AES", "key_label": "bad", "format": "wrapped", "wrapping_key_id": aes, "algorithm": "AES-KW", "key_material": DATA}),
        ),
        (
            "/api/v1/hsm/wrap",
            json!({"key_id": aes, "target_key_id": aes, "algorithm": "AES-KW"}),
        ),
        ("/api/v1/wrap", json!({"key_id": aes, "target_key_id": aes})),
        (
            "/api/v1/hsm/derive",
            json!({"key_id": aes, "algorithm": "ECDH", "public_key": "", "salt": DATA, "info": DATA, "key_type": "AES", "key_size": 128, "key_label": "bad", "usages": ["encrypt"], "extractable": false}),
        ),
        (
            "/api/v1/hsm/encapsulate",
            json!({"key_id": aes, "key_type": "AES", "key_size": 128, "key_label": "bad", "usages": ["encrypt"], "extractable": false}),
        ),
        (
            "/api/v1/hsm/decapsulate",
            json!({"key_id": aes, "ciphertext": DATA, "key_type": "AES", "key_size": 128, "key_label": "bad", "usages": ["encrypt"], "extractable": false}),
        ),
        (
            "/api/v1/hsm/keys/hsm:00/csr",
            json!({"subject": "CN=a", "subject_alt_names": ["a.example"], "algorithm": "RS256"}),
        ),
        ("/api/v1/hsm/random", json!({"length": 1, "token": "none"})),
        ("/api/v1/hsm/batch", json!({"operations": [{"operation": "sign"}]})),
        ("/api/v1/batch", json!({"operations": [{"operation": "sign"}]})),
        ("/api/v1/encrypt", json!({"key_id": aes, "data": DATA})),
        (
            "/api/v1/decrypt",
            json!({"key_id": aes, "ciphertext": DATA, "iv": "AAAA", "tag": "AAAA", "key_version": null}),
        ),
        ("/api/v1/sign", json!({"key_id": aes, "data": DATA})),
        (
            "/api/v1/verify",
            json!({"key_id": aes, "data": DATA, "signature": "AAAA", "key_version": null}),
        ),
    ];
    for (path, body) in &good {
        no_json(&caller, path, body);
        wrong_members(&caller, path, body);
    }
    garbage_for_a_request(&server);
    assert_eq!(server.token().objects().len(), before);
    caller.post("/api/v1/hsm/encrypt", &good[1].1).good(200);
    caller.get("/api/v1/hsm/slots").good(200);
    assert_eq!(server.anonymous().get("/health/ready").status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// What is no JSON object at all.
fn no_json(caller: &Caller, path: &str, good: &Value) {
    let good = good.to_string();
    let half = good[..good.len() / 2].to_owned();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" \n".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"true".to_vec(),
        b"17".to_vec(),
        b"\"text\"".to_vec(),
        b"[]".to_vec(),
        format!("[{good}]").into(),
        half.into(),
        format!("{good}{good}").into(),
        format!("{good} x").into(),
        good.replace('"', "'").into(),
        good.replacen('{', "{,", 1).into(),
        good.replacen('}', ",}", 1).into(),
        format!("\u{feff}{good}").into(),
        [&good.as_bytes()[..10], b"\xff\xfe", &good.as_bytes()[10..]].concat(),
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        good.replacen('{', "{\"\\ud800\":1,", 1).into(),
        good.replacen('{', "{\"x\":NaN,", 1).into(),
        good.replacen('{', "{\"x\":1e999,", 1).into(),
        "[".repeat(100_000).into(),
        "{\"data\":".repeat(100_000).into(),
        good.replacen(
            '{',
            &format!("{{\"x\":{}{},", "[".repeat(10_000), "]".repeat(10_000)),
            1,
        )
        .into(),
        b"\0\0\0\0".to_vec(),
    ];
    for body in bodies {
        let reply = caller.post_text(path, &body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(reply.status, 400, "{path} {shown}: {}", reply.text());
        reply.problem(400, "invalid_request");
    }
}

/// A member too much, twice, missing, or of a wrong type.
fn wrong_members(caller: &Caller, path: &str, good: &Value) {
    let named = |body: String, name: &str| {
        caller
            .post_text(path, &body)
            .problem_naming(400, "invalid_request", name);
    };
    named(merged(good, json!({"unknown_member": 1})).to_string(), "unknown_member");
    let text = good.to_string();
    for (name, value) in good.as_object().unwrap() {
        named(text.replacen('{', &format!("{{\"{name}\":{value},"), 1), name);
        for wrong in [
            json!({}),
            json!({"a": 1}),
            json!(1.5),
            json!(-1),
            json!(true),
            json!([[]]),
        ] {
            // A malformed item is answered by itself.
            let right = match name.as_str() {
                "extractable" => wrong.is_boolean(),
                "operations" => wrong.is_array(),
                _ => false,
            };
            if right {
                continue;
            }
            named(merged(good, json!({name: wrong})).to_string(), name);
        }
        let upper = merged(good, json!({name: ABSENT, name.to_uppercase(): value}));
        named(upper.to_string(), &name.to_uppercase());
        let binary = matches!(
            name.as_str(),
            "data" | "ciphertext" | "iv" | "tag" | "aad" | "signature" | "key_material" | "salt" | "info"
        );
        for wrong in [
            "no base64!",
            "AAA",
            "AA=",
            "AB==",
            "-_-_",
            "AA==\n",
            " AA==",
            "AA==AA==",
            "é",
            "=",
            "\u{0}",
        ] {
            if binary {
                named(merged(good, json!({name: wrong})).to_string(), name);
            }
        }
    }
    let required = [
        "key_type",
        "key_label",
        "key_id",
        "data",
        "ciphertext",
        "signature",
        "format",
        "key_material",
        "wrapping_key_id",
        "target_key_id",
        "subject",
        "length",
        "operations",
    ];
    for name in required.into_iter().filter(|name| good.get(*name).is_some()) {
        named(merged(good, json!({name: ABSENT})).to_string(), name);
        named(merged(good, json!({name: null})).to_string(), name);
    }
    if good.get("key_size").is_some() {
        for wrong in [
            "4294967296",
            "18446744073709551616",
            "-128",
            "128.0",
            "\"128\"",
            "[128]",
        ] {
            named(
                text.replace("\"key_size\":128", &format!("\"key_size\":{wrong}")),
                "key_size",
            );
        }
    }
}

/// What is no HTTP.
fn garbage_for_a_request(server: &Server) {
    for garbage in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = stream.write_all(garbage);
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(
            !answer.starts_with("HTTP/1.1 2") && !answer.starts_with("HTTP/1.1 5")
                || answer.starts_with("HTTP/1.1 505"),
            "{answer}"
        );
    }
}

#[test]
fn queries_are_read_strictly() {
    let server = Server::softhsm();
    let caller = server.all();
    for (path, field) in [
        ("/api/v1/hsm/keys?limits=1", "limits"),
        ("/api/v1/keys?label=a&label=b", "label"),
        ("/api/v1/audit?limit=0", "limit"),
        ("/api/v1/audit?since=yesterday", "since"),
        ("/api/v1/audit?cursor=invented", "cursor"),
        ("/api/v1/audit?page=2", "page"),
    ] {
        caller.get(path).problem_naming(400, "invalid_request", field);
    }
    caller
        .delete("/api/v1/keys/hsm:00?window_days=0&x=1")
        .problem_naming(400, "invalid_request", "x");
    // Calls without any.
    let sign = json!({"key_id": "hsm:00", "data": ""});
    for reply in [
        caller.get("/api/v1/hsm/slots?x=1"),
        caller.get("/api/v1/hsm/keys/hsm:00?x=1"),
        caller.delete("/api/v1/hsm/keys/hsm:00?force=true"),
        caller.post("/api/v1/hsm/sign?async=1", &sign),
        caller.post("/api/v1/sign?x", &sign),
        caller.post(
            "/api/v1/hsm/keys?x=",
            &json!({"key_type": "AES", "key_size": 128, "key_label": "x"}),
        ),
    ] {
        reply.problem_naming(400, "invalid_request", "query");
    }
    assert!(server.token().objects().is_empty());
}

#[test]
fn media_types_and_sizes_are_checked_before_the_body() {
    let server = Server::with(Token::softhsm())
        .env("HSM_LIMITS__BODY_BYTES", "4096")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let body = json!({"key_id": id, "data": DATA}).to_string();
    let post = |path: &str, headers: &[(&str, &str)], body: &str| caller.raw("POST", path, headers, body.as_bytes());
    let encrypt = "/api/v1/hsm/encrypt";
    post(encrypt, &[], &body).problem(415, "unsupported_media_type");
    for wrong in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/jsonx",
        "application/json-patch+json",
        "",
        "json",
        "multipart/form-data; boundary=x",
    ] {
        post(encrypt, &[("Content-Type", wrong)], &body).problem(415, "unsupported_media_type");
    }
    for right in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Application/JSON",
    ] {
        post(encrypt, &[("Content-Type", right)], &body).good(200);
    }
    let json_type = ("Content-Type", "application/json");
    for encoding in ["gzip", "br", "deflate"] {
        post(encrypt, &[json_type, ("Content-Encoding", encoding)], &body).problem(415, "unsupported_media_type");
    }

    let padded = |body: &str, length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    post(encrypt, &[json_type], &padded(&body, 4096)).good(200);
    for length in [4097, 5000, 200_000, 3_000_000] {
        post(encrypt, &[json_type], &padded(&body, length)).problem(413, "payload_too_large");
        post(KEYS, &[json_type], &padded("{}", length)).problem(413, "payload_too_large");
    }
    // The head alone tells.
    let head = [json_type, ("Content-Length", "99999999999")];
    post(encrypt, &head, "").problem(413, "payload_too_large");
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", 5000, "x".repeat(5000));
    post(encrypt, &[json_type, ("Transfer-Encoding", "chunked")], &chunked).problem(413, "payload_too_large");
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    post(encrypt, &[json_type, ("Transfer-Encoding", "chunked")], &chunked).good(200);

    // What was encrypted or signed can be sent back.
    let most = 4096 + 128 * 1024;
    for path in [
        "/api/v1/hsm/decrypt",
        "/api/v1/hsm/verify",
        "/api/v1/decrypt",
        "/api/v1/verify",
    ] {
        post(path, &[json_type], &padded("{}", most)).problem(400, "invalid_request");
        post(path, &[json_type], &padded("{}", most + 1)).problem(413, "payload_too_large");
    }
    assert_eq!(server.anonymous().get("/health/live").status, 200);
}

#[test]
fn the_default_limit_is_a_mebibyte() {
    let server = Server::softhsm();
    let caller = server.all();
    let length = 1024 * 1024;
    caller
        .post_text(SIGN, " ".repeat(length))
        .problem(400, "invalid_request");
    caller
        .post_text(SIGN, " ".repeat(length + 1))
        .problem(413, "payload_too_large");
    caller
        .post_text("/api/v1/hsm/verify", " ".repeat(length + 128 * 1024))
        .problem(400, "invalid_request");
    caller
        .post_text("/api/v1/hsm/verify", " ".repeat(length + 128 * 1024 + 1))
        .problem(413, "payload_too_large");
    // The largest data that a body can carry comes back.
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let empty = json!({"key_id": id, "data": ""}).to_string().len();
    let data = "AAAA".repeat((length - empty) / 4);
    let answer = caller.hsm("encrypt", &json!({"key_id": id, "data": data})).good(200);
    assert!(caller.hsm("decrypt", &answer).good(200)["data"] == data);
}
