//! [`Hsm`]: one token, as its user holds it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::algorithm::{Algorithm, Operation};
use crate::backend::{MechanismInfo, Slot, Token};
use crate::call::{self, Call, Reply, Settle};
use crate::capabilities::Trials;
use crate::choice::OpenError;
use crate::create::{self, Creating};
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::index::{Index, Key};
use crate::keeper::{self, Close, Keeper};
use crate::key::{HsmKeyId, KeyInfo, KeyRef, KeyType, TokenName, Usage, WrappedKey};
use crate::link::{Link, Login};
use crate::module::{Left, SharedBackend};
use crate::oaep::OaepHashes;
use crate::operation::{self, Decrypt, Encrypt, Encrypted, Plan, Sign, Signed, Verify};
use crate::place::Place;
use crate::shared::{Options, Shared};
use crate::vault::Vault;
use crate::worker::{Again, Worker};
use crate::workers::{self, Load, Queue, Threads};

/// How old the picture of the whole token may be that a list is taken from.
const LIST_AGE: Duration = Duration::from_secs(5);
/// How many random bytes are given at once.
const MOST_RANDOM: usize = 1024 * 1024;
/// How long the last drop waits for threads that close their sessions.
const LEAVING: Duration = Duration::from_secs(1);

/// A token, logged in to, with worker sessions. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Hsm {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

/// Ends the threads when the last [`Hsm`] of a token is dropped, and waits for them for an instant.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.keeper.close(Close::Leave);
        // A process may end now, and a module's exit handlers do not bear threads that are still closing sessions.
        let deadline = Instant::now() + LEAVING;
        self.0.queue.wait_for_workers(deadline);
        while !self.0.queue.keepers_have_ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if self.0.is_out() {
            self.0.link.claim.end();
        }
    }
}

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    /// Keys whose ids come after this one.
    pub after: Option<HsmKeyId>,
    /// How many at most.
    pub limit: usize,
    /// Only keys of this type.
    pub key_type: Option<KeyType>,
    /// Only keys with exactly this label.
    pub label: Option<String>,
}

/// A page of keys, in the order of their ids.
#[derive(Clone, Debug)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<KeyInfo>,
    /// Whether there are more.
    pub more: bool,
}

/// How the token fares, told without asking it.
#[derive(Clone, Debug)]
pub struct Status {
    /// Why operations are refused at the moment.
    pub unavailable: Option<String>,
    /// The login.
    pub login: Login,
    /// Sessions and queue.
    pub load: Load,
}

/// How the use of the token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Sessions closed, logged out, and the module finalized if no other [`Hsm`] uses it.
    Clean,
    /// A call hangs in the module, which was therefore not finalized.
    Hanging,
}

impl Hsm {
    /// Finds the token, logs in (one attempt), and starts the workers. Further tokens of the same module are opened on
    /// clones of one [`SharedBackend`].
    ///
    /// # Errors
    /// [`OpenError`], each with what to do.
    pub fn open(backend: impl Into<SharedBackend>, options: Options) -> Result<Hsm, OpenError> {
        let SharedBackend(module) = backend.into();
        let still = module.hold_still();
        let (link, session) = Link::open(&module, options.token.clone(), options.pin.clone())?;
        let token = link.token();
        let processors = thread::available_parallelism().map_or(2, usize::from);
        let wanted = options.max_sessions.unwrap_or(2 * processors);
        let allowed = token
            .max_sessions
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        let queue = Queue::new(Threads::new(wanted, allowed), options.queue);
        let name = options.name.clone();
        let vault = Vault::new(options.loaded_keys);
        let shared = Arc::new(Shared {
            options,
            link,
            queue,
            index: Index::new(token, name),
            keeper: Keeper::default(),
            creating: Creating::default(),
            entropy: Entropy::default(),
            oaep: OaepHashes::default(),
            trials: Trials::default(),
            vault,
            catalogue: module.catalogue.clone(),
            place: (allowed == Some(1)).then(Place::default),
        });
        shared.link.claim.belongs_to(&shared);
        drop(still);
        // The keeper first, which has the session: another may be one too many.
        let threads = keeper::start(&shared, Some(session)).and_then(|()| workers::start(&shared));
        threads.map_err(|error| {
            shared.queue.close();
            shared.keeper.close(Close::Leave);
            OpenError::Failed(format!("no thread could be started: {error}"))
        })?;
        shared.queue.wait_until_idle(Instant::now() + shared.options.timeout);
        let owner = Arc::new(Owner(shared.clone()));
        Ok(Hsm { shared, _owner: owner })
    }

    /// What the ids of the token's keys name it by; `None` for the default token.
    pub fn name(&self) -> Option<&TokenName> {
        self.shared.options.name.as_ref()
    }

    /// The token.
    pub fn token(&self) -> Token {
        self.shared.link.token()
    }

    /// The token's mechanisms.
    pub fn mechanisms(&self) -> Arc<[MechanismInfo]> {
        self.shared.link.mechanisms()
    }

    /// How the token fares; never waits for it.
    pub fn status(&self) -> Status {
        Status {
            unavailable: self.shared.link.check().err().map(|error| error.to_string()),
            login: self.shared.link.login(),
            load: self.shared.queue.load(),
        }
    }

    /// The module's slots.
    pub fn slots(&self) -> Call<Vec<Slot>> {
        let shared = self.shared.clone();
        self.call(self.shared.options.timeout, move |worker, reply| {
            let module = &shared.link.module;
            reply.settle(worker.run(Again::Once, |_| module.backend.slots()));
        })
    }

    /// What the token tells of a key, read afresh.
    pub fn key(&self, id: &HsmKeyId) -> Call<KeyInfo> {
        if let Err(error) = self.shared.link.check_login() {
            return Call::settled(Err(error));
        }
        if let Err(error) = self.foreign_token(id) {
            return Call::settled(Err(error));
        }
        let id = id.clone();
        self.call(self.shared.options.timeout, move |worker, reply| {
            let key = worker.find(&id).and_then(|key| worker.shared.in_sight(key));
            reply.settle(key.map(|key| key.info.clone()));
        })
    }

    /// A page of keys. Keys made or deleted by other programs may be seen some seconds late.
    pub fn keys(&self, query: KeyQuery) -> Call<KeyPage> {
        if let Err(error) = self.shared.link.check_login().and_then(|()| self.shared.link.check()) {
            return Call::settled(Err(error));
        }
        let page = |shared: &Shared, query: &KeyQuery| {
            let wanted = |info: &KeyInfo| {
                !shared.is_hidden(&info.label)
                    && query.key_type.is_none_or(|t| t == info.key_type)
                    && query.label.as_ref().is_none_or(|label| *label == info.label)
            };
            let (keys, more) = shared.index.page(query.after.as_ref(), query.limit, wanted)?;
            Some(KeyPage { keys, more })
        };
        let fresh = self.shared.index.walked().is_some_and(|at| at.elapsed() < LIST_AGE);
        if let Some(page) = fresh.then(|| page(&self.shared, &query)).flatten() {
            return Call::settled(Ok(page));
        }
        let (reply, call) = call::pair();
        let shared = self.shared.clone();
        self.walk_then(&reply.watch(), move |walked| {
            let dropped = || Error::Unavailable("the token's sessions are lost again and again".into());
            reply.settle(walked.and_then(|()| page(&shared, &query).ok_or_else(dropped)));
        });
        call
    }

    /// Destroys a key: both halves of a pair. Returns what it was.
    pub fn delete(&self, id: &HsmKeyId) -> Call<KeyInfo> {
        if let Err(error) = self.foreign_token(id).and_then(|()| self.shared.link.check_change()) {
            return Call::settled(Err(error));
        }
        let id = id.clone();
        self.call(self.shared.options.timeout, move |worker, reply| {
            reply.settle(create::delete(worker, &id));
        })
    }

    /// Destroys every key object with this id, halves of pairs too; tells how many there were. For what a creation left that
    /// was cut short.
    pub fn destroy_all(&self, id: &HsmKeyId) -> Call<usize> {
        if let Err(error) = self.foreign_token(id).and_then(|()| self.shared.link.check_change()) {
            return Call::settled(Err(error));
        }
        let id = id.clone();
        self.call(self.shared.options.timeout, move |worker, reply| {
            reply.settle(create::destroy_objects(worker, &id));
        })
    }

    /// Chooses an id for a key that is to be made: 8 random bytes that no key of the token has.
    pub fn fresh_id(&self) -> Call<HsmKeyId> {
        if let Err(error) = self.shared.link.check_login() {
            return Call::settled(Err(error));
        }
        self.call(self.shared.options.timeout, move |worker, reply| {
            reply.settle(create::fresh_id(worker));
        })
    }

    /// Has a key that must not stay destroyed as soon as that can be done, even if the token is away just now.
    pub fn discard(&self, id: &HsmKeyId) {
        if self.foreign_token(id).is_err() {
            return;
        }
        self.shared.keeper.destroy_later(id.clone());
    }

    /// The algorithm that fits the key best, as far as it is known without asking the token.
    pub fn default_algorithm(&self, key: &KeyRef, operation: Operation) -> Option<Algorithm> {
        let key = match key {
            KeyRef::Token(id) => self.shared.index.key(id)?,
            KeyRef::Wrapped(wrapped) => Arc::new(Key::of_wrapped(wrapped.clone(), None, 0, None)),
        };
        operation::default_algorithm(&self.shared, &key, operation)
    }

    /// Encrypts.
    pub fn encrypt(&self, request: Encrypt) -> Call<Encrypted> {
        let key = request.key.clone();
        self.with_key(&key, Usage::Encrypt, move |shared, key| {
            operation::encrypt(shared, key, request)
        })
    }

    /// Decrypts. The answer is wiped when it is dropped.
    pub fn decrypt(&self, request: Decrypt) -> Call<zeroize::Zeroizing<Vec<u8>>> {
        let key = request.key.clone();
        self.with_key(&key, Usage::Decrypt, move |shared, key| {
            operation::decrypt(shared, key, request)
        })
    }

    /// Signs, or makes a message authentication code.
    pub fn sign(&self, request: Sign) -> Call<Signed> {
        let key = request.key.clone();
        self.with_key(&key, Usage::Sign, move |shared, key| {
            operation::sign(shared, key, request)
        })
    }

    /// Checks a signature or a message authentication code. A malformed one is wrong, not an error.
    pub fn verify(&self, request: Verify) -> Call<bool> {
        let key = request.signed.key.clone();
        self.with_key(&key, Usage::Verify, move |shared, key| {
            operation::verify(shared, key, request)
        })
    }

    /// Random bytes of the token, at most 1 MiB.
    pub fn random(&self, length: usize) -> Call<Vec<u8>> {
        if length > MOST_RANDOM {
            return Call::settled(Err(Error::invalid("length", format!("at most {MOST_RANDOM} bytes"))));
        }
        self.call(self.shared.options.timeout, move |worker, reply| {
            let shared = worker.shared.clone();
            let mut bytes = vec![0; length];
            reply.settle(shared.entropy.token(worker, &mut bytes).map(|()| bytes));
        })
    }

    /// Has batches end where they are, with what is done of them: before [`stop`](Self::stop), while other operations go on.
    pub fn wind_down(&self) {
        self.shared.queue.wind_down();
    }

    /// Takes no more operations, lets those under way end, closes the sessions, logs out, and finalizes the module if this
    /// was the last that used it.
    pub fn stop(&self, timeout: Duration) -> Stopped {
        let deadline = Instant::now() + timeout;
        self.shared.queue.close();
        let workers_out = self.shared.queue.wait_for_workers(deadline);
        // The keeper's session is the last one.
        self.shared
            .keeper
            .close(if workers_out { Close::LogOut } else { Close::Leave });
        let closing = Instant::now();
        let patience = deadline.max(closing + Duration::from_millis(500));
        while !self.shared.queue.keepers_have_ended() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        let claim = &self.shared.link.claim;
        if !workers_out || !self.shared.queue.keepers_have_ended() {
            claim.leave_hanging();
            return Stopped::Hanging;
        }
        match claim.end_and_finalize() {
            Ok(Left::Finalized | Left::InUse) => Stopped::Clean,
            Ok(Left::Hanging) => Stopped::Hanging,
            Err(failure) => {
                tracing::warn!(%failure, "the module could not be finalized");
                Stopped::Clean
            }
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn timeout_of_creation(&self) -> Duration {
        self.shared.options.keygen_timeout
    }

    /// Runs `run` on a worker.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        run: impl FnOnce(&mut Worker, Reply<T>) + Send + 'static,
    ) -> Call<T> {
        let (reply, call) = call::pair();
        self.shared.submit(timeout, reply, run);
        call
    }

    /// Resolves `id`, has `plan` check the request against the key, and runs what it planned on a worker. `needs` is the
    /// usage that the request needs: half a pair that lacks it may be whole by now, which is for the token to say.
    pub(crate) fn with_key<T, P>(&self, key: &KeyRef, needs: Usage, plan: P) -> Call<T>
    where
        T: Send + 'static,
        P: FnOnce(&Shared, &Key) -> Result<Plan<T>> + Send + 'static,
    {
        self.resolve(key, needs, move |shared, key, reply| shared.go_on(key, reply, plan))
    }

    /// Resolves `key`, loading it if it must be, and has `go` do what is to be done with it.
    pub(crate) fn resolve<T, G>(&self, key: &KeyRef, needs: Usage, go: G) -> Call<T>
    where
        T: Send + 'static,
        G: FnOnce(&Arc<Shared>, &Arc<Key>, Reply<T>) + Send + 'static,
    {
        match key {
            KeyRef::Token(id) => self.resolve_on_token(id, needs, move |shared, key, reply| {
                match shared.in_sight(key.clone()) {
                    Ok(key) => go(shared, &key, reply),
                    Err(error) => drop(reply.settle(Err(error))),
                }
            }),
            KeyRef::Wrapped(wrapped) => self.resolve_wrapped(wrapped, go),
        }
    }

    fn resolve_wrapped<T, G>(&self, wrapped: &Arc<WrappedKey>, go: G) -> Call<T>
    where
        T: Send + 'static,
        G: FnOnce(&Arc<Shared>, &Arc<Key>, Reply<T>) + Send + 'static,
    {
        if let Err(error) = self.shared.link.check_login() {
            return Call::settled(Err(error));
        }
        let (reply, call) = call::pair();
        let shared = &self.shared;
        if let Some(key) = shared.vault.key(wrapped, shared.index.generation()) {
            go(shared, &key, reply);
            return call;
        }
        let wrapped = wrapped.clone();
        shared.submit(shared.options.timeout, reply, move |worker, reply| {
            let shared = worker.shared.clone();
            match worker.load(&wrapped) {
                Ok(key) => go(&shared, &key, reply),
                Err(error) => drop(reply.settle(Err(error))),
            }
        });
        call
    }

    /// The same for a key on the token, also one that is kept out of sight.
    pub(crate) fn resolve_on_token<T, G>(&self, id: &HsmKeyId, needs: Usage, go: G) -> Call<T>
    where
        T: Send + 'static,
        G: FnOnce(&Arc<Shared>, &Arc<Key>, Reply<T>) + Send + 'static,
    {
        if let Err(error) = self.foreign_token(id) {
            return Call::settled(Err(error));
        }
        let (reply, call) = call::pair();
        let enough = |key: &Arc<Key>| !key.is_half() || key.info.usages.contains(needs);
        if let Some(key) = self.shared.index.key(id).filter(enough) {
            go(&self.shared, &key, reply);
            return call;
        }
        let settle = reply.watch();
        let (shared, id) = (self.shared.clone(), id.clone());
        self.walk_then(&settle, move |walked| match (walked, shared.index.key(&id)) {
            (Ok(()), Some(key)) => go(&shared, &key, reply),
            // Everything was dropped since: the token itself must be asked.
            (Ok(()), None) if shared.index.walked().is_none() => {
                let again = shared.clone();
                shared.submit(shared.options.timeout, reply, move |worker, reply| {
                    match worker.find(&id) {
                        Ok(key) => go(&again, &key, reply),
                        Err(error @ Error::KeyNotFound(_)) => {
                            let unseen = again.link.check_login().err();
                            reply.settle(Err(unseen.unwrap_or(error)));
                        }
                        Err(error) => drop(reply.settle(Err(error))),
                    }
                });
            }
            (Ok(()), None) => {
                let unseen = shared.link.check_login().err();
                reply.settle(Err(unseen.unwrap_or(Error::KeyNotFound(id))));
            }
            (Err(error), _) => {
                reply.settle(Err(error));
            }
        });
        call
    }

    /// Has `then` called after a walk over the token that starts from now on.
    pub(crate) fn walk_then(&self, settle: &Arc<dyn Settle>, then: impl FnOnce(Result<()>) + Send + 'static) {
        let shared = &self.shared;
        let full = shared.keeper.waiting() > shared.options.queue.max(64) || shared.queue.is_closed();
        match shared.link.check() {
            Err(error) => drop(settle.fail(error)),
            Ok(()) if full => drop(settle.fail(Error::Busy)),
            Ok(()) => shared
                .keeper
                .walk_then(shared, settle, Instant::now() + shared.options.timeout, Box::new(then)),
        }
    }

    /// # Errors
    /// [`Error::KeyNotFound`] if the id is one of another token.
    pub(crate) fn foreign_token(&self, id: &HsmKeyId) -> Result<()> {
        if id.token() == self.name() {
            return Ok(());
        }
        Err(Error::KeyNotFound(id.clone()))
    }
}
