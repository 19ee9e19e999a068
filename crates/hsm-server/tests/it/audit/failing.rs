//! What can't be recorded is not done, and what was answered is there, whatever happens.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use super::told;
use crate::support::{Server, base64, merged, mint, text};
use crate::tools::{audit_lines, audit_records, behind, limit_files, lines_in, wait_until, with_disks_that_fill};

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

#[test]
fn a_full_disk() {
    with_disks_that_fill("audit::failing::a_full_disk", full_disk);
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
