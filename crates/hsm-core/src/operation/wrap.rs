//! Keys that leave the token encrypted under another, and come back.

use std::sync::Arc;

use super::check::{chosen, permit};
use super::mechanism::{listed, public};
use super::request::{Choice, Wrap, Wrapped};
use super::{Plan, hash_or_default};
use crate::algorithm::{Algorithm, Hash, MechanismId, Operation, Scheme};
use crate::backend::{Handle, Mechanism, Outcome, Session, Template, Token};
use crate::call::Call;
use crate::error::{Ckr, Error, Failure, Result};
use crate::hsm::Hsm;
use crate::index::Key;
use crate::key::{KeySize, KeySpec, KeyType, Usage, Usages};
use crate::oaep;
use crate::quirks;
use crate::shared::Shared;
use crate::worker::{MOST_LOOKS, Worker, lost_again_and_again};

/// How a key is wrapped or unwrapped; the hash of RSA-OAEP may be for the token to say.
#[derive(Clone)]
pub(crate) enum How {
    Aes(Mechanism),
    Rsa(Option<Hash>),
    /// RSA-OAEP for a fresh AES key, and that mechanism for the key itself.
    RsaAes(Mechanism),
}

/// What unwraps a key.
pub(crate) struct Unwrapping {
    how: How,
    wrapped: Vec<u8>,
    /// Bytes of the AES key at the beginning, of RSA-AES-KEY-WRAP.
    first: usize,
}

impl Hsm {
    /// Encrypts an extractable key under another one of the same token.
    pub fn wrap(&self, request: Wrap) -> Call<Wrapped> {
        if request.target.token() != request.key.id().token() {
            let text = "is on another token than the wrapping key";
            return Call::settled(Err(Error::invalid("target_key_id", text)));
        }
        let key = request.key.clone();
        self.resolve(&key, Usage::Wrap, move |shared, key, reply| {
            if key.ambiguous {
                reply.settle(Err(Error::AmbiguousKey(key.info.id.clone())));
                return;
            }
            let key = key.clone();
            shared.submit(shared.options.timeout, reply, move |worker, reply| {
                let shared = worker.shared.clone();
                let wrapped = worker
                    .find(&request.target)
                    .and_then(|target| shared.in_sight(target))
                    .and_then(|target| wrap(&shared, &key, target, &request)?(worker, key))
                    .map_err(|error| match error {
                        // Without a login the private half is not seen.
                        Error::KeyNotFound(_) => shared.link.check_login().err().unwrap_or(error),
                        // The fresh key of RSA-AES-KEY-WRAP is nothing that the caller asked for.
                        Error::InvalidRequest {
                            field: "key_type",
                            detail,
                        } => Error::NotSupported(detail),
                        error => error,
                    });
                reply.settle(wrapped);
            });
        })
    }
}

/// The longest wrapped key, in bytes.
const MOST_WRAPPED: usize = 16 * 1024;

fn wrap(shared: &Shared, key: &Key, target: Arc<Key>, request: &Wrap) -> Result<Plan<Wrapped>> {
    let algorithm = chosen(shared, key, &request.algorithm, Operation::Wrap)?;
    permit(shared, key, Usage::Wrap)?;
    wrappable(&target, algorithm)?;
    let how = How::of(shared, algorithm, Operation::Wrap)?;
    Ok(Box::new(move |worker, mut key| {
        // Read from the token just now: other programs may change it, and there are tokens that do not look.
        let mut target = target;
        let hash = how.hash(worker)?;
        let shared = worker.shared.clone();
        let token = shared.link.token();
        for _ in 0..MOST_LOOKS {
            let wrapped_key = worker.run_with_key(&key, |session, key| {
                let Some(target) = target.private().filter(|_| shared.index.is_current(&target)) else {
                    return Ok(None);
                };
                let wrapped = match &how {
                    How::Aes(mechanism) => session.wrap(mechanism, public(key)?, target),
                    How::Rsa(_) => session.wrap(&Mechanism::RsaOaep(hash), public(key)?, target),
                    How::RsaAes(mechanism) => {
                        let _hold = shared.catalogue.change(&token);
                        under_a_fresh_key(session, hash, mechanism, public(key)?, target)
                    }
                };
                match wrapped {
                    // The target's; the wrapping key has a code of its own.
                    Err(failure) if matches!(failure.rv, Some(Ckr::KeyHandleInvalid | Ckr::ObjectHandleInvalid)) => {
                        Ok(None)
                    }
                    wrapped => wrapped.map(Some),
                }
            })?;
            if let Some(wrapped_key) = wrapped_key {
                return Ok(Wrapped { algorithm, wrapped_key });
            }
            // Not every token tells which of the two handles has died.
            key = worker.find_again(&key)?;
            target = worker.find(&target.info.id)?;
            wrappable(&target, algorithm)?;
        }
        Err(lost_again_and_again())
    }))
}

/// What is to be done to unwrap a key.
pub(crate) fn unwrapping(
    shared: &Shared,
    key: &Key,
    choice: &Choice,
    wrapped: Vec<u8>,
    key_type: KeyType,
) -> Result<Unwrapping> {
    let algorithm = chosen(shared, key, choice, Operation::Unwrap)?;
    permit(shared, key, Usage::Unwrap)?;
    let wrong = |text: String| Err(Error::invalid("key_material", text));
    let rsa_bytes = match key.info.size {
        KeySize::Bits(bits) => bits.div_ceil(8) as usize,
        KeySize::Curve(_) | KeySize::ParameterSet(_) | KeySize::Unknown => 0,
    };
    let blocks = |blob: &[u8]| blob.len() >= 16 && blob.len().is_multiple_of(8);
    let (fits, first) = match algorithm.scheme() {
        Scheme::Oaep(_) => (wrapped.len() == rsa_bytes, 0),
        Scheme::RsaAesKeyWrap => (wrapped.get(rsa_bytes..).is_some_and(blocks), rsa_bytes),
        _ => (blocks(&wrapped) && may_hold(key_type, wrapped.len()), 0),
    };
    if !fits || wrapped.len() > MOST_WRAPPED {
        return wrong(format!("is not as long as what {} under this key is", algorithm.name()));
    }
    if matches!(algorithm.scheme(), Scheme::Oaep(_)) && !matches!(key_type, KeyType::Aes | KeyType::Hmac) {
        return wrong(format!(
            "{} holds an AES or HMAC key; private keys are wrapped with RSA-AES-KEY-WRAP",
            algorithm.name()
        ));
    }
    Ok(Unwrapping {
        how: How::of(shared, algorithm, Operation::Unwrap)?,
        wrapped,
        first,
    })
}

/// Whether an AES-KW or AES-KWP blob of this length may hold such a key: not every token measures what it unwraps.
fn may_hold(key_type: KeyType, length: usize) -> bool {
    let value = length.saturating_sub(8);
    match key_type {
        KeyType::Aes => matches!(value, 16 | 24 | 32),
        KeyType::Hmac => (32..=64).contains(&value),
        KeyType::Rsa | KeyType::Ec | KeyType::Ed | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => true,
    }
}

impl How {
    /// How this token does it.
    ///
    /// # Errors
    /// [`Error::NotSupported`].
    pub(crate) fn of(shared: &Shared, algorithm: Algorithm, operation: Operation) -> Result<How> {
        match algorithm.scheme() {
            Scheme::Kw => {
                listed(shared, MechanismId::AES_KEY_WRAP, operation)?;
                Ok(How::Aes(Mechanism::AesKw))
            }
            Scheme::Oaep(hash) => {
                listed(shared, MechanismId::RSA_PKCS_OAEP, operation)?;
                Ok(How::Rsa(Some(hash)))
            }
            Scheme::RsaAesKeyWrap => {
                listed(shared, MechanismId::RSA_PKCS_OAEP, operation)?;
                Ok(How::RsaAes(kwp(shared, operation)?))
            }
            _ => kwp(shared, operation).map(How::Aes),
        }
    }

    /// What the mechanism list does not tell: the hash of RSA-OAEP that the token takes.
    fn hash(&self, worker: &mut Worker) -> Result<Hash> {
        match self {
            How::Aes(_) => Ok(Hash::Sha256),
            How::Rsa(Some(hash)) => oaep::check(worker, *hash).map(|()| *hash),
            How::Rsa(None) | How::RsaAes(_) => hash_or_default(worker, None),
        }
    }
}

impl Unwrapping {
    /// The hash of RSA-OAEP, where it is used.
    pub(crate) fn hash(&self, worker: &mut Worker) -> Result<Hash> {
        self.how.hash(worker)
    }

    /// Makes the key.
    pub(crate) fn unwrap(
        &self,
        session: &mut dyn Session,
        token: &Token,
        key: Handle,
        hash: Hash,
        key_type: KeyType,
        template: &Template<'_>,
    ) -> Outcome<Handle> {
        let mut unwrap = |mechanism: &Mechanism, key, wrapped: &[u8], key_type, template: &Template<'_>| {
            let made = session.unwrap(mechanism, key, wrapped, key_type, template);
            made.map_err(|failure| quirks::of_unwrapping(token, failure))
        };
        match &self.how {
            How::Aes(mechanism) => unwrap(mechanism, key, &self.wrapped, key_type, template),
            How::Rsa(_) => unwrap(&Mechanism::RsaOaep(hash), key, &self.wrapped, key_type, template),
            How::RsaAes(mechanism) => {
                let (first, rest) = self.wrapped.split_at_checked(self.first).unwrap_or_default();
                let between = fresh_key(Usage::Unwrap);
                let aes = unwrap(&Mechanism::RsaOaep(hash), key, first, KeyType::Aes, &between)?;
                let made = unwrap(mechanism, aes, rest, key_type, template).map_err(of_fresh_key);
                forget(session, aes);
                made
            }
        }
    }
}

/// RSA-AES-KEY-WRAP beside a token without it: a fresh AES-256 key of the session wraps the target, and is wrapped itself.
/// It never leaves the token in clear.
fn under_a_fresh_key(
    session: &mut dyn Session,
    hash: Hash,
    mechanism: &Mechanism,
    key: Handle,
    target: Handle,
) -> Outcome<Vec<u8>> {
    let made = session.generate(KeySpec::Aes { bits: 256 }, &fresh_key(Usage::Wrap))?;
    let mut wrapped = Ok(Vec::new());
    for aes in made.handles() {
        let first = session.wrap(&Mechanism::RsaOaep(hash), key, aes);
        let rest = session.wrap(mechanism, aes, target);
        forget(session, aes);
        wrapped = first.and_then(|first| Ok([first, rest?].concat()));
    }
    wrapped
}

/// Destroys an object of the session, which goes with the session otherwise.
fn forget(session: &mut dyn Session, object: Handle) {
    if let Err(failure) = session.destroy(object) {
        tracing::warn!(%failure, "a key of the session stays until the session closes");
    }
}

/// A handle that died is the fresh key's, not that of a key that could be looked for.
fn of_fresh_key(failure: Failure) -> Failure {
    match failure.rv {
        Some(Ckr::ObjectHandleInvalid | Ckr::KeyHandleInvalid | Ckr::UnwrappingKeyHandleInvalid) => {
            failure.afterwards()
        }
        _ => failure,
    }
}

/// A session object that lives for one call.
fn fresh_key(usage: Usage) -> Template<'static> {
    Template {
        id: b"key wrap",
        label: "key wrap",
        extractable: usage == Usage::Wrap,
        usages: Usages::NONE.with(usage),
        session_only: true,
    }
}

/// The mechanism of AES-KW or AES-KWP on this token.
///
/// # Errors
/// [`Error::NotSupported`].
pub(crate) fn under_a_key(shared: &Shared, algorithm: Algorithm, operation: Operation) -> Result<Mechanism> {
    match How::of(shared, algorithm, operation)? {
        How::Aes(mechanism) => Ok(mechanism),
        How::Rsa(_) | How::RsaAes(_) => Err(Error::Internal(format!("{} wraps no stored keys", algorithm.name()))),
    }
}

/// The mechanism that is AES-KWP on this token.
pub(super) fn kwp(shared: &Shared, operation: Operation) -> Result<Mechanism> {
    let named = listed(shared, MechanismId::AES_KEY_WRAP_KWP, operation);
    if named.is_ok() {
        return Ok(Mechanism::AesKwp);
    }
    let padding = listed(shared, MechanismId::AES_KEY_WRAP_PAD, operation);
    if padding.is_ok() && quirks::pads_as_kwp(&shared.link.token()) {
        return Ok(Mechanism::AesKwPad);
    }
    named.map(|()| Mechanism::AesKwp)
}

fn wrappable(target: &Key, algorithm: Algorithm) -> Result<()> {
    if target.ambiguous {
        return Err(Error::AmbiguousKey(target.info.id.clone()));
    }
    if target.private().is_none() {
        let text = "`target_key_id` is a public key alone: it needs no wrapping";
        return Err(Error::KeyTypeMismatch(text.into()));
    }
    if !target.info.extractable {
        return Err(Error::NotExtractable);
    }
    let secret = matches!(target.info.key_type, KeyType::Aes | KeyType::Hmac);
    if matches!(algorithm.scheme(), Scheme::Oaep(_)) && !secret {
        let text = format!(
            "{} wraps AES and HMAC keys; wrap private keys with RSA-AES-KEY-WRAP",
            algorithm.name()
        );
        return Err(Error::KeyTypeMismatch(text.into()));
    }
    Ok(())
}
