//! What the threads of a token share, and how a call finds its way to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;

use crate::call::Reply;
use crate::capabilities::Trials;
use crate::create::Creating;
use crate::entropy::Entropy;
use crate::error::{Ckr, Error, Failure, Reason, Result};
use crate::index::{Index, Key};
use crate::keeper::Keeper;
use crate::key::{Label, TokenName};
use crate::link::Link;
use crate::oaep::OaepHashes;
use crate::operation::Plan;
use crate::place::Place;
use crate::quirks::Catalogue;
use crate::uri::TokenSelector;
use crate::vault::Vault;
use crate::worker::Worker;
use crate::workers::{Job, Queue};

/// Which signatures are checked with the public key before they are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyAfterSign {
    /// RSA signatures: a faulty one can give the private key away.
    #[default]
    Rsa,
    /// All that have a public key.
    All,
    /// None.
    None,
}

/// How a token is used.
#[derive(Clone)]
pub struct Options {
    /// What the ids of the token's keys name it by; `None`: the default token, whose ids have no name.
    pub name: Option<TokenName>,
    /// Which token; the default fits the only initialised one.
    pub token: TokenSelector,
    /// The user PIN. Without it only what needs no login is done, unless the token has the PIN entered at the device
    /// (CKF_PROTECTED_AUTHENTICATION_PATH).
    pub pin: Option<SecretString>,
    /// Deadline of one operation.
    pub timeout: Duration,
    /// Deadline of a key creation.
    pub keygen_timeout: Duration,
    /// Sessions that work; `None`: twice the processors. Never more sessions are opened than the token states
    /// (CK_TOKEN_INFO, ulMaxSessionCount); one of them is for searches, or the only one is for everything.
    pub max_sessions: Option<usize>,
    /// How many operations may wait for a session.
    pub queue: usize,
    /// Which signatures are checked before they are given out.
    pub verify_after_sign: VerifyAfterSign,
    /// Whether AES-CBC is allowed.
    pub legacy_algorithms: bool,
    /// Keys whose labels begin with this are kept out of sight: not listed, not found by their ids, and no other key is
    /// given such a label. [`Hsm::own`](crate::Hsm::own) alone reaches them.
    pub hidden: Option<Box<str>>,
    /// How many [wrapped keys](crate::WrappedKey) are loaded on the token at once, at most.
    pub loaded_keys: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: None,
            token: TokenSelector::default(),
            pin: None,
            timeout: Duration::from_secs(10),
            keygen_timeout: Duration::from_secs(60),
            max_sessions: None,
            queue: 1024,
            verify_after_sign: VerifyAfterSign::default(),
            legacy_algorithms: false,
            hidden: None,
            loaded_keys: 10_000,
        }
    }
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) link: Link,
    pub(crate) queue: Queue,
    pub(crate) index: Index,
    pub(crate) keeper: Keeper,
    pub(crate) creating: Creating,
    pub(crate) entropy: Entropy,
    pub(crate) oaep: OaepHashes,
    pub(crate) trials: Trials,
    pub(crate) vault: Vault,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Where the only session is kept between calls, if the token allows no second one.
    pub(crate) place: Option<Place>,
}

impl Shared {
    /// Hands a job to the workers, unless the token is away.
    pub(crate) fn submit<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Duration,
        reply: Reply<T>,
        run: impl FnOnce(&mut Worker, Reply<T>) + Send + 'static,
    ) {
        if let Err(error) = self.link.check() {
            reply.settle(Err(error));
            return;
        }
        self.queue.submit(Job {
            settle: reply.watch(),
            deadline: Instant::now() + timeout,
            run: Box::new(move |worker| {
                if reply.is_pending() {
                    run(worker, reply);
                }
            }),
        });
    }

    /// Checks a request against its key, and hands what is left to do to the workers.
    pub(crate) fn go_on<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Arc<Key>,
        reply: Reply<T>,
        plan: impl FnOnce(&Shared, &Key) -> Result<Plan<T>>,
    ) {
        let planned = if key.ambiguous {
            Err(Error::AmbiguousKey(key.info.id.clone()))
        } else {
            plan(self, key)
        };
        match planned {
            Err(error) => {
                reply.settle(Err(error));
            }
            Ok(plan) => {
                let key = key.clone();
                self.submit(self.options.timeout, reply, move |worker, reply| {
                    reply.settle(plan(worker, key));
                });
            }
        }
    }

    /// Whether keys with this label are kept out of sight.
    pub(crate) fn is_hidden(&self, label: &str) -> bool {
        let hidden = self.options.hidden.as_deref();
        hidden.is_some_and(|hidden| label.starts_with(hidden))
    }

    /// The key, unless it is kept out of sight.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`].
    pub(crate) fn in_sight(&self, key: Arc<Key>) -> Result<Arc<Key>> {
        if self.is_hidden(&key.info.label) {
            return Err(Error::KeyNotFound(key.info.id.clone()));
        }
        Ok(key)
    }

    /// # Errors
    /// [`Error::Conflict`] for a label of keys that are kept out of sight.
    pub(crate) fn check_label(&self, label: &Label) -> Result<()> {
        match self.options.hidden.as_deref() {
            Some(hidden) if self.is_hidden(label.as_str()) => Err(Error::Conflict(format!(
                "labels that begin with `{hidden}` are kept for the gateway's own keys: choose another"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether no thread of the token's is in the module, or will be.
    pub(crate) fn is_out(&self) -> bool {
        self.queue.load().workers == 0 && self.queue.keepers_have_ended()
    }

    /// The token is gone: handles, sessions and login with it.
    pub(crate) fn lose_token(&self, reason: Reason) {
        self.link.go_down(reason);
        self.index.clear();
        self.keeper.wake();
    }

    /// No session could be opened.
    pub(crate) fn no_session(&self, failure: &Failure) {
        match failure.rv {
            Some(Ckr::SlotIdInvalid | Ckr::TokenNotRecognized) => self.lose_token(failure.into()),
            Some(Ckr::DeviceError | Ckr::GeneralError | Ckr::FunctionFailed) => self.keeper.suspect(),
            _ => {}
        }
    }
}
