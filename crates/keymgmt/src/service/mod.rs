//! [`KeyService`]: the server's only door to keys. Every call resolves the id, is permitted or not, acts, and is recorded
//! before it is answered.

mod batch;
mod crypto;
mod list;
mod making;
mod managed;
mod token;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::{Choice, HsmKeyId};

use crate::audit::{AuditError, AuditLog, Entry, Filter, Outcome, Page};
use crate::key_id::{KeyId, ManagedId};
use crate::managed::{CachedKeys, Keys, Settings};
use crate::store::{Store, StoreError};
use crate::tokens::Tokens;

pub use batch::{Answered, Asked, Item, ItemDone, Make, Plaintext};
pub use list::{AnyKey, Jwks, ListPage, ListQuery};
pub use managed::{Adopt, KekStatus, Managed, NewManaged, Rotation, Update};
pub use token::{ModuleSlot, TokenCapabilities};

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What hsm-core says.
    #[error(transparent)]
    Hsm(#[from] hsm_core::Error),
    /// There is no such managed key.
    #[error("there is no key `{0}`")]
    KeyNotFound(KeyId),
    /// The managed key has no version of this number.
    #[error("the key `{key}` has no version {version}; `GET /api/v1/keys/{key}` lists those that it has")]
    VersionNotFound {
        /// The key.
        key: ManagedId,
        /// The number.
        version: u32,
    },
    /// The key or the version is disabled.
    #[error("{0}")]
    KeyDisabled(String),
    /// The key or the version is destroyed, or about to be.
    #[error("{0}")]
    KeyDestroyed(String),
    /// What there is already, or is being done, is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The caller's: a field is wrong.
    #[error("{field}: {detail}")]
    Invalid {
        /// The field, as the API names it.
        field: &'static str,
        /// What it has to be.
        detail: String,
    },
    /// The store can't be asked or written.
    #[error("{0}")]
    StoreUnavailable(String),
    /// What the store holds was not written by a gateway, or does not fit what the token and the audit log know.
    #[error("{0}")]
    Tampered(String),
    /// The module has no slot of this number.
    #[error("the module has no slot `{0}`; `GET /api/v1/hsm/slots` lists those that there are")]
    SlotNotFound(String),
    /// The record of the call can't be written, and without it nothing is done.
    #[error("the audit log can't be written")]
    AuditUnavailable,
    /// The cursor was not given out by this server.
    #[error("the cursor is not one that was given out here")]
    InvalidCursor,
    /// The audit log can't be read.
    #[error("the audit log can't be read: {0}")]
    AuditUnreadable(String),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::Unavailable(text) => Error::StoreUnavailable(text),
            StoreError::Conflict(text) => Error::Conflict(text),
            StoreError::Corrupt(text) => Error::Tampered(text),
        }
    }
}

/// Who calls, as the audit log records it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The request's id.
    pub request_id: String,
    /// The token's `sub`.
    pub subject: Option<String>,
    /// The caller's address.
    pub client: Option<String>,
}

/// What is done, as the audit log and the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Action {
    Create,
    Import,
    Unwrap,
    Derive,
    Encapsulate,
    Decapsulate,
    Adopt,
    Update,
    Rotate,
    UpdateVersion,
    Delete,
    Restore,
    Destroy,
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    Wrap,
    Rewrap,
    DataKey,
    Csr,
    Random,
    Batch,
    List,
    Get,
    Jwks,
    KekRotate,
    Slots,
    Mechanisms,
    Capabilities,
    Audit,
    Metrics,
}

impl Action {
    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Import => "import",
            Action::Unwrap => "unwrap",
            Action::Derive => "derive",
            Action::Encapsulate => "encapsulate",
            Action::Decapsulate => "decapsulate",
            Action::Adopt => "adopt",
            Action::Update => "update",
            Action::Rotate => "rotate",
            Action::UpdateVersion => "update_version",
            Action::Delete => "delete",
            Action::Restore => "restore",
            Action::Destroy => "destroy",
            Action::Encrypt => "encrypt",
            Action::Decrypt => "decrypt",
            Action::Sign => "sign",
            Action::Verify => "verify",
            Action::Wrap => "wrap",
            Action::Rewrap => "rewrap",
            Action::DataKey => "datakey",
            Action::Csr => "csr",
            Action::Random => "random",
            Action::Batch => "batch",
            Action::List => "list",
            Action::Get => "get",
            Action::Jwks => "jwks",
            Action::KekRotate => "kek_rotate",
            Action::Slots => "slots",
            Action::Mechanisms => "mechanisms",
            Action::Capabilities => "capabilities",
            Action::Audit => "audit",
            Action::Metrics => "metrics",
        }
    }
}

/// What the service asks of whoever speaks to clients.
#[derive(Clone)]
pub struct Hooks {
    /// The status and the code with which an error is answered, for the record.
    pub describe: fn(&Error) -> (u16, &'static str),
    /// Told of each operation of the token: its outcome (`success` or an error's code) and how long it took.
    pub observe: Arc<dyn Fn(Action, &'static str, Duration) + Send + Sync>,
}

/// What a [`KeyService`] is made of.
pub struct Parts {
    /// The tokens.
    pub tokens: Tokens,
    /// The audit log.
    pub audit: AuditLog,
    /// What managed keys are kept in.
    pub store: Store,
    /// Whom to ask and to tell.
    pub hooks: Hooks,
    /// How managed keys are kept.
    pub settings: Settings,
}

/// The key that something was done with, as answers and records name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The id, as the caller wrote it, in lower case where it is hexadecimal.
    pub key_id: String,
    /// Which version of a managed key; `None` for a key of the token.
    pub key_version: Option<u32>,
}

/// Which key a record names.
#[derive(Clone, Debug, Default)]
struct Named {
    key_id: Option<String>,
    key_version: Option<u32>,
}

impl From<Option<String>> for Named {
    fn from(key_id: Option<String>) -> Named {
        Named {
            key_id,
            key_version: None,
        }
    }
}

impl From<Done> for Named {
    fn from(done: Done) -> Named {
        let Done { key_id, key_version } = done;
        Named {
            key_id: Some(key_id),
            key_version,
        }
    }
}

/// Keys, and the record of what is done with them. Cheap to clone.
#[derive(Clone)]
pub struct KeyService {
    tokens: Tokens,
    audit: AuditLog,
    hooks: Hooks,
    keys: Keys,
}

impl KeyService {
    /// Puts the service together, reads what must be in memory, and starts what goes on in the background. Blocks.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`], [`Error::Tampered`].
    pub fn new(parts: Parts) -> Result<KeyService> {
        KeyService::start(parts, true)
    }

    /// The same for a program that does one thing and ends: nothing goes on in the background.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn alone(parts: Parts) -> Result<KeyService> {
        KeyService::start(parts, false)
    }

    fn start(parts: Parts, background: bool) -> Result<KeyService> {
        let Parts {
            tokens,
            audit,
            store,
            hooks,
            settings,
        } = parts;
        let keys = Keys::start(
            tokens.clone(),
            store,
            audit.clone(),
            hooks.clone(),
            settings,
            background,
        )?;
        Ok(KeyService {
            tokens,
            audit,
            hooks,
            keys,
        })
    }

    /// Writes what was counted, and closes the store. Blocks for some seconds at most; what comes later is
    /// [`Error::StoreUnavailable`].
    pub fn close(&self) {
        self.keys.close();
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.keys.0.store
    }

    /// How managed keys in memory fare.
    pub fn cached(&self) -> CachedKeys {
        self.keys.0.cache.status()
    }

    /// What failed in the background since the start: rotations, destructions, cleaning up. A store that is away is not
    /// counted: [`Store::status`] tells of it.
    pub fn background_failures(&self) -> u64 {
        self.keys.0.failures()
    }

    /// The tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Records that a call was refused before it was looked at.
    ///
    /// # Errors
    /// [`Error::AuditUnavailable`].
    pub async fn record_refusal(&self, caller: &Caller, action: Action, status: u16, code: &'static str) -> Result<()> {
        let entry = Entry {
            outcome: Outcome::Refused,
            status,
            code: Some(code.into()),
            ..self.entry(caller, action, None, None, None, status)
        };
        self.audit
            .append(vec![entry])
            .await
            .map_err(|_| Error::AuditUnavailable)
    }

    /// Records, newest first. Reads files, so it blocks.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`], [`Error::AuditUnreadable`].
    pub fn records(&self, filter: &Filter) -> Result<Page> {
        self.audit.query(filter).map_err(|error| match error {
            AuditError::InvalidCursor => Error::InvalidCursor,
            AuditError::Unavailable => Error::AuditUnavailable,
            error => Error::AuditUnreadable(error.to_string()),
        })
    }

    /// Does what must be recorded, unless that is known to be impossible.
    async fn act<T>(&self, action: Action, work: impl Future<Output = Result<T>>) -> Result<Result<T>> {
        if !self.audit.writable() {
            return Err(Error::AuditUnavailable);
        }
        Ok(self.timed(action, work).await)
    }

    async fn timed<T>(&self, action: Action, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let result = work.await;
        let outcome = result
            .as_ref()
            .err()
            .map_or("success", |error| (self.hooks.describe)(error).1);
        (self.hooks.observe)(action, outcome, started.elapsed());
        result
    }

    async fn record<T>(
        &self,
        caller: &Caller,
        action: Action,
        key: impl Into<Named>,
        algorithm: Option<&'static str>,
        result: Result<T>,
        status: u16,
    ) -> Result<T> {
        if is_unrecorded(&result) {
            return result;
        }
        let entry = self.entry(caller, action, key, algorithm, result.as_ref().err(), status);
        self.audit
            .append(vec![entry])
            .await
            .map_err(|_| Error::AuditUnavailable)?;
        result
    }

    fn entry(
        &self,
        caller: &Caller,
        action: Action,
        key: impl Into<Named>,
        algorithm: Option<&'static str>,
        error: Option<&Error>,
        status: u16,
    ) -> Entry {
        let Named { key_id, key_version } = key.into();
        let Caller {
            request_id,
            subject,
            client,
        } = caller.clone();
        let described = error.map(self.hooks.describe);
        Entry {
            request_id: Some(request_id),
            subject,
            client,
            action: action.name().into(),
            key_id,
            key_version,
            algorithm: algorithm.map(Into::into),
            outcome: if error.is_some() {
                Outcome::Failure
            } else {
                Outcome::Success
            },
            status: described.map_or(status, |(status, _)| status),
            code: described.map(|(_, code)| code.into()),
        }
    }
}

/// What ended at a full queue never reached a key.
fn is_unrecorded<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Hsm(hsm_core::Error::Busy)))
}

fn token_key(id: KeyId) -> Result<HsmKeyId> {
    match id {
        KeyId::Hsm(id) => Ok(id),
        managed @ KeyId::Managed(_) => Err(Error::KeyNotFound(managed)),
    }
}

/// The algorithm of a request: by name, or the one that fits the key.
pub fn choice(name: Option<&str>, operation: hsm_core::Operation) -> Choice {
    name.map_or(Choice::BY_KEY, |name| Choice::parse(name, operation))
}
