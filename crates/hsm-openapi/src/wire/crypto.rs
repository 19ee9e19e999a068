//! Encrypt, decrypt, sign, verify. The `Versioned…` types are those of `/api/v1`, where a key may have versions; the
//! others those of `/api/v1/hsm`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::binary::{Base64, SecretBase64};
use crate::names::{EncryptAlgorithmName, MessageType, SignAlgorithmName, SignatureFormat};

/// Data to be encrypted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"data": "SGVsbG8gV29ybGQh", "key_id": "hsm:1234567890abcdef", "algorithm": "AES-GCM"}))]
pub struct EncryptRequest {
    /// What to encrypt.
    pub data: SecretBase64,
    /// The key.
    pub key_id: String,
    /// The algorithm; without it the key decides: AES-GCM, or RSA-OAEP-SHA256 (-SHA1 on a token without it).
    #[schema(value_type = Option<EncryptAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
    /// Additional data that is authenticated and not encrypted; only with AES-GCM and AES-CCM, and needed again to decrypt.
    #[schema(nullable = false)]
    pub aad: Option<Base64>,
}

/// What encrypt answers, and, with the same `aad`, what decrypt takes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "algorithm": "AES-GCM",
    "key_id": "hsm:1234567890abcdef",
    "ciphertext": "c5Kp3YxTzXpq1v0G",
    "iv": "q83vEjRWeJASNFZ4",
    "tag": "ASNFZ4mrze8BI0VniavN7w=="
}))]
pub struct EncryptResponse {
    /// The algorithm that was used.
    pub algorithm: String,
    /// The key.
    pub key_id: String,
    /// The ciphertext, as long as the data for GCM and CTR.
    pub ciphertext: Base64,
    /// The IV; `null` where the algorithm has none.
    #[schema(required)]
    pub iv: Option<Base64>,
    /// The authentication tag; `null` where the algorithm has none.
    #[schema(required)]
    pub tag: Option<Base64>,
}

impl EncryptResponse {
    /// The same with the version of the key; `None` for a key of the token.
    pub fn versioned(self, key_version: Option<u32>) -> VersionedEncryptResponse {
        let EncryptResponse {
            algorithm,
            key_id,
            ciphertext,
            iv,
            tag,
        } = self;
        VersionedEncryptResponse {
            algorithm,
            key_id,
            key_version,
            ciphertext,
            iv,
            tag,
        }
    }
}

/// What encrypt answers, and, with the same `aad`, what decrypt takes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "algorithm": "AES-GCM",
    "key_id": "hsm:1234567890abcdef",
    "key_version": null,
    "ciphertext": "c5Kp3YxTzXpq1v0G",
    "iv": "q83vEjRWeJASNFZ4",
    "tag": "ASNFZ4mrze8BI0VniavN7w=="
}))]
pub struct VersionedEncryptResponse {
    /// The algorithm that was used.
    pub algorithm: String,
    /// The key.
    pub key_id: String,
    /// The version of the key; `null` for a key of the token.
    #[schema(required)]
    pub key_version: Option<u32>,
    /// The ciphertext, as long as the data for GCM and CTR.
    pub ciphertext: Base64,
    /// The IV; `null` where the algorithm has none.
    #[schema(required)]
    pub iv: Option<Base64>,
    /// The authentication tag; `null` where the algorithm has none.
    #[schema(required)]
    pub tag: Option<Base64>,
}

/// A ciphertext as encrypt answered it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "algorithm": "AES-GCM",
    "key_id": "hsm:1234567890abcdef",
    "ciphertext": "c5Kp3YxTzXpq1v0G",
    "iv": "q83vEjRWeJASNFZ4",
    "tag": "ASNFZ4mrze8BI0VniavN7w=="
}))]
pub struct DecryptRequest {
    /// The algorithm, as encrypt answered or takes it; without it the key decides.
    pub algorithm: Option<String>,
    /// The key.
    pub key_id: String,
    /// The ciphertext.
    pub ciphertext: Base64,
    /// The IV, where the algorithm has one.
    pub iv: Option<Base64>,
    /// The tag, where the algorithm has one.
    pub tag: Option<Base64>,
    /// The additional data that was given to encrypt.
    pub aad: Option<Base64>,
}

/// A ciphertext as encrypt answered it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "algorithm": "AES-GCM",
    "key_id": "hsm:1234567890abcdef",
    "key_version": null,
    "ciphertext": "c5Kp3YxTzXpq1v0G",
    "iv": "q83vEjRWeJASNFZ4",
    "tag": "ASNFZ4mrze8BI0VniavN7w=="
}))]
pub struct VersionedDecryptRequest {
    /// The algorithm, as encrypt answered or takes it; without it the key decides.
    pub algorithm: Option<String>,
    /// The key.
    pub key_id: String,
    /// The version of the key, as answered.
    pub key_version: Option<u32>,
    /// The ciphertext.
    pub ciphertext: Base64,
    /// The IV, where the algorithm has one.
    pub iv: Option<Base64>,
    /// The tag, where the algorithm has one.
    pub tag: Option<Base64>,
    /// The additional data that was given to encrypt.
    pub aad: Option<Base64>,
}

impl VersionedDecryptRequest {
    /// The request for the key itself, and the version that it names.
    pub fn split(self) -> (DecryptRequest, Option<u32>) {
        let Self {
            algorithm,
            key_id,
            key_version,
            ciphertext,
            iv,
            tag,
            aad,
        } = self;
        (
            DecryptRequest {
                algorithm,
                key_id,
                ciphertext,
                iv,
                tag,
                aad,
            },
            key_version,
        )
    }
}

/// What was encrypted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"data": "SGVsbG8gV29ybGQh"}))]
pub struct DecryptResponse {
    /// The data.
    pub data: SecretBase64,
}

/// Data to be signed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"data": "SGVsbG8gV29ybGQh", "key_id": "hsm:1234567890abcdef", "algorithm": "RSA-PSS-SHA256"}))]
pub struct SignRequest {
    /// The message, or its hash with `message_type` `digest`.
    pub data: SecretBase64,
    /// The key.
    pub key_id: String,
    /// The algorithm; without it the key decides.
    #[schema(value_type = Option<SignAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
    /// Default `raw`.
    #[schema(nullable = false)]
    pub message_type: Option<MessageType>,
    /// Default `der`, or `p1363` with a JOSE name; for ECDSA only.
    #[schema(nullable = false)]
    pub signature_format: Option<SignatureFormat>,
    /// The context of ML-DSA, HashML-DSA and SLH-DSA (FIPS 204 §5.2, FIPS 205 §10.2), at most 255 bytes; empty if not said.
    /// It is needed again to verify.
    #[schema(nullable = false)]
    pub context: Option<Base64>,
}

/// What sign answers, and, with the same `data`, what verify takes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "signature": "MEUCIQDp0mQk1rVdLY4sS1mQ7m0J7q3H2yqv0m0cY0nHkqk3bAIgWJb8f3sT2xkq0c3n4Zl9YwQk3XhR7uVb5tPd1oE2aGk=",
    "algorithm": "ECDSA-SHA256",
    "key_id": "hsm:1234567890abcdef",
    "message_type": "raw",
    "signature_format": "der"
}))]
pub struct SignResponse {
    /// The signature or message authentication code.
    pub signature: Base64,
    /// The algorithm that was used.
    pub algorithm: String,
    /// The key.
    pub key_id: String,
    /// What `data` was.
    pub message_type: MessageType,
    /// How the signature is written; `null` but for ECDSA.
    #[schema(required)]
    pub signature_format: Option<SignatureFormat>,
}

impl SignResponse {
    /// The same with the version of the key; `None` for a key of the token.
    pub fn versioned(self, key_version: Option<u32>) -> VersionedSignResponse {
        let SignResponse {
            signature,
            algorithm,
            key_id,
            message_type,
            signature_format,
        } = self;
        VersionedSignResponse {
            signature,
            algorithm,
            key_id,
            key_version,
            message_type,
            signature_format,
        }
    }
}

/// What sign answers, and, with the same `data`, what verify takes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "signature": "MEUCIQDp0mQk1rVdLY4sS1mQ7m0J7q3H2yqv0m0cY0nHkqk3bAIgWJb8f3sT2xkq0c3n4Zl9YwQk3XhR7uVb5tPd1oE2aGk=",
    "algorithm": "ECDSA-SHA256",
    "key_id": "hsm:1234567890abcdef",
    "key_version": null,
    "message_type": "raw",
    "signature_format": "der"
}))]
pub struct VersionedSignResponse {
    /// The signature or message authentication code.
    pub signature: Base64,
    /// The algorithm that was used.
    pub algorithm: String,
    /// The key.
    pub key_id: String,
    /// The version of the key; `null` for a key of the token.
    #[schema(required)]
    pub key_version: Option<u32>,
    /// What `data` was.
    pub message_type: MessageType,
    /// How the signature is written; `null` but for ECDSA.
    #[schema(required)]
    pub signature_format: Option<SignatureFormat>,
}

/// A signature as sign answered it, and what was signed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "data": "SGVsbG8gV29ybGQh",
    "signature": "MEUCIQDp0mQk1rVdLY4sS1mQ7m0J7q3H2yqv0m0cY0nHkqk3bAIgWJb8f3sT2xkq0c3n4Zl9YwQk3XhR7uVb5tPd1oE2aGk=",
    "algorithm": "ECDSA-SHA256",
    "key_id": "hsm:1234567890abcdef",
    "message_type": "raw",
    "signature_format": "der"
}))]
pub struct VerifyRequest {
    /// The message, or its hash with `message_type` `digest`.
    pub data: SecretBase64,
    /// The signature or message authentication code.
    pub signature: Base64,
    /// The key.
    pub key_id: String,
    /// The algorithm, as sign answered or takes it; without it the key decides.
    pub algorithm: Option<String>,
    /// Default `raw`.
    pub message_type: Option<MessageType>,
    /// Default `der`, or `p1363` with a JOSE name; for ECDSA only.
    pub signature_format: Option<SignatureFormat>,
    /// The context that was given to sign.
    pub context: Option<Base64>,
}

/// A signature as sign answered it, and what was signed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "data": "SGVsbG8gV29ybGQh",
    "signature": "MEUCIQDp0mQk1rVdLY4sS1mQ7m0J7q3H2yqv0m0cY0nHkqk3bAIgWJb8f3sT2xkq0c3n4Zl9YwQk3XhR7uVb5tPd1oE2aGk=",
    "algorithm": "ECDSA-SHA256",
    "key_id": "hsm:1234567890abcdef",
    "key_version": null,
    "message_type": "raw",
    "signature_format": "der"
}))]
pub struct VersionedVerifyRequest {
    /// The message, or its hash with `message_type` `digest`.
    pub data: SecretBase64,
    /// The signature or message authentication code.
    pub signature: Base64,
    /// The key.
    pub key_id: String,
    /// The version of the key, as answered.
    pub key_version: Option<u32>,
    /// The algorithm, as sign answered or takes it; without it the key decides.
    pub algorithm: Option<String>,
    /// Default `raw`.
    pub message_type: Option<MessageType>,
    /// Default `der`, or `p1363` with a JOSE name; for ECDSA only.
    pub signature_format: Option<SignatureFormat>,
    /// The context that was given to sign.
    pub context: Option<Base64>,
}

impl VersionedVerifyRequest {
    /// The request for the key itself, and the version that it names.
    pub fn split(self) -> (VerifyRequest, Option<u32>) {
        let Self {
            data,
            signature,
            key_id,
            key_version,
            algorithm,
            message_type,
            signature_format,
            context,
        } = self;
        (
            VerifyRequest {
                data,
                signature,
                key_id,
                algorithm,
                message_type,
                signature_format,
                context,
            },
            key_version,
        )
    }
}

/// Whether the signature is good.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(example = json!({"valid": true}))]
pub struct VerifyResponse {
    /// `false` for a wrong signature, and for bytes that are none.
    pub valid: bool,
}
