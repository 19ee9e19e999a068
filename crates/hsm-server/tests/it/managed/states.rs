//! States of keys: disabled, scheduled for destruction, restored, destroyed; and that the token's key of a version has them
//! too.

use serde_json::{Value, json};

use super::{
    HSM_KEYS, KEYS, MESSAGE, aes, at, bare, call, change, change_version, destroy, digits, ec, hsm_id, imported,
    is_time, is_valid, key, made, opens, patch, rotate, sealed, signed, version_states,
};
use crate::support::{ABSENT, Caller, Server, base64, merged, text};
use crate::tools::wait_until;

/// Every call that uses the key must be refused so.
#[track_caller]
fn refused(caller: &Caller, id: &str, ciphertext: &Value, status: u16, code: &str) {
    let ciphertext = merged(ciphertext, json!({"key_id": id}));
    let data = json!({"key_id": id, "data": base64(MESSAGE)});
    call(caller, "encrypt", &data).problem(status, code);
    call(caller, "decrypt", &ciphertext).problem(status, code);
    call(caller, "rewrap", &ciphertext).problem(status, code);
    call(caller, "datakeys", &json!({"key_id": id})).problem(status, code);
    let batch = json!({"operations": [
        merged(&data, json!({"operation": "encrypt"})),
        merged(&ciphertext, json!({"operation": "decrypt"})),
        merged(&ciphertext, json!({"operation": "rewrap"})),
        {"operation": "datakeys", "key_id": id},
    ]});
    let results = call(caller, "batch", &batch).good(200)["results"].clone();
    for result in results.as_array().unwrap() {
        assert_eq!(
            (&result["status"], &result["code"]),
            (&json!(status), &json!(code)),
            "{result}"
        );
    }
}

fn a_key_is_disabled_scheduled_restored_and_destroyed(server: &Server) {
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(&caller, &aes(&name, protection));
        let first = sealed(&caller, &name);
        let versions = rotate(&caller, &name)["versions"].clone();
        let path = at(&name);
        let restore = at(&format!("{name}/restore"));
        let rotating = at(&format!("{name}/rotate"));

        bare(&caller, &restore).problem(409, "conflict");
        assert_eq!(
            change(&caller, &name, json!({"state": "disabled"}))["state"],
            "disabled"
        );
        assert_eq!(
            change(&caller, &name, json!({"state": "disabled"}))["state"],
            "disabled"
        );
        refused(&caller, &name, &first, 409, "key_disabled");
        bare(&caller, &rotating).problem(409, "key_disabled");
        assert_eq!(
            change(&caller, &name, json!({"tags": {"a": "b"}}))["tags"],
            json!({"a": "b"})
        );
        change(&caller, &name, json!({"state": "enabled"}));
        opens(&caller, &first);

        for (state, days) in [("enabled", None), ("disabled", Some(30)), ("enabled", Some(1))] {
            change(&caller, &name, json!({"state": state}));
            let query = days.map_or(String::new(), |days| format!("?window_days={days}"));
            let scheduled = caller.delete(&format!("{path}{query}")).good(202);
            assert_eq!(scheduled["state"], "scheduled_for_destruction");
            is_time(&scheduled["destroy_at"]);
            assert_eq!(key(&caller, &name)["destroy_at"], scheduled["destroy_at"]);
            let format = &time::format_description::well_known::Rfc3339;
            let until = time::OffsetDateTime::parse(text(&scheduled["destroy_at"]), format).unwrap();
            let left = until - time::OffsetDateTime::now_utc();
            let wanted = time::Duration::days(days.unwrap_or(7));
            assert!(left <= wanted && left > wanted - time::Duration::hours(1), "{left}");
            refused(&caller, &name, &first, 409, "key_destroyed");
            bare(&caller, &rotating).problem(409, "key_destroyed");
            patch(&caller, &path, &json!({"state": "enabled"})).problem(409, "key_destroyed");
            let version = at(&format!("{name}/versions/1"));
            patch(&caller, &version, &json!({"state": "disabled"})).problem(409, "key_destroyed");
            caller.delete(&path).problem(409, "key_destroyed");
            let restored = bare(&caller, &restore).good(200);
            assert_eq!(
                (&restored["state"], &restored["destroy_at"]),
                (&json!(state), &Value::Null)
            );
            assert_eq!(restored["versions"], versions);
        }
        opens(&caller, &first);

        let scheduled = caller.delete(&format!("{path}?window_days=0")).good(202);
        assert_eq!(scheduled["state"], "scheduled_for_destruction");
        wait_until("destroyed", || key(&caller, &name)["state"] == "destroyed");
        wait_until("all of it", || {
            version_states(&key(&caller, &name)) == ["destroyed", "destroyed"]
        });
        for version in versions.as_array().unwrap() {
            if let Some(id) = version["hsm_key_id"].as_str() {
                caller.get(&format!("{HSM_KEYS}/{id}")).problem(404, "key_not_found");
                caller.get(&at(id)).problem(404, "key_not_found");
                assert!(server.token().attributes(digits(id)).is_empty());
            }
        }
        let label = format!("{name}:");
        let objects = server.token().objects();
        assert!(!objects.iter().any(|object| object.label.starts_with(&label)));
        let gone = key(&caller, &name);
        assert!(
            gone["versions"]
                .as_array()
                .unwrap()
                .iter()
                .all(|one| one["hsm_key_id"].is_null())
        );
        refused(&caller, &name, &first, 409, "key_destroyed");
        for reply in [
            bare(&caller, &rotating),
            bare(&caller, &restore),
            caller.delete(&path),
            patch(&caller, &path, &json!({"tags": {}})),
        ] {
            reply.problem(409, "key_destroyed");
        }
        caller
            .post(KEYS, &aes(&name, protection))
            .problem_naming(409, "conflict", &name);
    }
}

on_both_tokens!(a_key_is_disabled_scheduled_restored_and_destroyed);

#[test]
fn a_destruction_goes_on_after_a_restart() {
    let server = Server::softhsm();
    let caller = server.all();
    let kept = made(&caller, &aes("kept", "hsm"));
    let gone = made(&caller, &ec("gone", "hsm"));
    caller.delete(&at("kept?window_days=1")).good(202);
    caller.delete(&at("gone?window_days=0")).good(202);
    let server = server.end("KILL").start();
    let caller = server.all();
    wait_until("destroyed", || version_states(&key(&caller, "gone")) == ["destroyed"]);
    assert!(server.token().attributes(digits(&hsm_id(&gone, 1))).is_empty());
    assert_eq!(key(&caller, "kept")["state"], "scheduled_for_destruction");
    assert_eq!(server.token().attributes(digits(&hsm_id(&kept, 1))).len(), 1);
    bare(&caller, &at("kept/restore")).good(200);
    opens(&caller, &sealed(&caller, "kept"));
}

#[test]
fn a_version_under_its_hsm_id_has_the_states_of_its_key() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "hsm"));
    let rotated = rotate(&caller, "a");
    let (one, two) = (hsm_id(&rotated, 1), hsm_id(&rotated, 2));
    let first = sealed(&caller, &one);
    assert_eq!((&first["key_id"], &first["key_version"]), (&json!(one), &Value::Null));
    opens(&caller, &first);
    opens(&caller, &merged(&first, json!({"key_id": "a", "key_version": 1})));
    let hsm_first = merged(&first, json!({"key_version": ABSENT}));
    let hsm_data = |id: &str| json!({"key_id": id, "data": base64(MESSAGE)});

    change_version(&caller, "a", 1, "disabled");
    refused(&caller, &one, &first, 409, "key_disabled");
    caller.hsm("encrypt", &hsm_data(&one)).problem(409, "key_disabled");
    caller.hsm("decrypt", &hsm_first).problem(409, "key_disabled");
    opens(&caller, &sealed(&caller, &two));
    change_version(&caller, "a", 1, "enabled");
    opens(&caller, &first);
    caller.hsm("decrypt", &hsm_first).good(200);

    change(&caller, "a", json!({"state": "disabled"}));
    refused(&caller, &one, &first, 409, "key_disabled");
    caller.hsm("encrypt", &hsm_data(&two)).problem(409, "key_disabled");
    change(&caller, "a", json!({"state": "enabled"}));
    opens(&caller, &first);

    for id in [&one, &two] {
        for base in [KEYS, HSM_KEYS] {
            let path = format!("{base}/{id}");
            let shown = caller.get(&path).good(200);
            assert_eq!((&shown["key_id"], &shown["managed_by"]), (&json!(id), &json!("a")));
            caller.delete(&path).problem_naming(409, "conflict", "`a`");
        }
        let relabel = json!({"key_label": "mine"});
        patch(&caller, &format!("{HSM_KEYS}/{id}"), &relabel).problem_naming(409, "conflict", "`a`");
        let adopt = json!({"name": "mine", "hsm_key_id": id});
        caller.post(KEYS, &adopt).problem_naming(409, "conflict", "`a`");
        assert_eq!(server.token().attributes(digits(id)).len(), 1);
    }
    caller.delete(&at("a")).good(202);
    refused(&caller, &one, &first, 409, "key_destroyed");
    caller.hsm("encrypt", &hsm_data(&two)).problem(409, "key_destroyed");
    bare(&caller, &at("a/restore")).good(200);
    opens(&caller, &first);
    destroy(&caller, "a");
    caller.hsm("encrypt", &hsm_data(&two)).problem(404, "key_not_found");
}

#[test]
fn no_call_gets_round_the_state_by_the_hsm_id() {
    let server = Server::softhsm();
    let caller = server.all();
    let free = caller.key(json!({"key_type": "AES", "key_size": 256, "usages": ["wrap", "unwrap"]}));
    let free = text(&free["key_id"]);
    let pair = made(
        &caller,
        &merged(&ec("pair", "hsm"), json!({"usages": ["sign", "verify", "derive"]})),
    );
    let peer = caller.key(json!({"key_type": "EC", "curve": "P-256", "usages": ["derive"]}));
    let wrapper = made(
        &caller,
        &merged(&aes("wrapper", "hsm"), json!({"usages": ["wrap", "unwrap"]})),
    );
    let target = imported(&caller, "AES", &[3; 32], json!({"extractable": true}));
    made(&caller, &json!({"name": "target", "hsm_key_id": target}));
    let (pair, wrapper) = (hsm_id(&pair, 1), hsm_id(&wrapper, 1));
    let proof = signed(&caller, &pair);
    assert!(is_valid(&caller, &proof));
    let hsm_proof = merged(&proof, json!({"key_version": ABSENT}));
    let loose = imported(&caller, "AES", &[4; 16], json!({"extractable": true}));
    let wrapped = caller
        .hsm("wrap", &json!({"key_id": wrapper, "target_key_id": loose}))
        .good(200);
    let sign = json!({"key_id": pair, "data": base64(MESSAGE)});
    let batch = |operation: &str, body: &Value| json!({"operations": [merged(body, json!({"operation": operation}))]});
    let calls = [
        ("sign".to_owned(), sign.clone()),
        ("verify".into(), hsm_proof.clone()),
        ("batch".into(), batch("sign", &sign)),
        ("batch".into(), batch("verify", &hsm_proof)),
        (format!("keys/{pair}/csr"), json!({"subject": "CN=a"})),
        (
            "derive".into(),
            json!({"key_id": pair, "algorithm": "ECDH", "public_key": peer["public_key_pem"],
            "key_type": "AES", "key_size": 256, "key_label": "derived"}),
        ),
        ("wrap".into(), json!({"key_id": wrapper, "target_key_id": loose})),
        ("wrap".into(), json!({"key_id": free, "target_key_id": target})),
        (
            "keys/import".into(),
            json!({"format": "wrapped", "wrapping_key_id": wrapper, "algorithm": wrapped["algorithm"],
            "key_material": wrapped["wrapped_key"], "key_type": "AES", "key_label": "unwrapped"}),
        ),
    ];
    for (state, code) in [("disabled", "key_disabled"), ("scheduled", "key_destroyed")] {
        for name in ["pair", "wrapper", "target"] {
            match state {
                "disabled" => drop(change(&caller, name, json!({"state": "disabled"}))),
                _ => drop(caller.delete(&at(name)).good(202)),
            }
        }
        for (path, body) in &calls {
            let reply = caller.post(&format!("/api/v1/hsm/{path}"), body);
            if path == "batch" {
                let result = &reply.good(200)["results"][0];
                assert_eq!(
                    (&result["status"], &result["code"]),
                    (&json!(409), &json!(code)),
                    "{state} {body}: {result}"
                );
            } else {
                assert_eq!(reply.status, 409, "{state} {path} {body}: {}", reply.text());
                reply.problem(409, code);
            }
        }
    }
    for name in ["pair", "wrapper", "target"] {
        bare(&caller, &at(&format!("{name}/restore"))).good(200);
        change(&caller, name, json!({"state": "enabled"}));
    }
    for (path, body) in &calls {
        let reply = caller.post(&format!("/api/v1/hsm/{path}"), body);
        assert!(matches!(reply.status, 200 | 201), "{path}: {}", reply.text());
    }
}

#[test]
fn a_free_key_of_the_token_is_deleted_at_once() {
    let server = Server::softhsm();
    let caller = server.all();
    let id = text(&caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"]).to_owned();
    let path = at(&id);
    caller
        .delete(&format!("{path}?window_days=3"))
        .problem_naming(400, "invalid_request", "window_days");
    caller.delete(&path).good(204);
    assert!(server.token().attributes(digits(&id)).is_empty());
    caller.delete(&path).problem(404, "key_not_found");
}

#[test]
fn the_state_comes_after_the_key_and_before_the_algorithm() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        let id = hsm_id_or_name(&made(&caller, &aes(&name, protection)));
        for key_id in [name.as_str(), &id] {
            let wrong = [
                ("encrypt", json!({"algorithm": "ROT13"}), "unsupported_algorithm"),
                ("encrypt", json!({"algorithm": "RSA-OAEP-SHA256"}), "key_type_mismatch"),
                ("sign", json!({"algorithm": "AES-CMAC"}), "usage_not_permitted"),
            ];
            for (operation, more, code) in &wrong {
                let body = merged(&json!({"key_id": key_id, "data": base64(MESSAGE)}), more.clone());
                call(&caller, operation, &body).problem(400, code);
                change(&caller, &name, json!({"state": "disabled"}));
                call(&caller, operation, &body).problem(409, "key_disabled");
                let nobody = merged(&body, json!({"key_id": "nobody"}));
                call(&caller, operation, &nobody).problem(404, "key_not_found");
                let no_body = merged(&body, json!({"data": 7}));
                call(&caller, operation, &no_body).problem(400, "invalid_request");
                change(&caller, &name, json!({"state": "enabled"}));
            }
        }
    }
}

/// The `hsm:` id of the first version, or the name where it has none.
fn hsm_id_or_name(key: &Value) -> String {
    let id = &key["versions"][0]["hsm_key_id"];
    text(if id.is_null() { &key["key_id"] } else { id }).to_owned()
}
