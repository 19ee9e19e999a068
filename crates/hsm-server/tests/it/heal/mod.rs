//! What happens when the token fails: clients see as little of it as may be, and it heals without a restart.

mod changing;
mod ending;

use std::thread;

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use crate::support::{Builder, Caller, Reply, Server, base64, merged, text};
use crate::tools::{audit_records, behind, wait_until};

fn faulty() -> FaultyToken {
    FaultyToken::over(Token::softhsm())
}

/// A server with an EC and an AES key, and the requests that use them.
struct Used {
    server: Server,
    caller: Caller,
    sign: Value,
    encrypt: Value,
}

impl Used {
    fn new(builder: Builder) -> Self {
        let server = builder.start();
        let caller = server.all();
        let of = |body: Value| {
            let key = caller.key(body);
            json!({"key_id": key["key_id"], "data": base64(b"message")})
        };
        let sign = of(json!({"key_type": "EC", "curve": "P-256"}));
        let encrypt = of(json!({"key_type": "AES", "key_size": 256}));
        let used = Self {
            server,
            caller,
            sign,
            encrypt,
        };
        used.works();
        used
    }

    fn on(faulty: &FaultyToken) -> Self {
        Self::new(behind(faulty))
    }

    fn sign(&self) -> Reply {
        self.caller.hsm("sign", &self.sign)
    }

    fn verify(&self, signed: &Value) -> Reply {
        let check = merged(signed, json!({"data": self.sign["data"]}));
        self.caller.hsm("verify", &check)
    }

    fn encrypt(&self) -> Reply {
        self.caller.hsm("encrypt", &self.encrypt)
    }

    /// All four operations.
    #[track_caller]
    fn works(&self) {
        let signed = self.sign().good(200);
        assert_eq!(self.verify(&signed).good(200), json!({"valid": true}));
        let sealed = self.encrypt().good(200);
        let opened = self.caller.hsm("decrypt", &sealed).good(200);
        assert_eq!(opened["data"], self.encrypt["data"]);
    }

    fn is_ready(&self) -> bool {
        self.server.anonymous().get("/health/ready").status == 200
    }

    fn metric(&self, line: &str) -> Option<f64> {
        let page = self.server.anonymous().get("/metrics").text();
        let value = page.lines().find_map(|found| found.strip_prefix(line))?;
        value.trim().parse().ok()
    }
}

#[test]
fn lost_sessions_and_a_lost_login_are_unseen() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    let signed = used.sign().good(200);
    let sealed = used.encrypt().good(200);
    for rule in ["forget-sessions", "logout"] {
        let operations: [&dyn Fn() -> Reply; 6] = [
            &|| used.sign(),
            &|| used.encrypt(),
            &|| used.caller.hsm("decrypt", &sealed),
            &|| used.verify(&signed),
            &|| {
                used.caller
                    .get(&format!("/api/v1/hsm/keys/{}", text(&used.sign["key_id"])))
            },
            &|| used.caller.get("/api/v1/hsm/keys"),
        ];
        for (number, operation) in operations.iter().enumerate() {
            faulty.fault(rule);
            let reply = operation();
            assert_eq!(reply.status, 200, "{rule} {number}: {}", reply.text());
            used.works();
        }
        for _ in 0..20 {
            faulty.fault(rule);
            thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| used.sign())).collect();
                for thread in threads {
                    thread.join().unwrap().good(200);
                }
            });
        }
    }
    assert!(used.is_ready());
    // All of it with the right PIN: nothing came near to locking it.
    let list = used.caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(list["keys"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_looked_for_while_the_login_is_lost_is_found() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    let token = used.server.token();
    for (number, rule) in ["logout", "forget-sessions"].into_iter().enumerate() {
        // Keys that no request has met yet: a token that nobody is logged in to does not show them.
        let ids = [format!("a{number}"), format!("b{number}"), format!("c{number}")];
        token.make_foreign_key(&ids[0], "foreign secret", "AES:32");
        token.make_foreign_key(&ids[1], "foreign pair", "EC:prime256v1");
        token.make_foreign_key(&ids[2], "foreign pair too", "EC:prime256v1");
        let body = |id: &str| json!({"key_id": format!("hsm:{id}"), "data": base64(b"x")});
        faulty.fault(rule);
        used.caller.hsm("encrypt", &body(&ids[0])).good(200);
        faulty.fault(rule);
        used.caller.hsm("sign", &body(&ids[1])).good(200);
        faulty.fault(rule);
        let key = used.caller.get(&format!("/api/v1/hsm/keys/hsm:{}", ids[2])).good(200);
        // Of both halves, the private one included.
        let usages = key["usages"].as_array().unwrap();
        assert!(
            usages.contains(&json!("sign")) && usages.contains(&json!("verify")),
            "{key}"
        );
    }
}

#[test]
fn a_key_made_anew_by_another_program_under_its_id() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    let token = used.server.token();
    token.make_foreign_key("c0ffee", "foreign", "AES:32");
    let body = json!({"key_id": "hsm:c0ffee", "data": base64(b"x")});
    used.caller.hsm("encrypt", &body).good(200);
    assert_eq!(token.delete_foreign_key("c0ffee"), 1);
    token.make_foreign_key("c0ffee", "foreign", "AES:32");
    for _ in 0..8 {
        let sealed = used.caller.hsm("encrypt", &body).good(200);
        used.caller.hsm("decrypt", &sealed).good(200);
    }
    assert_eq!(token.delete_foreign_key("c0ffee"), 1);
    used.caller.hsm("encrypt", &body).problem(404, "key_not_found");

    token.make_foreign_key("beef", "foreign pair", "EC:prime256v1");
    let body = json!({"key_id": "hsm:beef", "data": base64(b"x")});
    used.caller.hsm("sign", &body).good(200);
    assert_eq!(token.delete_foreign_key("beef"), 2);
    token.make_foreign_key("beef", "foreign pair", "EC:prime256v1");
    for _ in 0..8 {
        let signed = used.caller.hsm("sign", &body).good(200);
        let check = merged(&signed, json!({"data": body["data"]}));
        assert_eq!(used.caller.hsm("verify", &check).good(200), json!({"valid": true}));
    }
}

#[test]
fn a_token_that_goes_and_comes_back() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    for code in ["0xE0", "0x32"] {
        faulty.fault(&format!("* rv={code}"));
        used.sign().problem(503, "hsm_unavailable");
        let ready = used.server.anonymous().get("/health/ready");
        ready.problem(503, "hsm_unavailable");
        used.encrypt().problem(503, "hsm_unavailable");
        used.caller
            .create(json!({"key_type": "AES", "key_size": 256}))
            .problem(503, "hsm_unavailable");
        used.server.anonymous().get("/health/live").good(200);
        assert_eq!(used.metric("hsm_token_available "), Some(0.0));
        faulty.clear();
        wait_until("the token is back", || used.is_ready());
        used.works();
        assert_eq!(used.metric("hsm_token_available "), Some(1.0));
    }
}

#[test]
fn while_it_is_gone_requests_do_not_touch_it() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    faulty.fault("* rv=0xE0");
    used.sign().problem(503, "hsm_unavailable");
    faulty.forget_calls();
    for _ in 0..50 {
        used.sign().problem(503, "hsm_unavailable");
    }
    assert_eq!(faulty.calls("C_SignInit"), 0);
    assert_eq!(faulty.calls("C_Sign"), 0);
}

#[test]
fn a_device_error_is_said_and_closes_nothing() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    for (code, name) in [
        ("0x30", "CKR_DEVICE_ERROR"),
        ("0x5", "CKR_GENERAL_ERROR"),
        ("0x80001234", "0x80001234"),
    ] {
        faulty.fault(&format!("C_Sign rv={code}"));
        used.sign().problem_naming(502, "hsm_error", name);
        used.encrypt().good(200);
        assert!(used.is_ready());
        faulty.clear();
        used.sign().good(200);
    }
    let last = audit_records(&used.server);
    let failed: Vec<&Value> = last.iter().filter(|record| record["code"] == "hsm_error").collect();
    assert_eq!(failed.len(), 3);
}

#[test]
fn a_call_that_hangs_holds_nobody_else_up() {
    let faulty = faulty();
    let used = Used::new(
        behind(&faulty)
            .env("HSM_LIMITS__HSM_TIMEOUT_MS", "300")
            .env("HSM_LIMITS__MAX_SESSIONS", "2")
            .env("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "2000"),
    );
    faulty.fault("C_Sign hang");
    for _ in 0..2 {
        used.sign().problem(504, "hsm_timeout");
    }
    // As many as there are sessions hang now; others have taken their place.
    used.encrypt().good(200);
    let hung = used.metric("hsm_sessions{state=\"hung\"}");
    assert!(hung.is_some_and(|hung| hung >= 1.0), "{hung:?}");
    assert_eq!(used.server.anonymous().get("/health/live").status, 200);
    faulty.clear();
    wait_until("nothing hangs", || {
        used.metric("hsm_sessions{state=\"hung\"}") == Some(0.0)
    });
    used.works();
    assert!(used.is_ready());
}

#[test]
fn more_hung_calls_than_can_be_replaced() {
    let faulty = faulty();
    let used = Used::new(
        behind(&faulty)
            .env("HSM_LIMITS__HSM_TIMEOUT_MS", "200")
            .env("HSM_LIMITS__MAX_SESSIONS", "1")
            .env("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "2000"),
    );
    faulty.fault("C_Sign hang");
    for _ in 0..4 {
        let status = used.sign().status;
        assert!(matches!(status, 503 | 504), "{status}");
    }
    let live = used.server.anonymous().get("/health/live");
    live.good(200);
    faulty.clear();
    wait_until("it works again", || used.sign().status == 200);
    used.works();
}

#[test]
fn a_request_costs_no_search_no_session_and_no_login() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    faulty.forget_calls();
    for _ in 0..20 {
        used.sign().good(200);
        used.encrypt().good(200);
    }
    for function in [
        "C_FindObjectsInit",
        "C_OpenSession",
        "C_Login",
        "C_GetAttributeValue",
        "C_GetMechanismList",
    ] {
        assert_eq!(faulty.calls(function), 0, "{function}");
    }
    assert_eq!(faulty.calls("C_SignInit"), 20);
    assert_eq!(faulty.calls("C_EncryptInit"), 20);
}

#[test]
fn a_pin_that_is_near_its_end_is_not_tried_while_running() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    // CKF_USER_PIN_FINAL_TRY: somebody else has tried.
    faulty.forget_calls();
    faulty.fault("forget-sessions\nC_GetTokenInfo flags=0x20000");
    used.sign().problem(503, "hsm_unavailable");
    for _ in 0..3 {
        used.encrypt().problem(503, "hsm_unavailable");
    }
    assert_eq!(faulty.calls("C_Login"), 0);
    used.server
        .anonymous()
        .get("/health/ready")
        .problem(503, "hsm_unavailable");
}

#[test]
fn a_pin_that_was_changed_is_tried_once() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    faulty.forget_calls();
    // CKR_PIN_INCORRECT
    faulty.fault("forget-sessions\nC_Login rv=0xA0");
    for _ in 0..5 {
        used.sign().problem(503, "hsm_unavailable");
    }
    thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(faulty.calls("C_Login"), 1);
    // Not even when it would be right again: only a new process tries.
    faulty.clear();
    used.sign().problem(503, "hsm_unavailable");
    assert_eq!(faulty.calls("C_Login"), 1);
}

#[test]
fn a_module_that_was_finalised_is_begun_anew() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    // CKR_CRYPTOKI_NOT_INITIALIZED, until it is initialised again.
    faulty.forget_calls();
    faulty.fault("C_SignInit rv=0x190 count=1");
    let first = used.sign().status;
    assert!(matches!(first, 200 | 503), "{first}");
    wait_until("it works again", || used.sign().status == 200);
    used.works();
    assert!(used.is_ready());
}

#[test]
fn a_generator_that_repeats_itself() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    for rule in ["zero", "repeat"] {
        faulty.fault(&format!("C_GenerateRandom {rule}"));
        // The first of a repetition is not one yet.
        let _ = used.caller.create(json!({"key_type": "AES", "key_size": 256}));
        let reply = used.caller.create(json!({"key_type": "AES", "key_size": 256}));
        reply.problem(502, "hsm_error");
        let _ = used.encrypt();
        used.encrypt().problem(502, "hsm_error");
        faulty.clear();
        used.works();
    }
}

#[test]
fn a_corrupt_rsa_signature_is_not_answered() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    let rsa = used.caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let body = json!({"key_id": rsa["key_id"], "data": base64(b"x")});
    used.caller.hsm("sign", &body).good(200);
    faulty.fault("C_Sign corrupt\nC_SignFinal corrupt");
    used.caller.hsm("sign", &body).problem(502, "hsm_error");
    faulty.clear();
    used.caller.hsm("sign", &body).good(200);
}
