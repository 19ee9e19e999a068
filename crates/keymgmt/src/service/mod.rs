//! [`KeyService`]: the server's only door to keys. Every call resolves the id, is permitted or not, acts, and is recorded
//! before it is answered.

mod batch;
mod crypto;
mod making;
mod token;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::{Choice, Hsm, HsmKeyId};

use crate::audit::{AuditError, AuditLog, Entry, Filter, Outcome, Page};
use crate::key_id::KeyId;
use crate::tokens::Tokens;

pub use batch::{Answered, Item};
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
    Update,
    Delete,
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    Wrap,
    Csr,
    Random,
    Batch,
    List,
    Get,
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
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Encrypt => "encrypt",
            Action::Decrypt => "decrypt",
            Action::Sign => "sign",
            Action::Verify => "verify",
            Action::Wrap => "wrap",
            Action::Csr => "csr",
            Action::Random => "random",
            Action::Batch => "batch",
            Action::List => "list",
            Action::Get => "get",
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

/// Keys, and the record of what is done with them. Cheap to clone.
#[derive(Clone)]
pub struct KeyService {
    tokens: Tokens,
    audit: AuditLog,
    hooks: Hooks,
}

impl KeyService {
    /// Puts the service together.
    pub fn new(tokens: Tokens, audit: AuditLog, hooks: Hooks) -> KeyService {
        KeyService { tokens, audit, hooks }
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

    /// Starts a call that must be recorded on the token that the key lies on.
    async fn on<T: Send + 'static>(
        &self,
        action: Action,
        id: &HsmKeyId,
        start: impl FnOnce(&Hsm) -> hsm_core::Call<T>,
    ) -> Result<Result<T>> {
        self.act(action, async { Ok(start(self.tokens.of(id)?).await?) }).await
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
        key_id: Option<String>,
        algorithm: Option<&'static str>,
        result: Result<T>,
        status: u16,
    ) -> Result<T> {
        if is_unrecorded(&result) {
            return result;
        }
        let entry = self.entry(caller, action, key_id, algorithm, result.as_ref().err(), status);
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
        key_id: Option<String>,
        algorithm: Option<&'static str>,
        error: Option<&Error>,
        status: u16,
    ) -> Entry {
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
            key_version: None,
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
