//! Encrypt, decrypt, sign, verify: every algorithm, what decides when none is named, and what is refused.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use softhsm_test::Token;

use crate::support::{ABSENT, Caller, Server, base64, bytes, merged, text};

on_both_tokens! {
    aes_round_trips,
    what_was_tampered_with_does_not_decrypt,
    rsa_signs_with_every_algorithm,
    ecdsa_signs_with_every_hash_and_format,
    eddsa_signs,
    macs_sign,
    hmac_keys_are_as_long_as_the_hash,
    malformed_signatures_are_not_valid,
    jose_names_fix_what_jose_fixes,
    algorithms_are_of_their_operation_and_key,
    keys_are_used_as_they_were_made_for,
    large_and_empty_data,
    aes_cbc_is_off,
    an_hsm_key_is_used_like_any_other,
}

const DATA: &str = "SGVsbG8gV29ybGQh";

#[track_caller]
fn opens(caller: &Caller, encrypted: &Value, data: &str) {
    assert_eq!(caller.hsm("decrypt", encrypted).good(200), json!({"data": data}));
}

/// Signs, checks the answer's form, and verifies it; gives the answer.
#[track_caller]
fn signs(caller: &Caller, request: Value) -> Value {
    let answer = caller.hsm("sign", &request).good(200);
    assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");
    assert_eq!(answer["key_id"], request["key_id"]);
    assert_eq!(
        answer["message_type"],
        *request.get("message_type").unwrap_or(&json!("raw"))
    );
    let check = merged(&answer, json!({"data": request["data"]}));
    assert!(is_valid(caller, &check), "{answer}");
    let other = if request.get("message_type") == Some(&json!("digest")) {
        base64(vec![7; bytes(&request["data"]).len()])
    } else {
        base64("something else")
    };
    assert!(!is_valid(caller, &merged(&check, json!({"data": other}))), "{answer}");
    answer
}

#[track_caller]
fn is_valid(caller: &Caller, check: &Value) -> bool {
    let answer = caller.hsm("verify", check).good(200);
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    answer["valid"].as_bool().unwrap()
}

fn hash(bits: &str, data: &[u8]) -> Vec<u8> {
    match bits {
        "256" => Sha256::digest(data).to_vec(),
        "384" => Sha384::digest(data).to_vec(),
        _ => Sha512::digest(data).to_vec(),
    }
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

fn rsa_signs_with_every_algorithm(server: &Server) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let id = &key["key_id"];
    let by_default = signs(&caller, json!({"key_id": id, "data": DATA}));
    assert_eq!(by_default["algorithm"], "RSA-PSS-SHA256");
    assert_eq!(by_default["signature_format"], Value::Null);
    for (scheme, jose) in [("RSA-PKCS1-SHA", "RS"), ("RSA-PSS-SHA", "PS")] {
        for bits in ["256", "384", "512"] {
            let name = format!("{scheme}{bits}");
            let raw = signs(&caller, json!({"key_id": id, "data": DATA, "algorithm": name}));
            assert_eq!(
                (&raw["algorithm"], &raw["signature_format"]),
                (&json!(name), &Value::Null)
            );
            assert_eq!(bytes(&raw["signature"]).len(), 256);
            let by_jose = signs(
                &caller,
                json!({"key_id": id, "data": DATA, "algorithm": format!("{jose}{bits}")}),
            );
            assert_eq!(by_jose["algorithm"], name);

            let digest = base64(hash(bits, b"Hello World!"));
            let signed = signs(
                &caller,
                json!({"key_id": id, "data": digest, "algorithm": name, "message_type": "digest"}),
            );
            if jose == "RS" {
                assert_eq!(signed["signature"], raw["signature"]);
            }
            // A signature of the digest is one of the data, and the reverse.
            let crossed = merged(&signed, json!({"data": DATA, "message_type": "raw"}));
            assert!(is_valid(&caller, &crossed));
            assert!(is_valid(
                &caller,
                &merged(&raw, json!({"data": digest, "message_type": "digest"}))
            ));
            // Not one by another hash.
            let other = if bits == "256" { "512" } else { "256" };
            assert!(!is_valid(
                &caller,
                &merged(&crossed, json!({"algorithm": format!("{scheme}{other}")}))
            ));
            check_digest_lengths(&caller, id, &name, bits);
        }
    }
}

#[track_caller]
fn check_digest_lengths(caller: &Caller, id: &Value, algorithm: &str, bits: &str) {
    let right = hash(bits, b"").len();
    for length in [0, 20, right - 1, right + 1, 2 * right] {
        let body =
            json!({"key_id": id, "data": base64(vec![1; length]), "algorithm": algorithm, "message_type": "digest"});
        caller.hsm("sign", &body).problem_naming(400, "invalid_request", "data");
        let body = merged(&body, json!({"signature": "AAAA"}));
        caller
            .hsm("verify", &body)
            .problem_naming(400, "invalid_request", "data");
    }
}

fn ecdsa_signs_with_every_hash_and_format(server: &Server) {
    let caller = server.all();
    for (curve, default_bits, order) in [("P-256", "256", 32), ("P-384", "384", 48), ("P-521", "512", 66)] {
        let key = caller.key(json!({"key_type": "EC", "curve": curve}));
        let id = &key["key_id"];
        let by_default = signs(&caller, json!({"key_id": id, "data": DATA}));
        assert_eq!(by_default["algorithm"], format!("ECDSA-SHA{default_bits}"));
        assert_eq!(by_default["signature_format"], "der");
        for bits in ["256", "384", "512"] {
            let name = format!("ECDSA-SHA{bits}");
            for format in ["der", "p1363"] {
                let digest = base64(hash(bits, b"Hello World!"));
                let request = json!({"key_id": id, "algorithm": name, "signature_format": format});
                let raw = signs(&caller, merged(&request, json!({"data": DATA, "message_type": "raw"})));
                let of_digest = signs(
                    &caller,
                    merged(&request, json!({"data": digest, "message_type": "digest"})),
                );
                for answer in [&raw, &of_digest] {
                    assert_eq!(
                        (&answer["algorithm"], &answer["signature_format"]),
                        (&json!(name), &json!(format))
                    );
                    let signature = bytes(&answer["signature"]);
                    assert_eq!(
                        format == "p1363",
                        signature.len() == 2 * order && signature[0] != 0x30 || signature.len() == 2 * order,
                        "{answer}"
                    );
                }
                assert!(is_valid(
                    &caller,
                    &merged(&of_digest, json!({"data": DATA, "message_type": "raw"}))
                ));
                let other = if format == "der" { "p1363" } else { "der" };
                let misread = merged(&raw, json!({"data": DATA, "signature_format": other}));
                assert!(!is_valid(&caller, &misread));
            }
            check_digest_lengths(&caller, id, &name, bits);
        }
    }
}

#[test]
fn secp256k1_signs() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "secp256k1"}));
    let id = &key["key_id"];
    let answer = signs(&caller, json!({"key_id": id, "data": DATA}));
    assert_eq!(
        (&answer["algorithm"], &answer["signature_format"]),
        (&json!("ECDSA-SHA256"), &json!("der"))
    );
    let answer = signs(&caller, json!({"key_id": id, "data": DATA, "algorithm": "ES256K"}));
    assert_eq!(
        (&answer["algorithm"], &answer["signature_format"]),
        (&json!("ECDSA-SHA256"), &json!("p1363"))
    );
    assert_eq!(bytes(&answer["signature"]).len(), 64);
    caller
        .hsm("sign", &json!({"key_id": id, "data": DATA, "algorithm": "ES256"}))
        .problem(400, "key_type_mismatch");
}

fn eddsa_signs(server: &Server) {
    let caller = server.all();
    for (curve, length) in [("Ed25519", 64), ("Ed448", 114)] {
        let key = caller.key(json!({"key_type": "ED", "curve": curve}));
        let id = &key["key_id"];
        for algorithm in [json!(ABSENT), json!("EdDSA"), json!(curve)] {
            let answer = signs(
                &caller,
                merged(&json!({"key_id": id, "data": DATA}), json!({"algorithm": algorithm})),
            );
            assert_eq!(
                (&answer["algorithm"], &answer["signature_format"]),
                (&json!("EdDSA"), &Value::Null)
            );
            assert_eq!(bytes(&answer["signature"]).len(), length);
        }
        signs(&caller, json!({"key_id": id, "data": ""}));
        let digest = json!({"key_id": id, "data": base64(hash("512", b"x")), "message_type": "digest"});
        caller
            .hsm("sign", &digest)
            .problem_naming(400, "invalid_request", "message_type");
        let other = if curve == "Ed448" { "Ed25519" } else { "Ed448" };
        let body = json!({"key_id": id, "data": DATA, "algorithm": other});
        caller.hsm("sign", &body).problem(400, "key_type_mismatch");
    }
}

fn macs_sign(server: &Server) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "HMAC", "key_size": 512}));
    let id = &key["key_id"];
    for (bits, length) in [("256", 32), ("384", 48), ("512", 64)] {
        for name in [format!("HMAC-SHA{bits}"), format!("HS{bits}")] {
            let answer = signs(&caller, json!({"key_id": id, "data": DATA, "algorithm": name}));
            assert_eq!(answer["algorithm"], format!("HMAC-SHA{bits}"));
            assert_eq!(answer["signature_format"], Value::Null);
            let mac = bytes(&answer["signature"]);
            assert_eq!(mac.len(), length);
            let truncated = merged(&answer, json!({"data": DATA, "signature": base64(&mac[..length / 2])}));
            assert!(!is_valid(&caller, &truncated));
        }
    }
    let digest =
        json!({"key_id": id, "data": base64(hash("256", b"x")), "algorithm": "HMAC-SHA256", "message_type": "digest"});
    caller
        .hsm("sign", &digest)
        .problem_naming(400, "invalid_request", "message_type");

    let key = caller.key(json!({"key_type": "AES", "key_size": 256, "usages": ["sign", "verify"]}));
    for request in [json!({}), json!({"algorithm": "AES-CMAC"})] {
        let answer = signs(
            &caller,
            merged(&request, json!({"key_id": key["key_id"], "data": DATA})),
        );
        assert_eq!(
            (&answer["algorithm"], &answer["signature_format"]),
            (&json!("AES-CMAC"), &Value::Null)
        );
        assert_eq!(bytes(&answer["signature"]).len(), 16);
    }
}

fn hmac_keys_are_as_long_as_the_hash(server: &Server) {
    let caller = server.all();
    for (bits, by_default, refused) in [
        (
            256,
            "HMAC-SHA256",
            &["HMAC-SHA384", "HMAC-SHA512", "HS384", "HS512"][..],
        ),
        (376, "HMAC-SHA256", &["HMAC-SHA384", "HS512"]),
        (384, "HMAC-SHA384", &["HMAC-SHA512", "HS512"]),
        (504, "HMAC-SHA384", &["HMAC-SHA512"]),
        (512, "HMAC-SHA512", &[]),
    ] {
        let key = caller.key(json!({"key_type": "HMAC", "key_size": bits}));
        let body = json!({"key_id": key["key_id"], "data": DATA});
        assert_eq!(signs(&caller, body.clone())["algorithm"], by_default);
        for algorithm in refused {
            let body = merged(&body, json!({"algorithm": algorithm}));
            caller.hsm("sign", &body).problem(400, "key_type_mismatch");
            let body = merged(&body, json!({"signature": "AAAA"}));
            caller.hsm("verify", &body).problem(400, "key_type_mismatch");
        }
    }
}

fn malformed_signatures_are_not_valid(server: &Server) {
    let caller = server.all();
    let mut garbage: Vec<Vec<u8>> = [0, 1, 63, 64, 65, 70, 72, 128, 255, 256, 257, 1000]
        .map(|length| vec![0; length])
        .into();
    garbage.extend([64, 72, 256].map(|length| vec![0xff; length]));
    // DER with r = s = 0, negative, not minimal, with more behind it, indefinite.
    garbage.extend([
        b"\x30\x06\x02\x01\x00\x02\x01\x00".to_vec(),
        b"\x30\x06\x02\x01\xff\x02\x01\xff".to_vec(),
        b"\x30\x08\x02\x02\x00\x01\x02\x02\x00\x01".to_vec(),
        b"\x30\x06\x02\x01\x01\x02\x01\x01\x00".to_vec(),
        b"\x30\x80\x02\x01\x01\x02\x01\x01\x00\x00".to_vec(),
        b"\x30\x84\xff\xff\xff\xff".to_vec(),
    ]);
    for (body, request) in [
        (
            json!({"key_type": "EC", "curve": "P-256"}),
            json!({"signature_format": "der"}),
        ),
        (
            json!({"key_type": "EC", "curve": "P-256"}),
            json!({"signature_format": "p1363"}),
        ),
        (json!({"key_type": "ED", "curve": "Ed25519"}), json!({})),
        (json!({"key_type": "HMAC"}), json!({})),
        (
            json!({"key_type": "AES", "key_size": 128, "usages": ["sign", "verify"]}),
            json!({}),
        ),
        (json!({"key_type": "RSA", "key_size": 2048}), json!({})),
        (
            json!({"key_type": "RSA", "key_size": 2048}),
            json!({"algorithm": "RSA-PKCS1-SHA256"}),
        ),
    ] {
        let key = caller.key(body);
        let request = merged(&request, json!({"key_id": key["key_id"], "data": DATA}));
        for wrong in &garbage {
            assert!(
                !is_valid(&caller, &merged(&request, json!({"signature": base64(wrong)}))),
                "{request} {wrong:?}"
            );
        }
        let good = signs(&caller, request.clone());
        let right = bytes(&good["signature"]);
        let good = merged(&good, json!({"data": DATA}));
        let variants = [
            right[1..].to_vec(),
            right[..right.len() - 1].to_vec(),
            [&right[..], b"\0"].concat(),
            [b"\0", &right[..]].concat(),
            [&right[..right.len() - 1], &[right[right.len() - 1] ^ 1]].concat(),
        ];
        for wrong in variants {
            assert!(
                !is_valid(&caller, &merged(&good, json!({"signature": base64(wrong)}))),
                "{good}"
            );
        }
        for wrong in ["no base64!", "AAA", "AAAA\n", "-_-_"] {
            caller
                .hsm("verify", &merged(&good, json!({"signature": wrong})))
                .problem_naming(400, "invalid_request", "signature");
        }
        caller
            .hsm("verify", &merged(&good, json!({"signature": ABSENT})))
            .problem_naming(400, "invalid_request", "signature");
    }
}

fn jose_names_fix_what_jose_fixes(server: &Server) {
    let caller = server.all();
    for (curve, jose, bits, length) in [
        ("P-256", "ES256", "256", 64),
        ("P-384", "ES384", "384", 96),
        ("P-521", "ES512", "512", 132),
    ] {
        let key = caller.key(json!({"key_type": "EC", "curve": curve}));
        let body = json!({"key_id": key["key_id"], "data": DATA});
        let answer = signs(&caller, merged(&body, json!({"algorithm": jose})));
        assert_eq!(answer["algorithm"], format!("ECDSA-SHA{bits}"));
        assert_eq!(answer["signature_format"], "p1363");
        assert_eq!(bytes(&answer["signature"]).len(), length);
        let check = json!({"key_id": key["key_id"], "data": DATA, "algorithm": jose, "signature": answer["signature"]});
        assert!(is_valid(&caller, &check));
        let answer = signs(
            &caller,
            merged(&body, json!({"algorithm": jose, "signature_format": "der"})),
        );
        assert_eq!(answer["signature_format"], "der");
        for other in ["ES256", "ES384", "ES512", "ES256K"]
            .into_iter()
            .filter(|name| *name != jose)
        {
            caller
                .hsm("sign", &merged(&body, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
        }
    }
    for (bits, jose) in [(128, "A128GCM"), (192, "A192GCM"), (256, "A256GCM")] {
        let key = caller.key(json!({"key_type": "AES", "key_size": bits}));
        let body = json!({"key_id": key["key_id"], "data": DATA});
        let answer = caller
            .hsm("encrypt", &merged(&body, json!({"algorithm": jose})))
            .good(200);
        assert_eq!(answer["algorithm"], "AES-GCM");
        opens(&caller, &merged(&answer, json!({"algorithm": jose})), DATA);
        for other in ["A128GCM", "A192GCM", "A256GCM"]
            .into_iter()
            .filter(|name| *name != jose)
        {
            caller
                .hsm("encrypt", &merged(&body, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
            caller
                .hsm("decrypt", &merged(&answer, json!({"algorithm": other})))
                .problem(400, "key_type_mismatch");
        }
    }
}

fn algorithms_are_of_their_operation_and_key(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}))["key_id"].clone();
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}))["key_id"].clone();
    let hmac = caller.key(json!({"key_type": "HMAC"}))["key_id"].clone();
    let ask = |operation: &str, id: &Value, algorithm: &str| {
        let body = json!({"key_id": id, "data": DATA, "algorithm": algorithm});
        caller.hsm(operation, &body)
    };
    for wrong in [
        "",
        "none",
        "aes-gcm",
        "AES-ECB",
        "AES-GCM ",
        "RSA-PKCS1",
        "RSA1_5",
        "ECDSA-SHA256",
        "HS256",
        "AES-KW",
        "AES-CMAC",
        "dir",
    ] {
        ask("encrypt", &aes, wrong).problem(400, "unsupported_algorithm");
        let body = json!({"key_id": aes, "algorithm": wrong, "ciphertext": "", "iv": null, "tag": null});
        caller.hsm("decrypt", &body).problem(400, "unsupported_algorithm");
    }
    for wrong in [
        "",
        "none",
        "NONE",
        "ECDSA-SHA1",
        "ecdsa-sha256",
        "RSA-PKCS1-SHA1",
        "AES-GCM",
        "A256GCM",
        "RSA-OAEP",
        "HMAC-SHA1",
    ] {
        ask("sign", &ec, wrong).problem(400, "unsupported_algorithm");
        let body = json!({"key_id": ec, "algorithm": wrong, "data": DATA, "signature": ""});
        caller.hsm("verify", &body).problem(400, "unsupported_algorithm");
    }
    for (operation, id, algorithm) in [
        ("encrypt", &aes, "RSA-OAEP-SHA256"),
        ("encrypt", &ec, "AES-GCM"),
        ("encrypt", &hmac, "AES-GCM"),
        ("sign", &aes, "ECDSA-SHA256"),
        ("sign", &aes, "HMAC-SHA256"),
        ("sign", &ec, "RSA-PSS-SHA256"),
        ("sign", &ec, "EdDSA"),
        ("sign", &ec, "RS256"),
        ("sign", &hmac, "AES-CMAC"),
        ("sign", &hmac, "ES256"),
    ] {
        ask(operation, id, algorithm).problem(400, "key_type_mismatch");
    }
    // A verifier that may be told to take a public key for a secret is none.
    let confused = json!({"key_id": ec, "algorithm": "HS256", "data": DATA, "signature": "AAAA"});
    caller.hsm("verify", &confused).problem(400, "key_type_mismatch");
    let aad = json!({"key_id": aes, "data": DATA, "algorithm": "AES-CTR", "aad": base64("x")});
    caller
        .hsm("encrypt", &aad)
        .problem_naming(400, "invalid_request", "aad");
    for name in ["message_type", "signature_format"] {
        let body = json!({"key_id": ec, "data": DATA, name: "DER"});
        caller.hsm("sign", &body).problem_naming(400, "invalid_request", name);
    }
    // Nothing but a client's IV would make it possible to use one twice.
    let own_iv = json!({"key_id": aes, "data": DATA, "iv": base64([0; 12])});
    caller
        .hsm("encrypt", &own_iv)
        .problem_naming(400, "invalid_request", "iv");
}

fn keys_are_used_as_they_were_made_for(server: &Server) {
    let caller = server.all();
    let key = |body: Value| caller.key(body)["key_id"].clone();
    let encrypts = key(json!({"key_type": "AES", "key_size": 256, "usages": ["encrypt"]}));
    let answer = caller
        .hsm("encrypt", &json!({"key_id": encrypts, "data": DATA}))
        .good(200);
    caller.hsm("decrypt", &answer).problem(400, "usage_not_permitted");
    let decrypts = key(json!({"key_type": "AES", "key_size": 256, "usages": ["decrypt"]}));
    caller
        .hsm("encrypt", &json!({"key_id": decrypts, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let default_aes = key(json!({"key_type": "AES", "key_size": 256}));
    caller
        .hsm("sign", &json!({"key_id": default_aes, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let verifies = key(json!({"key_type": "EC", "curve": "P-256", "usages": ["verify"]}));
    caller
        .hsm("sign", &json!({"key_id": verifies, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let signs_only = key(json!({"key_type": "HMAC", "usages": ["sign"]}));
    let answer = caller
        .hsm("sign", &json!({"key_id": signs_only, "data": DATA}))
        .good(200);
    caller
        .hsm("verify", &merged(&answer, json!({"data": DATA})))
        .problem(400, "usage_not_permitted");
    let rsa = key(json!({"key_type": "RSA", "key_size": 2048, "usages": ["sign", "verify"]}));
    caller
        .hsm("encrypt", &json!({"key_id": rsa, "data": DATA}))
        .problem(400, "usage_not_permitted");
    let body = json!({"key_id": rsa, "ciphertext": base64(vec![1; 256]), "iv": null, "tag": null});
    caller.hsm("decrypt", &body).problem(400, "usage_not_permitted");
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

fn an_hsm_key_is_used_like_any_other(server: &Server) {
    let caller = server.all();
    let aes = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let post = |operation: &str, body: &Value| caller.post(&format!("/api/v1/{operation}"), body);

    let answer = post(
        "encrypt",
        &json!({"key_id": aes["key_id"], "data": DATA, "aad": base64("x")}),
    )
    .good(200);
    assert_eq!(answer.as_object().unwrap().len(), 6, "{answer}");
    assert_eq!(
        (&answer["key_version"], &answer["algorithm"]),
        (&Value::Null, &json!("AES-GCM"))
    );
    let back = merged(&answer, json!({"aad": base64("x")}));
    assert_eq!(post("decrypt", &back).good(200), json!({"data": DATA}));
    assert_eq!(
        post("decrypt", &merged(&back, json!({"key_version": ABSENT}))).good(200),
        json!({"data": DATA})
    );

    let signed = post("sign", &json!({"key_id": ec["key_id"], "data": DATA})).good(200);
    assert_eq!(signed.as_object().unwrap().len(), 6, "{signed}");
    assert_eq!(signed.get("key_version"), Some(&Value::Null));
    let check = merged(&signed, json!({"data": DATA}));
    assert_eq!(post("verify", &check).good(200), json!({"valid": true}));
    assert_eq!(
        post("verify", &merged(&check, json!({"data": "AAAA"}))).good(200),
        json!({"valid": false})
    );
    // Signed here and verified there.
    assert!(is_valid(&caller, &merged(&check, json!({"key_version": ABSENT}))));
    caller
        .hsm("verify", &check)
        .problem_naming(400, "invalid_request", "key_version");

    let list = caller.get("/api/v1/keys").good(200);
    let listed: HashSet<&str> = list["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| text(&key["key_id"]))
        .collect();
    assert_eq!(listed, HashSet::from([text(&aes["key_id"]), text(&ec["key_id"])]));
    let path = format!("/api/v1/keys/{}", text(&ec["key_id"]));
    assert_eq!(caller.get(&path).good(200)["key_id"], ec["key_id"]);
    for unknown in ["orders", "a", "A-Z_0.9", "abcdef"] {
        let path = format!("/api/v1/keys/{unknown}");
        caller.get(&path).problem(404, "key_not_found");
        caller.delete(&path).problem(404, "key_not_found");
        post("encrypt", &json!({"key_id": unknown, "data": DATA})).problem(404, "key_not_found");
        post("sign", &json!({"key_id": unknown, "data": DATA})).problem(404, "key_not_found");
        post("verify", &json!({"key_id": unknown, "data": DATA, "signature": ""})).problem(404, "key_not_found");
        let body = json!({"key_id": unknown, "ciphertext": "", "iv": null, "tag": null});
        post("decrypt", &body).problem(404, "key_not_found");
    }
    caller.delete(&path).good(204);
    caller.get(&path).problem(404, "key_not_found");
    assert!(
        server
            .token()
            .attributes(text(&ec["key_id"]).strip_prefix("hsm:").unwrap())
            .is_empty()
    );
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
