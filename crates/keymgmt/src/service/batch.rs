//! Many operations as one call. Each stands for itself, and has its record; all records are written together.

use std::collections::BTreeMap;
use std::time::Instant;

use hsm_core::{BatchDone, BatchItem, HsmKeyId, Operation, TokenName};

use super::{Action, Caller, Error, KeyService, Result, is_unrecorded};
use crate::audit::{Entry, Outcome};

/// One item of a batch.
pub enum Item {
    /// To be done.
    Run(BatchItem),
    /// Answered before it reached a key; it is only recorded.
    Answered(Answered),
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

/// What is left of an item when it is on its way: what its record needs.
struct Trace {
    action: Action,
    operation: Operation,
    id: HsmKeyId,
    asked: Option<Option<&'static str>>,
}

impl KeyService {
    /// Does all items, those of each token one after another; answers in their order, `None` for those that were answered
    /// before. One that fails fails alone.
    ///
    /// # Errors
    /// [`Error::AuditUnavailable`] if the records can't be written: then no item is answered.
    pub async fn batch(&self, caller: &Caller, items: Vec<Item>) -> Result<Vec<Option<Result<BatchDone>>>> {
        if !self.audit.writable() {
            return Err(Error::AuditUnavailable);
        }
        let mut answers: Vec<Option<Result<BatchDone>>> = items.iter().map(|_| None).collect();
        let mut entries: Vec<Option<Entry>> = items.iter().map(|_| None).collect();
        let mut traces: Vec<Option<Trace>> = Vec::with_capacity(items.len());
        let mut by_token: BTreeMap<Option<TokenName>, Vec<(usize, BatchItem)>> = BTreeMap::new();
        for (at, item) in items.into_iter().enumerate() {
            match item {
                Item::Run(item) => {
                    traces.push(Some(Trace::of(&item)));
                    by_token
                        .entry(item.key().token().cloned())
                        .or_default()
                        .push((at, item));
                }
                Item::Answered(answered) => {
                    traces.push(None);
                    put(&mut entries, at, self.answered(caller, answered));
                }
            }
        }
        for (at, answer) in self.run(by_token).await {
            put(&mut answers, at, answer);
        }
        for ((answer, trace), entry) in answers.iter().zip(&traces).zip(&mut entries) {
            if let (Some(answer), Some(trace)) = (answer, trace)
                && !is_unrecorded(answer)
            {
                *entry = Some(self.entry(
                    caller,
                    trace.action,
                    Some(trace.id.to_string()),
                    self.algorithm(trace, answer),
                    answer.as_ref().err(),
                    200,
                ));
            }
        }
        let entries: Vec<Entry> = entries.into_iter().flatten().collect();
        if !entries.is_empty() {
            self.audit.append(entries).await.map_err(|_| Error::AuditUnavailable)?;
        }
        Ok(answers)
    }

    /// Has each token do its items; all tokens are at it at once.
    async fn run(
        &self,
        by_token: BTreeMap<Option<TokenName>, Vec<(usize, BatchItem)>>,
    ) -> Vec<(usize, Result<BatchDone>)> {
        let mut under_way = Vec::new();
        for items in by_token.into_values() {
            let kept: Vec<(usize, HsmKeyId, Action)> = items
                .iter()
                .map(|(at, item)| (*at, item.key().clone(), Trace::of(item).action))
                .collect();
            let hsm = kept.first().map(|(_, id, _)| self.tokens.of(id).cloned());
            let items = items.into_iter().map(|(_, item)| item).collect();
            let call = hsm.and_then(Result::ok).map(|hsm| hsm.batch(items));
            under_way.push((kept, call, Instant::now()));
        }
        let mut all = Vec::new();
        for (kept, call, started) in under_way {
            let answers = match call {
                Some(call) => call.await,
                // No token has this name.
                None => Ok(kept
                    .iter()
                    .map(|(_, id, _)| Err(hsm_core::Error::KeyNotFound(id.clone())))
                    .collect()),
            };
            let answers = answers.unwrap_or_else(|error| kept.iter().map(|_| Err(error.clone())).collect());
            // What an item took is not told: the mean is.
            let each = started.elapsed() / u32::try_from(kept.len()).unwrap_or(u32::MAX).max(1);
            for ((at, _, action), answer) in kept.into_iter().zip(answers) {
                let answer = answer.map_err(Error::from);
                let outcome = answer
                    .as_ref()
                    .err()
                    .map_or("success", |error| (self.hooks.describe)(error).1);
                (self.hooks.observe)(action, outcome, each);
                all.push((at, answer));
            }
        }
        all
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
            ..self.entry(caller, action, key_id, None, None, status)
        }
    }

    fn algorithm(&self, trace: &Trace, answer: &Result<BatchDone>) -> Option<&'static str> {
        match answer {
            Ok(BatchDone::Encrypted(done)) => Some(done.algorithm.name()),
            Ok(BatchDone::Signed(done)) => Some(done.algorithm.name()),
            Ok(BatchDone::Decrypted(_) | BatchDone::Verified(_)) | Err(_) => {
                self.used(trace.asked, &trace.id, trace.operation)
            }
        }
    }
}

impl Trace {
    fn of(item: &BatchItem) -> Trace {
        let (action, operation, asked) = match item {
            BatchItem::Encrypt(request) => (Action::Encrypt, Operation::Encrypt, request.algorithm.asked()),
            BatchItem::Decrypt(request) => (Action::Decrypt, Operation::Decrypt, request.algorithm.asked()),
            BatchItem::Sign(request) => (Action::Sign, Operation::Sign, request.algorithm.asked()),
            BatchItem::Verify(request) => (Action::Verify, Operation::Verify, request.signed.algorithm.asked()),
        };
        Trace {
            action,
            operation,
            id: item.key().clone(),
            asked,
        }
    }
}

fn put<T>(all: &mut [Option<T>], at: usize, value: T) {
    if let Some(place) = all.get_mut(at) {
        *place = Some(value);
    }
}
