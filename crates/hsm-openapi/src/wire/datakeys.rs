//! Data keys: made here, used elsewhere, and kept encrypted under a key that stays.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::binary::{Base64, SecretBase64};
use crate::body::WrongValue;

/// A data key to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key_id": "orders", "key_size": 256}))]
pub struct DatakeyRequest {
    /// The key that it is encrypted under.
    pub key_id: String,
    /// The size of the data key in bits: 128, 192 or 256 (the default).
    #[schema(value_type = Option<u32>, nullable = false, minimum = 128, maximum = 256, multiple_of = 64)]
    pub key_size: Option<DatakeySize>,
    /// Whether the data key is answered in clear too. Default `true`.
    #[schema(nullable = false)]
    pub plaintext: Option<bool>,
}

/// 128, 192 or 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct DatakeySize(u32);

impl DatakeySize {
    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for DatakeySize {
    fn default() -> DatakeySize {
        DatakeySize(256)
    }
}

impl TryFrom<u32> for DatakeySize {
    type Error = WrongValue;

    fn try_from(bits: u32) -> Result<DatakeySize, WrongValue> {
        match bits {
            128 | 192 | 256 => Ok(DatakeySize(bits)),
            _ => Err(WrongValue::DatakeySize),
        }
    }
}

/// A data key, encrypted, and in clear if that was asked for. Without `plaintext` it is what decrypt takes; what decrypt then
/// answers as `data` is the data key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "key_id": "orders",
    "key_version": 1,
    "algorithm": "AES-GCM",
    "ciphertext": "c5Kp3YxTzXpq1v0Gc5Kp3YxTzXpq1v0Gc5Kp3YxTzXo=",
    "iv": "q83vEjRWeJASNFZ4",
    "tag": "ASNFZ4mrze8BI0VniavN7w==",
    "plaintext": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
}))]
pub struct DatakeyResponse {
    /// The key that it is encrypted under.
    pub key_id: String,
    /// The version of the key; `null` for a key of the token.
    #[schema(required)]
    pub key_version: Option<u32>,
    /// The algorithm that it is encrypted with.
    pub algorithm: String,
    /// The encrypted data key.
    pub ciphertext: Base64,
    /// The IV; `null` where the algorithm has none.
    #[schema(required)]
    pub iv: Option<Base64>,
    /// The authentication tag; `null` where the algorithm has none.
    #[schema(required)]
    pub tag: Option<Base64>,
    /// The data key; left out if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub plaintext: Option<SecretBase64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_body;

    #[test]
    fn a_data_key_has_one_of_three_sizes() {
        let size = |body: &str| {
            parse_body::<DatakeyRequest>(body.as_bytes()).map(|body| body.key_size.unwrap_or_default().bits())
        };
        assert_eq!(size(r#"{"key_id":"a"}"#), Ok(256));
        assert_eq!(size(r#"{"key_id":"a","key_size":128,"plaintext":false}"#), Ok(128));
        for wrong in ["0", "127", "512"] {
            let error = size(&format!(r#"{{"key_id":"a","key_size":{wrong}}}"#)).unwrap_err();
            assert_eq!(error.to_string(), "`key_size`: must be 128, 192 or 256", "{wrong}");
        }
    }
}
