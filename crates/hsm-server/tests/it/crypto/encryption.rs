//! AES and RSA-OAEP: there and back, and what does not come back.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};
use softhsm_test::Token;

use super::{DATA, opens, signs};
use crate::support::{ABSENT, Server, base64, bytes, merged, text};

on_both_tokens! {
    aes_round_trips,
    what_was_tampered_with_does_not_decrypt,
    large_and_empty_data,
    aes_cbc_is_off,
}

fn aes_round_trips(server: &Server) {
    let caller = server.all();
    for bits in [128, 192, 256] {
        let key = caller.key(json!({"key_type": "AES", "key_size": bits}));
        let id = &key["key_id"];
        for (request, algorithm, iv, tag) in [
            (json!({}), "AES-GCM", 12, Some(16)),
            (json!({"algorithm": "AES-GCM"}), "AES-GCM", 12, Some(16)),
            (
                json!({"algorithm": "AES-GCM", "aad": base64("context")}),
                "AES-GCM",
                12,
                Some(16),
            ),
            (json!({"algorithm": "AES-GCM", "aad": ""}), "AES-GCM", 12, Some(16)),
            (json!({"algorithm": "AES-CTR"}), "AES-CTR", 16, None),
        ] {
            let request = merged(&request, json!({"key_id": id, "data": DATA}));
            let answer = caller.hsm("encrypt", &request).good(200);
            assert_eq!((&answer["algorithm"], &answer["key_id"]), (&json!(algorithm), id));
            assert_eq!(bytes(&answer["ciphertext"]).len(), 12);
            assert_eq!(bytes(&answer["iv"]).len(), iv);
            assert_eq!(answer["tag"].is_null(), tag.is_none(), "{answer}");
            assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");
            let back = match request.get("aad") {
                Some(aad) => merged(&answer, json!({"aad": aad})),
                None => answer.clone(),
            };
            opens(&caller, &back, DATA);
            opens(
                &caller,
                &merged(
                    &back,
                    json!({"key_id": text(id).to_ascii_uppercase().replace("HSM:", "hsm:")}),
                ),
                DATA,
            );
            if algorithm == "AES-GCM" {
                opens(&caller, &merged(&back, json!({"algorithm": ABSENT})), DATA);
                opens(&caller, &merged(&back, json!({"algorithm": null})), DATA);
            }
        }
    }
}

fn what_was_tampered_with_does_not_decrypt(server: &Server) {
    let caller = server.all();
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let other = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let request = json!({"key_id": id, "data": DATA, "aad": base64("context")});
    let answer = caller.hsm("encrypt", &request).good(200);
    let good = merged(&answer, json!({"aad": base64("context")}));
    opens(&caller, &good, DATA);

    let flipped = |name: &str, at: usize| {
        let mut all = bytes(&good[name]);
        all[at] ^= 1;
        json!({name: base64(all)})
    };
    let sized = |name: &str, length: usize| json!({name: base64(vec![0; length])});
    let mut wrong = vec![
        flipped("ciphertext", 0),
        flipped("ciphertext", 11),
        flipped("iv", 0),
        flipped("iv", 11),
        flipped("tag", 0),
        flipped("tag", 15),
        flipped("aad", 0),
        json!({"aad": ABSENT}),
        json!({"aad": ""}),
        json!({"ciphertext": ""}),
        json!({"ciphertext": base64(&bytes(&good["ciphertext"])[..11])}),
        json!({"tag": base64(&bytes(&good["tag"])[..15])}),
        json!({"tag": base64(&bytes(&good["tag"])[..4])}),
        json!({"key_id": other}),
    ];
    wrong.extend([0, 1, 11, 13, 16, 32].map(|length| sized("iv", length)));
    wrong.extend([0, 1, 12, 17, 32].map(|length| sized("tag", length)));
    let mut details: HashSet<String> = HashSet::new();
    for change in wrong {
        let reply = caller.hsm("decrypt", &merged(&good, change.clone()));
        let problem = reply.problem(400, "decryption_failed");
        details.insert(text(&problem["detail"]).to_owned());
    }
    for length in [0, 12, 15, 17] {
        let ctr = json!({"key_id": id, "algorithm": "AES-CTR", "ciphertext": "AAAA", "iv": base64(vec![0; length]), "tag": null});
        let problem = caller.hsm("decrypt", &ctr).problem(400, "decryption_failed");
        details.insert(text(&problem["detail"]).to_owned());
    }
    assert_eq!(details.len(), 1, "{details:?}");
    for name in ["iv", "tag"] {
        for missing in [json!({name: ABSENT}), json!({name: null})] {
            caller
                .hsm("decrypt", &merged(&good, missing))
                .problem_naming(400, "invalid_request", name);
        }
    }
    for name in ["ciphertext", "key_id"] {
        for missing in [json!({name: ABSENT}), json!({name: null})] {
            caller
                .hsm("decrypt", &merged(&good, missing))
                .problem_naming(400, "invalid_request", name);
        }
    }
    for name in ["ciphertext", "iv", "tag", "aad"] {
        caller
            .hsm("decrypt", &merged(&good, json!({name: "no base64!"})))
            .problem_naming(400, "invalid_request", name);
    }
    opens(&caller, &good, DATA);
}

fn large_and_empty_data(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let large: Vec<u8> = (0..700 * 1024_u32).map(|number| number.to_le_bytes()[0]).collect();
    for algorithm in ["AES-GCM", "AES-CTR"] {
        for data in [base64(&large), String::new()] {
            let body = json!({"key_id": aes, "data": data, "algorithm": algorithm});
            let answer = caller.hsm("encrypt", &body).good(200);
            opens(&caller, &answer, &data);
        }
    }
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let ed = caller.key(json!({"key_type": "ED", "curve": "Ed25519"}))["key_id"].clone();
    let hmac = caller.key(json!({"key_type": "HMAC"}))["key_id"].clone();
    for id in [ec, ed, hmac] {
        signs(&caller, json!({"key_id": id, "data": base64(&large)}));
        signs(&caller, json!({"key_id": id, "data": ""}));
    }
}

fn aes_cbc_is_off(server: &Server) {
    let caller = server.all();
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let body = json!({"key_id": id, "data": DATA, "algorithm": "AES-CBC"});
    caller
        .hsm("encrypt", &body)
        .problem_naming(400, "unsupported_algorithm", "HSM_LEGACY_ALGORITHMS");
    let body = json!({"key_id": id, "ciphertext": base64([0; 16]), "iv": base64([0; 16]), "tag": null, "algorithm": "AES-CBC"});
    caller
        .hsm("decrypt", &body)
        .problem_naming(400, "unsupported_algorithm", "HSM_LEGACY_ALGORITHMS");
}

#[test]
fn aes_cbc_can_be_allowed() {
    for token in [Token::softhsm(), Token::embedded()] {
        let server = Server::with(token).env("HSM_LEGACY_ALGORITHMS", "true").start();
        let caller = server.all();
        let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
        let mut details = HashSet::new();
        for length in [0, 1, 15, 16, 17, 1000] {
            let data = base64(vec![b'x'; length]);
            let answer = caller
                .hsm("encrypt", &json!({"key_id": id, "data": data, "algorithm": "AES-CBC"}))
                .good(200);
            assert_eq!((bytes(&answer["iv"]).len(), &answer["tag"]), (16, &Value::Null));
            assert_eq!(bytes(&answer["ciphertext"]).len(), (length / 16 + 1) * 16);
            opens(&caller, &answer, &data);
            let mut broken = bytes(&answer["ciphertext"]);
            broken.pop();
            for wrong in [
                json!({"ciphertext": base64(&broken)}),
                json!({"ciphertext": ""}),
                json!({"iv": base64([0; 12])}),
            ] {
                let problem = caller
                    .hsm("decrypt", &merged(&answer, wrong))
                    .problem(400, "decryption_failed");
                details.insert(text(&problem["detail"]).to_owned());
            }
            // The padding's length is the last byte of a block that the IV, or the block before, is added to.
            if length < 16 {
                let mut iv = bytes(&answer["iv"]);
                iv[15] ^= 0x80;
                let wrong = merged(&answer, json!({"iv": base64(iv)}));
                let problem = caller.hsm("decrypt", &wrong).problem(400, "decryption_failed");
                details.insert(text(&problem["detail"]).to_owned());
            }
        }
        assert_eq!(details.len(), 1, "{details:?}");
    }
}

/// RSA-OAEP with each hash on a token that has those in `takes`.
#[track_caller]
fn check_oaep(server: &Server, takes: &[&str], by_default: &str) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let id = &key["key_id"];
    let answer = caller.hsm("encrypt", &json!({"key_id": id, "data": DATA})).good(200);
    assert_eq!(answer["algorithm"], format!("RSA-OAEP-{by_default}"));
    assert_eq!((&answer["iv"], &answer["tag"]), (&Value::Null, &Value::Null));
    assert_eq!(bytes(&answer["ciphertext"]).len(), 256);
    opens(&caller, &answer, DATA);
    opens(&caller, &merged(&answer, json!({"algorithm": ABSENT})), DATA);

    for (hash, jose, hash_bytes) in [
        ("SHA1", "RSA-OAEP", 20),
        ("SHA256", "RSA-OAEP-256", 32),
        ("SHA384", "RSA-OAEP-384", 48),
        ("SHA512", "RSA-OAEP-512", 64),
    ] {
        let name = format!("RSA-OAEP-{hash}");
        for algorithm in [name.as_str(), jose] {
            let body = json!({"key_id": id, "data": DATA, "algorithm": algorithm});
            if !takes.contains(&hash) {
                caller.hsm("encrypt", &body).problem(501, "mechanism_not_supported");
                let body = json!({"key_id": id, "ciphertext": base64(vec![1; 256]), "iv": null, "tag": null, "algorithm": algorithm});
                caller.hsm("decrypt", &body).problem(501, "mechanism_not_supported");
                continue;
            }
            let answer = caller.hsm("encrypt", &body).good(200);
            assert_eq!(answer["algorithm"], name);
            opens(&caller, &answer, DATA);
            opens(&caller, &merged(&answer, json!({"algorithm": algorithm})), DATA);
            let most = 256 - 2 * hash_bytes - 2;
            for length in [0, most] {
                let data = base64(vec![b'x'; length]);
                let answer = caller.hsm("encrypt", &merged(&body, json!({"data": data}))).good(200);
                opens(&caller, &answer, &data);
            }
            let long = merged(&body, json!({"data": base64(vec![b'x'; most + 1])}));
            caller
                .hsm("encrypt", &long)
                .problem_naming(400, "invalid_request", "data");
            let mut details = HashSet::new();
            for wrong in [
                vec![0; 256],
                vec![0xff; 256],
                vec![1; 255],
                vec![1; 257],
                vec![],
                vec![1],
            ] {
                let problem = caller
                    .hsm("decrypt", &merged(&answer, json!({"ciphertext": base64(wrong)})))
                    .problem(400, "decryption_failed");
                details.insert(text(&problem["detail"]).to_owned());
            }
            assert_eq!(details.len(), 1, "{details:?}");
        }
    }
}

#[test]
fn softhsm_takes_oaep_with_sha_1_alone() {
    check_oaep(&Server::softhsm(), &["SHA1"], "SHA1");
}

#[test]
fn the_embedded_token_takes_oaep_with_every_hash() {
    check_oaep(&Server::embedded(), &["SHA1", "SHA256", "SHA384", "SHA512"], "SHA256");
}

#[test]
fn no_iv_comes_twice() {
    let server = Server::softhsm();
    let caller = server.all();
    let id = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let seen = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let answer = caller.hsm("encrypt", &json!({"key_id": id, "data": DATA})).good(200);
                    assert!(seen.lock().unwrap().insert(bytes(&answer["iv"])));
                }
            });
        }
    });
    assert_eq!(seen.into_inner().unwrap().len(), 1000);
}
