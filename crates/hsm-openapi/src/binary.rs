//! Binary fields: standard base64 with padding (RFC 4648 §4).

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use zeroize::Zeroizing;

use crate::body::WrongValue;

/// Bytes that are no secret: ciphertexts, IVs, tags, signatures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(Vec<u8>);

impl Base64 {
    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Base64 {
        Base64(bytes)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        deserializer.deserialize_str(Decode).map(Base64)
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

/// Bytes that may be a secret: what is encrypted, decrypted or signed. Overwritten when dropped, and never shown.
#[derive(Clone, Default)]
pub struct SecretBase64(Zeroizing<Vec<u8>>);

impl SecretBase64 {
    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBase64 {
    fn from(bytes: Zeroizing<Vec<u8>>) -> SecretBase64 {
        SecretBase64(bytes)
    }
}

impl fmt::Debug for SecretBase64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretBase64").finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for SecretBase64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretBase64, D::Error> {
        let bytes = deserializer.deserialize_str(Decode)?;
        Ok(SecretBase64(Zeroizing::new(bytes)))
    }
}

impl Serialize for SecretBase64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

/// Decodes straight from the body's buffer.
struct Decode;

impl Visitor<'_> for Decode {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        // One buffer that never grows: a reallocation would leave a copy of a secret behind.
        let mut bytes = vec![0; base64::decoded_len_estimate(text.len())];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(_) => {
                drop(Zeroizing::new(bytes));
                Err(WrongValue::Base64.error())
            }
        }
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .content_encoding("base64")
            .description(Some("Standard base64 with padding (RFC 4648 §4)"))
            .into()
    }
}

impl ToSchema for Base64 {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Base64")
    }
}

impl PartialSchema for SecretBase64 {
    fn schema() -> RefOr<Schema> {
        Base64::schema()
    }
}

impl ToSchema for SecretBase64 {
    fn name() -> Cow<'static, str> {
        Base64::name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Option<Vec<u8>> {
        serde_json::from_value::<Base64>(text.into())
            .ok()
            .map(Base64::into_bytes)
    }

    #[test]
    fn only_standard_base64_with_padding_is_taken() {
        assert_eq!(decode("SGVsbG8gV29ybGQh").as_deref(), Some(&b"Hello World!"[..]));
        assert_eq!(decode("").as_deref(), Some(&b""[..]));
        assert_eq!(decode("AA==").as_deref(), Some(&[0][..]));
        for wrong in [
            "AA", "AA=", "AB==", "-_-_", " AA==", "AA==\n", "A===", "====", "AA==AA==", "é",
        ] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_again() {
        for len in 0..100 {
            let bytes: Vec<u8> = (0..len).collect();
            let json = serde_json::to_vec(&Base64::from(bytes.clone())).unwrap();
            let secret: SecretBase64 = serde_json::from_slice(&json).unwrap();
            assert_eq!(secret.as_bytes(), bytes);
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = SecretBase64::from(Zeroizing::new(b"plaintext".to_vec()));
        assert_eq!(format!("{secret:?}"), "SecretBase64 { .. }");
    }
}
