//! What goes wrong, and how it is said: every code of the contract's §4 that can be met now, once, with its status, its
//! content type and its headers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{self, sleep};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{ABSENT, Caller, SECRET, Server, base64, merged, mint, text};

const KEYS: &str = "/api/v1/hsm/keys";
const SIGN: &str = "/api/v1/hsm/sign";
const DATA: &str = "SGVsbG8gV29ybGQh";

/// Each call with a scope: its method, its path, its scope.
const CALLS: [(&str, &str, &str); 17] = [
    ("GET", "/api/v1/hsm/slots", "slots:read"),
    ("GET", "/api/v1/hsm/keys", "keys:read"),
    ("POST", "/api/v1/hsm/keys", "keys:create"),
    ("GET", "/api/v1/hsm/keys/hsm:00", "keys:read"),
    ("DELETE", "/api/v1/hsm/keys/hsm:00", "keys:delete"),
    ("POST", "/api/v1/hsm/encrypt", "crypto:encrypt"),
    ("POST", "/api/v1/hsm/decrypt", "crypto:decrypt"),
    ("POST", "/api/v1/hsm/sign", "crypto:sign"),
    ("POST", "/api/v1/hsm/verify", "crypto:verify"),
    ("GET", "/api/v1/keys", "keys:read"),
    ("GET", "/api/v1/keys/hsm:00", "keys:read"),
    ("DELETE", "/api/v1/keys/hsm:00", "keys:delete"),
    ("POST", "/api/v1/encrypt", "crypto:encrypt"),
    ("POST", "/api/v1/decrypt", "crypto:decrypt"),
    ("POST", "/api/v1/sign", "crypto:sign"),
    ("POST", "/api/v1/verify", "crypto:verify"),
    ("GET", "/api/v1/audit", "audit:read"),
];

const SCOPES: [&str; 18] = [
    "slots:read",
    "keys:read",
    "keys:create",
    "keys:update",
    "keys:delete",
    "crypto:encrypt",
    "crypto:decrypt",
    "crypto:sign",
    "crypto:verify",
    "crypto:wrap",
    "crypto:unwrap",
    "crypto:derive",
    "crypto:random",
    "audit:read",
    "metrics:read",
    "slots:*",
    "audit:*",
    "metrics:*",
];

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
            if name == "extractable" && wrong.is_boolean() {
                continue;
            }
            named(merged(good, json!({name: wrong})).to_string(), name);
        }
        let upper = merged(good, json!({name: ABSENT, name.to_uppercase(): value}));
        named(upper.to_string(), &name.to_uppercase());
        let binary = matches!(
            name.as_str(),
            "data" | "ciphertext" | "iv" | "tag" | "aad" | "signature"
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
    let required = ["key_type", "key_label", "key_id", "data", "ciphertext", "signature"];
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
    // Calls without any.
    let sign = json!({"key_id": "hsm:00", "data": ""});
    for reply in [
        caller.get("/api/v1/hsm/slots?x=1"),
        caller.get("/api/v1/hsm/keys/hsm:00?x=1"),
        caller.delete("/api/v1/hsm/keys/hsm:00?force=true"),
        caller.delete("/api/v1/keys/hsm:00?window_days=0&x=1"),
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
            "/api/v1/hsm/wrap",
            "/api/v1/hsm/batch",
            "/api/v1/hsm/random",
            "/api/v1/rewrap",
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
fn without_a_valid_token_nothing_is_done() {
    let server = Server::softhsm();
    let anonymous = server.anonymous();
    for (method, path, _) in CALLS {
        let reply = anonymous.raw(method, path, &[], b"");
        reply.problem(401, "unauthenticated");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"hsm\""));
    }
    for authorization in ["", "Basic dXNlcjpwYXNz", "Digest x"] {
        let reply = anonymous.raw("GET", KEYS, &[("Authorization", authorization)], b"");
        reply.problem(401, "unauthenticated");
        assert_eq!(
            reply.header("www-authenticate"),
            Some("Bearer realm=\"hsm\""),
            "{authorization:?}"
        );
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = json!({"sub": "test", "scope": "*", "exp": now + 3600});
    let encode =
        |header: &Header, key: &[u8]| jsonwebtoken::encode(header, &claims, &EncodingKey::from_secret(key)).unwrap();
    let good = mint(&json!({"scope": "*"}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') {
        signature.replacen('A', "B", 1)
    } else {
        format!("A{}", &signature[1..])
    };
    let of_header = |header: &str| {
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", base64(header).trim_end_matches('='), parts[1], parts[2])
    };
    let typ = |typ: &str| Header {
        typ: Some(typ.to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    for (what, token) in [
        ("garbage", "garbage".to_owned()),
        ("three dots", "a.b.c".to_owned()),
        (
            "another secret",
            encode(&Header::new(Algorithm::HS256), b"another secret of thirty-two bytes!"),
        ),
        (
            "another hash",
            encode(&Header::new(Algorithm::HS512), SECRET.as_bytes()),
        ),
        ("another type", encode(&typ("dpop+jwt"), SECRET.as_bytes())),
        ("a changed signature", format!("{signed}.{flipped}")),
        ("no signature", format!("{signed}.")),
        ("no algorithm", of_header("{\"alg\":\"none\"}")),
        ("expired", mint(&json!({"scope": "*", "exp": now - 120}))),
        ("no exp", mint(&json!({"scope": "*", "exp": null}))),
        ("no sub", mint(&json!({"scope": "*", "sub": null}))),
        ("not yet", mint(&json!({"scope": "*", "nbf": now + 600}))),
    ] {
        let reply = server.bearer(&token).get(KEYS);
        assert_eq!(reply.status, 401, "{what}");
        reply.problem(401, "unauthenticated");
        let how = reply.header("www-authenticate").unwrap();
        assert!(
            how.starts_with("Bearer realm=\"hsm\"") && how.contains("error=\"invalid_token\""),
            "{what}: {how}"
        );
        assert!(!reply.text().contains(&token), "{what}");
    }
    for claims in [
        json!({"scope": "*", "nbf": now - 10}),
        json!({"scope": ["keys:read", "x"]}),
        json!({"scope": "*", "aud": "anyone"}),
    ] {
        server.bearer(&mint(&claims)).get(KEYS).good(200);
    }
    let lower = format!("bearer {good}");
    anonymous.raw("GET", KEYS, &[("Authorization", &lower)], b"").good(200);
    // None of it in the log either.
    assert!(!server.log().contains(&good) && !server.log().contains(SECRET));
}

#[test]
fn each_call_has_its_scope() {
    let server = Server::softhsm();
    for (method, path, scope) in CALLS {
        let others: Vec<&str> = SCOPES
            .into_iter()
            .filter(|other| {
                *other != scope && scope.split_once(':').map(|(area, _)| format!("{area}:*")).as_deref() != Some(other)
            })
            .collect();
        for scopes in [others.join(" "), "unknown:thing".to_owned(), String::new()] {
            let reply = server.caller(&scopes).raw(method, path, &[], b"");
            reply.problem_naming(403, "forbidden", scope);
            let header = format!("Bearer realm=\"hsm\", error=\"insufficient_scope\", scope=\"{scope}\"");
            assert_eq!(
                reply.header("www-authenticate"),
                Some(header.as_str()),
                "{method} {path}"
            );
        }
        let area = scope.split(':').next().unwrap();
        for scopes in [
            scope.to_owned(),
            format!("{area}:*"),
            "*".to_owned(),
            format!("unknown {scope}"),
        ] {
            let reply = server
                .caller(&scopes)
                .raw(method, path, &[("Content-Type", "application/json")], b"");
            assert!(
                !matches!(reply.status, 401 | 403 | 405),
                "{method} {path} {scopes}: {}",
                reply.text()
            );
        }
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let server = Server::softhsm();
    let caller = server.all();
    for (method, path, allowed) in [
        ("PUT", KEYS, &["GET", "POST"][..]),
        ("DELETE", KEYS, &["GET", "POST"]),
        ("POST", "/api/v1/hsm/keys/hsm:00", &["GET", "DELETE"]),
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
