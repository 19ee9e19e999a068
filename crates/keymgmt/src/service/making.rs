//! Keys made, changed and destroyed. One whose making can't be recorded is destroyed.

use hsm_core::{Call, Decapsulate, Derive, Encapsulate, Hsm, HsmKeyId, Import, KeyInfo, Label, NewKey, Unwrap};

use super::{Action, Caller, Error, KeyService, Result, is_unrecorded, token_key};
use crate::key_id::KeyId;

/// What the record of a new key says beside its id.
#[derive(Clone)]
struct Making {
    action: Action,
    /// The key that it is made of, which the record of a failure names.
    base: Option<HsmKeyId>,
    algorithm: Option<&'static str>,
}

impl Making {
    const fn alone(action: Action) -> Making {
        Making {
            action,
            base: None,
            algorithm: None,
        }
    }
}

impl KeyService {
    /// Makes a key, on the token of this name or on the default one.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn create(&self, caller: &Caller, token: Option<&str>, new: NewKey) -> Result<KeyInfo> {
        let hsm = self.tokens.named(token)?;
        self.make(
            caller,
            Making::alone(Action::Create),
            Ok(hsm),
            |hsm| hsm.generate(new),
            itself,
        )
        .await
    }

    /// Puts a key from outside on the token of this name or on the default one.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn import(&self, caller: &Caller, token: Option<&str>, import: Import) -> Result<KeyInfo> {
        let hsm = self.tokens.named(token)?;
        self.make(
            caller,
            Making::alone(Action::Import),
            Ok(hsm),
            |hsm| hsm.import(import),
            itself,
        )
        .await
    }

    /// Makes the key that is in a wrapped one, on the token of the wrapping key.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn unwrap(&self, caller: &Caller, unwrap: Unwrap) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Unwrap,
            base: Some(unwrap.key.clone()),
            algorithm: unwrap.algorithm.name(),
        };
        let hsm = self.tokens.of(&unwrap.key);
        self.make(caller, making, hsm, |hsm| hsm.unwrap(unwrap), itself).await
    }

    /// Makes a secret key of another key, on the same token.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn derive(&self, caller: &Caller, derive: Derive) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Derive,
            base: Some(derive.key.clone()),
            algorithm: derive.algorithm.name(),
        };
        let hsm = self.tokens.of(&derive.key);
        self.make(caller, making, hsm, |hsm| hsm.derive(derive), itself).await
    }

    /// Makes a secret key with an ML-KEM public key, on the same token; and its ciphertext.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn encapsulate(&self, caller: &Caller, encapsulate: Encapsulate) -> Result<(KeyInfo, Vec<u8>)> {
        let making = Making {
            action: Action::Encapsulate,
            base: Some(encapsulate.key.clone()),
            algorithm: Some(ML_KEM),
        };
        let hsm = self.tokens.of(&encapsulate.key);
        self.make(
            caller,
            making,
            hsm,
            |hsm| hsm.encapsulate(encapsulate),
            |(info, _)| info,
        )
        .await
    }

    /// Makes the secret key of a ciphertext again, on the token of the ML-KEM private key.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn decapsulate(&self, caller: &Caller, decapsulate: Decapsulate) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Decapsulate,
            base: Some(decapsulate.key.clone()),
            algorithm: Some(ML_KEM),
        };
        let hsm = self.tokens.of(&decapsulate.key);
        self.make(caller, making, hsm, |hsm| hsm.decapsulate(decapsulate), itself)
            .await
    }

    /// Gives a key another label. A change that was done and could not be recorded is recorded first when that is possible
    /// again.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn relabel(&self, caller: &Caller, id: &HsmKeyId, label: Label) -> Result<KeyInfo> {
        let result = self.on(Action::Update, id, |hsm| hsm.relabel(id, label)).await?;
        self.record_change(caller, Action::Update, id, result, 200).await
    }

    /// Destroys a key. A deletion that was done and could not be recorded is recorded first when that is possible again.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn delete(&self, caller: &Caller, id: KeyId) -> Result<()> {
        let id = token_key(id)?;
        let result = self.on(Action::Delete, &id, |hsm| hsm.delete(&id)).await?;
        self.record_change(caller, Action::Delete, &id, result, 204)
            .await
            .map(drop)
    }

    async fn make<T: Send + 'static>(
        &self,
        caller: &Caller,
        making: Making,
        hsm: Result<&Hsm>,
        start: impl FnOnce(&Hsm) -> Call<T>,
        info: fn(&T) -> &KeyInfo,
    ) -> Result<T> {
        let Making {
            action,
            base,
            algorithm,
        } = making;
        let result = self.act(action, async { Ok(start(hsm?).await?) }).await?;
        let made = result.as_ref().ok().map(|made| info(made).id.clone());
        let key_id = made.as_ref().or(base.as_ref()).map(HsmKeyId::to_string);
        let answer = self.record(caller, action, key_id, algorithm, result, 201).await;
        if let (Err(Error::AuditUnavailable), Some(id)) = (&answer, made)
            && let Ok(hsm) = self.tokens.of(&id)
            && let Err(error) = hsm.delete(&id).await
            && !matches!(error, hsm_core::Error::KeyNotFound(_))
        {
            tracing::error!(%id, %error, "a key whose creation could not be recorded is still there; it is tried again");
            hsm.discard(&id);
        }
        answer
    }

    /// Records what was changed and can't be undone.
    async fn record_change(
        &self,
        caller: &Caller,
        action: Action,
        id: &HsmKeyId,
        result: Result<KeyInfo>,
        status: u16,
    ) -> Result<KeyInfo> {
        if is_unrecorded(&result) {
            return result;
        }
        let entry = self.entry(
            caller,
            action,
            Some(id.to_string()),
            None,
            result.as_ref().err(),
            status,
        );
        let written = if result.is_ok() {
            self.audit.append_owed(vec![entry]).await
        } else {
            self.audit.append(vec![entry]).await
        };
        written.map_err(|_| Error::AuditUnavailable)?;
        result
    }
}

const ML_KEM: &str = hsm_core::Algorithm::MlKem.name();

fn itself(info: &KeyInfo) -> &KeyInfo {
    info
}
