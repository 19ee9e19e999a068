//! Names in requests: enumerations whose values come from `hsm_core`'s tables, and the two that belong to the wire.
//!
//! Algorithms, key types, curves and usages stay strings in the request types, so that an unknown name gets the answer
//! that its own check gives; the types here without values describe them in the document. Answers have open strings:
//! a client made today must read what a later server says.

use std::borrow::Cow;

use hsm_core::algorithm::Named;
use hsm_core::key::ParameterSet;
use hsm_core::material::Format;
use hsm_core::{Curve, KeyType, Operation, Usage};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::body::WrongValue;

/// `raw`: `data` is the message. `digest`: `data` is its hash, for RSA and ECDSA only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum MessageType {
    /// The message.
    #[default]
    Raw,
    /// Its hash, exactly as long as the algorithm's.
    Digest,
}

impl TryFrom<String> for MessageType {
    type Error = WrongValue;

    fn try_from(name: String) -> Result<MessageType, WrongValue> {
        match name.as_str() {
            "raw" => Ok(MessageType::Raw),
            "digest" => Ok(MessageType::Digest),
            _ => Err(WrongValue::MessageType),
        }
    }
}

/// How an ECDSA signature is written: `der` (RFC 3279) or `p1363` (r and s as in JOSE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum SignatureFormat {
    /// The ASN.1 structure of RFC 3279 §2.2.3.
    #[default]
    Der,
    /// r‖s, both as long as the curve's order (IEEE P1363, RFC 7518 §3.4).
    P1363,
}

impl TryFrom<String> for SignatureFormat {
    type Error = WrongValue;

    fn try_from(name: String) -> Result<SignatureFormat, WrongValue> {
        match name.as_str() {
            "der" => Ok(SignatureFormat::Der),
            "p1363" => Ok(SignatureFormat::P1363),
            _ => Err(WrongValue::SignatureFormat),
        }
    }
}

macro_rules! enumerations {
    ($($(#[doc = $text:literal])* $type:ident = $names:expr;)*) => {$(
        $(#[doc = $text])*
        pub enum $type {}

        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = concat!($($text),*).trim();
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(text))
                    .enum_values(Some($names))
                    .into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }
        }
    )*};
}

fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|value| name(*value)).collect()
}

/// The types of keys that derive, encapsulate and decapsulate make.
pub const SECRET_TYPES: &[KeyType] = &[KeyType::Aes, KeyType::Hmac];
/// What an item of a batch may be.
pub const BATCH_OPERATIONS: &[Operation] = &[
    Operation::Encrypt,
    Operation::Decrypt,
    Operation::Sign,
    Operation::Verify,
];
/// `format` of an import whose material is wrapped; the others are [`hsm_core::material::Format`].
pub const WRAPPED: &str = "wrapped";

/// Every `format` of an import.
pub fn import_formats() -> Vec<&'static str> {
    let clear = Format::ALL.iter().map(|format| format.name());
    clear.chain([WRAPPED]).collect()
}

enumerations! {
    /// An algorithm of encrypt and decrypt, by its own name or by its JOSE name, which also fixes the size of the key.
    EncryptAlgorithmName = Named::names(Operation::Encrypt);
    /// An algorithm of sign and verify, by its own name or by its JOSE name, which also fixes curve and signature format.
    SignAlgorithmName = Named::names(Operation::Sign);
    /// An algorithm of wrap and unwrap.
    WrapAlgorithmName = Named::names(Operation::Wrap);
    /// An algorithm of derive.
    DeriveAlgorithmName = Named::names(Operation::Derive);
    /// How the bytes of an imported key are written.
    ImportFormatName = import_formats();
    /// The type of a secret key.
    SecretTypeName = named(SECRET_TYPES, KeyType::name);
    /// An operation of a batch.
    BatchOperationName = named(BATCH_OPERATIONS, Operation::name);
    /// The type of a key.
    KeyTypeName = named(KeyType::ALL, KeyType::name);
    /// A curve: the first four for EC keys, the others for ED keys.
    CurveName = named(Curve::ALL, Curve::name);
    /// A parameter set of FIPS 203, 204 or 205.
    ParameterSetName = named(ParameterSet::ALL, ParameterSet::name);
    /// What a key may be used for.
    UsageName = named(Usage::ALL, Usage::name);
}
