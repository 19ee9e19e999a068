//! What real devices do: keys without their public half, IVs of their own, attributes that they keep to themselves.

use hsm_core::{Decrypt, Encrypt, Error, KeyInfo, KeySpec, PublicKey, Sign, Usage, Usages, encoding};
use softhsm_test::Token;

use crate::{Faulty, Fixture, aes, id, is_right, new_key, sign};

/// Made by another program, with a certificate or not, and then without its public object.
fn lone_private_key(token: &Token, kind: &str, certificate: bool) -> Vec<u8> {
    token.make_foreign_key("a1", "from elsewhere", kind);
    let public = token
        .pkcs11_tool(&["--read-object", "--type", "pubkey", "--id", "a1"])
        .stdout;
    if certificate {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("public.der"), &public).unwrap();
        certify(&path("public.der"), &path("certificate.der"));
        let written = [
            "--write-object",
            &path("certificate.der"),
            "--type",
            "cert",
            "--id",
            "a1",
        ];
        assert!(token.pkcs11_tool(&written).status.success());
    }
    let deleted = token.pkcs11_tool(&[
        "--login",
        "--pin",
        token.pin(),
        "--delete-object",
        "--type",
        "pubkey",
        "--id",
        "a1",
    ]);
    assert!(deleted.status.success(), "{deleted:?}");
    public
}

/// A certificate for a public key, by an authority that lives for this call.
fn certify(public: &str, certificate: &str) {
    let script = format!(
        "set -e; cd $(mktemp -d); trap 'rm -r $PWD' EXIT
         openssl ecparam -name prime256v1 -genkey -noout -out ca.key 2>/dev/null
         openssl req -x509 -new -key ca.key -subj /CN=authority -days 1 -out ca.pem
         openssl req -new -key ca.key -subj /CN=key -out request.pem
         openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
             -force_pubkey {public} -outform DER -out {certificate} 2>/dev/null"
    );
    let made = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn told(fixture: &Fixture) -> KeyInfo {
    fixture.hsm.key(&id("hsm:a1")).wait().unwrap()
}

#[test]
fn an_rsa_key_tells_its_public_half_by_its_modulus() {
    let token = Token::softhsm();
    let public = lone_private_key(&token, "rsa:2048", false);
    let fixture = Fixture::on(token);
    let key = told(&fixture);
    assert_eq!(key.public_key, encoding::public_key_from_der(&public));
    assert!(!key.usages.contains(Usage::Verify));
    let signed = fixture.hsm.sign(Sign::new(key.id.clone(), b"data")).wait().unwrap();
    assert!(is_right(&key, b"data", &signed));
}

#[test]
fn a_certificate_tells_the_public_half() {
    let token = Token::softhsm();
    let public = lone_private_key(&token, "EC:prime256v1", true);
    let fixture = Fixture::on(token);
    let key = told(&fixture);
    assert_eq!(key.public_key, encoding::public_key_from_der(&public));
    assert!(matches!(key.public_key, Some(PublicKey::Curve { .. })));
    let signed = sign(&fixture.hsm, &key, b"data").unwrap();
    assert!(is_right(&key, b"data", &signed));
}

#[test]
fn without_any_of_it_a_key_signs_all_the_same() {
    let token = Token::softhsm();
    lone_private_key(&token, "EC:prime256v1", false);
    let fixture = Fixture::on(token);
    let key = told(&fixture);
    assert_eq!(key.public_key, None);
    assert!(fixture.hsm.sign(Sign::new(key.id, b"data")).wait().is_ok());
}

/// Its private object tells its CKA_PUBLIC_KEY_INFO, or the public point itself.
#[test]
fn the_embedded_token_tells_the_public_half_of_a_private_key() {
    let token = Token::embedded();
    let fixture = Fixture::on(token);
    let made = fixture
        .hsm
        .generate(new_key(KeySpec::Curve(hsm_core::Curve::P384), "pair"))
        .wait()
        .unwrap();
    let id = made.id.to_string();
    let digits = id.trim_start_matches("hsm:");
    let deleted = fixture.token.pkcs11_tool(&[
        "--login",
        "--pin",
        fixture.token.pin(),
        "--delete-object",
        "--type",
        "pubkey",
        "--id",
        digits,
    ]);
    assert!(deleted.status.success(), "{deleted:?}");
    let alone = fixture.hsm.key(&made.id).wait().unwrap();
    let private = Usages::NONE.with(Usage::Sign);
    assert_eq!((alone.public_key, alone.usages), (made.public_key, private));
}

#[test]
fn an_iv_that_the_device_makes_is_the_one_that_is_answered() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(aes("cipher")).wait().unwrap();
    token.fault("C_EncryptInit own_iv=0xd1 count=1");
    let encrypted = hsm.encrypt(Encrypt::new(key.id.clone(), b"data")).wait().unwrap();
    assert_eq!(encrypted.iv.as_deref(), Some(&[0xd1; 12][..]));
    token.clear();
    let decrypted = hsm.decrypt(Decrypt::new(key.id, encrypted)).wait().unwrap();
    assert_eq!(*decrypted, b"data");
}

#[test]
fn an_iv_of_zeros_is_not_given_out() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(aes("cipher")).wait().unwrap();
    token.fault("C_EncryptInit own_iv=0 count=1");
    let refused = hsm.encrypt(Encrypt::new(key.id.clone(), b"data")).wait();
    assert!(matches!(refused, Err(Error::Device(why)) if why.contains("IV of zeros")));
    assert!(hsm.encrypt(Encrypt::new(key.id, b"data")).wait().is_ok());
}

/// Where no key can be made for a trial, the token is asked with the caller's own.
#[test]
fn oaep_works_where_it_can_not_be_tried() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm
        .generate(new_key(KeySpec::Rsa { bits: 2048 }, "rsa"))
        .wait()
        .unwrap();
    // CKR_ATTRIBUTE_VALUE_INVALID
    token.fault("C_GenerateKeyPair rv=0x13");
    let request = |algorithm: hsm_core::Algorithm| Encrypt {
        algorithm: algorithm.into(),
        ..Encrypt::new(key.id.clone(), b"data")
    };
    let encrypted = hsm.encrypt(request(hsm_core::Algorithm::RsaOaepSha1)).wait().unwrap();
    assert_eq!(
        *hsm.decrypt(Decrypt::new(key.id.clone(), encrypted)).wait().unwrap(),
        b"data"
    );
    let encrypted = hsm.encrypt(request(hsm_core::Algorithm::RsaOaepSha256)).wait().unwrap();
    let refused = hsm.decrypt(Decrypt::new(key.id.clone(), encrypted)).wait();
    assert!(matches!(refused, Err(Error::NotSupported(_))), "{refused:?}");
}

/// CKR_FUNCTION_FAILED from C_Decrypt blames the ciphertext only while the session is well.
#[test]
fn a_session_that_is_ill_does_not_blame_the_ciphertext() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(aes("cipher")).wait().unwrap();
    let encrypted = hsm.encrypt(Encrypt::new(key.id.clone(), b"data")).wait().unwrap();
    let request = Decrypt::new(key.id, encrypted);
    token.fault("C_Decrypt rv=0x06 count=1");
    assert_eq!(hsm.decrypt(request.clone()).wait().err(), Some(Error::DecryptionFailed));
    token.fault("C_Decrypt rv=0x06 count=1\nC_GetSessionInfo rv=0x30 count=1");
    let refused = hsm.decrypt(request.clone()).wait();
    assert!(matches!(refused, Err(Error::Device(_))), "{refused:?}");
    token.clear();
    assert_eq!(*hsm.decrypt(request).wait().unwrap(), b"data");
}
