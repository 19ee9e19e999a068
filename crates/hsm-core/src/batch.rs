//! Many operations as one call: one place in the queue, one session, each item on its own account.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::call::{self, Call, Reply, Settle};
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::index::Key;
use crate::key::{HsmKeyId, KeyRef, Usage};
use crate::operation::{self, Decrypt, Encrypt, Encrypted, Plan, Sign, Signed, Verify};
use crate::shared::Shared;
use crate::worker::Worker;
use crate::workers::Job;

/// One operation of a batch.
#[derive(Clone)]
pub enum BatchItem {
    /// As [`Hsm::encrypt`].
    Encrypt(Encrypt),
    /// As [`Hsm::decrypt`].
    Decrypt(Decrypt),
    /// As [`Hsm::sign`].
    Sign(Sign),
    /// As [`Hsm::verify`].
    Verify(Verify),
}

/// What became of an item.
pub enum BatchDone {
    /// Of [`BatchItem::Encrypt`].
    Encrypted(Encrypted),
    /// Of [`BatchItem::Decrypt`]. It is wiped when it is dropped.
    Decrypted(Zeroizing<Vec<u8>>),
    /// Of [`BatchItem::Sign`].
    Signed(Signed),
    /// Of [`BatchItem::Verify`]: whether the signature is right.
    Verified(bool),
}

impl std::fmt::Debug for BatchDone {
    /// Shows the kind alone: an answer may be a plaintext.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BatchDone::Encrypted(_) => "Encrypted",
            BatchDone::Decrypted(_) => "Decrypted",
            BatchDone::Signed(_) => "Signed",
            BatchDone::Verified(_) => "Verified",
        })
    }
}

impl BatchItem {
    /// The key.
    pub fn key(&self) -> &KeyRef {
        match self {
            BatchItem::Encrypt(request) => &request.key,
            BatchItem::Decrypt(request) => &request.key,
            BatchItem::Sign(request) => &request.key,
            BatchItem::Verify(request) => &request.signed.key,
        }
    }

    fn needs(&self) -> Usage {
        match self {
            BatchItem::Encrypt(_) => Usage::Encrypt,
            BatchItem::Decrypt(_) => Usage::Decrypt,
            BatchItem::Sign(_) => Usage::Sign,
            BatchItem::Verify(_) => Usage::Verify,
        }
    }

    /// Checks the item against its key.
    fn plan(self, shared: &Shared, key: &Arc<Key>) -> Result<Step> {
        shared.in_sight(key.clone())?;
        if key.ambiguous {
            return Err(Error::AmbiguousKey(key.info.id.clone()));
        }
        Ok(match self {
            BatchItem::Encrypt(request) => step(key, operation::encrypt(shared, key, request)?, BatchDone::Encrypted),
            BatchItem::Decrypt(request) => step(key, operation::decrypt(shared, key, request)?, BatchDone::Decrypted),
            BatchItem::Sign(request) => step(key, operation::sign(shared, key, request)?, BatchDone::Signed),
            BatchItem::Verify(request) => step(key, operation::verify(shared, key, request)?, BatchDone::Verified),
        })
    }
}

/// What is left to do of an item that has been checked.
type Step = Box<dyn FnOnce(&mut Worker) -> Result<BatchDone> + Send>;

fn step<T: 'static>(key: &Arc<Key>, plan: Plan<T>, done: fn(T) -> BatchDone) -> Step {
    let key = key.clone();
    Box::new(move |worker| plan(worker, key).map(done))
}

/// Where an item is on its way.
enum Item {
    /// The index does not have its key.
    Unplanned(BatchItem),
    Planned(Step),
    Answered,
}

type Answers = Vec<Result<BatchDone>>;
type Items = std::iter::Enumerate<std::vec::IntoIter<Item>>;

/// How long a batch goes on while others wait.
const SLICE: Duration = Duration::from_millis(100);

/// The answers of a batch under way.
struct Batch(Mutex<Option<Open>>);

struct Open {
    answers: Vec<Option<Result<BatchDone>>>,
    reply: Reply<Answers>,
}

impl Batch {
    fn answer(&self, at: usize, answer: Result<BatchDone>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.as_mut().and_then(|open| open.answers.get_mut(at)) {
            place.get_or_insert(answer);
        }
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Ends the call; items without an answer get `missing`.
    fn end(&self, missing: &Error) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        open.is_some_and(|Open { answers, reply }| {
            let answers = answers.into_iter().map(|a| a.unwrap_or_else(|| Err(missing.clone())));
            reply.settle(Ok(answers.collect()))
        })
    }
}

impl Settle for Batch {
    fn fail(&self, error: Error) -> bool {
        self.end(&error)
    }
}

impl Hsm {
    /// Does all items on one session, one after another, and answers in their order; one that fails fails alone. All of
    /// them take one place in the queue.
    ///
    /// [`Options::timeout`](crate::Options::timeout) holds for the wait in the queue, and then for each item from when it
    /// begins. An item that exceeds it is answered [`Error::Timeout`], and with it all after it, since the session hangs;
    /// those before it keep their answers.
    ///
    /// A long batch lets others that wait go before, now and then, and keeps its place. Items that the queue has no room for,
    /// or that a service which ends does not come to, are [`Error::Busy`].
    pub fn batch(&self, items: Vec<BatchItem>) -> Call<Answers> {
        let (reply, call) = call::pair();
        let shared = self.shared().clone();
        let batch = Arc::new(Batch(Mutex::new(Some(Open {
            answers: items.iter().map(|_| None).collect(),
            reply,
        }))));
        let mut missing = false;
        let items: Vec<Item> = items
            .into_iter()
            .enumerate()
            .map(|(at, item)| {
                if let Err(error) = self.foreign_token(item.key().id()) {
                    batch.answer(at, Err(error));
                    return Item::Answered;
                }
                let enough = |key: &Arc<Key>| !key.is_half() || key.info.usages.contains(item.needs());
                let (found, on_token) = match item.key() {
                    KeyRef::Token(id) => (shared.index.key(id).filter(enough), true),
                    KeyRef::Wrapped(wrapped) => (shared.vault.key(wrapped, shared.index.generation()), false),
                };
                match found {
                    Some(key) => planned(&batch, at, item.plan(&shared, &key)),
                    None => {
                        missing |= on_token;
                        Item::Unplanned(item)
                    }
                }
            })
            .collect();
        if !missing {
            submit(&shared, batch, items);
            return call;
        }
        let settle: Arc<dyn Settle> = batch.clone();
        self.walk_then(&settle, move |walked| {
            let plan = |(at, item)| match item {
                Item::Unplanned(item) if matches!(item.key(), KeyRef::Wrapped(_)) => Item::Unplanned(item),
                Item::Unplanned(item) => match shared.index.key(item.key().id()) {
                    _ if walked.is_err() => {
                        walked.clone().unwrap_or_else(|error| batch.answer(at, Err(error)));
                        Item::Answered
                    }
                    Some(key) => planned(&batch, at, item.plan(&shared, &key)),
                    // Everything was dropped since: the token itself must be asked.
                    None if shared.index.walked().is_none() => Item::Unplanned(item),
                    None => {
                        batch.answer(at, Err(not_found(&shared, item.key().id())));
                        Item::Answered
                    }
                },
                item @ (Item::Planned(_) | Item::Answered) => item,
            };
            let items = items.into_iter().enumerate().map(plan).collect();
            submit(&shared, batch.clone(), items);
        });
        call
    }
}

fn planned(batch: &Batch, at: usize, plan: Result<Step>) -> Item {
    match plan {
        Ok(step) => Item::Planned(step),
        Err(error) => {
            batch.answer(at, Err(error));
            Item::Answered
        }
    }
}

/// Without a login private keys are not seen.
fn not_found(shared: &Shared, id: &HsmKeyId) -> Error {
    let unseen = shared.link.check_login().err();
    unseen.unwrap_or_else(|| Error::KeyNotFound(id.clone()))
}

/// Hands what is left to do to a worker.
fn submit(shared: &Arc<Shared>, batch: Arc<Batch>, items: Vec<Item>) {
    if items.iter().all(|item| matches!(item, Item::Answered)) {
        batch.end(&Error::Timeout);
        return;
    }
    if let Err(error) = shared.link.check() {
        batch.end(&error);
        return;
    }
    shared.queue.submit(Job {
        settle: batch.clone(),
        deadline: Instant::now() + shared.options.timeout,
        run: Box::new(move |worker| run(worker, batch, items.into_iter().enumerate())),
    });
}

fn run(worker: &mut Worker, batch: Arc<Batch>, mut items: Items) {
    let shared = worker.shared.clone();
    let began = Instant::now();
    while let Some((at, item)) = items.next() {
        if !batch.is_open() {
            // The watchdog has answered for the rest.
            return;
        }
        if matches!(item, Item::Answered) {
            continue;
        }
        worker.deadline = Instant::now() + shared.options.timeout;
        worker.seat.begin_part(worker.deadline);
        let answer = shared.link.check().and_then(|()| match item {
            Item::Planned(step) => step(worker),
            Item::Unplanned(item) => {
                let key = match item.key() {
                    KeyRef::Token(id) => worker.find(id).map_err(|error| match error {
                        Error::KeyNotFound(id) => not_found(&shared, &id),
                        error => error,
                    }),
                    KeyRef::Wrapped(wrapped) => worker.load(wrapped),
                }?;
                item.plan(&shared, &key)?(worker)
            }
            Item::Answered => Err(Error::Internal("an item was answered before".into())),
        });
        batch.answer(at, answer);
        if shared.queue.is_winding_down() {
            break;
        }
        if began.elapsed() >= SLICE && shared.queue.others_wait() {
            shared.queue.put_back(Job {
                settle: batch.clone(),
                deadline: Instant::now() + shared.options.timeout,
                run: Box::new(move |worker| run(worker, batch, items)),
            });
            return;
        }
    }
    batch.end(&Error::Busy);
}
