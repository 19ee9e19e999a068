//! Requests and answers, as clients see them.
//!
//! Requests refuse unknown fields; an optional field may be `null` as well as absent. What decrypt and verify take has
//! every field that encrypt and sign answer, `null` included, so that an answer can be sent back as it is.

mod audit;
mod batch;
mod crypto;
mod datakeys;
mod health;
mod keys;
mod making;
mod managed;
mod requests;
mod slots;

use serde::Deserialize;

use crate::body::WrongValue;

pub use audit::{AuditPage, AuditQuery, AuditRecord, Since};
pub use batch::{
    BatchAnswer, BatchItem, BatchOperation, BatchProblem, BatchRequest, BatchResponse, BatchResult, MOST_BATCH_ITEMS,
    VersionedBatchRequest, VersionedBatchResponse,
};
pub use crypto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, SignRequest, SignResponse, VerifyRequest,
    VerifyResponse, VersionedDecryptRequest, VersionedEncryptResponse, VersionedSignResponse, VersionedVerifyRequest,
};
pub use datakeys::{DatakeyRequest, DatakeyResponse, DatakeySize};
pub use health::{HealthCheck, Live, NotReady, Ready};
pub use keys::{CreateKeyRequest, Jwk, Key, KeyList, KeyListQuery, UpdateKeyRequest};
pub use making::{
    DecapsulateRequest, DecapsulateResponse, DeriveRequest, EncapsulateRequest, EncapsulateResponse, ImportKeyRequest,
    VersionedWrapResponse, WrapRequest, WrapResponse,
};
pub use managed::{
    AnyKey, AnyKeyList, AnyKeyListQuery, CreateManagedKeyRequest, DestroyQuery, JwkSet, KeyVersion, ManagedKey,
    NamedJwk, TagFilter, Tags, TokenKey, UpdateManagedKeyRequest, UpdateVersionRequest, WindowDays,
};
pub use requests::{CsrRequest, CsrResponse, RandomRequest, RandomResponse, VersionedCsrRequest};
pub use slots::{
    AlgorithmCapability, Capabilities, KeyTypeCapability, Mechanism, MechanismList, MechanismQuery, Size, Slot,
    SlotList, TokenCapabilities,
};

/// How many entries a page may have at most: 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Limit(u32);

impl Limit {
    /// The number of entries.
    pub const fn entries(self) -> usize {
        self.0 as usize
    }
}

impl Default for Limit {
    fn default() -> Limit {
        Limit(100)
    }
}

impl TryFrom<u32> for Limit {
    type Error = WrongValue;

    fn try_from(entries: u32) -> Result<Limit, WrongValue> {
        let fits = (1..=1000).contains(&entries);
        fits.then_some(Limit(entries)).ok_or(WrongValue::Limit)
    }
}
