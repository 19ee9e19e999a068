//! Creation and deletion while the token fails: done once or not at all, and nothing is left behind.

use serde_json::json;
use softhsm_test::Class;

use super::{Used, faulty};
use crate::support::text;
use crate::tools::{behind, wait_until};

#[test]
fn a_deletion_while_the_login_is_lost_is_whole_or_none() {
    for rule in ["logout", "forget-sessions"] {
        let faulty = faulty();
        let used = Used::on(&faulty);
        for (id, halves) in [(text(&used.sign["key_id"]), 2), (text(&used.encrypt["key_id"]), 1)] {
            let hex = id.strip_prefix("hsm:").unwrap();
            for skip in [0, 1, 2, 3, 4] {
                faulty.fault(&format!("{rule} skip={skip}"));
                let reply = used.caller.delete(&format!("/api/v1/hsm/keys/{id}"));
                faulty.clear();
                let left = used.server.token().attributes(hex).len();
                match reply.status {
                    204 => assert_eq!(left, 0, "{rule} {skip}"),
                    502 | 503 => assert!(left > 0, "{rule} {skip}"),
                    status => panic!("{rule} {skip} {status} {left} of {halves}: {}", reply.text()),
                }
                if reply.status == 204 {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_creation_while_the_login_is_lost() {
    for rule in ["logout", "forget-sessions"] {
        let faulty = faulty();
        let used = Used::on(&faulty);
        used.caller
            .key(json!({"key_type": "AES", "key_size": 256, "key_label": "taken"}));
        faulty.fault(rule);
        used.caller
            .create(json!({"key_type": "AES", "key_size": 256, "key_label": "taken"}))
            .problem(409, "conflict");
        for skip in 0..8 {
            let before = used.server.token().objects().len();
            faulty.fault(&format!("{rule} skip={skip}"));
            let reply = used.caller.create(json!({"key_type": "EC", "curve": "P-256"}));
            faulty.clear();
            match reply.status {
                201 => assert_eq!(used.server.token().objects().len(), before + 2),
                502 | 503 => wait_until("nothing is left", || used.server.token().objects().len() == before),
                status => panic!("{rule} {skip} {status}: {}", reply.text()),
            }
        }
    }
}

#[test]
fn a_key_that_appears_after_an_error_is_destroyed() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    let before = used.server.token().objects().len();
    for (function, body) in [
        (
            "C_GenerateKeyPair",
            json!({"key_type": "EC", "curve": "P-256", "key_label": "late"}),
        ),
        (
            "C_GenerateKey",
            json!({"key_type": "AES", "key_size": 256, "key_label": "late"}),
        ),
    ] {
        faulty.fault(&format!("{function} late_rv=0x30"));
        let reply = used.caller.create(body.clone());
        reply.problem_naming(502, "hsm_error", "CKR_DEVICE_ERROR");
        wait_until("it is destroyed", || used.server.token().objects().len() == before);
        faulty.clear();
        // The label is free for the next try.
        let key = used.caller.create(body).good(201);
        used.caller
            .delete(&format!("/api/v1/hsm/keys/{}", text(&key["key_id"])))
            .good(204);
    }
}

#[test]
fn a_creation_is_never_tried_twice() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    for code in ["0x30", "0xB3", "0x101"] {
        faulty.forget_calls();
        faulty.fault(&format!("C_GenerateKey rv={code}"));
        let reply = used.caller.create(json!({"key_type": "AES", "key_size": 256}));
        assert!(matches!(reply.status, 502 | 503), "{code} {}", reply.text());
        assert_eq!(faulty.calls("C_GenerateKey"), 1, "{code}");
        faulty.clear();
        wait_until("it works", || used.sign().status == 200);
    }
    let secrets = used.server.token().objects();
    let secrets = secrets.iter().filter(|object| object.class == Class::SecretKey);
    assert_eq!(secrets.count(), 1);
}

#[test]
fn a_creation_that_takes_too_long_leaves_nothing() {
    let faulty = faulty();
    let used = Used::new(behind(&faulty).env("HSM_LIMITS__KEYGEN_TIMEOUT_MS", "300"));
    let before = used.server.token().objects().len();
    faulty.fault("C_GenerateKeyPair delay_ms=1200");
    used.caller
        .create(json!({"key_type": "EC", "curve": "P-256", "key_label": "slow"}))
        .problem(504, "hsm_timeout");
    faulty.forget_calls();
    faulty.clear();
    wait_until("it is destroyed", || faulty.calls("C_DestroyObject") >= 2);
    wait_until("nothing is left", || used.server.token().objects().len() == before);
    let list = used.caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(list["keys"].as_array().unwrap().len(), 2);
    used.caller
        .key(json!({"key_type": "EC", "curve": "P-256", "key_label": "slow"}));
}

#[test]
fn a_deletion_is_never_tried_twice() {
    let faulty = faulty();
    let used = Used::on(&faulty);
    faulty.forget_calls();
    faulty.fault("C_DestroyObject rv=0x30");
    let path = format!("/api/v1/hsm/keys/{}", text(&used.encrypt["key_id"]));
    used.caller
        .delete(&path)
        .problem_naming(502, "hsm_error", "CKR_DEVICE_ERROR");
    assert_eq!(faulty.calls("C_DestroyObject"), 1);
    faulty.clear();
    used.works();
    used.caller.delete(&path).good(204);
    // Done, and answered with an error: it is gone, and nothing pretends otherwise.
    let path = format!("/api/v1/hsm/keys/{}", text(&used.sign["key_id"]));
    faulty.fault("C_DestroyObject late_rv=0x30");
    let status = used.caller.delete(&path).status;
    assert!(matches!(status, 204 | 502), "{status}");
    faulty.clear();
    wait_until("both halves go", || {
        matches!(used.caller.delete(&path).status, 204 | 404)
    });
    assert!(used.server.token().objects().is_empty());
}
