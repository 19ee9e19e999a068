//! Keys on the token.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Limit;
use crate::names::{CurveName, KeyTypeName, ParameterSetName, UsageName};

/// A key to be made on the token. RSA, AES and HMAC keys are sized by `key_size`, EC keys by `curve` (or `key_size`), ED
/// keys by `curve`, post-quantum keys by `parameter_set`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_type": "RSA", "key_size": 2048, "key_label": "my_hsm_key", "extractable": false}))]
pub struct CreateKeyRequest {
    /// The type of the key.
    #[schema(value_type = KeyTypeName)]
    pub key_type: String,
    /// The size in bits. RSA: 2048, 3072, 4096; AES: 128, 192, 256; HMAC: 256 (the default) to 512 in steps of 8; EC:
    /// 256, 384, 521 for the NIST curves.
    #[schema(nullable = false, minimum = 128, maximum = 4096)]
    pub key_size: Option<u32>,
    /// The curve of an EC or ED key.
    #[schema(value_type = Option<CurveName>, nullable = false)]
    pub curve: Option<String>,
    /// The parameter set of a post-quantum key.
    #[schema(value_type = Option<ParameterSetName>, nullable = false)]
    pub parameter_set: Option<String>,
    /// The label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
    /// Whether the key may leave the token, wrapped under another key. Default `false`.
    // No `default` in the schema: generators of clients would make the field a required one.
    #[schema(nullable = false)]
    pub extractable: Option<bool>,
    /// What the key may be used for; the default fits the type. No usage twice, and none that the type can't have.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// The name of the further token that the key is to be made on; the default token if not said.
    #[schema(nullable = false)]
    pub token: Option<String>,
}

/// What is to be changed of a key.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_label": "another_label"}))]
pub struct UpdateKeyRequest {
    /// The new label: 1 to 255 bytes of UTF-8 without control characters, that no other key of the token has.
    #[schema(min_length = 1, max_length = 255)]
    pub key_label: String,
}

/// A key on the token; a pair is one key. One of `key_size`, `curve` and `parameter_set` is there, as the type has it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "key_id": "hsm:1234567890abcdef",
    "key_type": "RSA",
    "key_size": 2048,
    "key_label": "my_hsm_key",
    "algorithm": "RSA",
    "extractable": false,
    "sensitive": true,
    "usages": ["encrypt", "decrypt", "sign", "verify"],
    "pkcs11_uri": "pkcs11:token=my_token;id=%12%34%56%78%90%ab%cd%ef;object=my_hsm_key",
    "managed_by": null,
    "public_key_pem": "-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n",
    "public_key_jwk": {"kty": "RSA", "n": "...", "e": "AQAB"}
}))]
pub struct Key {
    /// The id: `hsm:` and the CKA_ID in hexadecimal digits; on a further token `hsm:<token>:` and the digits.
    pub key_id: String,
    /// The type of the key.
    pub key_type: String,
    /// The size in bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_size: Option<u32>,
    /// The curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub curve: Option<String>,
    /// The parameter set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter_set: Option<String>,
    /// The label; empty where another program gave none.
    pub key_label: String,
    /// The key type once more.
    pub algorithm: String,
    /// Whether the key may leave the token, wrapped (CKA_EXTRACTABLE).
    pub extractable: bool,
    /// Whether the token never shows the key in clear (CKA_SENSITIVE).
    pub sensitive: bool,
    /// What the key may be used for.
    pub usages: Vec<String>,
    /// The key as a `pkcs11:` URI (RFC 7512).
    pub pkcs11_uri: String,
    /// The managed key that it is a version of; `null` if of none.
    #[schema(required)]
    pub managed_by: Option<String>,
    /// The public key as PEM (SubjectPublicKeyInfo); asymmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public_key_pem: Option<String>,
    /// The public key as a JSON Web Key; asymmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public_key_jwk: Option<Jwk>,
}

/// A public key as a JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037, RFC 9964). Numbers are base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Jwk {
    /// `RSA`, `EC`, `OKP` or `AKP`.
    pub kty: String,
    /// The curve (EC, OKP).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub crv: Option<String>,
    /// The x coordinate (EC), or the public key (OKP).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub x: Option<String>,
    /// The y coordinate (EC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub y: Option<String>,
    /// The modulus (RSA).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub n: Option<String>,
    /// The public exponent (RSA).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub e: Option<String>,
    /// The parameter set (AKP).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub alg: Option<String>,
    /// The public key (AKP).
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public: Option<String>,
}

/// A page of keys.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// The keys of this page.
    pub keys: Vec<Key>,
    /// What to send as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyListQuery {
    /// How many keys a page has at most.
    #[param(value_type = Option<u32>, required = false, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(required = false, nullable = false)]
    pub cursor: Option<String>,
    /// Only keys of this type.
    #[param(value_type = Option<KeyTypeName>, required = false, nullable = false)]
    pub key_type: Option<String>,
    /// Only keys with exactly this label.
    #[param(required = false, nullable = false)]
    pub label: Option<String>,
}
