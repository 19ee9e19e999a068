//! Many operations as one call.

use serde_json::{Value, json};
use softhsm_test::{FaultyToken, Token};

use super::MESSAGE;
use crate::support::{Server, base64, merged, mint, text};
use crate::tools::{audit_records, wait_until};

const BATCH: &str = "/api/v1/hsm/batch";

on_both_tokens! {
    each_item_is_its_single_call,
    a_thousand_items_with_bad_ones_between,
}

fn item(operation: &str, body: &Value) -> Value {
    merged(body, json!({"operation": operation}))
}

fn each_item_is_its_single_call(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let data = json!({"data": base64(MESSAGE)});
    let on = |key: &Value, more: &Value| merged(&merged(&data, json!({"key_id": key["key_id"]})), more.clone());
    let ask = |path: &str, items: Vec<Value>| {
        let answer = caller.post(path, &json!({"operations": items})).good(200);
        let names: Vec<_> = answer.as_object().unwrap().keys().collect();
        assert_eq!(names, ["results"]);
        answer["results"].as_array().unwrap().clone()
    };
    for (path, versions) in [(BATCH, json!({})), ("/api/v1/batch", json!({"key_version": null}))] {
        let aad = json!({"aad": base64("aad")});
        let format = json!({"signature_format": "p1363"});
        let done = ask(
            path,
            vec![item("encrypt", &on(&aes, &aad)), item("sign", &on(&ec, &format))],
        );
        assert!(done.iter().all(|result| result["status"] == 200), "{done:?}");
        assert_eq!(done[1]["signature_format"], "p1363");
        for result in &done {
            for name in versions.as_object().unwrap().keys() {
                assert_eq!(result[name], Value::Null);
                assert!(result.get(name).is_some());
            }
            assert_eq!(result.get("key_version").is_some(), versions != json!({}));
        }
        let answer = |result: &Value| merged(result, json!({"status": crate::support::ABSENT}));
        let opened = item("decrypt", &merged(&answer(&done[0]), aad));
        let checked = item("verify", &merged(&answer(&done[1]), data.clone()));
        let done = ask(path, vec![opened, checked]);
        assert_eq!(
            done,
            [
                merged(&data, json!({"status": 200})),
                json!({"status": 200, "valid": true})
            ]
        );
    }
    for (body, field) in [
        (json!({"operations": []}), "operations"),
        (json!({"operations": vec![json!({}); 1001]}), "operations"),
        (json!({}), "operations"),
        (json!({"operations": [], "more": 1}), "more"),
    ] {
        caller.post(BATCH, &body).problem_naming(400, "invalid_request", field);
    }
}

fn a_thousand_items_with_bad_ones_between(server: &Server) {
    let caller = server.bearer(&mint(&json!({"sub": "alice", "scope": "crypto:encrypt crypto:sign"})));
    let all = server.all();
    let id = all.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let encrypt = |more: Value| {
        let body = json!({"operation": "encrypt", "key_id": id, "data": base64(MESSAGE)});
        merged(&body, more)
    };
    let bad = [
        (json!(7), 400, "invalid_request", "batch"),
        (json!({"operation": "rewrap"}), 400, "invalid_request", "batch"),
        (encrypt(json!({"data": "?"})), 400, "invalid_request", "encrypt"),
        (encrypt(json!({"unknown": 1})), 400, "invalid_request", "encrypt"),
        (encrypt(json!({"key_id": "orders"})), 400, "invalid_key_id", "encrypt"),
        (encrypt(json!({"key_id": "hsm:00ff"})), 404, "key_not_found", "encrypt"),
        (
            encrypt(json!({"algorithm": "none"})),
            400,
            "unsupported_algorithm",
            "encrypt",
        ),
        (
            encrypt(json!({"operation": "sign"})),
            400,
            "usage_not_permitted",
            "sign",
        ),
        (encrypt(json!({"operation": "decrypt"})), 403, "forbidden", "decrypt"),
        (
            encrypt(json!({"operation": "verify", "data": "?"})),
            403,
            "forbidden",
            "verify",
        ),
    ];
    let at = |index: usize| {
        (index >= 500)
            .then(|| bad.get((index - 500) / 7))
            .flatten()
            .filter(|_| index % 7 == 3)
    };
    let items: Vec<Value> = (0..1000)
        .map(|index| {
            at(index).map_or_else(
                || encrypt(json!({"aad": base64(index.to_string())})),
                |(item, ..)| item.clone(),
            )
        })
        .collect();
    let before = audit_records(server).len();
    let reply = caller.post(BATCH, &json!({"operations": items}));
    let results = reply.good(200)["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 1000);
    let records = audit_records(server).split_off(before);
    assert_eq!(records.len(), 1000);
    let mut seen = 0;
    for (index, (result, record)) in results.iter().zip(&records).enumerate() {
        assert_eq!(record["request_id"], reply.request_id());
        assert_eq!(record["subject"], "alice");
        assert_eq!(record["status"], result["status"]);
        match at(index) {
            None => {
                assert_eq!(result["status"], 200, "{index}: {result}");
                assert_eq!((&record["outcome"], &record["key_id"]), (&json!("success"), &id));
            }
            Some((_, status, code, action)) => {
                seen += 1;
                assert_eq!(
                    (&result["status"], &result["code"]),
                    (&json!(status), &json!(code)),
                    "{result}"
                );
                assert_eq!(result["request_id"], reply.request_id());
                assert_eq!(result["type"], format!("/docs/errors#{code}"));
                assert!(!text(&result["detail"]).is_empty());
                assert_eq!(
                    (&record["code"], &record["action"]),
                    (&json!(code), &json!(action)),
                    "{record}"
                );
                let outcome = if *status == 403 { "refused" } else { "failure" };
                assert_eq!(record["outcome"], outcome);
            }
        }
    }
    assert_eq!(seen, bad.len());
    // The answers are in their order: each has its own additional data.
    for index in [0, 1, 499, 999] {
        let body = merged(
            &results[index],
            json!({"aad": base64(index.to_string()), "status": crate::support::ABSENT}),
        );
        all.hsm("decrypt", &body).good(200);
    }
}

#[test]
fn a_batch_goes_to_every_token_that_it_names() {
    let tokens = Token::several(&["one", "two"]);
    let server = Server::with(tokens[0].clone())
        .env("HSM_TOKENS__BACKUP__TOKEN_LABEL", "two")
        .env("HSM_TOKENS__BACKUP__PIN", tokens[1].pin())
        .start();
    let caller = server.all();
    let here = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "twin"}));
    let there = caller.key(json!({"key_type": "AES", "key_size": 256, "key_label": "twin", "token": "backup"}));
    assert!(text(&there["key_id"]).starts_with("hsm:backup:"), "{there}");
    let elsewhere = json!({"key_id": "hsm:nowhere:00ff"});
    let items: Vec<Value> = [&here, &there, &elsewhere, &here, &there]
        .iter()
        .map(|key| json!({"operation": "encrypt", "key_id": key["key_id"], "data": base64(MESSAGE)}))
        .collect();
    let results = caller.post(BATCH, &json!({"operations": items})).good(200)["results"].clone();
    let told: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| &result["status"])
        .collect();
    assert_eq!(told, [200, 200, 404, 200, 200]);
    assert_eq!(results[1]["key_id"], there["key_id"]);
    // What is made of a key lies beside it, and random bytes come from the token that is named.
    caller
        .post("/api/v1/hsm/random", &json!({"length": 8, "token": "backup"}))
        .good(200);
    for (path, body) in [
        ("/api/v1/hsm/random", json!({"length": 8, "token": "nowhere"})),
        (
            "/api/v1/hsm/keys",
            json!({"key_type": "AES", "key_size": 256, "key_label": "x", "token": "nowhere"}),
        ),
        (
            super::IMPORT,
            json!({"key_type": "AES", "format": "raw", "key_material": base64([1; 32]), "key_label": "x", "token": "no where"}),
        ),
    ] {
        caller.post(path, &body).problem_naming(400, "invalid_request", "token");
    }
    let imported = super::import(&caller, "AES", "raw", &[1; 32], json!({"token": "backup"})).good(201);
    assert!(text(&imported["key_id"]).starts_with("hsm:backup:"));
}

#[test]
fn a_batch_that_can_t_be_recorded_is_not_answered() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let folder = server.data_dir().join("audit");
    std::fs::rename(&folder, server.data_dir().join("aside")).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let items = vec![json!({"operation": "encrypt", "key_id": key["key_id"], "data": base64(MESSAGE)}); 3];
    caller
        .post(BATCH, &json!({"operations": items}))
        .problem(503, "audit_unavailable");
}

#[test]
fn an_item_that_is_to_be_tried_again_says_when() {
    let server = Server::faulty();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    server.fault("C_EncryptInit rv=0xe0");
    let item = json!({"operation": "encrypt", "key_id": key["key_id"], "data": base64(MESSAGE)});
    let malformed = json!({"operation": "encrypt"});
    let body = json!({"operations": [item, malformed]});
    let results = caller.post(BATCH, &body).good(200)["results"].clone();
    assert_eq!(
        (&results[0]["status"], &results[0]["code"]),
        (&json!(503), &json!("hsm_unavailable"))
    );
    assert!(results[0]["retry_after"].is_u64(), "{results}");
    assert_eq!(results[1]["status"], 400);
    assert!(results[1].get("retry_after").is_none());
}

/// What was done is recorded and answered, and the rest is to be tried elsewhere.
#[test]
fn a_server_that_ends_ends_its_batches_where_they_are() {
    let mut server = Server::with_faulty(FaultyToken::fresh())
        .env("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "2000")
        .start();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    server.fault("C_EncryptInit delay_ms=20");
    let item = json!({"operation": "encrypt", "key_id": key["key_id"], "data": base64(MESSAGE)});
    let body = json!({"operations": vec![item; 1000]});
    let results = std::thread::scope(|scope| {
        let batch = scope.spawn(|| caller.post(BATCH, &body).good(200)["results"].clone());
        wait_until("the batch", || server.faulty_token().calls("C_EncryptInit") > 2);
        server.signal("TERM");
        batch.join().unwrap()
    });
    let statuses: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].clone())
        .collect();
    let done = statuses.iter().take_while(|status| **status == 200).count();
    assert!((2..1000).contains(&done), "{done}");
    assert!(statuses[done..].iter().all(|status| *status == 503));
    assert!(server.wait().success());
    let records: String = server
        .data_files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|(_, content)| String::from_utf8(content).unwrap())
        .collect();
    assert_eq!(records.matches("\"action\":\"encrypt\"").count(), done);
}
