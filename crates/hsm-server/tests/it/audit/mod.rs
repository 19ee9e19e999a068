//! The audit log: what is recorded, and in what form.

mod failing;

use std::fs;
use std::thread;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Caller, Server, base64, merged, mint, text};
use crate::tools::{audit_lines, audit_records, behind, lines_in, wait_until};

const FIELDS: [&str; 13] = [
    "seq",
    "time",
    "request_id",
    "subject",
    "client",
    "action",
    "key_id",
    "key_version",
    "algorithm",
    "outcome",
    "status",
    "code",
    "prev",
];

on_both_tokens! {
    each_operation_has_a_record,
}

/// The fields of a record that tell what happened.
fn told(record: &Value) -> Value {
    let names = [
        "action",
        "key_id",
        "key_version",
        "algorithm",
        "outcome",
        "status",
        "code",
    ];
    names.iter().map(|name| record[name].clone()).collect()
}

fn each_operation_has_a_record(server: &Server) {
    let caller = server.bearer(&mint(&json!({"sub": "alice", "scope": "*"})));
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "aes"}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let (aes_id, ec_id) = (text(&aes["key_id"]), text(&ec["key_id"]));
    let data = base64(b"message");
    let sealed = caller
        .hsm("encrypt", &json!({"key_id": aes_id, "data": data}))
        .good(200);
    caller.hsm("decrypt", &sealed).good(200);
    let signed = caller.hsm("sign", &json!({"key_id": ec_id, "data": data})).good(200);
    let check = merged(&signed, json!({"data": data}));
    caller.hsm("verify", &check).good(200);
    // Under the other door too.
    caller
        .post(
            "/api/v1/sign",
            &json!({"key_id": ec_id, "data": data, "algorithm": "ES256"}),
        )
        .good(200);
    // Failures.
    caller
        .create(json!({"key_type": "AES", "key_size": 256, "key_label": "aes"}))
        .problem(409, "conflict");
    let wrong = merged(&sealed, json!({"tag": base64([0; 16])}));
    caller.hsm("decrypt", &wrong).problem(400, "decryption_failed");
    caller
        .hsm(
            "sign",
            &json!({"key_id": aes_id, "data": data, "algorithm": "ECDSA-SHA256"}),
        )
        .problem(400, "key_type_mismatch");
    let unwanted = merged(&check, json!({"signature": base64(b"no")}));
    assert_eq!(caller.hsm("verify", &unwanted).good(200), json!({"valid": false}));
    let deleted = caller.delete(&format!(
        "/api/v1/hsm/keys/{}",
        aes_id.to_uppercase().replace("HSM:", "hsm:")
    ));
    deleted.good(204);
    caller
        .hsm("encrypt", &json!({"key_id": aes_id, "data": data}))
        .problem(404, "key_not_found");

    let success = |action: &str, id: &str, algorithm: Value, status: u16| {
        json!([action, id, null, algorithm, "success", status, null])
    };
    let records = audit_records(server);
    let found: Vec<Value> = records.iter().map(told).collect();
    let wanted = vec![
        success("create", aes_id, Value::Null, 201),
        success("create", ec_id, Value::Null, 201),
        success("encrypt", aes_id, json!("AES-GCM"), 200),
        success("decrypt", aes_id, json!("AES-GCM"), 200),
        success("sign", ec_id, json!("ECDSA-SHA256"), 200),
        success("verify", ec_id, json!("ECDSA-SHA256"), 200),
        success("sign", ec_id, json!("ECDSA-SHA256"), 200),
        json!(["create", null, null, null, "failure", 409, "conflict"]),
        json!(["decrypt", aes_id, null, "AES-GCM", "failure", 400, "decryption_failed"]),
        json!([
            "sign",
            aes_id,
            null,
            "ECDSA-SHA256",
            "failure",
            400,
            "key_type_mismatch"
        ]),
        success("verify", ec_id, json!("ECDSA-SHA256"), 200),
        success("delete", aes_id, Value::Null, 204),
        json!(["encrypt", aes_id, null, null, "failure", 404, "key_not_found"]),
    ];
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for record in &records {
        assert_eq!(
            (&record["subject"], &record["client"]),
            (&json!("alice"), &json!("127.0.0.1"))
        );
    }
}

#[test]
fn a_record_has_these_fields_in_this_order() {
    let server = Server::softhsm();
    let caller = server.all();
    let reply = caller.raw(
        "POST",
        "/api/v1/hsm/keys",
        &[("Content-Type", "application/json"), ("x-request-id", "my.id:1-2_3")],
        br#"{"key_type":"AES","key_size":256,"key_label":"a"}"#,
    );
    let key = reply.good(201);
    let lines = audit_lines(&server);
    let line = &lines[0];
    let mut rest = line.as_str();
    for field in FIELDS {
        let name = format!("\"{field}\":");
        let at = rest.find(&name).unwrap_or_else(|| panic!("{field}: {line}"));
        assert!(at <= 80, "{field} is out of its order: {line}");
        rest = &rest[at + name.len()..];
    }
    let record: Value = serde_json::from_str(line).unwrap();
    assert_eq!(record.as_object().unwrap().len(), FIELDS.len(), "{line}");
    assert_eq!(record["seq"], 1);
    assert_eq!(record["request_id"], "my.id:1-2_3");
    assert_eq!(record["key_id"], key["key_id"]);
    let time = text(&record["time"]);
    assert!(
        time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
        "{time}"
    );
    assert_eq!(text(&record["prev"]).len(), 64);
}

#[test]
fn each_record_holds_the_hash_of_the_one_before() {
    let server = Server::softhsm();
    for _ in 0..4 {
        server.all().key(json!({"key_type": "AES", "key_size": 256}));
    }
    let lines = audit_lines(&server);
    assert_eq!(lines.len(), 4);
    for (number, pair) in lines.windows(2).enumerate() {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pair[0].as_bytes());
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let next: Value = serde_json::from_str(&pair[1]).unwrap();
        assert_eq!(next["prev"], hex);
        assert_eq!(next["seq"], number + 2);
    }
}

#[test]
fn refusals_by_scope_are_recorded_without_a_key() {
    let server = Server::softhsm();
    let id = server.all().key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let caller = server.bearer(&mint(&json!({"sub": "bob", "scope": "crypto:verify"})));
    let body = json!({"key_id": id, "data": base64(b"x")});
    let path = format!("/api/v1/hsm/keys/{}", text(&id));
    caller.hsm("sign", &body).problem(403, "forbidden");
    caller.hsm("encrypt", &body).problem(403, "forbidden");
    caller.post("/api/v1/decrypt", &body).problem(403, "forbidden");
    caller
        .create(json!({"key_type": "AES", "key_size": 256}))
        .problem(403, "forbidden");
    caller.delete(&path).problem(403, "forbidden");
    caller.get(&path).problem(403, "forbidden");
    caller.get("/api/v1/hsm/keys").problem(403, "forbidden");
    caller.get("/api/v1/hsm/slots").problem(403, "forbidden");
    caller.get("/api/v1/audit").problem(403, "forbidden");
    let records = audit_records(&server);
    let found: Vec<&str> = records[1..].iter().map(|record| text(&record["action"])).collect();
    assert_eq!(
        found,
        [
            "sign", "encrypt", "decrypt", "create", "delete", "get", "list", "slots", "audit"
        ]
    );
    for record in &records[1..] {
        let told = told(record);
        assert_eq!(
            told,
            json!([record["action"], null, null, null, "refused", 403, "forbidden"])
        );
        assert_eq!(record["subject"], "bob");
    }
}

#[test]
fn reads_and_what_ends_at_the_body_are_not_recorded() {
    let server = Server::with(Token::softhsm())
        .env("HSM_LIMITS__BODY_BYTES", "2000")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let before = audit_lines(&server);
    assert_eq!(before.len(), 1);
    let key = format!("/api/v1/hsm/keys/{}", text(&id));
    for path in [
        "/api/v1/hsm/slots",
        "/api/v1/hsm/keys",
        "/api/v1/keys",
        "/api/v1/audit",
        "/health/live",
        "/health/ready",
        "/api/v1/openapi.json",
        &key,
    ] {
        caller.get(path).good(200);
    }
    assert_eq!(caller.get("/metrics").status, 200);
    caller.get("/api/v1/hsm/keys/hsm:00").problem(404, "key_not_found");
    caller.get("/api/v1/nothing").problem(404, "not_found");
    caller
        .hsm("sign", &json!({"key_id": id}))
        .problem(400, "invalid_request");
    caller
        .hsm("sign", &json!({"key_id": "hsm:xyz", "data": ""}))
        .problem(400, "invalid_key_id");
    caller
        .post_text("/api/v1/hsm/encrypt", "{")
        .problem(400, "invalid_request");
    caller
        .create(json!({"key_type": "AES", "key_size": 7}))
        .problem(400, "invalid_request");
    caller
        .hsm("encrypt", &json!({"key_id": id, "data": base64([0; 3000])}))
        .problem(413, "payload_too_large");
    caller
        .raw("POST", "/api/v1/hsm/encrypt", &[("Content-Type", "text/plain")], b"{}")
        .problem(415, "unsupported_media_type");
    caller
        .raw("PUT", "/api/v1/hsm/keys", &[], b"")
        .problem(405, "method_not_allowed");
    let anonymous = server.anonymous();
    anonymous.get("/api/v1/hsm/keys").problem(401, "unauthenticated");
    anonymous.hsm("sign", &json!({})).problem(401, "unauthenticated");
    server
        .bearer("no.such.token")
        .get("/api/v1/audit")
        .problem(401, "unauthenticated");
    assert_eq!(audit_lines(&server), before);
}

#[test]
fn a_full_queue_is_not_recorded() {
    let faulty = FaultyToken::over(Token::softhsm());
    let server = behind(&faulty)
        .env("HSM_LIMITS__QUEUE", "0")
        .env("HSM_LIMITS__MAX_SESSIONS", "1")
        .start();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let body = json!({"key_id": id, "data": base64(b"x")});
    faulty.fault("C_Sign delay_ms=700");
    faulty.forget_calls();
    thread::scope(|scope| {
        let slow = scope.spawn(|| caller.hsm("sign", &body));
        wait_until("the call is under way", || faulty.calls("C_Sign") > 0);
        caller.hsm("sign", &body).problem(503, "busy");
        slow.join().unwrap().good(200);
    });
    let actions: Vec<Value> = audit_records(&server).iter().map(told).collect();
    assert_eq!(actions.len(), 2, "{actions:?}");
}

fn page(caller: &Caller, query: &str) -> (Vec<Value>, Value) {
    let answer = caller.get(&format!("/api/v1/audit{query}")).good(200);
    assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    (
        answer["records"].as_array().unwrap().clone(),
        answer["next_cursor"].clone(),
    )
}

fn all_pages(caller: &Caller, query: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let (records, next) = page(caller, &format!("{query}{cursor}"));
        all.extend(records);
        match next.as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn records_are_read_newest_first_a_page_at_a_time() {
    let server = Server::softhsm();
    let caller = server.all();
    let keys: Vec<Value> = (0..3)
        .map(|_| caller.key(json!({"key_type": "AES", "key_size": 256})))
        .collect();
    for _ in 0..5 {
        for key in &keys {
            let body = json!({"key_id": key["key_id"], "data": base64(b"x")});
            caller.hsm("encrypt", &body).good(200);
        }
    }
    let reader = server.caller("audit:read");
    let mut written = audit_records(&server);
    written.reverse();
    assert_eq!(written.len(), 18);
    assert_eq!(page(&reader, ""), (written.clone(), Value::Null));
    for limit in [1, 4, 17, 18, 1000] {
        assert_eq!(all_pages(&reader, &format!("?limit={limit}")), written, "{limit}");
    }
    assert_eq!(page(&reader, "?limit=4").0.len(), 4);

    let of = |name: &str, value: &Value| -> Vec<Value> {
        written
            .iter()
            .filter(|record| record[name] == *value)
            .cloned()
            .collect()
    };
    let id = text(&keys[1]["key_id"]);
    assert_eq!(
        all_pages(&reader, &format!("?key_id={id}&limit=2")),
        of("key_id", &keys[1]["key_id"])
    );
    assert_eq!(
        all_pages(&reader, "?action=create&limit=2"),
        of("action", &json!("create"))
    );
    let both = all_pages(&reader, &format!("?action=create&key_id={id}"));
    assert_eq!(both.len(), 1);
    assert!(all_pages(&reader, "?key_id=hsm:00").is_empty());
    assert!(all_pages(&reader, "?action=nothing").is_empty());
    let since = text(&written[6]["time"]);
    let newer: Vec<Value> = written
        .iter()
        .filter(|one| text(&one["time"]) >= since)
        .cloned()
        .collect();
    assert_eq!(all_pages(&reader, &format!("?since={since}")), newer);
    assert!(all_pages(&reader, "?since=2999-01-01T00:00:00Z").is_empty());

    // What is written meanwhile does not shift the pages.
    let (first, cursor) = page(&reader, "?limit=5");
    caller.key(json!({"key_type": "AES", "key_size": 256}));
    let (second, _) = page(&reader, &format!("?limit=5&cursor={}", text(&cursor)));
    assert_eq!([first, second].concat(), written[..10]);
}

#[test]
fn queries_that_make_no_sense() {
    let server = Server::softhsm();
    let caller = server.all();
    for _ in 0..3 {
        caller.key(json!({"key_type": "AES", "key_size": 256}));
    }
    let cursor = page(&caller, "?limit=1").1;
    let changed = format!("{}0", &text(&cursor)[..text(&cursor).len() - 1]);
    for query in [
        "?cursor=abc",
        "?cursor=",
        "?cursor=00000000000000010000000000000000",
        &format!("?cursor={changed}1"),
        &format!("?cursor={}", text(&cursor).to_uppercase().replace(['0', '1'], "2")),
        "?limit=0",
        "?limit=1001",
        "?limit=-1",
        "?limit=x",
        "?since=yesterday",
        "?since=2026-01-01",
        "?colour=red",
        "?limit=1&limit=2",
    ] {
        caller
            .get(&format!("/api/v1/audit{query}"))
            .problem(400, "invalid_request");
    }
    server
        .caller("keys:*")
        .get("/api/v1/audit")
        .problem_naming(403, "forbidden", "audit:read");
}

#[test]
fn the_weaker_mode_is_said_and_records_the_same() {
    let server = Server::with(Token::softhsm())
        .env("HSM_AUDIT__SYNC", "interval")
        .start();
    let warned = server
        .log()
        .lines()
        .any(|line| line.contains("HSM_AUDIT__SYNC") && line.contains("WARN"));
    assert!(warned, "{}", server.log());
    server.all().key(json!({"key_type": "AES", "key_size": 256}));
    let builder = server.end("TERM");
    assert_eq!(lines_in(&builder.scratch().path("data/audit")).len(), 1);
    assert_eq!(builder.run(&["audit", "verify"]).code, Some(0));
}

#[test]
fn the_folder_holds_records_and_nothing_else() {
    let server = Server::softhsm();
    server.all().key(json!({"key_type": "AES", "key_size": 256}));
    for entry in fs::read_dir(server.data_dir().join("audit")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_some_and(|end| end == "jsonl"), "{}", path.display());
        assert!(fs::metadata(&path).unwrap().len() <= 64 * 1024);
    }
}
