//! Signatures and message authentication codes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{MESSAGE, hex, openssl, path, put_secret};
use crate::support::{Caller, Scratch, Server, base64, bytes, merged, mint, text};

on_both_tokens! {
    openssl_verifies_rsa,
    openssl_verifies_ecdsa,
    openssl_verifies_eddsa,
    openssl_s_signatures_have_the_same_form,
    openssl_makes_the_same_macs,
    signatures_are_tokens_to_a_jose_library,
    pkcs11_tool_signs_and_it_verifies_here,
}

/// Signs here, and has OpenSSL verify with `public_key_pem`; a changed message must not verify.
#[track_caller]
fn openssl_verifies(caller: &Caller, key: &Value, request: Value, command: &[&str]) {
    let body = merged(&request, json!({"key_id": key["key_id"], "data": base64(MESSAGE)}));
    let answer = caller.hsm("sign", &body).good(200);
    let scratch = Scratch::new();
    let public = scratch.file("public.pem", text(&key["public_key_pem"]));
    let signature = scratch.file("signature", bytes(&answer["signature"]));
    for (message, expected) in [(MESSAGE, true), (&b"Hello world!"[..], false)] {
        let message = scratch.file("message", message);
        let filled = command.iter().map(|word| match *word {
            "PUBLIC" => path(&public),
            "SIGNATURE" => path(&signature),
            "MESSAGE" => path(&message),
            other => other,
        });
        assert_eq!(openssl(filled).0, expected, "{answer}");
    }
}

fn openssl_verifies_rsa(server: &Server) {
    let caller = server.all();
    let key = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    for (bits, digest, salt) in [
        ("256", "-sha256", "rsa_pss_saltlen:32"),
        ("384", "-sha384", "rsa_pss_saltlen:48"),
        ("512", "-sha512", "rsa_pss_saltlen:64"),
    ] {
        let pkcs1 = [
            "dgst",
            digest,
            "-verify",
            "PUBLIC",
            "-signature",
            "SIGNATURE",
            "MESSAGE",
        ];
        openssl_verifies(
            &caller,
            &key,
            json!({"algorithm": format!("RSA-PKCS1-SHA{bits}")}),
            &pkcs1,
        );
        let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", salt];
        let pss = [&pkcs1[..2], &pss[..], &pkcs1[2..]].concat();
        openssl_verifies(&caller, &key, json!({"algorithm": format!("RSA-PSS-SHA{bits}")}), &pss);
    }
}

fn openssl_verifies_ecdsa(server: &Server) {
    let caller = server.all();
    for curve in ["P-256", "P-384", "P-521"] {
        let key = caller.key(json!({"key_type": "EC", "curve": curve}));
        for (bits, digest) in [("256", "-sha256"), ("384", "-sha384"), ("512", "-sha512")] {
            let command = [
                "dgst",
                digest,
                "-verify",
                "PUBLIC",
                "-signature",
                "SIGNATURE",
                "MESSAGE",
            ];
            openssl_verifies(
                &caller,
                &key,
                json!({"algorithm": format!("ECDSA-SHA{bits}")}),
                &command,
            );
        }
    }
}

#[test]
fn openssl_verifies_secp256k1() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "secp256k1"}));
    let command = [
        "dgst",
        "-sha256",
        "-verify",
        "PUBLIC",
        "-signature",
        "SIGNATURE",
        "MESSAGE",
    ];
    openssl_verifies(&caller, &key, json!({}), &command);
}

fn openssl_verifies_eddsa(server: &Server) {
    let caller = server.all();
    for curve in ["Ed25519", "Ed448"] {
        let key = caller.key(json!({"key_type": "ED", "curve": curve}));
        let command = [
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "PUBLIC",
            "-rawin",
            "-in",
            "MESSAGE",
            "-sigfile",
            "SIGNATURE",
        ];
        openssl_verifies(&caller, &key, json!({}), &command);
    }
}

/// A private key that OpenSSL made is put on the token, and OpenSSL's signature verifies here.
fn openssl_s_signatures_have_the_same_form(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let message = scratch.file("message", MESSAGE);
    for (id, curve, digest, algorithm) in [
        ("0a01", "P-256", "-sha256", "ECDSA-SHA256"),
        ("0a02", "P-384", "-sha384", "ECDSA-SHA384"),
    ] {
        let (private, public, signature) = (
            scratch.path("private.der"),
            scratch.path("public.der"),
            scratch.path("signature"),
        );
        let option = format!("ec_paramgen_curve:{curve}");
        assert!(
            openssl([
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                &option,
                "-outform",
                "DER",
                "-out",
                path(&private)
            ])
            .0
        );
        assert!(
            openssl([
                "pkey",
                "-in",
                path(&private),
                "-pubout",
                "-outform",
                "DER",
                "-out",
                path(&public)
            ])
            .0
        );
        assert!(
            openssl([
                "dgst",
                digest,
                "-keyform",
                "DER",
                "-sign",
                path(&private),
                "-out",
                path(&signature),
                path(&message)
            ])
            .0
        );
        let written = server.token().pkcs11_tool(&[
            "--write-object",
            path(&public),
            "--type",
            "pubkey",
            "--id",
            id,
            "--label",
            "theirs",
            "--usage-sign",
        ]);
        assert!(written.status.success(), "{written:?}");
        let key = caller.get(&format!("/api/v1/hsm/keys/hsm:{id}")).good(200);
        assert_eq!(key["curve"], curve, "{key}");
        assert!(key["usages"].as_array().unwrap().contains(&json!("verify")), "{key}");
        let body = json!({"key_id": key["key_id"], "data": base64(MESSAGE), "algorithm": algorithm, "signature": base64(scratch.read("signature"))});
        assert_eq!(caller.hsm("verify", &body).good(200), json!({"valid": true}));
        let body = merged(&body, json!({"data": base64("other")}));
        assert_eq!(caller.hsm("verify", &body).good(200), json!({"valid": false}));
        let (_, pem) = openssl(["pkey", "-pubin", "-inform", "DER", "-in", path(&public)]);
        assert_eq!(
            text(&key["public_key_pem"]).trim(),
            String::from_utf8_lossy(&pem).trim()
        );
    }
}

fn openssl_makes_the_same_macs(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let message = scratch.file("message", MESSAGE);
    // pkcs11-tool can't write such a secret, but make one that the token tells.
    let more = ["--usage-sign", "--extractable"];
    server
        .token()
        .make_foreign_key_with("0b01", "known secret", "GENERIC:64", &more);
    let secret = server.token().attributes("0b01")[0]
        .value
        .clone()
        .expect("a secret that can be read");
    let key = format!("hexkey:{}", hex(&secret));
    for (bits, digest) in [
        ("256", "digest:SHA256"),
        ("384", "digest:SHA384"),
        ("512", "digest:SHA512"),
    ] {
        let (ok, mac) = openssl([
            "mac",
            "-binary",
            "-macopt",
            digest,
            "-macopt",
            &key,
            "-in",
            path(&message),
            "HMAC",
        ]);
        assert!(ok);
        let body = json!({"key_id": "hsm:0b01", "data": base64(MESSAGE), "algorithm": format!("HMAC-SHA{bits}")});
        assert_eq!(bytes(&caller.hsm("sign", &body).good(200)["signature"]), mac);
        let check = merged(&body, json!({"signature": base64(&mac)}));
        assert_eq!(caller.hsm("verify", &check).good(200), json!({"valid": true}));
    }
    put_secret(server, "0b02", &secret[..32], "--usage-sign");
    let key = format!("hexkey:{}", hex(&secret[..32]));
    let (ok, mac) = openssl([
        "mac",
        "-binary",
        "-cipher",
        "AES-256-CBC",
        "-macopt",
        &key,
        "-in",
        path(&message),
        "CMAC",
    ]);
    assert!(ok);
    let body = json!({"key_id": "hsm:0b02", "data": base64(MESSAGE), "algorithm": "AES-CMAC"});
    assert_eq!(bytes(&caller.hsm("sign", &body).good(200)["signature"]), mac);
}

/// A token put together from the answer to sign is a JWT to a library that knows `public_key_jwk` alone.
fn signatures_are_tokens_to_a_jose_library(server: &Server) {
    let caller = server.all();
    let key = |body: Value| caller.key(body);
    let rsa = key(json!({"key_type": "RSA", "key_size": 2048}));
    let keys = [
        (&rsa, "RS256"),
        (&rsa, "RS384"),
        (&rsa, "RS512"),
        (&rsa, "PS256"),
        (&rsa, "PS384"),
        (&rsa, "PS512"),
        (&key(json!({"key_type": "EC", "curve": "P-256"})), "ES256"),
        (&key(json!({"key_type": "EC", "curve": "P-384"})), "ES384"),
        (&key(json!({"key_type": "ED", "curve": "Ed25519"})), "EdDSA"),
    ];
    let part = |value: &[u8]| URL_SAFE_NO_PAD.encode(value);
    for (key, name) in keys {
        let claims = mint(&json!({})).split('.').nth(1).unwrap().to_owned();
        let signed = format!(
            "{}.{claims}",
            part(json!({"alg": name, "typ": "JWT"}).to_string().as_bytes())
        );
        let body = json!({"key_id": key["key_id"], "data": base64(&signed), "algorithm": name});
        let answer = caller.hsm("sign", &body).good(200);
        let token = format!("{signed}.{}", part(&bytes(&answer["signature"])));
        let jwk: Jwk = serde_json::from_value(key["public_key_jwk"].clone()).unwrap();
        let decoding = DecodingKey::from_jwk(&jwk).unwrap();
        let validation = Validation::new(name.parse().unwrap());
        let claims =
            jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(claims.claims["sub"], "test");
    }
}

fn pkcs11_tool_signs_and_it_verifies_here(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let message = scratch.file("message", MESSAGE);
    let digest = scratch.file("digest", Sha256::digest(MESSAGE));
    let signature = scratch.path("signature");
    let ec = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let rsa = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let raw = json!({"data": base64(MESSAGE), "message_type": "raw"});
    for (key, mechanism, input, more) in [
        (
            &ec,
            "ECDSA",
            &digest,
            json!({"algorithm": "ECDSA-SHA256", "signature_format": "p1363"}),
        ),
        (
            &rsa,
            "SHA256-RSA-PKCS",
            &message,
            json!({"algorithm": "RSA-PKCS1-SHA256"}),
        ),
        (
            &rsa,
            "SHA256-RSA-PKCS-PSS",
            &message,
            json!({"algorithm": "RSA-PSS-SHA256"}),
        ),
    ] {
        let id = text(&key["key_id"]).strip_prefix("hsm:").unwrap();
        let args = [
            "--sign",
            "--mechanism",
            mechanism,
            "--id",
            id,
            "--input-file",
            path(input),
            "--output-file",
            path(&signature),
        ];
        let signed = server.token().pkcs11_tool(&args);
        assert!(signed.status.success(), "{signed:?}");
        let body = merged(
            &merged(&raw, more),
            json!({"key_id": key["key_id"], "signature": base64(scratch.read("signature"))}),
        );
        assert_eq!(
            caller.hsm("verify", &body).good(200),
            json!({"valid": true}),
            "{mechanism}"
        );
        let digest = json!({"data": base64(Sha256::digest(MESSAGE)), "message_type": "digest"});
        assert_eq!(
            caller.hsm("verify", &merged(&body, digest)).good(200),
            json!({"valid": true}),
            "{mechanism}"
        );
        let other = merged(&body, json!({"data": base64("other")}));
        assert_eq!(
            caller.hsm("verify", &other).good(200),
            json!({"valid": false}),
            "{mechanism}"
        );
    }
}
