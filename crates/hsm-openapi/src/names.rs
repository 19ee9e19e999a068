//! Names in requests: enumerations whose values come from `hsm_core`'s tables, and those that belong to the wire.
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

/// What an item of a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BatchKind {
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    Rewrap,
    Datakeys,
}

impl BatchKind {
    /// Those of a batch with keys of every kind.
    pub const ALL: &'static [BatchKind] = &[
        BatchKind::Encrypt,
        BatchKind::Decrypt,
        BatchKind::Sign,
        BatchKind::Verify,
        BatchKind::Rewrap,
        BatchKind::Datakeys,
    ];
    /// Those of a batch with keys of the token.
    pub const OF_TOKENS: &'static [BatchKind] = &[
        BatchKind::Encrypt,
        BatchKind::Decrypt,
        BatchKind::Sign,
        BatchKind::Verify,
    ];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            BatchKind::Encrypt => "encrypt",
            BatchKind::Decrypt => "decrypt",
            BatchKind::Sign => "sign",
            BatchKind::Verify => "verify",
            BatchKind::Rewrap => "rewrap",
            BatchKind::Datakeys => "datakeys",
        }
    }
}

/// `hsm` or `wrapped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum ProtectionName {
    /// On the token.
    #[default]
    Hsm,
    /// In the database, wrapped under a key of the token.
    Wrapped,
}

impl TryFrom<String> for ProtectionName {
    type Error = WrongValue;

    fn try_from(name: String) -> Result<ProtectionName, WrongValue> {
        match name.as_str() {
            "hsm" => Ok(ProtectionName::Hsm),
            "wrapped" => Ok(ProtectionName::Wrapped),
            _ => Err(WrongValue::Protection),
        }
    }
}

/// A state that a call can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum SettableState {
    /// It can be used.
    Enabled,
    /// It can't, until it is enabled again.
    Disabled,
}

impl TryFrom<String> for SettableState {
    type Error = WrongValue;

    fn try_from(name: String) -> Result<SettableState, WrongValue> {
        match name.as_str() {
            "enabled" => Ok(SettableState::Enabled),
            "disabled" => Ok(SettableState::Disabled),
            _ => Err(WrongValue::State),
        }
    }
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "snake_case")]
pub enum StateName {
    /// It can be used.
    Enabled,
    /// It can't, until it is enabled again.
    Disabled,
    /// It can't, and is destroyed at `destroy_at` unless it is restored.
    ScheduledForDestruction,
    /// Its material is gone.
    Destroyed,
}

impl TryFrom<String> for StateName {
    type Error = WrongValue;

    fn try_from(name: String) -> Result<StateName, WrongValue> {
        match name.as_str() {
            "enabled" => Ok(StateName::Enabled),
            "disabled" => Ok(StateName::Disabled),
            "scheduled_for_destruction" => Ok(StateName::ScheduledForDestruction),
            "destroyed" => Ok(StateName::Destroyed),
            _ => Err(WrongValue::AnyState),
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
    /// An operation of a batch with keys of the token.
    BatchOperationName = named(BatchKind::OF_TOKENS, BatchKind::name);
    /// An operation of a batch with keys of every kind.
    VersionedBatchOperationName = named(BatchKind::ALL, BatchKind::name);
    /// The type of a key.
    KeyTypeName = named(KeyType::ALL, KeyType::name);
    /// A curve: the first four for EC keys, the others for ED keys.
    CurveName = named(Curve::ALL, Curve::name);
    /// A parameter set of FIPS 203, 204 or 205.
    ParameterSetName = named(ParameterSet::ALL, ParameterSet::name);
    /// What a key may be used for.
    UsageName = named(Usage::ALL, Usage::name);
}
