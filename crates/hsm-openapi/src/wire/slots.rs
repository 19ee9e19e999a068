//! Slots and the tokens in them.

use serde::Serialize;
use utoipa::ToSchema;

/// The slots of the PKCS#11 module.
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
