//! What is told of keys: operations, the audit log; and what is kept out of sight.

use serde_json::{Value, json};

use super::{
    HSM_KEYS, KEYS, MESSAGE, aes, at, bare, call, change, change_version, destroy, digits, hsm_id, imported, is_time,
    key, made, opens, patch, rotate, sealed,
};
use crate::support::{ABSENT, Server, base64, merged, text};
use crate::tools::{audit_records, wait_until};

#[test]
fn operations_are_counted() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        let fresh = made(&caller, &aes(&name, protection));
        let first = sealed(&caller, &name);
        opens(&caller, &first);
        call(&caller, "rewrap", &first).good(200);
        call(&caller, "datakeys", &json!({"key_id": name})).good(200);
        let batch = json!({"operations": [
            {"operation": "encrypt", "key_id": name, "data": base64(MESSAGE)},
            merged(&first, json!({"operation": "decrypt"})),
        ]});
        call(&caller, "batch", &batch).good(200);
        let wrong = merged(&first, json!({"tag": base64([0; 16])}));
        call(&caller, "decrypt", &wrong).problem(400, "decryption_failed");
        let used = key(&caller, &name);
        assert_eq!(used["operations"], 6, "{used}");
        is_time(&used["last_used_at"]);
        if protection == "hsm" {
            opens(&caller, &sealed(&caller, &hsm_id(&fresh, 1)));
            assert_eq!(key(&caller, &name)["operations"], 8);
        }
    }
    let server = server.end("TERM").start();
    let caller = server.all();
    assert_eq!(key(&caller, "a-hsm")["operations"], 8);
    assert_eq!(key(&caller, "a-wrapped")["operations"], 6);
}

#[test]
fn what_is_done_with_a_key_is_recorded_under_its_name_and_version() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "hsm"));
    let first = sealed(&caller, "a");
    rotate(&caller, "a");
    opens(&caller, &first);
    call(&caller, "rewrap", &first).good(200);
    call(&caller, "datakeys", &json!({"key_id": "a"})).good(200);
    change(&caller, "a", json!({"tags": {"x": "y"}}));
    change_version(&caller, "a", 1, "disabled");
    call(&caller, "decrypt", &first).problem(409, "key_disabled");
    let plain = hsm_id(&key(&caller, "a"), 2);
    sealed(&caller, &plain);
    caller.delete(&at("a")).good(202);
    call(&caller, "encrypt", &json!({"key_id": "a", "data": ""})).problem(409, "key_destroyed");
    bare(&caller, &at("a/restore")).good(200);
    let pair = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    made(&caller, &json!({"name": "b", "hsm_key_id": pair["key_id"]}));
    destroy(&caller, "a");
    wait_until("a record of the destruction", || {
        audit_records(&server)
            .iter()
            .any(|record| record["action"] == "destroy")
    });

    let told: Vec<Value> = audit_records(&server)
        .iter()
        .filter(|record| record["key_id"] == "a" || record["key_id"] == "b" || record["key_id"] == plain.as_str())
        .map(|record| {
            json!([
                record["action"],
                record["key_id"],
                record["key_version"],
                record["code"],
                record["subject"]
            ])
        })
        .collect();
    let expected = json!([
        ["create", "a", 1, null, "test"],
        ["encrypt", "a", 1, null, "test"],
        ["rotate", "a", 2, null, "test"],
        ["decrypt", "a", 1, null, "test"],
        ["rewrap", "a", 2, null, "test"],
        ["datakey", "a", 2, null, "test"],
        ["update", "a", null, null, "test"],
        ["update_version", "a", 1, null, "test"],
        ["decrypt", "a", 1, "key_disabled", "test"],
        ["encrypt", plain, null, null, "test"],
        ["delete", "a", null, null, "test"],
        ["encrypt", "a", null, "key_destroyed", "test"],
        ["restore", "a", null, null, "test"],
        ["adopt", "b", 1, null, "test"],
        ["delete", "a", null, null, "test"],
        ["destroy", "a", null, null, null],
    ]);
    assert_eq!(json!(told), expected);
    let page = caller.get("/api/v1/audit?key_id=a&action=rotate").good(200);
    assert_eq!(page["records"][0]["key_version"], 2, "{page}");
    assert_eq!(server.run(&["audit", "verify"]).code, Some(0));
}

#[test]
fn the_gateways_own_keys_are_nobodys() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "wrapped"));
    let own: Vec<_> = server.token().objects();
    let own: Vec<_> = own
        .iter()
        .filter(|object| object.label.starts_with("hsm-gateway:"))
        .collect();
    assert!(own.len() >= 2, "{own:?}");
    for object in &own {
        assert_eq!(
            (object.sensitive, object.extractable),
            (Some(true), Some(false)),
            "{object:?}"
        );
        let id = format!("hsm:{}", object.id);
        for path in [HSM_KEYS, KEYS] {
            let path = format!("{path}/{id}");
            caller.get(&path).problem(404, "key_not_found");
            caller.delete(&path).problem(404, "key_not_found");
        }
        patch(&caller, &format!("{HSM_KEYS}/{id}"), &json!({"key_label": "mine"})).problem(404, "key_not_found");
        let data = json!({"key_id": id, "data": base64(MESSAGE)});
        for operation in ["encrypt", "sign"] {
            caller.hsm(operation, &data).problem(404, "key_not_found");
            call(&caller, operation, &data).problem(404, "key_not_found");
        }
        call(&caller, "datakeys", &json!({"key_id": id})).problem(404, "key_not_found");
        caller
            .post(KEYS, &json!({"name": "mine", "hsm_key_id": id}))
            .problem(404, "key_not_found");
        caller.get(&at(&format!("{id}/jwks"))).problem(404, "key_not_found");
        for csr in [at(&format!("{id}/csr")), format!("{HSM_KEYS}/{id}/csr")] {
            caller
                .post(&csr, &json!({"subject": "CN=a"}))
                .problem(404, "key_not_found");
        }
        // Who has the database can't have what is in it unwrapped under an id of his own.
        let unwrap = json!({"format": "wrapped", "wrapping_key_id": id, "algorithm": "AES-KWP",
            "key_material": base64([0; 40]), "key_type": "AES", "key_label": "mine", "extractable": true});
        caller
            .post(&format!("{HSM_KEYS}/import"), &unwrap)
            .problem(404, "key_not_found");
        let derive =
            json!({"key_id": id, "algorithm": "HKDF-SHA256", "key_type": "AES", "key_size": 256, "key_label": "mine"});
        caller.hsm("derive", &derive).problem(404, "key_not_found");
        let batch = json!({"operations": [merged(&data, json!({"operation": "encrypt"}))]});
        for path in ["/api/v1/batch", "/api/v1/hsm/batch"] {
            let answer = caller.post(path, &batch).good(200);
            assert_eq!(answer["results"][0]["code"], "key_not_found");
        }
        let wrapper = caller.key(json!({"key_type": "AES", "key_size": 256, "usages": ["wrap", "unwrap"]}));
        for (wrapping, target) in [(text(&wrapper["key_id"]), id.as_str()), (&id, text(&wrapper["key_id"]))] {
            let wrap = json!({"key_id": wrapping, "target_key_id": target});
            caller.hsm("wrap", &wrap).problem(404, "key_not_found");
            call(&caller, "wrap", &wrap).problem(404, "key_not_found");
        }
        for path in [HSM_KEYS, KEYS] {
            let listed = caller.get(&format!("{path}?limit=1000")).text();
            assert!(
                !listed.contains(&object.id) && !listed.contains("hsm-gateway:"),
                "{listed}"
            );
            let label = object.label.replace(' ', "%20");
            let found = caller.get(&format!("{path}?label={label}")).good(200);
            assert_eq!(found["keys"], json!([]));
        }
    }
    let label = json!({"key_type": "AES", "key_size": 256, "key_label": "hsm-gateway:mine"});
    caller.create(label.clone()).problem(409, "conflict");
    let import = merged(
        &label,
        json!({"format": "raw", "key_material": base64([7; 32]), "key_size": ABSENT}),
    );
    caller
        .post(&format!("{HSM_KEYS}/import"), &import)
        .problem(409, "conflict");
    let mine = imported(&caller, "AES", &[9; 32], json!({}));
    let relabel = json!({"key_label": "hsm-gateway:mine"});
    patch(&caller, &format!("{HSM_KEYS}/{mine}"), &relabel).problem(409, "conflict");
    let objects = server.token().objects();
    assert!(!objects.iter().any(|object| object.label == "hsm-gateway:mine"));
}

#[test]
fn a_key_that_others_took_from_the_token_is_missed_and_its_record_still_goes() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &aes("a", "hsm"));
    let first = sealed(&caller, "a");
    let rotated = rotate(&caller, "a");
    server.token().delete_foreign_key(digits(&hsm_id(&rotated, 1)));
    call(&caller, "decrypt", &first).problem_naming(502, "hsm_error", "version 1");
    opens(&caller, &sealed(&caller, "a"));
    destroy(&caller, "a");
    assert!(server.token().attributes(digits(&hsm_id(&rotated, 2))).is_empty());
}
