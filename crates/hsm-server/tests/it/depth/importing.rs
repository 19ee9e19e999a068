//! Keys from outside, in clear.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::{IMPORT, MESSAGE, foreign_pair, import, is_aes_256, openssl, recorded};
use crate::support::{ABSENT, Scratch, Server, base64, bytes, merged, text};

on_both_tokens! {
    secrets_are_what_was_sent,
    pairs_sign_for_their_public_half,
    a_public_key_alone_verifies,
    what_is_no_key_is_refused,
}

fn secrets_are_what_was_sent(server: &Server) {
    let caller = server.all();
    let secret = [7; 32];
    let reply = import(&caller, "AES", "raw", &secret, json!({}));
    let key = reply.good(201);
    assert_eq!(
        reply.header("location").unwrap(),
        format!("/api/v1/hsm/keys/{}", text(&key["key_id"]))
    );
    assert_eq!(key["usages"], json!(["encrypt", "decrypt"]));
    assert_eq!((&key["extractable"], &key["sensitive"]), (&json!(false), &json!(true)));
    assert_eq!(key["key_size"], 256);
    is_aes_256(&caller, &key["key_id"], &secret);
    assert_eq!(
        recorded(server, "import"),
        json!([key["key_id"], null, "success", 201, null])
    );

    let secret = [9; 64];
    let key = import(
        &caller,
        "HMAC",
        "raw",
        &secret,
        json!({"extractable": true, "usages": ["sign"]}),
    )
    .good(201);
    assert_eq!((&key["extractable"], &key["usages"]), (&json!(true), &json!(["sign"])));
    let body = json!({"key_id": key["key_id"], "data": base64(MESSAGE)});
    let signed = caller.hsm("sign", &body).good(200);
    assert_eq!(signed["algorithm"], "HMAC-SHA512");
    let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, &secret), MESSAGE);
    assert_eq!(bytes(&signed["signature"]), expected.as_ref());
    // A label is one key's alone.
    let again = json!({"key_label": key["key_label"]});
    import(&caller, "AES", "raw", &[1; 16], again).problem(409, "conflict");
    assert_eq!(
        recorded(server, "import"),
        json!([null, null, "failure", 409, "conflict"])
    );
}

fn pairs_sign_for_their_public_half(server: &Server) {
    let caller = server.all();
    for (key_type, args) in [
        ("RSA", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("EC", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("ED", &["-algorithm", "ED25519"]),
    ] {
        let (private, public) = foreign_pair(args);
        let key = import(&caller, key_type, "pkcs8", &private, json!({})).good(201);
        assert_eq!(text(&key["public_key_pem"]), public, "{key_type}");
        let body = json!({"key_id": key["key_id"], "data": base64(MESSAGE)});
        let signed = caller.hsm("sign", &body).good(200);
        let scratch = Scratch::new();
        let file = |name: &str, content: &[u8]| scratch.file(name, content).to_str().unwrap().to_owned();
        let (public, signature) = (
            file("public", public.as_bytes()),
            file("signature", &bytes(&signed["signature"])),
        );
        let message = file("message", MESSAGE);
        let common = [
            "-pubin", "-inkey", &public, "-sigfile", &signature, "-in", &message, "-rawin",
        ];
        let how: &[&str] = match key_type {
            "RSA" => &[
                "-digest",
                "sha256",
                "-pkeyopt",
                "rsa_padding_mode:pss",
                "-pkeyopt",
                "rsa_pss_saltlen:32",
            ],
            "EC" => &["-digest", "sha384"],
            _ => &[],
        };
        openssl(&[&["pkeyutl", "-verify"], &common[..], how].concat());
    }
}

fn a_public_key_alone_verifies(server: &Server) {
    let caller = server.all();
    let (private, public) = foreign_pair(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let half = import(&caller, "EC", "spki", public.as_bytes(), json!({})).good(201);
    assert_eq!(half["usages"], json!(["verify"]));
    let whole = import(&caller, "EC", "pkcs8", &private, json!({})).good(201);
    let body = json!({"key_id": whole["key_id"], "data": base64(MESSAGE)});
    let signed = caller.hsm("sign", &body).good(200);
    let check = merged(&signed, json!({"key_id": half["key_id"], "data": base64(MESSAGE)}));
    assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    let other = merged(&check, json!({"data": base64("another")}));
    assert_eq!(caller.hsm("verify", &other).good(200), json!({"valid": false}));
    let body = json!({"key_id": half["key_id"], "data": base64(MESSAGE)});
    caller.hsm("sign", &body).problem(400, "usage_not_permitted");
    let private_usages = json!({"usages": ["sign", "verify"]});
    import(&caller, "EC", "spki", public.as_bytes(), private_usages).problem_naming(400, "invalid_request", "usages");
}

fn what_is_no_key_is_refused(server: &Server) {
    let caller = server.all();
    let (private, public) = foreign_pair(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let trailing = [&private[..], &[0]].concat();
    let mut off_the_curve = private.clone();
    *off_the_curve.last_mut().unwrap() ^= 1;
    let before = server.token().objects().len();
    for (field, key_type, format, material) in [
        ("key_material", "AES", "raw", &[1; 17][..]),
        ("key_material", "AES", "raw", &[0; 32]),
        ("key_material", "HMAC", "raw", &[1; 16]),
        ("key_material", "AES", "raw", &[]),
        ("key_material", "EC", "pkcs8", &trailing),
        ("key_material", "EC", "pkcs8", &off_the_curve),
        ("key_material", "EC", "pkcs8", &private[..private.len() - 1]),
        ("key_material", "ED", "pkcs8", &private),
        ("key_material", "EC", "pkcs8", public.as_bytes()),
        ("key_material", "AES", "raw", &[1; 64 * 1024 + 1]),
        ("format", "EC", "raw", &[1; 32]),
        ("format", "AES", "pkcs8", &private),
        ("format", "AES", "jwk", &[1; 32]),
        ("key_type", "DES", "raw", &[1; 32]),
    ] {
        import(&caller, key_type, format, material, json!({})).problem_naming(400, "invalid_request", field);
    }
    for (field, more) in [
        ("wrapping_key_id", json!({"wrapping_key_id": "hsm:00"})),
        ("algorithm", json!({"algorithm": "AES-KW"})),
        ("token", json!({"token": "none"})),
        ("usages", json!({"usages": ["derive"]})),
        ("key_label", json!({"key_label": ""})),
    ] {
        import(&caller, "AES", "raw", &[1; 32], more).problem_naming(400, "invalid_request", field);
    }
    let wrapped = json!({
        "key_type": "AES", "key_label": "w", "format": "wrapped", "key_material": base64([1; 24]),
        "wrapping_key_id": "hsm:00", "algorithm": "AES-KW",
    });
    for (field, more) in [
        ("wrapping_key_id", json!({"wrapping_key_id": ABSENT})),
        ("algorithm", json!({"algorithm": ABSENT})),
        ("token", json!({"token": "none"})),
    ] {
        let body: Value = merged(&wrapped, more);
        caller.post(IMPORT, &body).problem_naming(400, "invalid_request", field);
    }
    caller
        .post(IMPORT, &merged(&wrapped, json!({"wrapping_key_id": "00"})))
        .problem(400, "invalid_key_id");
    caller.post(IMPORT, &wrapped).problem(404, "key_not_found");
    assert_eq!(server.token().objects().len(), before);
}
