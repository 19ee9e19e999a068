//! What is generated from this crate is true: the errors page is current, and the document's examples are accepted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

use std::path::Path;

use hsm_openapi::parse_body;
use hsm_openapi::wire::{
    CreateKeyRequest, CreateManagedKeyRequest, CsrRequest, DatakeyRequest, DatakeyResponse, DecapsulateRequest,
    DecryptRequest, DeriveRequest, EncapsulateRequest, EncryptRequest, EncryptResponse, ImportKeyRequest,
    RandomRequest, SignRequest, SignResponse, UpdateKeyRequest, UpdateManagedKeyRequest, UpdateVersionRequest,
    VerifyRequest, VersionedCsrRequest, VersionedDecryptRequest, VersionedEncryptResponse, VersionedVerifyRequest,
    WrapRequest,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::PartialSchema;

/// A page that is generated and committed; `UPDATE_GOLDEN=1` rewrites it.
fn is_current(page: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{page} is stale: run the tests once with UPDATE_GOLDEN=1"
    );
}

#[test]
fn docs_errors_md_is_current() {
    is_current("ERRORS.md", &hsm_openapi::errors_markdown());
}

#[test]
fn docs_algorithms_md_is_current() {
    is_current("ALGORITHMS.md", &hsm_openapi::algorithms_markdown());
}

fn example<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).unwrap()["example"].clone()
}

fn takes<T: DeserializeOwned>(body: &Value) {
    let read = parse_body::<T>(body.to_string().as_bytes());
    read.map(drop).unwrap_or_else(|error| panic!("{body}: {error}"));
}

fn takes_its_example<T: DeserializeOwned + PartialSchema>() {
    takes::<T>(&example::<T>());
}

#[test]
fn requests_take_their_examples() {
    takes_its_example::<CreateKeyRequest>();
    takes_its_example::<EncryptRequest>();
    takes_its_example::<DecryptRequest>();
    takes_its_example::<VersionedDecryptRequest>();
    takes_its_example::<SignRequest>();
    takes_its_example::<VerifyRequest>();
    takes_its_example::<VersionedVerifyRequest>();
    takes_its_example::<UpdateKeyRequest>();
    takes_its_example::<ImportKeyRequest>();
    takes_its_example::<WrapRequest>();
    takes_its_example::<DeriveRequest>();
    takes_its_example::<EncapsulateRequest>();
    takes_its_example::<DecapsulateRequest>();
    takes_its_example::<CsrRequest>();
    takes_its_example::<RandomRequest>();
    takes_its_example::<CreateManagedKeyRequest>();
    takes_its_example::<UpdateManagedKeyRequest>();
    takes_its_example::<UpdateVersionRequest>();
    takes_its_example::<VersionedCsrRequest>();
    takes_its_example::<DatakeyRequest>();
}

#[test]
fn an_answer_of_encrypt_is_a_request_of_decrypt() {
    let mut answer = EncryptResponse {
        algorithm: "RSA-OAEP-SHA256".into(),
        key_id: "hsm:1234567890abcdef".into(),
        ciphertext: vec![1, 2, 3].into(),
        iv: None,
        tag: None,
    };
    takes::<DecryptRequest>(&serde_json::to_value(&answer).unwrap());
    answer.iv = Some(vec![0; 12].into());
    answer.tag = Some(vec![0; 16].into());
    takes::<DecryptRequest>(&serde_json::to_value(&answer).unwrap());
    let versioned: VersionedEncryptResponse = answer.versioned(None);
    let versioned = serde_json::to_value(versioned).unwrap();
    assert_eq!(versioned["key_version"], Value::Null);
    takes::<VersionedDecryptRequest>(&versioned);
}

#[test]
fn an_answer_of_sign_and_the_data_are_a_request_of_verify() {
    let answer: SignResponse = SignResponse {
        signature: vec![1, 2, 3].into(),
        algorithm: "RSA-PSS-SHA256".into(),
        key_id: "hsm:1234567890abcdef".into(),
        message_type: Default::default(),
        signature_format: None,
    };
    let mut body = serde_json::to_value(&answer).unwrap();
    body["data"] = "SGVsbG8gV29ybGQh".into();
    takes::<VerifyRequest>(&body);
    let mut body = serde_json::to_value(answer.versioned(None)).unwrap();
    body["data"] = "SGVsbG8gV29ybGQh".into();
    takes::<VersionedVerifyRequest>(&body);
}

#[test]
fn a_data_key_without_its_plaintext_is_a_request_of_decrypt() {
    let answer = DatakeyResponse {
        key_id: "orders".into(),
        key_version: Some(2),
        algorithm: "AES-GCM".into(),
        ciphertext: vec![1, 2, 3].into(),
        iv: Some(vec![0; 12].into()),
        tag: Some(vec![0; 16].into()),
        plaintext: None,
    };
    takes::<VersionedDecryptRequest>(&serde_json::to_value(answer).unwrap());
}
