//! Signatures and message authentication codes, and what is none.

use serde_json::{Value, json};

use super::{DATA, hash, is_valid, signs};
use crate::support::{ABSENT, Caller, Server, base64, bytes, merged};

on_both_tokens! {
    rsa_signs_with_every_algorithm,
    ecdsa_signs_with_every_hash_and_format,
    eddsa_signs,
    macs_sign,
    hmac_keys_are_as_long_as_the_hash,
    malformed_signatures_are_not_valid,
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
