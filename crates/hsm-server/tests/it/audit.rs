//! The audit log: what is recorded, in what form, and that nothing is done which can't be.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Caller, Server, base64, merged, mint, text};
use crate::tools::{audit_lines, audit_records, behind, limit_files, lines_in, wait_until};

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

/// Puts something in the way of a server's audit log, as long as it lives.
struct Blocked {
    folder: PathBuf,
    aside: PathBuf,
}

impl Blocked {
    fn new(server: &Server) -> Self {
        let folder = server.data_dir().join("audit");
        let aside = server.data_dir().join("aside");
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "in the way").unwrap();
        Self { folder, aside }
    }

    /// Takes it away, and waits until the server has found out.
    fn end(self, server: &Server) {
        fs::remove_file(&self.folder).unwrap();
        fs::rename(&self.aside, &self.folder).unwrap();
        wait_until("the audit log is written again", || {
            server.anonymous().get("/health/ready").status == 200
        });
    }
}

#[test]
fn without_a_record_nothing_is_done() {
    let faulty = FaultyToken::over(Token::softhsm());
    let server = behind(&faulty).start();
    let caller = server.all();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let sign = json!({"key_id": ec["key_id"], "data": base64(b"x")});
    let encrypt = json!({"key_id": aes["key_id"], "data": base64(b"x")});
    let signed = merged(&caller.hsm("sign", &sign).good(200), json!({"data": base64(b"x")}));
    let sealed = caller.hsm("encrypt", &encrypt).good(200);
    let objects = server.token().objects().len();

    let blocked = Blocked::new(&server);
    caller.hsm("sign", &sign).problem(503, "audit_unavailable");
    // From here on it is known, and the token is left alone.
    faulty.forget_calls();
    for _ in 0..3 {
        caller.hsm("sign", &sign).problem(503, "audit_unavailable");
        caller.hsm("encrypt", &encrypt).problem(503, "audit_unavailable");
        caller.hsm("decrypt", &sealed).problem(503, "audit_unavailable");
        caller.hsm("verify", &signed).problem(503, "audit_unavailable");
        caller
            .create(json!({"key_type": "AES", "key_size": 256}))
            .problem(503, "audit_unavailable");
        caller
            .delete(&format!("/api/v1/hsm/keys/{}", text(&ec["key_id"])))
            .problem(503, "audit_unavailable");
    }
    for function in [
        "C_SignInit",
        "C_EncryptInit",
        "C_DecryptInit",
        "C_VerifyInit",
        "C_GenerateKey",
        "C_GenerateRandom",
        "C_DestroyObject",
    ] {
        assert_eq!(faulty.calls(function), 0, "{function}");
    }
    // A refusal by scope must be recorded too.
    server
        .caller("keys:read")
        .hsm("sign", &sign)
        .problem(503, "audit_unavailable");
    // Reads go on.
    let list = caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(list["keys"].as_array().unwrap().len(), 2);
    caller.get("/api/v1/hsm/slots").good(200);
    let ready = server.anonymous().get("/health/ready");
    ready.problem(503, "audit_unavailable");
    server.anonymous().get("/health/live").good(200);

    blocked.end(&server);
    caller.hsm("sign", &sign).good(200);
    assert_eq!(server.token().objects().len(), objects);
    assert_eq!(server.run(&["audit", "verify"]).code, Some(0));
}

#[test]
fn a_creation_that_cannot_be_recorded_is_undone() {
    let server = Server::softhsm();
    let caller = server.all();
    let kept = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let blocked = Blocked::new(&server);
    caller
        .create(json!({"key_type": "EC", "curve": "P-256", "key_label": "undone"}))
        .problem(503, "audit_unavailable");
    assert_eq!(server.token().objects().len(), 1);
    assert_eq!(caller.get("/api/v1/hsm/keys").good(200)["keys"], json!([kept]));
    blocked.end(&server);
    // Its label is free.
    caller.key(json!({"key_type": "EC", "curve": "P-256", "key_label": "undone"}));
}

#[test]
fn a_deletion_that_was_done_is_recorded_first() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let other = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let blocked = Blocked::new(&server);
    caller
        .delete(&format!("/api/v1/hsm/keys/{}", text(&key["key_id"])))
        .problem(503, "audit_unavailable");
    assert_eq!(server.token().objects().len(), 1);
    blocked.end(&server);
    caller
        .hsm("encrypt", &json!({"key_id": other["key_id"], "data": ""}))
        .good(200);
    let records = audit_records(&server);
    let told: Vec<Value> = records
        .iter()
        .filter(|record| !text(&record["action"]).starts_with("audit."))
        .map(told)
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(
        told[2],
        json!(["delete", key["key_id"], null, null, "success", 204, null])
    );
    assert_eq!(told[3][0], "encrypt");
}

/// Set in the process that has this test to itself, with SIGXFSZ ignored: so has every server that it starts.
const INSIDE: &str = "HSM_IT_INSIDE";

#[test]
fn a_full_disk() {
    if env::var_os(INSIDE).is_some() {
        return full_disk();
    }
    let ended = Command::new("sh")
        .args([
            "-c",
            r#"trap '' XFSZ; exec "$0" --exact audit::a_full_disk --nocapture"#,
        ])
        .arg(env::current_exe().unwrap())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [ended.stdout, ended.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    assert!(
        ended.status.success() && said[0].contains("1 passed"),
        "{}{}",
        said[0],
        said[1]
    );
}

fn full_disk() {
    let faulty = FaultyToken::over(Token::softhsm());
    let server = behind(&faulty).start();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = json!({"key_id": key["key_id"], "data": base64(b"x")});
    caller.hsm("sign", &body).good(200);
    // The server's log is a file too, and has no room either.
    limit_files(&server, Some(8192));
    let mut signed = 2;
    let refused = loop {
        let reply = caller.hsm("sign", &body);
        if reply.status != 200 {
            break reply;
        }
        signed += 1;
        assert!(signed < 100);
    };
    refused.problem(503, "audit_unavailable");
    assert_eq!(audit_lines(&server).len(), signed);
    faulty.forget_calls();
    caller.hsm("sign", &body).problem(503, "audit_unavailable");
    assert_eq!(faulty.calls("C_SignInit"), 0);
    caller.get("/api/v1/hsm/keys").good(200);
    server
        .anonymous()
        .get("/health/ready")
        .problem(503, "audit_unavailable");
    limit_files(&server, None);
    wait_until("there is room again", || {
        server.anonymous().get("/health/ready").status == 200
    });
    caller.hsm("sign", &body).good(200);
    let ended = server.run(&["audit", "verify"]);
    assert_eq!(ended.code, Some(0), "{}", ended.line());
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = json!({"key_id": key["key_id"], "data": base64(b"x")}).to_string();
    let answered = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..4 {
            let (address, answered, stop, body) = (server.address(), &answered, &stop, &body);
            let bearer = format!("Bearer {}", mint(&json!({"scope": "*"})));
            scope.spawn(move || {
                for number in 0.. {
                    let id = format!("kill-{client}-{number}");
                    let done = std::panic::catch_unwind(|| {
                        let headers = [
                            ("Authorization", bearer.as_str()),
                            ("Content-Type", "application/json"),
                            ("x-request-id", id.as_str()),
                        ];
                        crate::support::send(address, "POST", "/api/v1/hsm/sign", &headers, body.as_bytes()).status
                    });
                    match done {
                        Ok(200) => answered.lock().unwrap().push(id),
                        _ => return,
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        wait_until("some are answered", || answered.lock().unwrap().len() >= 100);
        server.signal("KILL");
        stop.store(true, Ordering::Relaxed);
    });
    let builder = server.end("KILL");
    let text = lines_in(&builder.scratch().path("data/audit")).join("\n");
    let answered = answered.into_inner().unwrap();
    for id in &answered {
        assert!(text.contains(&format!("\"request_id\":\"{id}\"")), "{id}");
    }
    assert_eq!(builder.run(&["audit", "verify"]).code, Some(0));
    let server = builder.start();
    server
        .all()
        .hsm("sign", &serde_json::from_str(&body).unwrap())
        .good(200);
    assert_eq!(server.run(&["audit", "verify"]).code, Some(0));
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
