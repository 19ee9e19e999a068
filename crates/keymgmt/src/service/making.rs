//! Keys made, changed and destroyed. One whose making can't be recorded is destroyed, and so is one whose making was cut
//! short: an intent in the store knows of it until it is recorded.

use hsm_core::{Call, Decapsulate, Derive, Encapsulate, Hsm, HsmKeyId, Import, KeyInfo, Label, NewKey, Unwrap};

use super::{Action, Caller, Error, KeyService, Result, is_unrecorded, token_key};
use crate::key_id::KeyId;
use crate::managed::{fault, life};
use crate::store::{Done as Finished, Intent, IntentId, IntentKind, TicketId};

/// What the record of a new key says beside its id.
#[derive(Clone)]
struct Making {
    action: Action,
    /// The key that it is made of, which the record of a failure names.
    base: Option<HsmKeyId>,
    algorithm: Option<&'static str>,
    /// The call that must not make it twice.
    ticket: Option<TicketId>,
}

impl Making {
    const fn alone(action: Action, ticket: Option<TicketId>) -> Making {
        Making {
            action,
            base: None,
            algorithm: None,
            ticket,
        }
    }
}

impl KeyService {
    /// Makes a key, on the token of this name or on the default one.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn create(
        &self,
        caller: &Caller,
        token: Option<&str>,
        new: NewKey,
        ticket: Option<TicketId>,
    ) -> Result<KeyInfo> {
        let hsm = self.tokens.named(token)?;
        self.make(
            caller,
            Making::alone(Action::Create, ticket),
            Ok(hsm),
            |hsm, id| hsm.generate(NewKey { id: Some(id), ..new }),
            itself,
        )
        .await
    }

    /// Puts a key from outside on the token of this name or on the default one.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn import(
        &self,
        caller: &Caller,
        token: Option<&str>,
        mut import: Import,
        ticket: Option<TicketId>,
    ) -> Result<KeyInfo> {
        let hsm = self.tokens.named(token)?;
        self.make(
            caller,
            Making::alone(Action::Import, ticket),
            Ok(hsm),
            |hsm, id| {
                import.attributes.id = Some(id);
                hsm.import(import)
            },
            itself,
        )
        .await
    }

    /// Makes the key that is in a wrapped one, on the token of the wrapping key.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn unwrap(&self, caller: &Caller, mut unwrap: Unwrap, ticket: Option<TicketId>) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Unwrap,
            base: Some(unwrap.key.clone()),
            algorithm: unwrap.algorithm.name(),
            ticket,
        };
        let hsm = self.tokens.of(&unwrap.key);
        self.make(
            caller,
            making,
            hsm,
            |hsm, id| {
                unwrap.attributes.id = Some(id);
                hsm.unwrap(unwrap)
            },
            itself,
        )
        .await
    }

    /// Makes a secret key of another key, on the same token.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn derive(&self, caller: &Caller, mut derive: Derive) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Derive,
            base: Some(derive.key.clone()),
            algorithm: derive.algorithm.name(),
            ticket: None,
        };
        let hsm = self.tokens.of(&derive.key);
        self.make(
            caller,
            making,
            hsm,
            |hsm, id| {
                derive.attributes.id = Some(id);
                hsm.derive(derive)
            },
            itself,
        )
        .await
    }

    /// Makes a secret key with an ML-KEM public key, on the same token; and its ciphertext.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn encapsulate(&self, caller: &Caller, mut encapsulate: Encapsulate) -> Result<(KeyInfo, Vec<u8>)> {
        let making = Making {
            action: Action::Encapsulate,
            base: Some(encapsulate.key.clone()),
            algorithm: Some(ML_KEM),
            ticket: None,
        };
        let hsm = self.tokens.of(&encapsulate.key);
        self.make(
            caller,
            making,
            hsm,
            |hsm, id| {
                encapsulate.attributes.id = Some(id);
                hsm.encapsulate(encapsulate)
            },
            |(info, _)| info,
        )
        .await
    }

    /// Makes the secret key of a ciphertext again, on the token of the ML-KEM private key.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn decapsulate(&self, caller: &Caller, mut decapsulate: Decapsulate) -> Result<KeyInfo> {
        let making = Making {
            action: Action::Decapsulate,
            base: Some(decapsulate.key.clone()),
            algorithm: Some(ML_KEM),
            ticket: None,
        };
        let hsm = self.tokens.of(&decapsulate.key);
        self.make(
            caller,
            making,
            hsm,
            |hsm, id| {
                decapsulate.attributes.id = Some(id);
                hsm.decapsulate(decapsulate)
            },
            itself,
        )
        .await
    }

    /// Gives a key another label. A change that was done and could not be recorded is recorded first when that is possible
    /// again.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::AuditUnavailable`].
    pub async fn relabel(&self, caller: &Caller, id: &HsmKeyId, label: Label) -> Result<KeyInfo> {
        let relabel = async {
            self.is_nobodys(id).await?;
            Ok(self.tokens.of(id)?.relabel(id, label).await?)
        };
        let result = self.act(Action::Update, relabel).await?;
        self.record_change(caller, Action::Update, id, result, 200).await
    }

    /// Destroys a key. A deletion that was done and could not be recorded is recorded first when that is possible again.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`], [`Error::AuditUnavailable`].
    pub async fn delete(&self, caller: &Caller, id: KeyId) -> Result<()> {
        let id = token_key(id)?;
        let delete = async {
            self.is_nobodys(&id).await?;
            Ok(self.tokens.of(&id)?.delete(&id).await?)
        };
        let result = self.act(Action::Delete, delete).await?;
        self.record_change(caller, Action::Delete, &id, result, 204)
            .await
            .map(drop)
    }

    async fn make<T: Send + 'static>(
        &self,
        caller: &Caller,
        making: Making,
        hsm: Result<&Hsm>,
        start: impl FnOnce(&Hsm, HsmKeyId) -> Call<T>,
        info: fn(&T) -> &KeyInfo,
    ) -> Result<T> {
        let Making {
            action,
            base,
            algorithm,
            ticket,
        } = making;
        let work = async {
            if let Some(base) = &base {
                // A version of a managed key serves only while it may.
                let target = self.keys.0.target(&KeyId::Hsm(base.clone()), None).await?;
                let begun = self.begun(hsm, start).await?;
                self.keys.0.count(&target);
                return Ok(begun);
            }
            self.begun(hsm, start).await
        };
        let result = self.act(action, work).await?;
        let (intent, result) = match result {
            Ok((intent, made)) => (Some(intent), Ok(made)),
            Err(error) => (None, Err(error)),
        };
        fault::point("token-key:after-token");
        let made = result.as_ref().ok().map(|made| info(made).id.clone());
        let key_id = made.as_ref().or(base.as_ref()).map(HsmKeyId::to_string);
        let mut answer = self.record(caller, action, key_id, algorithm, result, 201).await;
        fault::point("token-key:after-record");
        let Some((intent, id)) = intent.zip(made) else {
            return answer;
        };
        if answer.is_ok() {
            let done = Finished {
                intent: Some(intent.clone()),
                ticket: ticket.map(|ticket| (ticket, id.to_string())),
            };
            if let Err(error) = self.keys.0.store.finish(done).await {
                // As long as it is open, the key may be taken for one that nobody knows of.
                answer = Err(error.into());
            }
        }
        fault::point("token-key:after-end");
        if let Err(error) = &answer {
            self.take_back(&id, intent, error).await;
        }
        answer
    }

    /// Makes a key under an id that the store knows before.
    async fn begun<T>(
        &self,
        hsm: Result<&Hsm>,
        start: impl FnOnce(&Hsm, HsmKeyId) -> Call<T>,
    ) -> Result<(IntentId, T)> {
        let hsm = hsm?;
        let id = hsm.fresh_id().await?;
        let intent = Intent {
            kind: IntentKind::TokenKey,
            name: None,
            ids: vec![id.clone()],
        };
        let intent = self.keys.0.store.begin(intent).await?;
        fault::point("token-key:after-intent");
        match start(hsm, id).await {
            Ok(made) => Ok((intent, made)),
            Err(error) => Err(self.keys.0.not_made(intent, error).await),
        }
    }

    /// Destroys a key whose creation is answered with an error.
    async fn take_back(&self, id: &HsmKeyId, intent: IntentId, why: &Error) {
        let Ok(hsm) = self.tokens.of(id) else { return };
        if let Err(error) = hsm.delete(id).await
            && !matches!(error, hsm_core::Error::KeyNotFound(_))
        {
            tracing::error!(%id, %error, "a key whose creation failed at last is still there; it is tried again");
            hsm.discard(id);
        }
        if !matches!(why, Error::AuditUnavailable) {
            // Its creation is in the log.
            life::record_own(&self.keys.0, Action::Destroy, id.to_string(), None).await;
        }
        self.keys.0.give_up(intent).await;
    }

    /// That a key is no version of a managed one.
    async fn is_nobodys(&self, id: &HsmKeyId) -> Result<()> {
        // Asked of the store itself: another gateway may have adopted it just now.
        match self.keys.0.store.version_on_token(id).await? {
            None => Ok(()),
            Some((name, version)) => Err(Error::Conflict(format!(
                "the key {id} is version {version} of the managed key `{name}`, and is changed and deleted with it alone: \
                 `/api/v1/keys/{name}`"
            ))),
        }
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
