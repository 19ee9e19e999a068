//! Ciphertexts.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use softhsm_test::Token;

use super::{MESSAGE, hex, openssl, path, put_secret};
use crate::support::{Scratch, Server, base64, bytes, merged, text};

on_both_tokens! {
    a_public_key_alone_encrypts_for_openssl,
    openssl_decrypts_ctr_and_the_reverse,
    another_library_opens_gcm_and_the_reverse,
    what_openssl_encrypts_with_oaep_is_decrypted,
    pkcs11_tool_decrypts_what_was_encrypted_here,
}

fn openssl_decrypts_ctr_and_the_reverse(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let secret: Vec<u8> = (0..32).collect();
    put_secret(server, "0c01", &secret, "--usage-decrypt");
    let key = hex(&secret);
    let long = MESSAGE.repeat(1000);
    let body = json!({"key_id": "hsm:0c01", "data": base64(&long), "algorithm": "AES-CTR"});
    let answer = caller.hsm("encrypt", &body).good(200);
    let ciphertext = scratch.file("ciphertext", bytes(&answer["ciphertext"]));
    let iv = hex(&bytes(&answer["iv"]));
    let (ok, opened) = openssl([
        "enc",
        "-d",
        "-aes-256-ctr",
        "-K",
        &key,
        "-iv",
        &iv,
        "-in",
        path(&ciphertext),
    ]);
    assert!(ok && opened == long);

    // The whole block is the counter: it runs over from its low half into its high one.
    let iv = "0000000000000000ffffffffffffffff";
    let message = scratch.file("message", &long);
    let (ok, sealed) = openssl(["enc", "-aes-256-ctr", "-K", &key, "-iv", iv, "-in", path(&message)]);
    assert!(ok);
    let iv = base64([[0; 8], [0xff; 8]].concat());
    let body =
        json!({"key_id": "hsm:0c01", "algorithm": "AES-CTR", "ciphertext": base64(sealed), "iv": iv, "tag": null});
    assert!(bytes(&caller.hsm("decrypt", &body).good(200)["data"]) == long);
}

fn another_library_opens_gcm_and_the_reverse(server: &Server) {
    let caller = server.all();
    let secret: Vec<u8> = (100..132).collect();
    put_secret(server, "0d01", &secret, "--usage-decrypt");
    let theirs = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).unwrap());
    for aad in [None, Some(&b""[..]), Some(b"context")] {
        let with_aad = |body: Value| match aad {
            Some(aad) => merged(&body, json!({"aad": base64(aad)})),
            None => body,
        };
        let aad = || Aad::from(aad.unwrap_or_default());
        let answer = caller
            .hsm(
                "encrypt",
                &with_aad(json!({"key_id": "hsm:0d01", "data": base64(MESSAGE)})),
            )
            .good(200);
        let nonce = Nonce::try_assume_unique_for_key(&bytes(&answer["iv"])).unwrap();
        let mut sealed = [bytes(&answer["ciphertext"]), bytes(&answer["tag"])].concat();
        assert_eq!(theirs.open_in_place(nonce, aad(), &mut sealed).unwrap(), MESSAGE);

        let mut data = MESSAGE.to_vec();
        let nonce = Nonce::assume_unique_for_key([9; 12]);
        let tag = theirs.seal_in_place_separate_tag(nonce, aad(), &mut data).unwrap();
        let body =
            json!({"key_id": "hsm:0d01", "ciphertext": base64(&data), "iv": base64([9; 12]), "tag": base64(tag)});
        assert_eq!(
            bytes(&caller.hsm("decrypt", &with_aad(body)).good(200)["data"]),
            MESSAGE
        );
    }
}

fn what_openssl_encrypts_with_oaep_is_decrypted(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let key = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let public = scratch.file("public.pem", text(&key["public_key_pem"]));
    let message = scratch.file("message", MESSAGE);
    // The default algorithm tells what the token takes.
    let default = caller
        .hsm("encrypt", &json!({"key_id": key["key_id"], "data": ""}))
        .good(200);
    let hashes = if default["algorithm"] == "RSA-OAEP-SHA1" {
        &["1"][..]
    } else {
        &["1", "256", "384", "512"]
    };
    for bits in hashes {
        let (md, mgf1) = (format!("rsa_oaep_md:sha{bits}"), format!("rsa_mgf1_md:sha{bits}"));
        let args = [
            "pkeyutl",
            "-encrypt",
            "-pubin",
            "-inkey",
            path(&public),
            "-in",
            path(&message),
        ];
        let options = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &md, "-pkeyopt", &mgf1];
        let (ok, sealed) = openssl([&args[..], &options[..]].concat());
        assert!(ok);
        let body = json!({"key_id": key["key_id"], "algorithm": format!("RSA-OAEP-SHA{bits}"), "ciphertext": base64(sealed), "iv": null, "tag": null});
        assert_eq!(bytes(&caller.hsm("decrypt", &body).good(200)["data"]), MESSAGE);
    }
}

/// What the token could not decrypt is no concern of a key whose private half is elsewhere: every hash does.
fn a_public_key_alone_encrypts_for_openssl(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let (private, public) = (scratch.path("private.pem"), scratch.path("public.der"));
    let bits = [
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        path(&private),
    ];
    assert!(openssl([&["genpkey"], &bits[..]].concat()).0);
    let to_public = [
        "pkey",
        "-in",
        path(&private),
        "-pubout",
        "-outform",
        "DER",
        "-out",
        path(&public),
    ];
    assert!(openssl(to_public).0);
    let args = [
        "--write-object",
        path(&public),
        "--type",
        "pubkey",
        "--id",
        "0f01",
        "--label",
        "theirs",
    ];
    let written = server
        .token()
        .pkcs11_tool(&[&args[..], &["--usage-sign", "--usage-decrypt"]].concat());
    assert!(written.status.success(), "{written:?}");

    let key = caller.get("/api/v1/hsm/keys/hsm:0f01").good(200);
    let usages = key["usages"].as_array().unwrap();
    assert!(
        usages.contains(&json!("encrypt")) && usages.contains(&json!("verify")),
        "{key}"
    );
    for private_usage in ["decrypt", "sign", "unwrap"] {
        assert!(!usages.contains(&json!(private_usage)), "{key}");
    }
    for bits in ["1", "256", "384", "512"] {
        let algorithm = format!("RSA-OAEP-SHA{bits}");
        let body = json!({"key_id": "hsm:0f01", "data": base64(MESSAGE), "algorithm": algorithm});
        let answer = caller.hsm("encrypt", &body).good(200);
        assert_eq!(answer["algorithm"], algorithm);
        let sealed = scratch.file("sealed", bytes(&answer["ciphertext"]));
        let (md, mgf1) = (format!("rsa_oaep_md:sha{bits}"), format!("rsa_mgf1_md:sha{bits}"));
        let args = ["pkeyutl", "-decrypt", "-inkey", path(&private), "-in", path(&sealed)];
        let options = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &md, "-pkeyopt", &mgf1];
        let (ok, opened) = openssl([&args[..], &options[..]].concat());
        assert!(ok && opened == MESSAGE, "{algorithm}");
        caller.hsm("decrypt", &answer).problem(400, "usage_not_permitted");
    }

    let message = scratch.file("message", MESSAGE);
    let signature = scratch.path("signature");
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    for (algorithm, options) in [("RSA-PKCS1-SHA256", &[][..]), ("RSA-PSS-SHA256", &pss)] {
        let args = ["dgst", "-sha256", "-sign", path(&private), "-out", path(&signature)];
        assert!(openssl([&args[..], options, &[path(&message)]].concat()).0);
        let signature = base64(scratch.read("signature"));
        let body =
            json!({"key_id": "hsm:0f01", "data": base64(MESSAGE), "algorithm": algorithm, "signature": signature});
        assert_eq!(
            caller.hsm("verify", &body).good(200),
            json!({"valid": true}),
            "{algorithm}"
        );
        let body =
            json!({"key_id": "hsm:0f01", "data": base64("other"), "algorithm": algorithm, "signature": signature});
        assert_eq!(
            caller.hsm("verify", &body).good(200),
            json!({"valid": false}),
            "{algorithm}"
        );
    }
}

fn pkcs11_tool_decrypts_what_was_encrypted_here(server: &Server) {
    let caller = server.all();
    let scratch = Scratch::new();
    let output = scratch.path("output");
    let key = caller.key(json!({"key_type": "RSA", "key_size": 2048}));
    let body = json!({"key_id": key["key_id"], "data": base64(MESSAGE), "algorithm": "RSA-OAEP-SHA1"});
    let answer = caller.hsm("encrypt", &body).good(200);
    let ciphertext = scratch.file("ciphertext", bytes(&answer["ciphertext"]));
    let id = text(&key["key_id"]).strip_prefix("hsm:").unwrap();
    let args = [
        "--decrypt",
        "--mechanism",
        "RSA-PKCS-OAEP",
        "--hash-algorithm",
        "SHA-1",
        "--id",
        id,
        "--input-file",
        path(&ciphertext),
        "--output-file",
        path(&output),
    ];
    let decrypted = server.token().pkcs11_tool(&args);
    assert!(decrypted.status.success(), "{decrypted:?}");
    assert_eq!(scratch.read("output"), MESSAGE);
}

#[test]
fn openssl_and_pkcs11_tool_decrypt_cbc() {
    let server = Server::with(Token::softhsm())
        .env("HSM_LEGACY_ALGORITHMS", "true")
        .start();
    let caller = server.all();
    let scratch = Scratch::new();
    let secret: Vec<u8> = (0..32).collect();
    put_secret(&server, "0e01", &secret, "--usage-decrypt");
    let body = json!({"key_id": "hsm:0e01", "data": base64(MESSAGE), "algorithm": "AES-CBC"});
    let answer = caller.hsm("encrypt", &body).good(200);
    let ciphertext = scratch.file("ciphertext", bytes(&answer["ciphertext"]));
    let iv = hex(&bytes(&answer["iv"]));
    let (ok, opened) = openssl([
        "enc",
        "-d",
        "-aes-256-cbc",
        "-K",
        &hex(&secret),
        "-iv",
        &iv,
        "-in",
        path(&ciphertext),
    ]);
    assert!(ok && opened == MESSAGE);

    let output = scratch.path("output");
    let args = [
        "--decrypt",
        "--mechanism",
        "AES-CBC-PAD",
        "--iv",
        &iv,
        "--id",
        "0e01",
        "--input-file",
        path(&ciphertext),
        "--output-file",
        path(&output),
    ];
    let decrypted = server.token().pkcs11_tool(&args);
    assert!(decrypted.status.success(), "{decrypted:?}");
    assert_eq!(scratch.read("output"), MESSAGE);
}
