//! Many operations as one call. Each stands for itself, and has its record; all records are written together.

use std::collections::BTreeMap;
use std::time::Instant;

use hsm_core::{BatchDone, BatchItem, Choice, Decrypt, Encrypt, Encrypted, KeyRef, Operation, Sign, TokenName, Verify};
use zeroize::Zeroizing;

use super::crypto::{Trace, datakey_bytes};
use super::{Action, Caller, Done, Error, KeyService, Named, Result, is_unrecorded};
use crate::audit::{Entry, Outcome};
use crate::key_id::KeyId;
use crate::managed::resolve::Target;

/// One item of a batch.
pub enum Item {
    /// To be done.
    Run {
        /// The key.
        key: KeyId,
        /// Which version of it; `None`: the primary one. For [`Asked::Decrypt`], [`Asked::Verify`] and [`Asked::Rewrap`].
        version: Option<u32>,
        /// What is asked of it.
        asked: Asked,
    },
    /// Answered before it reached a key; it is only recorded.
    Answered(Answered),
}

/// Makes the request once the key is known.
pub type Make<T> = Box<dyn FnOnce(KeyRef) -> T + Send>;

/// What is asked of the key of an item.
pub enum Asked {
    /// As [`KeyService::encrypt`].
    Encrypt(Make<Encrypt>),
    /// As [`KeyService::decrypt`].
    Decrypt(Make<Decrypt>),
    /// As [`KeyService::sign`].
    Sign(Make<Sign>),
    /// As [`KeyService::verify`].
    Verify(Make<Verify>),
    /// As [`KeyService::rewrap`].
    Rewrap(Make<Decrypt>),
    /// As [`KeyService::datakey`], of so many bits.
    DataKey(u32),
}

/// What became of an item.
#[derive(Debug)]
pub enum ItemDone {
    /// Of [`Asked::Encrypt`], [`Asked::Decrypt`], [`Asked::Sign`] and [`Asked::Verify`].
    Done(BatchDone),
    /// Of [`Asked::Rewrap`].
    Rewrapped(Encrypted),
    /// Of [`Asked::DataKey`].
    DataKey(Encrypted, Plaintext),
}

/// A data key in clear.
pub struct Plaintext(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plaintext")
    }
}

/// What the record of an item says that was answered before it reached a key.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What was asked for.
    pub action: Action,
    /// The key, as far as it is known.
    pub key_id: Option<String>,
    /// Whether the caller may not do it, or it could not be done.
    pub outcome: Outcome,
    /// The status of its answer.
    pub status: u16,
    /// The code of its problem.
    pub code: &'static str,
}

/// An item on its way.
struct Running {
    action: Action,
    trace: Trace,
    stage: Stage,
}

/// What is next for an item.
enum Stage {
    /// The token is asked for the first or only thing.
    First(Target, BatchItem, Then),
    /// What was decrypted is to be encrypted.
    Second(Target, Encrypt),
    /// The token is at it.
    Asked(Target, Then),
    Answered(Result<ItemDone>),
}

/// What is done with what the token answers.
enum Then {
    Answer,
    /// The plaintext is encrypted under this key, with this additional data.
    Encrypt(Box<(Target, Choice, Option<Vec<u8>>)>),
    Rewrapped,
    DataKey(Plaintext),
}

impl KeyService {
    /// Does all items, those of each token one after another; answers in their order, `None` for those that were answered
    /// before. One that fails fails alone.
    ///
    /// # Errors
    /// [`Error::AuditUnavailable`] if the records can't be written: then no item is answered.
    pub async fn batch(&self, caller: &Caller, items: Vec<Item>) -> Result<Vec<Option<Result<(Done, ItemDone)>>>> {
        if !self.audit.writable() {
            return Err(Error::AuditUnavailable);
        }
        let mut entries: Vec<Option<Entry>> = Vec::with_capacity(items.len());
        let mut running: Vec<Option<Running>> = Vec::with_capacity(items.len());
        for item in items {
            let (entry, item) = match item {
                Item::Answered(answered) => (Some(self.answered(caller, answered)), None),
                Item::Run { key, version, asked } => (None, Some(self.prepared(&key, version, asked).await)),
            };
            entries.push(entry);
            running.push(item);
        }
        self.round(&mut running).await;
        self.reserve_second(&mut running).await;
        self.round(&mut running).await;

        let mut answers = Vec::with_capacity(running.len());
        for (running, entry) in running.into_iter().zip(&mut entries) {
            let Some(Running { action, trace, stage }) = running else {
                answers.push(None);
                continue;
            };
            let answer = match stage {
                Stage::Answered(answer) => answer,
                Stage::First(..) | Stage::Second(..) | Stage::Asked(..) => {
                    Err(hsm_core::Error::Internal("an item of a batch was left".into()).into())
                }
            };
            if !is_unrecorded(&answer) {
                let algorithm = self.algorithm_of(&trace);
                *entry = Some(self.entry(
                    caller,
                    action,
                    trace.done.clone(),
                    algorithm,
                    answer.as_ref().err(),
                    200,
                ));
            }
            answers.push(Some(answer.map(|done| (trace.done, done))));
        }
        let entries: Vec<Entry> = entries.into_iter().flatten().collect();
        if !entries.is_empty() {
            self.audit.append(entries).await.map_err(|_| Error::AuditUnavailable)?;
        }
        Ok(answers)
    }

    /// Has each token do what is next of its items; all tokens are at it at once.
    async fn round(&self, running: &mut [Option<Running>]) {
        let mut by_token: BTreeMap<Option<TokenName>, (Vec<usize>, Vec<BatchItem>)> = BTreeMap::new();
        for (at, item) in running.iter_mut().enumerate() {
            if let Some(item) = item.as_mut().and_then(Running::start) {
                let (places, items) = by_token.entry(item.key().id().token().cloned()).or_default();
                places.push(at);
                items.push(item);
            }
        }
        let mut under_way = Vec::new();
        for (places, items) in by_token.into_values() {
            let token = items.first().map(|item| self.tokens.of(item.key().id()));
            let unknown: Vec<_> = items.iter().map(|item| item.key().id().clone()).collect();
            let call = token.and_then(Result::ok).map(|hsm| hsm.batch(items));
            under_way.push((places, unknown, call, Instant::now()));
        }
        for (places, unknown, call, started) in under_way {
            let answers = match call {
                Some(call) => call.await,
                // No token has this name.
                None => Ok(unknown
                    .into_iter()
                    .map(|id| Err(hsm_core::Error::KeyNotFound(id)))
                    .collect()),
            };
            let answers = answers.unwrap_or_else(|error| places.iter().map(|_| Err(error.clone())).collect());
            // What an item took is not told: the mean is.
            let each = started.elapsed() / u32::try_from(places.len()).unwrap_or(u32::MAX).max(1);
            for (at, answer) in places.into_iter().zip(answers) {
                let Some(Some(running)) = running.get_mut(at) else {
                    continue;
                };
                self.take_in(running, answer);
                if let Stage::Answered(answer) = &running.stage {
                    let error = answer.as_ref().err();
                    let outcome = error.map_or("success", |error| (self.hooks.describe)(error).1);
                    (self.hooks.observe)(running.action, outcome, each);
                }
            }
        }
    }

    /// Takes in what the token answered.
    fn take_in(&self, running: &mut Running, answer: hsm_core::Result<BatchDone>) {
        let stage = std::mem::replace(&mut running.stage, lost());
        let Stage::Asked(target, then) = stage else {
            return;
        };
        let trace = &mut running.trace;
        running.stage = match (answer, then) {
            (Err(error), _) => Stage::Answered(Err(self.keys.0.told(&target, error))),
            (Ok(BatchDone::Decrypted(data)), Then::Encrypt(next)) => {
                let (to, algorithm, aad) = *next;
                let request = Encrypt {
                    key: to.key.clone(),
                    algorithm,
                    data,
                    aad,
                };
                Stage::Second(to, request)
            }
            (Ok(done), then) => {
                match &done {
                    BatchDone::Encrypted(done) => trace.used = Some(done.algorithm.name()),
                    BatchDone::Signed(done) => trace.used = Some(done.algorithm.name()),
                    BatchDone::Decrypted(_) | BatchDone::Verified(_) => {}
                }
                self.keys.0.count(&target);
                trace.done = target.done;
                Stage::Answered(Ok(match (done, then) {
                    (BatchDone::Encrypted(done), Then::Rewrapped) => ItemDone::Rewrapped(done),
                    (BatchDone::Encrypted(done), Then::DataKey(plaintext)) => ItemDone::DataKey(done, plaintext),
                    (done, _) => ItemDone::Done(done),
                }))
            }
        };
    }

    /// Encryptions that come second are counted before they are done, too.
    async fn reserve_second(&self, running: &mut [Option<Running>]) {
        for running in running.iter_mut().flatten() {
            if let Stage::Second(target, request) = &running.stage
                && let Err(error) = self.keys.0.reserve(target, &request.algorithm).await
            {
                running.stage = Stage::Answered(Err(error));
            }
        }
    }

    async fn prepared(&self, key: &KeyId, version: Option<u32>, asked: Asked) -> Running {
        let action = match &asked {
            Asked::Encrypt(_) => Action::Encrypt,
            Asked::Decrypt(_) => Action::Decrypt,
            Asked::Sign(_) => Action::Sign,
            Asked::Verify(_) => Action::Verify,
            Asked::Rewrap(_) => Action::Rewrap,
            Asked::DataKey(_) => Action::DataKey,
        };
        let mut trace = Trace::of(key, version);
        let stage = self.first(key, version, asked, &mut trace).await;
        let stage = stage.unwrap_or_else(|error| Stage::Answered(Err(error)));
        Running { action, trace, stage }
    }

    async fn first(&self, key: &KeyId, version: Option<u32>, asked: Asked, trace: &mut Trace) -> Result<Stage> {
        let target = self.keys.0.target(key, version).await?;
        trace.resolved(&target);
        let key_ref = target.key.clone();
        Ok(match asked {
            Asked::Encrypt(make) => {
                let request = make(key_ref);
                trace.asks(Operation::Encrypt, &request.algorithm);
                self.keys.0.reserve(&target, &request.algorithm).await?;
                Stage::First(target, BatchItem::Encrypt(request), Then::Answer)
            }
            Asked::Decrypt(make) => {
                let request = make(key_ref);
                trace.asks(Operation::Decrypt, &request.algorithm);
                Stage::First(target, BatchItem::Decrypt(request), Then::Answer)
            }
            Asked::Sign(make) => {
                let request = make(key_ref);
                trace.asks(Operation::Sign, &request.algorithm);
                Stage::First(target, BatchItem::Sign(request), Then::Answer)
            }
            Asked::Verify(make) => {
                let request = make(key_ref);
                trace.asks(Operation::Verify, &request.signed.algorithm);
                Stage::First(target, BatchItem::Verify(request), Then::Answer)
            }
            Asked::Rewrap(make) => {
                let request = make(key_ref);
                trace.asks(Operation::Decrypt, &request.algorithm);
                let to = self.keys.0.target(key, None).await?;
                let then = Then::Encrypt(Box::new((to, request.algorithm.clone(), request.aad.clone())));
                Stage::First(target, BatchItem::Decrypt(request), then)
            }
            Asked::DataKey(bits) => {
                trace.asks(Operation::Encrypt, &Choice::BY_KEY);
                let plaintext = self.random_of(&target, datakey_bytes(bits)?).await?;
                let request = Encrypt {
                    key: key_ref,
                    algorithm: Choice::BY_KEY,
                    data: plaintext.clone(),
                    aad: None,
                };
                self.keys.0.reserve(&target, &request.algorithm).await?;
                let then = Then::DataKey(Plaintext(plaintext));
                Stage::First(target, BatchItem::Encrypt(request), then)
            }
        })
    }

    fn answered(&self, caller: &Caller, answered: Answered) -> Entry {
        let Answered {
            action,
            key_id,
            outcome,
            status,
            code,
        } = answered;
        Entry {
            outcome,
            code: Some(code.into()),
            ..self.entry(caller, action, Named::from(key_id), None, None, status)
        }
    }
}

impl Running {
    /// What the token is asked for next, if anything.
    fn start(&mut self) -> Option<BatchItem> {
        match std::mem::replace(&mut self.stage, lost()) {
            Stage::First(target, item, then) => {
                self.stage = Stage::Asked(target, then);
                Some(item)
            }
            Stage::Second(target, request) => {
                self.stage = Stage::Asked(target, Then::Rewrapped);
                Some(BatchItem::Encrypt(request))
            }
            stage @ (Stage::Asked(..) | Stage::Answered(_)) => {
                self.stage = stage;
                None
            }
        }
    }
}

/// What stands in the place of a stage that was taken out.
fn lost() -> Stage {
    Stage::Answered(Err(
        hsm_core::Error::Internal("an item of a batch was lost".into()).into()
    ))
}
