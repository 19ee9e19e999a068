//! What tokens and modules tell: keys, slots, mechanisms, capabilities. Nothing of it is recorded.

use hsm_core::backend::{MechanismInfo, Slot};
use hsm_core::{Capabilities, HsmKeyId, KeyInfo, KeyPage, KeyQuery, TokenName};

use super::{Action, Error, KeyService, Result, token_key};
use crate::key_id::KeyId;

/// A slot, and the module that it is of.
#[derive(Clone, Debug)]
pub struct ModuleSlot {
    /// The name of the first further token of the module; `None` for the default token's module.
    pub module: Option<TokenName>,
    /// The slot.
    pub slot: Slot,
}

/// What a token can do.
#[derive(Clone, Debug)]
pub struct TokenCapabilities {
    /// The token's name; `None` for the default one.
    pub name: Option<TokenName>,
    /// Its label.
    pub label: String,
    /// What it can do.
    pub capabilities: Capabilities,
}

impl KeyService {
    /// What the token tells of a key. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::KeyNotFound`].
    pub async fn key(&self, id: KeyId) -> Result<KeyInfo> {
        let id = token_key(id)?;
        self.timed(Action::Get, async { Ok(self.tokens.of(&id)?.key(&id).await?) })
            .await
    }

    /// A page of the keys of all tokens, in the order of their ids. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`], also if only one of the tokens can't be asked: a list that lacks keys would not tell so.
    pub async fn keys(&self, query: KeyQuery) -> Result<KeyPage> {
        self.timed(Action::List, self.page(query)).await
    }

    /// The slots of all modules. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`].
    pub async fn slots(&self) -> Result<Vec<ModuleSlot>> {
        self.timed(Action::Slots, self.all_slots()).await
    }

    /// The mechanisms of the token in a slot, of the module of the token of this name or of the default one's. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`], [`Error::SlotNotFound`].
    pub async fn mechanisms(&self, token: Option<&str>, slot: u64) -> Result<Vec<MechanismInfo>> {
        let hsm = self.tokens.named(token)?;
        let told = async { Ok(hsm.mechanisms_of(slot).await?) };
        let told = self.timed(Action::Mechanisms, told).await?;
        told.ok_or_else(|| Error::SlotNotFound(slot.to_string()))
    }

    /// What every token can do. Not recorded.
    ///
    /// # Errors
    /// [`Error::Hsm`], also if only one of the tokens can't be asked.
    pub async fn capabilities(&self) -> Result<Vec<TokenCapabilities>> {
        let told = async {
            // All are asked at once.
            let asked: Vec<_> = self
                .tokens
                .iter()
                .map(|(name, hsm)| (name.cloned(), hsm.token().label, hsm.capabilities()))
                .collect();
            let mut told = Vec::new();
            for (name, label, capabilities) in asked {
                told.push(TokenCapabilities {
                    name,
                    label,
                    capabilities: capabilities.await?,
                });
            }
            Ok(told)
        };
        self.timed(Action::Capabilities, told).await
    }

    /// Page by page through the tokens, from the one that the page before ended on.
    pub(super) async fn page(&self, query: KeyQuery) -> Result<KeyPage> {
        let KeyQuery { after, limit, .. } = &query;
        let from = after.as_ref().and_then(HsmKeyId::token);
        let mut page = KeyPage {
            keys: Vec::new(),
            more: false,
        };
        for (name, hsm) in self.tokens.iter().skip_while(|(name, _)| *name < from) {
            let left = KeyQuery {
                after: after.clone().filter(|_| name == from),
                limit: limit.saturating_sub(page.keys.len()),
                ..query.clone()
            };
            let full = left.limit == 0;
            match hsm.keys(left).await {
                Ok(KeyPage { keys, more }) => {
                    page.keys.extend(keys);
                    page.more = more;
                }
                // Whoever asks for the next page is told what is wrong.
                Err(_) if full => page.more = true,
                Err(error) => return Err(error.into()),
            }
            if page.more {
                break;
            }
        }
        Ok(page)
    }

    /// What each module tells by way of the first of its tokens that can be asked.
    async fn all_slots(&self) -> Result<Vec<ModuleSlot>> {
        let mut all = Vec::new();
        for tokens in self.tokens.modules() {
            let module = tokens.first().and_then(|hsm| hsm.name()).cloned();
            let mut told = Err(hsm_core::Error::Internal("a module without a token".into()));
            for hsm in tokens {
                told = hsm.slots().await;
                if told.is_ok() {
                    break;
                }
            }
            let slots = told?.into_iter();
            all.extend(slots.map(|slot| ModuleSlot {
                module: module.clone(),
                slot,
            }));
        }
        Ok(all)
    }
}
