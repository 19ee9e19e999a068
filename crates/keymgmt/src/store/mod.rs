//! Where managed keys are kept: SQLite or PostgreSQL, the same rows in both.
//!
//! Times are kept to the microsecond: a record that is written with a finer one is read back as another.

mod backup;
mod calls;
mod changes;
mod db;
mod error;
mod finding;
mod gateway;
mod instance;
mod intents;
mod keys;
mod listen;
mod rows;
mod schema;
mod usage;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hsm_core::secrecy::SecretString;
use tokio::runtime::{Builder, Handle, Runtime};

use db::Db;
use instance::Instance;

pub use backup::{AuditHead, Exported, Imported};
pub use calls::{Answer, Begun, IdempotentCall, TicketId};
pub use changes::Changes;
pub use error::{OpenError, Result, StoreError};
pub use finding::Due;
pub use intents::{Intent, IntentId, IntentKind, OpenIntent};
pub use keys::{Done, Page, Query};
pub use listen::Notices;
pub use usage::Used;

/// No call waits longer for the database, but for backup and its way back.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked whether the database is there, and told that this process is.
const BEAT: Duration = Duration::from_secs(5);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Which database.
#[derive(Clone)]
pub enum Place {
    /// SQLite: the file, which is made if its folder is there.
    Sqlite(PathBuf),
    /// PostgreSQL: its URL, `postgres://user:password@host/database`.
    Postgres(SecretString),
}

/// Which schema a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The one it has; 0: none.
    pub current: i64,
    /// The one this program makes.
    pub latest: i64,
}

/// How the store is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether the last call reached it.
    pub available: bool,
    /// Why not, and what to do.
    pub fault: Option<String>,
    /// When a call last reached it.
    pub last_contact: Instant,
}

/// The store. Clones are the same store; when the last one is dropped, it closes.
///
/// Calls run on threads of their own: a future that is dropped does not end its work, and any executor can wait for it.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
    threads: Arc<Threads>,
}

struct Core {
    db: Db,
    instance: Instance,
    status: Mutex<Status>,
}

struct Threads {
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
}

impl Store {
    /// Opens a database, and brings its schema up to date. Several processes may have it open. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; each text says what to do.
    pub fn open(place: Place) -> std::result::Result<Store, OpenError> {
        let threads = Threads::start()?;
        let core = threads.wait(async move {
            let db = Db::open(&place)?;
            schema::migrate(&db).await?;
            let instance = Instance::begin(&db).await?;
            Ok(Core {
                db,
                instance,
                status: Mutex::new(Status {
                    available: true,
                    fault: None,
                    last_contact: Instant::now(),
                }),
            })
        })?;
        let core = Arc::new(core);
        let beating = Arc::downgrade(&core);
        threads.handle.spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                let Some(core) = beating.upgrade() else { return };
                let beat = core.instance.beat(&core.db).await;
                core.note(&beat);
            }
        });
        let threads = Arc::new(threads);
        Ok(Store { core, threads })
    }

    /// Which schema the database has, and which one this program makes. Changes nothing. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; each text says what to do.
    pub fn migration(place: &Place) -> std::result::Result<Migration, OpenError> {
        if matches!(place, Place::Sqlite(file) if !file.exists()) {
            return Ok(Migration {
                current: 0,
                latest: schema::LATEST,
            });
        }
        let place = place.clone();
        Threads::start()?.wait(async move {
            let db = Db::open(&place)?;
            let current = schema::current(&db).await?;
            db.close().await;
            Ok(Migration {
                current,
                latest: schema::LATEST,
            })
        })
    }

    /// Runs a task on the store's threads, until it ends or the store is closed.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.threads.handle.spawn(task);
    }

    /// How the store is doing. Never blocks.
    pub fn status(&self) -> Status {
        self.core.status().clone()
    }

    /// The id of this process, made at random when it opened the store.
    pub fn instance(&self) -> &str {
        self.core.instance.id()
    }

    /// Tells the others that this process lives; it is also done every 5 seconds by itself.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn heartbeat(&self) -> Result<()> {
        self.run(|core| async move { core.instance.beat(&core.db).await }).await
    }

    /// Ends what runs here, and closes the database. Blocks, 4 seconds at most. Calls that come later fail.
    pub fn close(&self) {
        let Some(runtime) = self.threads.taken() else { return };
        let core = Arc::clone(&self.core);
        let (done, wait) = mpsc::channel();
        runtime.spawn(async move {
            core.instance.end(&core.db).await;
            core.db.close().await;
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(CLOSE_LIMIT);
        // A runtime may not be ended on a thread of another.
        let _ = thread::spawn(move || runtime.shutdown_timeout(CLOSE_LIMIT)).join();
    }

    async fn run<T, F, W>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Core>) -> W,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        self.run_within(CALL_LIMIT, work).await
    }

    async fn run_within<T, F, W>(&self, limit: Duration, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Core>) -> W,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let core = Arc::clone(&self.core);
        let work = work(Arc::clone(&core));
        let job = self.threads.handle.spawn(async move {
            let late = || {
                let text = "see whether it is overloaded, or whether another program holds a lock";
                StoreError::Unavailable(format!(
                    "the database did not answer within {} seconds: {text}",
                    limit.as_secs()
                ))
            };
            let result = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()));
            core.note(&result);
            result
        });
        let closed = || StoreError::Unavailable("the store is closed: the program is just ending".into());
        job.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Core {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, result: &Result<T>) {
        let mut status = self.status();
        match result {
            Ok(_) | Err(StoreError::Conflict(_) | StoreError::Corrupt(_)) => {
                if !status.available {
                    tracing::info!("the store is there again");
                }
                status.available = true;
                status.fault = None;
                status.last_contact = Instant::now();
            }
            Err(StoreError::Unavailable(why)) => {
                if status.available {
                    tracing::warn!("the store is away: {why}");
                }
                status.available = false;
                status.fault = Some(why.clone());
            }
        }
    }
}

impl Threads {
    fn start() -> std::result::Result<Threads, OpenError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(|why| OpenError::Unavailable(format!("no thread could be started for the store: {why}")))?;
        Ok(Threads {
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
        })
    }

    /// Waits for work, also on a thread of another runtime.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = std::result::Result<T, OpenError>> + Send + 'static,
    ) -> std::result::Result<T, OpenError> {
        let (done, wait) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        let lost = || OpenError::Unavailable("opening the database was broken off".into());
        wait.recv().unwrap_or_else(|_| Err(lost()))
    }

    fn taken(&self) -> Option<Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.taken() {
            runtime.shutdown_background();
        }
    }
}
