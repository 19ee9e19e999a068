//! Slots, the tokens in them, and what tokens can do.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The slots of the PKCS#11 modules.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SlotList {
    /// Every slot, with and without a token.
    pub slots: Vec<Slot>,
}

/// A slot, and the token in it. Text is trimmed; what is told of a token is `null` where there is none.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Slot {
    /// The slot's number (CK_SLOT_ID).
    #[schema(example = 0)]
    pub id: u64,
    /// The name of a further token of this module; `null` for the module of the default token.
    #[schema(required)]
    pub module: Option<String>,
    /// What the module says of the slot.
    #[schema(example = "SoftHSM slot 0")]
    pub description: String,
    /// Who made the slot.
    #[schema(example = "SoftHSM")]
    pub manufacturer: String,
    /// Whether a token is in the slot.
    #[schema(example = true)]
    pub has_token: bool,
    /// The token's label; `null` also for a token that is not initialised.
    #[schema(required, example = "my_token")]
    pub token_label: Option<String>,
    /// The token's model.
    #[schema(required, example = "SoftHSM v2")]
    pub token_model: Option<String>,
    /// The token's serial number.
    #[schema(required, example = "a1b2c3d4e5f60718")]
    pub token_serial: Option<String>,
    /// Who made the token.
    #[schema(required, example = "SoftHSM project")]
    pub token_manufacturer: Option<String>,
    /// The token's firmware, major and minor.
    #[schema(required, example = "2.6")]
    pub firmware_version: Option<String>,
    /// Whether the token is initialised; `false` without a token.
    #[schema(example = true)]
    pub initialized: bool,
}

/// Which module is asked.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MechanismQuery {
    /// The name of a further token, whose module is asked; the default token's module if not said.
    #[param(required = false, nullable = false)]
    pub token: Option<String>,
}

/// The mechanisms of a token, in the order of their numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({"mechanisms": [{"name": "CKM_AES_GCM", "min_key_size": 16, "max_key_size": 32, "flags": ["encrypt", "decrypt"]}]}))]
pub struct MechanismList {
    /// Every mechanism; none for a slot without a token.
    pub mechanisms: Vec<Mechanism>,
}

/// A mechanism, as the token tells of it (CK_MECHANISM_INFO).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Mechanism {
    /// The name, `CKM_…`; one that is not of the standard as `0x` and hexadecimal digits.
    #[schema(example = "CKM_AES_GCM")]
    pub name: String,
    /// The smallest key, in bits or in bytes as the mechanism has it.
    #[schema(example = 16)]
    pub min_key_size: u64,
    /// The largest key.
    #[schema(example = 32)]
    pub max_key_size: u64,
    /// What it does: the flags without `CKF_`, in lower case.
    #[schema(example = json!(["encrypt", "decrypt"]))]
    pub flags: Vec<String>,
}

/// What the tokens can do, in the terms of this API.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Capabilities {
    /// Every configured token, the default one first.
    pub tokens: Vec<TokenCapabilities>,
}

/// What a token can do. It was tried where the token's list of mechanisms does not tell.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenCapabilities {
    /// The token's name; `null` for the default token.
    #[schema(required)]
    pub name: Option<String>,
    /// Its label.
    #[schema(example = "my_token")]
    pub label: String,
    /// Every algorithm with every operation that it is for.
    pub algorithms: Vec<AlgorithmCapability>,
    /// Every type of key.
    pub key_types: Vec<KeyTypeCapability>,
}

/// How a token does an algorithm.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AlgorithmCapability {
    /// The algorithm.
    #[schema(example = "ECDSA-SHA256")]
    pub algorithm: String,
    /// The operation.
    #[schema(example = "sign")]
    pub operation: String,
    /// `native`: by the token alone. `composed`: partly beside it, by what needs no secret. `no`: it is answered 501.
    #[schema(example = "composed")]
    pub support: String,
    /// Why it is composed, or not done; `null` where there is nothing to explain.
    #[schema(
        required,
        example = "the token has no CKM_ECDSA_SHA256; hashed here, done by CKM_ECDSA"
    )]
    pub why: Option<String>,
}

/// Which keys of a type a token makes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyTypeCapability {
    /// The type.
    #[schema(example = "RSA")]
    pub key_type: String,
    /// The sizes that it makes: bits, or the names of curves or parameter sets. HMAC keys: of those between too.
    #[schema(example = json!([2048, 3072, 4096]))]
    pub sizes: Vec<Size>,
    /// `native`, or `no`: making one is answered 501.
    #[schema(example = "native")]
    pub support: String,
    /// Why it makes none; `null` where it makes some.
    #[schema(required)]
    pub why: Option<String>,
}

/// A size in bits, or the name of a curve or of a parameter set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Size {
    /// Bits.
    Bits(u32),
    /// The name of a curve or of a parameter set.
    Name(String),
}
