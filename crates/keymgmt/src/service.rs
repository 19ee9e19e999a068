//! [`KeyService`]: the server's only door to keys. Every call resolves the id, is permitted or not, acts, and is recorded
//! before it is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::{
    Algorithm, Choice, Decrypt, Encrypt, Encrypted, Hsm, HsmKeyId, KeyInfo, KeyPage, KeyQuery, NewKey, Operation, Sign,
    Signed, Verify,
};
use zeroize::Zeroizing;

use crate::audit::{AuditError, AuditLog, Entry, Filter, Outcome, Page};
use crate::key_id::KeyId;

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
    Delete,
    Encrypt,
    Decrypt,
    Sign,
    Verify,
    List,
    Get,
    Slots,
    Audit,
    Metrics,
}

impl Action {
    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Delete => "delete",
            Action::Encrypt => "encrypt",
            Action::Decrypt => "decrypt",
            Action::Sign => "sign",
            Action::Verify => "verify",
            Action::List => "list",
            Action::Get => "get",
            Action::Slots => "slots",
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
    hsm: Hsm,
    audit: AuditLog,
    hooks: Hooks,
}

impl KeyService {
    /// Puts the service together.
    pub fn new(hsm: Hsm, audit: AuditLog, hooks: Hooks) -> KeyService {
        KeyService { hsm, audit, hooks }
    }

    /// The token.
    pub fn hsm(&self) -> &Hsm {
        &self.hsm
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Makes a key. One whose record can't be written is destroyed.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn create(&self, caller: &Caller, new: NewKey) -> Result<KeyInfo> {
        let result = self.act(Action::Create, || self.hsm.generate(new)).await?;
        let key_id = result.as_ref().ok().map(|info| info.id.to_string());
        let made = result.as_ref().ok().map(|info| info.id.clone());
        let answer = self.record(caller, Action::Create, key_id, None, result, 201).await;
        if let (Err(Error::AuditUnavailable), Some(id)) = (&answer, made)
            && let Err(error) = self.hsm.delete(&id).await
            && !matches!(error, hsm_core::Error::KeyNotFound(_))
        {
            tracing::error!(%id, %error, "a key whose creation could not be recorded is still there; it is tried again");
            self.hsm.discard(&id);
        }
        answer
    }

    /// Destroys a key. A deletion that was done and could not be recorded is recorded first when that is possible again.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn delete(&self, caller: &Caller, id: KeyId) -> Result<()> {
        let id = token_key(id)?;
        let result = self.act(Action::Delete, || self.hsm.delete(&id)).await?.map(|_| ());
        if is_unrecorded(&result) {
            return result;
        }
        let done = result.is_ok();
        let entry = self.entry(
            caller,
            Action::Delete,
            Some(id.to_string()),
            None,
            result.as_ref().err(),
            204,
        );
        let written = if done {
            self.audit.append_owed(vec![entry]).await
        } else {
            self.audit.append(vec![entry]).await
        };
        written.map_err(|_| Error::AuditUnavailable)?;
        result
    }

    /// What the token tells of a key. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`].
    pub async fn key(&self, id: KeyId) -> Result<KeyInfo> {
        let id = token_key(id)?;
        self.timed(Action::Get, || self.hsm.key(&id)).await
    }

    /// A page of keys. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`].
    pub async fn keys(&self, query: KeyQuery) -> Result<KeyPage> {
        self.timed(Action::List, || self.hsm.keys(query)).await
    }

    /// The module's slots. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`].
    pub async fn slots(&self) -> Result<Vec<hsm_core::backend::Slot>> {
        self.timed(Action::Slots, || self.hsm.slots()).await
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn encrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Encrypt,
    ) -> Result<(HsmKeyId, Encrypted)> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.name();
        let result = self.act(Action::Encrypt, || self.hsm.encrypt(request)).await?;
        let used = result.as_ref().ok().map(|done| done.algorithm.name());
        let used = used.or_else(|| self.used(asked, &id, Operation::Encrypt));
        let done = self
            .record(caller, Action::Encrypt, Some(id.to_string()), used, result, 200)
            .await?;
        Ok((id, done))
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn decrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Decrypt,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.name();
        let result = self.act(Action::Decrypt, || self.hsm.decrypt(request)).await?;
        let used = self.used(asked, &id, Operation::Decrypt);
        self.record(caller, Action::Decrypt, Some(id.to_string()), used, result, 200)
            .await
    }

    /// Signs.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn sign(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Sign,
    ) -> Result<(HsmKeyId, Signed)> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.name();
        let result = self.act(Action::Sign, || self.hsm.sign(request)).await?;
        let used = result.as_ref().ok().map(|done| done.algorithm.name());
        let used = used.or_else(|| self.used(asked, &id, Operation::Sign));
        let done = self
            .record(caller, Action::Sign, Some(id.to_string()), used, result, 200)
            .await?;
        Ok((id, done))
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn verify(&self, caller: &Caller, key: KeyId, request: impl FnOnce(HsmKeyId) -> Verify) -> Result<bool> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.signed.algorithm.name();
        let result = self.act(Action::Verify, || self.hsm.verify(request)).await?;
        let used = self.used(asked, &id, Operation::Verify);
        self.record(caller, Action::Verify, Some(id.to_string()), used, result, 200)
            .await
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

    /// The algorithm for the record: the one that was asked for, or the one that the key decides.
    fn used(&self, asked: Option<&'static str>, id: &HsmKeyId, operation: Operation) -> Option<&'static str> {
        asked.or_else(|| self.hsm.default_algorithm(id, operation).map(Algorithm::name))
    }

    /// Starts a call that must be recorded, unless that is known to be impossible.
    async fn act<T: Send + 'static>(
        &self,
        action: Action,
        start: impl FnOnce() -> hsm_core::Call<T>,
    ) -> Result<Result<T>> {
        if !self.audit.writable() {
            return Err(Error::AuditUnavailable);
        }
        Ok(self.timed(action, start).await)
    }

    async fn timed<T>(&self, action: Action, start: impl FnOnce() -> hsm_core::Call<T>) -> Result<T> {
        let started = Instant::now();
        let result = start().await.map_err(Error::Hsm);
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
