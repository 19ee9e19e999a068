//! Versions: rotation by call and by use, what older ones still do, their states, their public keys, requests for
//! certificates.

use std::thread;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{
    MESSAGE, aes, at, bare, call, change, change_version, digits, ec, has_members, hsm_id, is_time, is_valid, key,
    made, opens, patch, rotate, sealed, signed, version_states,
};
use crate::support::{ABSENT, Scratch, Server, base64, bytes, merged, run, text};
use crate::tools::{audit_records, wait_until};

fn old_versions_go_on(server: &Server) {
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let (cipher, signer) = (format!("c-{protection}"), format!("s-{protection}"));
        made(&caller, &aes(&cipher, protection));
        made(&caller, &ec(&signer, protection));
        let (mut ciphertexts, mut signatures) = (Vec::new(), Vec::new());
        for version in 1..=4 {
            if version > 1 {
                for name in [&cipher, &signer] {
                    let rotated = rotate(&caller, name);
                    assert_eq!(rotated["primary_version"], version);
                    assert_eq!(version_states(&rotated), vec!["enabled"; version]);
                    assert_eq!(key(&caller, name)["versions"], rotated["versions"]);
                }
            }
            let (ciphertext, signature) = (sealed(&caller, &cipher), signed(&caller, &signer));
            assert_eq!(
                (&ciphertext["key_version"], &signature["key_version"]),
                (&json!(version), &json!(version))
            );
            ciphertexts.push(ciphertext);
            signatures.push(signature);
        }
        for (ciphertext, signature) in ciphertexts.iter().zip(&signatures) {
            opens(&caller, ciphertext);
            assert!(is_valid(&caller, signature));
        }
        // Without a version it is the primary one.
        let unnamed = json!({"key_version": ABSENT});
        let (first, last) = (&ciphertexts[0], &ciphertexts[3]);
        opens(&caller, &merged(last, unnamed.clone()));
        opens(&caller, &merged(last, json!({"key_version": null})));
        call(&caller, "decrypt", &merged(first, unnamed.clone())).problem(400, "decryption_failed");
        assert!(is_valid(&caller, &merged(&signatures[3], unnamed.clone())));
        assert!(!is_valid(&caller, &merged(&signatures[0], unnamed)));
        // Another version than it was made with.
        call(&caller, "decrypt", &merged(first, json!({"key_version": 2}))).problem(400, "decryption_failed");
        assert!(!is_valid(&caller, &merged(&signatures[0], json!({"key_version": 2}))));
        let none = json!({"key_version": 5});
        call(&caller, "decrypt", &merged(first, none.clone())).problem_naming(404, "key_not_found", "5");
        call(&caller, "verify", &merged(&signatures[0], none)).problem_naming(404, "key_not_found", "5");
        let data = json!({"key_id": cipher, "data": base64(MESSAGE), "key_version": 1});
        call(&caller, "encrypt", &data).problem_naming(400, "invalid_request", "key_version");

        let back = change(&caller, &cipher, json!({"primary_version": 2}));
        assert_eq!((&back["primary_version"], version_states(&back).len()), (&json!(2), 4));
        assert_eq!(sealed(&caller, &cipher)["key_version"], 2);
        assert_eq!(rotate(&caller, &cipher)["primary_version"], 5);
    }
}

on_both_tokens!(old_versions_go_on);

#[test]
fn a_key_of_the_token_has_no_version() {
    let server = Server::softhsm();
    let caller = server.all();
    let plain = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let id = text(&plain["key_id"]);
    let ciphertext = sealed(&caller, id);
    has_members(
        &ciphertext,
        &["algorithm", "key_id", "key_version", "ciphertext", "iv", "tag"],
    );
    assert_eq!(ciphertext["key_version"], Value::Null);
    opens(&caller, &ciphertext);
    let wrong = merged(&ciphertext, json!({"key_version": 1}));
    call(&caller, "decrypt", &wrong).problem_naming(400, "invalid_request", "key_version");
    // The original system's paths know of no versions.
    let hsm = caller
        .hsm("encrypt", &json!({"key_id": id, "data": base64(MESSAGE)}))
        .good(200);
    has_members(&hsm, &["algorithm", "key_id", "ciphertext", "iv", "tag"]);
    caller
        .hsm("decrypt", &ciphertext)
        .problem_naming(400, "invalid_request", "key_version");
}

#[test]
fn a_version_has_a_state_of_its_own() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(&caller, &aes(&name, protection));
        let first = sealed(&caller, &name);
        rotate(&caller, &name);
        let second = sealed(&caller, &name);
        let disabled = change_version(&caller, &name, 1, "disabled");
        assert_eq!(version_states(&disabled), ["disabled", "enabled"]);
        assert_eq!(disabled["state"], "enabled");
        let same = change_version(&caller, &name, 1, "disabled");
        assert_eq!(same["versions"], disabled["versions"]);
        call(&caller, "decrypt", &first).problem_naming(409, "key_disabled", "version 1");
        call(&caller, "rewrap", &first).problem_naming(409, "key_disabled", "version 1");
        opens(&caller, &second);
        patch(&caller, &at(&name), &json!({"primary_version": 1})).problem(409, "key_disabled");
        change_version(&caller, &name, 1, "enabled");
        opens(&caller, &first);

        // The primary one: what needs it waits, what names another goes on, a rotation makes a new one.
        change_version(&caller, &name, 2, "disabled");
        let data = json!({"key_id": name, "data": base64(MESSAGE)});
        call(&caller, "encrypt", &data).problem(409, "key_disabled");
        call(&caller, "datakeys", &json!({"key_id": name})).problem(409, "key_disabled");
        call(&caller, "rewrap", &first).problem(409, "key_disabled");
        opens(&caller, &first);
        assert_eq!(rotate(&caller, &name)["primary_version"], 3);
        opens(&caller, &sealed(&caller, &name));
        assert_eq!(version_states(&key(&caller, &name)), ["enabled", "disabled", "enabled"]);
    }
}

#[test]
fn a_key_is_rotated_by_itself_after_so_many_operations() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(
            &caller,
            &merged(&aes(&name, protection), json!({"rotate_after_operations": 3})),
        );
        let primary = || key(&caller, &name)["primary_version"].clone();
        let ciphertexts: Vec<Value> = (0..3).map(|_| sealed(&caller, &name)).collect();
        wait_until("a rotation", || primary() == 2);
        // Three decryptions are three operations again.
        for one in &ciphertexts {
            assert_eq!(one["key_version"], 1);
            opens(&caller, one);
        }
        wait_until("a rotation", || primary() == 3);
        change(&caller, &name, json!({"rotate_after_operations": null}));
        assert_eq!(sealed(&caller, &name)["key_version"], 3);
        let records = audit_records(&server);
        let rotations: Vec<Value> = records
            .iter()
            .filter(|record| record["action"] == "rotate" && record["key_id"] == name.as_str())
            .map(|record| json!([record["key_version"], record["subject"], record["outcome"]]))
            .collect();
        assert_eq!(json!(rotations), json!([[2, null, "success"], [3, null, "success"]]));
    }
}

#[test]
fn rotations_that_meet_use_up_no_number() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("a-{protection}");
        made(&caller, &ec(&name, protection));
        let path = at(&format!("{name}/rotate"));
        let replies: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| bare(&caller, &path))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let mut made: Vec<u64> = Vec::new();
        for reply in &replies {
            match reply.status {
                200 => made.push(reply.json()["primary_version"].as_u64().unwrap()),
                _ => drop(reply.problem(409, "conflict")),
            }
        }
        made.sort_unstable();
        let expected: Vec<u64> = (2..made.len() as u64 + 2).collect();
        assert_eq!(made, expected);
        let after = key(&caller, &name);
        assert_eq!(after["primary_version"], made.len() + 1);
        assert_eq!(version_states(&after).len(), made.len() + 1);
        if protection == "hsm" {
            wait_until("no more on the token than the versions", || {
                let label = format!("{name}:");
                let objects = server.token().objects();
                objects.iter().filter(|object| object.label.starts_with(&label)).count() == 2 * (made.len() + 1)
            });
        }
    }
}

/// Whether another library holds a signature for that of this JSON Web Key.
fn holds(jwk: &Value, signed: &Value) -> bool {
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(text(&jwk[name])).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(MESSAGE, &bytes(&signed["signature"])).is_ok()
}

#[test]
fn the_public_keys_of_all_enabled_versions_are_a_jwk_set() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &ec("e", "wrapped"));
    let sign = json!({"key_id": "e", "data": base64(MESSAGE), "signature_format": "p1363"});
    let first = call(&caller, "sign", &sign).good(200);
    let path = at("e/jwks");
    let one = caller.get(&path);
    let set = one.good(200);
    has_members(&set, &["keys"]);
    let tag = one.header("etag").unwrap().to_owned();
    assert!(one.header("cache-control").unwrap().contains("max-age="), "{one:?}");
    assert!(tag.starts_with('"') && tag.ends_with('"'));
    assert_eq!(set["keys"].as_array().unwrap().len(), 1);
    let jwk = &set["keys"][0];
    for (name, value) in [
        ("kid", "e:1"),
        ("kty", "EC"),
        ("crv", "P-256"),
        ("use", "sig"),
        ("alg", "ES256"),
    ] {
        assert_eq!(jwk[name], value, "{jwk}");
    }
    assert!(holds(jwk, &first));
    for known in [tag.as_str(), &format!("W/{tag}"), "*", &format!("\"x\", {tag}")] {
        let unchanged = caller.raw("GET", &path, &[("If-None-Match", known)], b"");
        assert_eq!(
            (unchanged.status, unchanged.header("etag")),
            (304, Some(tag.as_str())),
            "{known}"
        );
        assert!(unchanged.header("cache-control").is_some() && unchanged.body.is_empty());
    }

    rotate(&caller, "e");
    let second = call(&caller, "sign", &sign).good(200);
    let both = caller.raw("GET", &path, &[("If-None-Match", &tag)], b"");
    let keys = both.good(200)["keys"].clone();
    assert_ne!(both.header("etag"), Some(tag.as_str()));
    assert_eq!(
        (&keys[0]["kid"], &keys[1]["kid"], &keys[2]),
        (&json!("e:1"), &json!("e:2"), &Value::Null)
    );
    assert!(holds(&keys[0], &first) && holds(&keys[1], &second));
    assert!(!holds(&keys[1], &first) && !holds(&keys[0], &second));

    change_version(&caller, "e", 1, "disabled");
    let left = caller.get(&path);
    assert_ne!(left.header("etag"), both.header("etag"));
    assert_eq!(left.good(200)["keys"], json!([keys[1]]));
    let body = left.text();
    assert!(!body.contains("\"d\""), "{body}");

    let pair = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let id = text(&pair["key_id"]);
    let set = caller.get(&at(&format!("{id}/jwks"))).good(200);
    assert_eq!(
        (&set["keys"][0]["kid"], &set["keys"][0]["n"]),
        (&json!(id), &pair["public_key_jwk"]["n"])
    );
    made(&caller, &aes("secret", "wrapped"));
    let of_secret = caller.get(&at("secret/jwks"));
    assert!(
        of_secret.status == 400 || of_secret.json() == json!({"keys": []}),
        "{of_secret:?}"
    );
    caller.get(&at("nobody/jwks")).problem(404, "key_not_found");
}

#[test]
fn a_request_for_a_certificate_is_signed_by_the_version_that_is_asked_for() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        let name = format!("e-{protection}");
        made(&caller, &ec(&name, protection));
        let key = rotate(&caller, &name);
        let path = at(&format!("{name}/csr"));
        let subject = json!({"subject": "CN=host.example,O=Example", "subject_alt_names": ["host.example"]});
        for (version, body) in [
            (2, subject.clone()),
            (2, merged(&subject, json!({"key_version": 2}))),
            (1, merged(&subject, json!({"key_version": 1}))),
        ] {
            let answer = caller.post(&path, &body).good(200);
            let scratch = Scratch::new();
            let file = scratch.file("request.pem", text(&answer["csr_pem"]));
            let shown = run(
                "openssl",
                ["req", "-verify", "-noout", "-pubkey", "-in", file.to_str().unwrap()],
            );
            assert_eq!(shown.code, Some(0), "{}", shown.stderr);
            let of_version = text(&key["versions"][version - 1]["public_key_pem"]).trim();
            assert_eq!(shown.line(), of_version);
        }
        let none = merged(&subject, json!({"key_version": 3}));
        caller.post(&path, &none).problem_naming(404, "key_not_found", "3");
        change_version(&caller, &name, 1, "disabled");
        let first = merged(&subject, json!({"key_version": 1}));
        caller.post(&path, &first).problem(409, "key_disabled");
    }
    made(&caller, &aes("a", "wrapped"));
    caller
        .post(&at("a/csr"), &json!({"subject": "CN=a"}))
        .problem(400, "key_type_mismatch");
}

#[test]
fn each_version_is_an_object_of_its_own_with_the_attributes_of_the_key() {
    let server = Server::softhsm();
    let caller = server.all();
    made(&caller, &merged(&aes("a", "hsm"), json!({"usages": ["encrypt"]})));
    let rotated = rotate(&caller, "a");
    for version in 1..=2 {
        let id = hsm_id(&rotated, version);
        let [object] = &server.token().attributes(digits(&id))[..] else {
            panic!("one object");
        };
        assert_eq!(object.label, format!("a:{version}"));
        assert_eq!(
            (object.token, object.sensitive, object.extractable),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!(
            (object.encrypt, object.decrypt, object.sign),
            (Some(true), Some(false), Some(false))
        );
        is_time(&rotated["versions"][version - 1]["created_at"]);
    }
}
