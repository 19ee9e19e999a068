//! What is done with keys: encrypt, decrypt, sign, verify, wrap, rewrap, data keys, certification requests; and random bytes.

use hsm_core::csr::{self, CertificateRequest, Csr, Names};
use hsm_core::{
    Algorithm, Call, Choice, Decrypt, Encrypt, Encrypted, Hsm, KeyInfo, KeyRef, Operation, Sign, Signed, Verify, Wrap,
    Wrapped,
};
use zeroize::Zeroizing;

use super::{Action, Caller, Done, Error, KeyService, Result};
use crate::key_id::KeyId;
use crate::managed::resolve::{Target, check_version};

/// What is known of a call when it is recorded.
#[derive(Default)]
pub(super) struct Trace {
    /// The key, as far as it is known.
    pub(super) done: Done,
    operation: Option<Operation>,
    asked: Option<Option<&'static str>>,
    key: Option<KeyRef>,
    /// The algorithm that was used.
    pub(super) used: Option<&'static str>,
}

impl Trace {
    pub(super) fn of(key: &KeyId, version: Option<u32>) -> Trace {
        Trace {
            done: Done {
                key_id: key.to_string(),
                key_version: version,
            },
            ..Trace::default()
        }
    }

    /// The key is known.
    pub(super) fn resolved(&mut self, target: &Target) {
        self.done = target.done.clone();
        self.key = Some(target.key.clone());
    }

    /// What is asked of it is known.
    pub(super) fn asks(&mut self, operation: Operation, algorithm: &Choice) {
        self.operation = Some(operation);
        self.asked = algorithm.asked();
    }
}

impl KeyService {
    /// Encrypts, with the primary version of a managed key.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`]; of a managed key [`Error::KeyNotFound`], [`Error::KeyDisabled`],
    /// [`Error::KeyDestroyed`], [`Error::StoreUnavailable`], [`Error::Tampered`], and [`Error::Conflict`] when its version has
    /// done all encryptions that AES-GCM allows.
    pub async fn encrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(KeyRef) -> Encrypt,
    ) -> Result<(Done, Encrypted)> {
        let mut trace = Trace::of(&key, None);
        let work = async {
            let target = self.target(&key, None, &mut trace).await?;
            let request = request(target.key.clone());
            trace.asks(Operation::Encrypt, &request.algorithm);
            let done = self.encrypt_with(&target, request).await?;
            trace.used = Some(done.algorithm.name());
            self.keys.0.count(&target);
            Ok(done)
        };
        let result = self.act(Action::Encrypt, work).await?;
        self.answer(caller, Action::Encrypt, trace, result).await
    }

    /// Decrypts, with this version of a managed key or the primary one.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt) but for the limit; [`Error::VersionNotFound`], [`Error::Invalid`] for a version of a key
    /// that has none.
    pub async fn decrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        version: Option<u32>,
        request: impl FnOnce(KeyRef) -> Decrypt,
    ) -> Result<Zeroizing<Vec<u8>>> {
        check_version(&key, version)?;
        let mut trace = Trace::of(&key, version);
        let work = async {
            let target = self.target(&key, version, &mut trace).await?;
            let request = request(target.key.clone());
            trace.asks(Operation::Decrypt, &request.algorithm);
            let done = self.ask(&target, |hsm| hsm.decrypt(request)).await?;
            self.keys.0.count(&target);
            Ok(done)
        };
        let result = self.act(Action::Decrypt, work).await?;
        let (_, data) = self.answer(caller, Action::Decrypt, trace, result).await?;
        Ok(data)
    }

    /// Signs, with the primary version of a managed key.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt) but for the limit.
    pub async fn sign(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(KeyRef) -> Sign,
    ) -> Result<(Done, Signed)> {
        let mut trace = Trace::of(&key, None);
        let work = async {
            let target = self.target(&key, None, &mut trace).await?;
            let request = request(target.key.clone());
            trace.asks(Operation::Sign, &request.algorithm);
            let done = self.ask(&target, |hsm| hsm.sign(request)).await?;
            trace.used = Some(done.algorithm.name());
            self.keys.0.count(&target);
            Ok(done)
        };
        let result = self.act(Action::Sign, work).await?;
        self.answer(caller, Action::Sign, trace, result).await
    }

    /// Checks a signature, with this version of a managed key or the primary one.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub async fn verify(
        &self,
        caller: &Caller,
        key: KeyId,
        version: Option<u32>,
        request: impl FnOnce(KeyRef) -> Verify,
    ) -> Result<bool> {
        check_version(&key, version)?;
        let mut trace = Trace::of(&key, version);
        let work = async {
            let target = self.target(&key, version, &mut trace).await?;
            let request = request(target.key.clone());
            trace.asks(Operation::Verify, &request.signed.algorithm);
            let valid = self.ask(&target, |hsm| hsm.verify(request)).await?;
            self.keys.0.count(&target);
            Ok(valid)
        };
        let result = self.act(Action::Verify, work).await?;
        let (_, valid) = self.answer(caller, Action::Verify, trace, result).await?;
        Ok(valid)
    }

    /// Encrypts a key under another one, so that it can leave the token. Of managed keys both are the primary versions; one
    /// that lies in the store is never extractable.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt) but for the limit.
    pub async fn wrap(&self, caller: &Caller, key: KeyId, target: KeyId, algorithm: Choice) -> Result<(Done, Wrapped)> {
        let mut trace = Trace::of(&key, None);
        let work = async {
            trace.asks(Operation::Wrap, &algorithm);
            let under = self.target(&key, None, &mut trace).await?;
            let wrapped = self.keys.0.target(&target, None).await?;
            let KeyRef::Token(id) = wrapped.key.clone() else {
                return Err(hsm_core::Error::NotExtractable.into());
            };
            let request = Wrap {
                key: under.key.clone(),
                target: id.clone(),
                algorithm,
            };
            let hsm = self.tokens.of(under.key.id())?;
            let done = hsm.wrap(request).await.map_err(|error| {
                let of_target = matches!(&error, hsm_core::Error::KeyNotFound(missing) if *missing == id);
                let whose = if of_target { &wrapped } else { &under };
                self.keys.0.told(whose, error)
            })?;
            trace.used = Some(done.algorithm.name());
            self.keys.0.count(&under);
            Ok(done)
        };
        let result = self.act(Action::Wrap, work).await?;
        self.answer(caller, Action::Wrap, trace, result).await
    }

    /// Encrypts under the primary version what this version (or the primary one) encrypted, with the same algorithm. No
    /// plaintext is given out.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt) and [`decrypt`](Self::decrypt).
    pub async fn rewrap(
        &self,
        caller: &Caller,
        key: KeyId,
        version: Option<u32>,
        request: impl FnOnce(KeyRef) -> Decrypt,
    ) -> Result<(Done, Encrypted)> {
        check_version(&key, version)?;
        let mut trace = Trace::of(&key, version);
        let work = async {
            let from = self.target(&key, version, &mut trace).await?;
            let request = request(from.key.clone());
            trace.asks(Operation::Decrypt, &request.algorithm);
            let (algorithm, aad) = (request.algorithm.clone(), request.aad.clone());
            // Known to be usable before anything is decrypted.
            let to = self.keys.0.target(&key, None).await?;
            let data = self.ask(&from, |hsm| hsm.decrypt(request)).await?;
            let request = Encrypt {
                key: to.key.clone(),
                algorithm,
                data,
                aad,
            };
            let done = self.encrypt_with(&to, request).await?;
            trace.resolved(&to);
            trace.used = Some(done.algorithm.name());
            self.keys.0.count(&to);
            Ok(done)
        };
        let result = self.act(Action::Rewrap, work).await?;
        self.answer(caller, Action::Rewrap, trace, result).await
    }

    /// Makes a key for use outside, of 128, 192 or 256 random bits of the token, and encrypts it with the primary version. Gives
    /// the ciphertext and the key.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt); [`Error::Invalid`] for `key_size`.
    pub async fn datakey(
        &self,
        caller: &Caller,
        key: KeyId,
        bits: u32,
    ) -> Result<(Done, Encrypted, Zeroizing<Vec<u8>>)> {
        let bytes = datakey_bytes(bits)?;
        let mut trace = Trace::of(&key, None);
        let work = async {
            let target = self.target(&key, None, &mut trace).await?;
            trace.asks(Operation::Encrypt, &Choice::BY_KEY);
            let plaintext = self.random_of(&target, bytes).await?;
            let request = Encrypt {
                key: target.key.clone(),
                algorithm: Choice::BY_KEY,
                data: plaintext.clone(),
                aad: None,
            };
            let done = self.encrypt_with(&target, request).await?;
            trace.used = Some(done.algorithm.name());
            self.keys.0.count(&target);
            Ok((done, plaintext))
        };
        let result = self.act(Action::DataKey, work).await?;
        let (done, (encrypted, plaintext)) = self.answer(caller, Action::DataKey, trace, result).await?;
        Ok((done, encrypted, plaintext))
    }

    /// Makes a certification request (PKCS#10), signed by its key: by this version of a managed key, or the primary one.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub async fn csr(
        &self,
        caller: &Caller,
        key: KeyId,
        version: Option<u32>,
        names: Names,
        algorithm: Choice,
    ) -> Result<(Done, Csr)> {
        check_version(&key, version)?;
        let mut trace = Trace::of(&key, version);
        let work = async {
            trace.used = algorithm.name();
            let target = self.target(&key, version, &mut trace).await?;
            let request = CertificateRequest {
                key: target.key.id().clone(),
                names,
                algorithm,
            };
            let prepared = csr::prepare(&self.info(&target).await?, &request)?;
            let to_sign = Sign {
                key: target.key.clone(),
                ..prepared.to_sign()
            };
            trace.used = to_sign.algorithm.name();
            let signed = self.ask(&target, |hsm| hsm.sign(to_sign)).await?;
            self.keys.0.count(&target);
            Ok(prepared.finish(&signed.signature)?)
        };
        let result = self.act(Action::Csr, work).await?;
        self.answer(caller, Action::Csr, trace, result).await
    }

    /// Random bytes of the token of this name, or of the default one.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn random(&self, caller: &Caller, token: Option<&str>, length: usize) -> Result<Zeroizing<Vec<u8>>> {
        let hsm = self.tokens.named(token)?;
        let bytes = async { Ok(Zeroizing::new(hsm.random(length).await?)) };
        let result = self.act(Action::Random, bytes).await?;
        self.record(caller, Action::Random, None, None, result, 200).await
    }

    /// The key that is meant, if it may be used; noted for the record.
    async fn target(&self, key: &KeyId, version: Option<u32>, trace: &mut Trace) -> Result<Target> {
        let target = self.keys.0.target(key, version).await?;
        trace.resolved(&target);
        Ok(target)
    }

    /// Has the token of a key do something.
    async fn ask<T: Send + 'static>(&self, target: &Target, start: impl FnOnce(&Hsm) -> Call<T>) -> Result<T> {
        let done = start(self.tokens.of(target.key.id())?).await;
        done.map_err(|error| self.keys.0.told(target, error))
    }

    async fn encrypt_with(&self, target: &Target, request: Encrypt) -> Result<Encrypted> {
        self.keys.0.reserve(target, &request.algorithm).await?;
        self.ask(target, |hsm| hsm.encrypt(request)).await
    }

    /// Random bytes of the token of a key.
    pub(super) async fn random_of(&self, target: &Target, bytes: usize) -> Result<Zeroizing<Vec<u8>>> {
        let random = self.tokens.of(target.key.id())?.random(bytes).await?;
        Ok(Zeroizing::new(random))
    }

    /// What is known of a key.
    pub(super) async fn info(&self, target: &Target) -> Result<KeyInfo> {
        match &target.key {
            KeyRef::Wrapped(wrapped) => Ok(wrapped.info()),
            KeyRef::Token(id) => self.ask(target, |hsm| hsm.key(id)).await,
        }
    }

    async fn answer<T>(&self, caller: &Caller, action: Action, trace: Trace, result: Result<T>) -> Result<(Done, T)> {
        let algorithm = self.algorithm_of(&trace);
        let done = trace.done.clone();
        let answer = self.record(caller, action, trace.done, algorithm, result, 200).await?;
        Ok((done, answer))
    }

    /// The algorithm for the record: the one that was used or asked for, or the one that the key decides; none for a name that
    /// nobody knows.
    pub(super) fn algorithm_of(&self, trace: &Trace) -> Option<&'static str> {
        if trace.used.is_some() {
            return trace.used;
        }
        let by_key = || {
            let key = trace.key.as_ref()?;
            let hsm = self.tokens.of(key.id()).ok()?;
            hsm.default_algorithm(key, trace.operation?).map(Algorithm::name)
        };
        trace.asked.unwrap_or_else(by_key)
    }
}

/// How many bytes a data key of so many bits has.
///
/// # Errors
/// [`Error::Invalid`] for `key_size`.
pub(super) fn datakey_bytes(bits: u32) -> Result<usize> {
    match bits {
        128 => Ok(16),
        192 => Ok(24),
        256 => Ok(32),
        _ => Err(Error::Invalid {
            field: "key_size",
            detail: "128, 192 or 256 bits".into(),
        }),
    }
}
