//! What is kept of a managed key.

use std::collections::BTreeMap;

use hsm_core::{Algorithm, HsmKeyId, KeySize, KeySpec, KeyType, PublicKey, TokenName, Usages};
use time::OffsetDateTime;

use crate::key_id::ManagedId;

/// Where the material of a key's versions lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Each version is an object on the token.
    Hsm,
    /// Each version lies in the store, wrapped under a key-encryption key that never leaves the token.
    Wrapped,
}

/// The state of a managed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// In use (NIST SP 800-57: active).
    Enabled,
    /// Not used until it is enabled again (suspended).
    Disabled,
    /// Not used, and destroyed when its time has come, unless it is restored before (deactivated).
    ScheduledForDestruction,
    /// Its material is gone, or just going; the name is not used again (destroyed).
    Destroyed,
}

/// The state of one version of a managed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// In use.
    Enabled,
    /// Not used until it is enabled again.
    Disabled,
    /// Its material is gone.
    Destroyed,
}

/// A managed key with its versions, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The id that its user chose.
    pub name: ManagedId,
    /// The type of every version.
    pub key_type: KeyType,
    /// The size of every version; unknown for some adopted keys.
    pub size: KeySize,
    /// What every version may be used for.
    pub usages: Usages,
    /// Where the material lies.
    pub protection: Protection,
    /// The further token that versions are made on; `None`: the default one.
    pub token: Option<TokenName>,
    /// The key's state.
    pub state: KeyState,
    /// While it is scheduled for destruction: the state that restoring gives back.
    pub state_before: Option<KeyState>,
    /// While it is scheduled for destruction: when.
    pub destroy_at: Option<OffsetDateTime>,
    /// The version that encrypts and signs.
    pub primary_version: u32,
    /// All versions, 1 to n in order, without holes.
    pub versions: Vec<VersionRecord>,
    /// Tags: names with values.
    pub tags: BTreeMap<String, String>,
    /// Rotated every so many days.
    pub rotation_period_days: Option<u32>,
    /// Rotated after so many operations with the primary version.
    pub rotate_after_operations: Option<u64>,
    /// When it is rotated next by the period.
    pub next_rotation_at: Option<OffsetDateTime>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub changed_at: OffsetDateTime,
    /// Counts the changes, from 1. A change to a record whose revision is another by now is refused.
    pub revision: u64,
    /// What shows that nobody but a gateway wrote the record.
    pub seal: Seal,
    /// How much it was used. Not sealed.
    pub usage: UsageCount,
}

/// One version of a managed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRecord {
    /// Its number, from 1.
    pub version: u32,
    /// Its state.
    pub state: VersionState,
    /// Where its material is.
    pub material: VersionMaterial,
    /// The public key of a pair.
    pub public_key: Option<PublicKey>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// How many encryptions were reserved of it, by all gateways: at least as many as were done. Not sealed.
    pub encryptions_reserved: u64,
}

/// Where the material of a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionMaterial {
    /// On the token.
    OnToken(HsmKeyId),
    /// Here, wrapped.
    Wrapped {
        /// The CKA_ID that it has while it is loaded.
        id: HsmKeyId,
        /// Version of the gateway keys that it is wrapped under.
        kek_version: u32,
        /// How it is wrapped: AES-KW or AES-KWP.
        algorithm: Algorithm,
        /// The wrapped key.
        wrapped: Vec<u8>,
    },
    /// Gone.
    Destroyed,
}

/// A message authentication code over a record, made by a key of the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Version of the gateway keys that made it.
    pub version: u32,
    /// HMAC-SHA256, 32 bytes.
    pub mac: Vec<u8>,
}

/// How much a key was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCount {
    /// Operations so far, as far as they are written.
    pub operations: u64,
    /// The count when it was last rotated.
    pub operations_at_rotation: u64,
    /// When it was last used, to the second or so.
    pub last_used_at: Option<OffsetDateTime>,
}

/// A version of the gateway's own keys on the token: the key-encryption key and the key of the seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayKeys {
    /// The version, from 1; the highest is the one in use.
    pub version: u32,
    /// The key-encryption key: AES-256, CKA_ID without a token's name.
    pub kek: HsmKeyId,
    /// The key of the seals: HMAC-SHA256, 256 bits.
    pub mac: HsmKeyId,
    /// When they were made.
    pub created_at: OffsetDateTime,
}

impl KeyRecord {
    /// A version by its number.
    pub fn version(&self, version: u32) -> Option<&VersionRecord> {
        let at = usize::try_from(version.checked_sub(1)?).ok()?;
        self.versions.get(at)
    }

    /// The number of the newest version.
    pub fn latest_version(&self) -> u32 {
        self.versions.last().map_or(0, |last| last.version)
    }

    /// What a new version would be; `None` where the size is none that is made here.
    pub fn spec(&self) -> Option<KeySpec> {
        spec(self.key_type, self.size)
    }
}

/// What a new key of this type and size would be; `None` where the size is none that is made here.
pub(crate) fn spec(key_type: KeyType, size: KeySize) -> Option<KeySpec> {
    let (bits, curve, set) = match size {
        KeySize::Bits(bits) => (Some(bits), None, None),
        KeySize::Curve(curve) => (None, Some(curve.name()), None),
        KeySize::ParameterSet(set) => (None, None, Some(set.name())),
        KeySize::Unknown => return None,
    };
    KeySpec::parse(key_type.name(), bits, curve, set).ok()
}

macro_rules! texts {
    ($type:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];

            /// The name in the API and in the store.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $text),+
                }
            }

            /// By its name.
            pub fn parse(name: &str) -> Option<$type> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}

texts!(Protection { Hsm = "hsm", Wrapped = "wrapped" });
texts!(KeyState {
    Enabled = "enabled",
    Disabled = "disabled",
    ScheduledForDestruction = "scheduled_for_destruction",
    Destroyed = "destroyed",
});
texts!(VersionState {
    Enabled = "enabled",
    Disabled = "disabled",
    Destroyed = "destroyed",
});
