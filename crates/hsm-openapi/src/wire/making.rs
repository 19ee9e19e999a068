//! Keys that come to be in another way than by generation: imported, derived, encapsulated; and how they leave, wrapped.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Key;
use crate::binary::{Base64, SecretBase64};
use crate::names::{DeriveAlgorithmName, ImportFormatName, KeyTypeName, SecretTypeName, UsageName, WrapAlgorithmName};

/// A key from outside. `format` says what `key_material` is, and which of the other fields there are:
///
/// - `raw`: the bytes of an AES key (16, 24 or 32) or of an HMAC key (32 to 64);
/// - `pkcs8`: a private key as PrivateKeyInfo (RFC 5958), DER or PEM; its public half is made with it;
/// - `spki`: a public key alone as SubjectPublicKeyInfo, DER or PEM; it can verify, encrypt, wrap, encapsulate;
/// - `wrapped`: what wrap answered. `wrapping_key_id` and `algorithm` must be there, and `token` must not: the key is
///   made on the token of the wrapping key. The call also needs the scope `crypto:unwrap`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_type": "AES", "key_label": "imported", "format": "raw", "key_material": "AAECAwQFBgcICQoLDA0ODw=="}))]
pub struct ImportKeyRequest {
    /// The type of the key.
    #[schema(value_type = KeyTypeName)]
    pub key_type: String,
    /// The label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
    /// What `key_material` is.
    #[schema(value_type = ImportFormatName)]
    pub format: String,
    /// The key, at most 64 KiB.
    pub key_material: SecretBase64,
    /// The key that it is wrapped under; with `format` `wrapped`.
    #[schema(nullable = false)]
    pub wrapping_key_id: Option<String>,
    /// How it is wrapped; with `format` `wrapped`.
    #[schema(value_type = Option<WrapAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
    /// What the key may be used for; the default fits the type, and for `spki` the public half of it.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// Whether the key may leave the token, wrapped under another key. Default `false`.
    #[schema(nullable = false)]
    pub extractable: Option<bool>,
    /// The name of the further token that the key is put on; the default token if not said.
    #[schema(nullable = false)]
    pub token: Option<String>,
}

/// A key to be wrapped under another one of the same token.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_id": "hsm:1234567890abcdef", "target_key_id": "hsm:fedcba0987654321"}))]
pub struct WrapRequest {
    /// The key that it is wrapped under.
    pub key_id: String,
    /// The key that is to leave the token; it must be `extractable`.
    pub target_key_id: String,
    /// The algorithm; without it the key decides: AES-KWP (AES-KW on a token without it), RSA-AES-KEY-WRAP.
    #[schema(value_type = Option<WrapAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
}

/// A wrapped key, for `key_material` of an import with `format` `wrapped`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({"wrapped_key": "H6aLCoES1HriK1mtSo5Q+A==", "key_id": "hsm:1234567890abcdef", "algorithm": "AES-KWP"}))]
pub struct WrapResponse {
    /// The wrapped key.
    pub wrapped_key: Base64,
    /// The key that it is wrapped under.
    pub key_id: String,
    /// The algorithm that was used.
    pub algorithm: String,
}

impl WrapResponse {
    /// The same with the version of the key; `None` for a key of the token.
    pub fn versioned(self, key_version: Option<u32>) -> VersionedWrapResponse {
        let WrapResponse {
            wrapped_key,
            key_id,
            algorithm,
        } = self;
        VersionedWrapResponse {
            wrapped_key,
            key_id,
            key_version,
            algorithm,
        }
    }
}

/// A wrapped key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VersionedWrapResponse {
    /// The wrapped key.
    pub wrapped_key: Base64,
    /// The key that it is wrapped under.
    pub key_id: String,
    /// The version of the key; `null` for a key of the token.
    #[schema(required)]
    pub key_version: Option<u32>,
    /// The algorithm that was used.
    pub algorithm: String,
}

/// A secret key to be made of another key, on the same token. ECDH takes `public_key`; HKDF-SHA256 takes `salt` and `info`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "key_id": "hsm:1234567890abcdef",
    "algorithm": "HKDF-SHA256",
    "info": "c2Vzc2lvbiAx",
    "key_type": "AES",
    "key_size": 256,
    "key_label": "derived"
}))]
pub struct DeriveRequest {
    /// The key that it is made of: an EC key for ECDH, an HMAC key for HKDF-SHA256, with the usage `derive`.
    pub key_id: String,
    /// The algorithm.
    #[schema(value_type = DeriveAlgorithmName)]
    pub algorithm: String,
    /// The other side's public key for ECDH, on the same curve: PEM as `public_key_pem` gives it, or base64 of its DER.
    #[schema(nullable = false)]
    pub public_key: Option<String>,
    /// The salt of HKDF, at most 1,024 bytes.
    #[schema(nullable = false)]
    pub salt: Option<Base64>,
    /// The info of HKDF, at most 1,024 bytes.
    #[schema(nullable = false)]
    pub info: Option<Base64>,
    /// The type of the new key.
    #[schema(value_type = SecretTypeName)]
    pub key_type: String,
    /// The size of the new key in bits. With ECDH these are the last bits of the shared x coordinate, no key derivation
    /// function in between, and not more than it has.
    #[schema(minimum = 128, maximum = 512)]
    pub key_size: u32,
    /// The label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
    /// What the key may be used for; the default fits the type.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// Whether the key may leave the token, wrapped under another key. Default `false`.
    #[schema(nullable = false)]
    pub extractable: Option<bool>,
}

/// A secret to be made with an ML-KEM key (FIPS 203), which becomes a key on the same token.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_id": "hsm:1234567890abcdef", "key_type": "AES", "key_size": 256, "key_label": "shared"}))]
pub struct EncapsulateRequest {
    /// The ML-KEM key, with the usage `encapsulate`.
    pub key_id: String,
    /// The type of the new key.
    #[schema(value_type = SecretTypeName)]
    pub key_type: String,
    /// The size of the new key in bits: 256.
    #[schema(minimum = 256, maximum = 256)]
    pub key_size: u32,
    /// The label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
    /// What the key may be used for; the default fits the type.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// Whether the key may leave the token, wrapped under another key. Default `false`.
    #[schema(nullable = false)]
    pub extractable: Option<bool>,
}

/// What encapsulate answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({"ciphertext": "c5Kp3YxTzXpq1v0G", "secret_key_id": "hsm:fedcba0987654321"}))]
pub struct EncapsulateResponse {
    /// What whoever has the private key makes the same secret of.
    pub ciphertext: Base64,
    /// The new key.
    pub secret_key_id: String,
}

/// A secret to be made again of what encapsulate answered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "key_id": "hsm:1234567890abcdef",
    "ciphertext": "c5Kp3YxTzXpq1v0G",
    "key_type": "AES",
    "key_size": 256,
    "key_label": "shared"
}))]
pub struct DecapsulateRequest {
    /// The ML-KEM key, with the usage `decapsulate`.
    pub key_id: String,
    /// The ciphertext, as encapsulate answered it. One that was tampered with makes another secret (FIPS 203 §6.3).
    pub ciphertext: Base64,
    /// The type of the new key.
    #[schema(value_type = SecretTypeName)]
    pub key_type: String,
    /// The size of the new key in bits: 256.
    #[schema(minimum = 256, maximum = 256)]
    pub key_size: u32,
    /// The label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
    /// What the key may be used for; the default fits the type.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// Whether the key may leave the token, wrapped under another key. Default `false`.
    #[schema(nullable = false)]
    pub extractable: Option<bool>,
}

/// What decapsulate answers: the new key, and its id once more under the name that encapsulate has for it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecapsulateResponse {
    /// The new key's id.
    pub secret_key_id: String,
    /// The new key.
    #[serde(flatten)]
    pub key: Key,
}
