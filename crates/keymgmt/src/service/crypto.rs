//! What is done with keys: encrypt, decrypt, sign, verify, wrap, certification requests; and random bytes.

use hsm_core::csr::{self, CertificateRequest, Csr};
use hsm_core::{
    Algorithm, Choice, Decrypt, Encrypt, Encrypted, HsmKeyId, Operation, Sign, Signed, Verify, Wrap, Wrapped,
};
use zeroize::Zeroizing;

use super::{Action, Caller, KeyService, Result, token_key};
use crate::key_id::KeyId;

impl KeyService {
    /// Encrypts.
    ///
    /// # Errors
    /// [`super::Error`]: `Hsm`, `KeyNotFound`, `AuditUnavailable`.
    pub async fn encrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Encrypt,
    ) -> Result<(HsmKeyId, Encrypted)> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.asked();
        let result = self.on(Action::Encrypt, &id, |hsm| hsm.encrypt(request)).await?;
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
    /// [`super::Error`]: `Hsm`, `KeyNotFound`, `AuditUnavailable`.
    pub async fn decrypt(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Decrypt,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.asked();
        let result = self.on(Action::Decrypt, &id, |hsm| hsm.decrypt(request)).await?;
        let used = self.used(asked, &id, Operation::Decrypt);
        self.record(caller, Action::Decrypt, Some(id.to_string()), used, result, 200)
            .await
    }

    /// Signs.
    ///
    /// # Errors
    /// [`super::Error`]: `Hsm`, `KeyNotFound`, `AuditUnavailable`.
    pub async fn sign(
        &self,
        caller: &Caller,
        key: KeyId,
        request: impl FnOnce(HsmKeyId) -> Sign,
    ) -> Result<(HsmKeyId, Signed)> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.algorithm.asked();
        let result = self.on(Action::Sign, &id, |hsm| hsm.sign(request)).await?;
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
    /// [`super::Error`]: `Hsm`, `KeyNotFound`, `AuditUnavailable`.
    pub async fn verify(&self, caller: &Caller, key: KeyId, request: impl FnOnce(HsmKeyId) -> Verify) -> Result<bool> {
        let id = token_key(key)?;
        let request = request(id.clone());
        let asked = request.signed.algorithm.asked();
        let result = self.on(Action::Verify, &id, |hsm| hsm.verify(request)).await?;
        let used = self.used(asked, &id, Operation::Verify);
        self.record(caller, Action::Verify, Some(id.to_string()), used, result, 200)
            .await
    }

    /// Encrypts a key under another one, so that it can leave the token.
    ///
    /// # Errors
    /// [`super::Error`]: `Hsm`, `KeyNotFound`, `AuditUnavailable`.
    pub async fn wrap(
        &self,
        caller: &Caller,
        key: KeyId,
        target: KeyId,
        algorithm: Choice,
    ) -> Result<(HsmKeyId, Wrapped)> {
        let (id, target) = (token_key(key)?, token_key(target)?);
        let asked = algorithm.asked();
        let key = id.clone();
        let request = Wrap { key, target, algorithm };
        let result = self.on(Action::Wrap, &id, |hsm| hsm.wrap(request)).await?;
        let used = result.as_ref().ok().map(|done| done.algorithm.name());
        let used = used.or_else(|| self.used(asked, &id, Operation::Wrap));
        let done = self
            .record(caller, Action::Wrap, Some(id.to_string()), used, result, 200)
            .await?;
        Ok((id, done))
    }

    /// Makes a certification request (PKCS#10), signed by its key.
    ///
    /// # Errors
    /// [`super::Error`]: `Hsm`, `AuditUnavailable`.
    pub async fn csr(&self, caller: &Caller, request: CertificateRequest) -> Result<Csr> {
        let id = request.key.clone();
        let mut used = request.algorithm.name();
        let sign = async {
            let hsm = self.tokens.of(&id)?;
            let prepared = csr::prepare(&hsm.key(&id).await?, &request)?;
            let to_sign = prepared.to_sign();
            used = to_sign.algorithm.name();
            let signed = hsm.sign(to_sign).await?;
            Ok(prepared.finish(&signed.signature)?)
        };
        let result = self.act(Action::Csr, sign).await?;
        self.record(caller, Action::Csr, Some(id.to_string()), used, result, 200)
            .await
    }

    /// Random bytes of the token of this name, or of the default one.
    ///
    /// # Errors
    /// [`super::Error`]: `Hsm`, `AuditUnavailable`.
    pub async fn random(&self, caller: &Caller, token: Option<&str>, length: usize) -> Result<Zeroizing<Vec<u8>>> {
        let hsm = self.tokens.named(token)?;
        let bytes = async { Ok(Zeroizing::new(hsm.random(length).await?)) };
        let result = self.act(Action::Random, bytes).await?;
        self.record(caller, Action::Random, None, None, result, 200).await
    }

    /// The algorithm for the record: the one that was asked for, or the one that the key decides; none for a name that nobody
    /// knows.
    pub(super) fn used(
        &self,
        asked: Option<Option<&'static str>>,
        id: &HsmKeyId,
        operation: Operation,
    ) -> Option<&'static str> {
        let by_key = || self.tokens.of(id).ok()?.default_algorithm(id, operation);
        asked.unwrap_or_else(|| by_key().map(Algorithm::name))
    }
}
