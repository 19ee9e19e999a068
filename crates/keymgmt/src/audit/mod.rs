//! The audit log: one JSON line for each operation, on disk before its answer, each carrying the hash of
//! the line before.
//!
//! A log is a folder of `audit-<number of the first record>.jsonl` files and nothing else; a file that has
//! grown to 64 MiB is followed by the next, and the chain goes on across them. One process writes, held to
//! that by locks on the folder and on the newest file; any number may read.
//!
//! **Writing.** One thread writes. What arrives while it waits for the disk is written together, with one
//! write and one sync ([`AuditLog::append`]). The records of one call are never apart.
//!
//! **When the disk fails** (full, gone, read-only, a failed sync, somebody else changing the file) those
//! who wait hear [`AuditError::Unavailable`], the file is cut back to the last line that counts, and
//! [`AuditLog::writable`] is false. Once a second the log opens its file again, looks whether it still ends
//! in the line that it remembers, and writes a record `audit.probe`, which must leave as much room as
//! was missing (at most 64 KiB). Records of [`AuditLog::append_owed`] that could not be written go first.
//!
//! If the file is gone, or no longer ends in that line, a new file is begun, and the chain continues from
//! the line remembered in memory. [`verify`] then tells the truth about what is left: a gap where records
//! are missing in the middle; a log that begins later than with 1 where everything before is gone, as
//! after archiving. It is told by [`Verified::first_seq`].
//!
//! **After a crash** the end may be torn: [`AuditLog::open`] cuts to the last whole record and writes a
//! record `audit.recovered`. It reads no more than the end, so its time does not grow with the log.
//!
//! **What a chain can't show:** a change to the last record, records cut off at the end, or a
//! whole log written anew. Those need a head ([`Status::head_hash`]) that is kept elsewhere.

mod end;
mod folder;
mod head;
mod query;
mod record;
mod shared;
mod verify;
mod writer;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SendError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use futures_channel::oneshot;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::head::{hash_of, head};
pub use self::query::{DEFAULT_LIMIT, Filter, MAX_LIMIT, Page};
pub use self::record::Record;
use self::shared::Shared;
pub use self::verify::{Broken, Verified, Why, verify};
use self::writer::{Job, Message, Reply, Writer};

/// The audit log, open for writing. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    shared: Arc<Shared>,
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// When records are brought to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before [`AuditLog::append`] is answered.
    Always,
    /// So often. The answer comes after the write: a loss of power can take the records of the last
    /// interval, a crash of the process alone can't.
    Interval(Duration),
}

/// How a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// When records are brought to disk.
    pub sync: Sync,
    /// A file that has reached this many bytes is followed by the next.
    pub file_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: Sync::Always,
            file_bytes: 64 * 1024 * 1024,
        }
    }
}

/// What one record says. Number, time and chain are the log's own business. A text above 4,096 bytes is
/// cut and ends in `…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The request, as in `x-request-id`; `None` for what no request asked for.
    pub request_id: Option<String>,
    /// Who asked.
    pub subject: Option<String>,
    /// The caller's address.
    pub client: Option<String>,
    /// What was asked for.
    pub action: String,
    /// The key that it was asked of; `None` where that was not known yet.
    pub key_id: Option<String>,
    /// Which version of it.
    pub key_version: Option<u32>,
    /// With which algorithm.
    pub algorithm: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status of the answer.
    pub status: u16,
    /// Problem code of the answer, if it is one.
    pub code: Option<String>,
}

impl Entry {
    /// A record that the log writes about itself.
    fn own(action: &str) -> Self {
        Self {
            request_id: None,
            subject: None,
            client: None,
            action: action.to_owned(),
            key_id: None,
            key_version: None,
            algorithm: None,
            outcome: Outcome::Success,
            status: 200,
            code: None,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was tried and failed.
    Failure,
    /// A scope or a policy forbade it; the token was not touched.
    Refused,
}

/// The log in numbers, since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Records that were written (in [`Sync::Always`] also synced), the log's own among them.
    pub records: u64,
    /// Writes and syncs that failed, those of probes among them.
    pub failures: u64,
    /// Syncs that were done. Fewer than records: many shared one.
    pub syncs: u64,
    /// As [`AuditLog::writable`].
    pub writable: bool,
    /// Why it is not writable.
    pub fault: Option<String>,
    /// Records that wait for room ([`AuditLog::append_owed`]).
    pub owed: u64,
    /// Number of the last record that is on disk; 0 when there is none.
    pub head_seq: u64,
    /// SHA-256 of its line in hex, to be kept elsewhere: what a chain alone can't show, this can.
    pub head_hash: String,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A second writer.
    #[error("the audit log in {} is being written by another process", .0.display())]
    InUse(PathBuf),
    /// The newest file does not end as this log would have written it.
    #[error(
        "{} holds no audit record in its last 4 MiB; move it away to begin a new log",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The file system's answer.
    #[error("the audit log in {} can't be written: {error}", .folder.display())]
    Io {
        /// Folder of the log.
        folder: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Why the log did not take or give records.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Records can't be written at this time.
    #[error("the audit log can't be written")]
    Unavailable,
    /// A cursor that no [`Page`] of this log had.
    #[error("the cursor is not one that this log gave")]
    InvalidCursor,
    /// The log can't be read.
    #[error("the audit log can't be read: {0}")]
    Read(#[from] io::Error),
}

impl AuditLog {
    /// Opens the log in `folder`, creating the folder (0700) if it is missing; an existing folder's mode is
    /// left as it is. Cuts a torn end.
    ///
    /// # Errors
    /// Another writer has it, the folder can't be written, or the newest file is no audit log.
    pub fn open(folder: &Path, sync: Sync) -> Result<Self, OpenError> {
        Self::open_with(
            folder,
            Options {
                sync,
                ..Options::default()
            },
        )
    }

    /// As [`AuditLog::open`], with more to choose.
    ///
    /// # Errors
    /// As [`AuditLog::open`].
    pub fn open_with(folder: &Path, options: Options) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io {
            folder: folder.to_owned(),
            error,
        };
        let shared = Arc::new(Shared::default());
        let writer = Writer::open(folder, options, Arc::clone(&shared))?;
        let (queue, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                shared,
                queue,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Writes records, all of them or none, next to each other; resolves when they are on disk
    /// ([`Sync::Always`]) or written ([`Sync::Interval`]). They are queued by this call, not by
    /// the first poll: dropping the future does not take them back.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`], at once while [`AuditLog::writable`] is false.
    pub fn append(&self, records: Vec<Entry>) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        self.future(records, false)
    }

    /// As [`AuditLog::append`], for what is done already and can't be undone: records that can't be
    /// written now are kept in memory (up to 10,000) and written before all others when there is room.
    /// The answer is [`AuditError::Unavailable`] all the same.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    pub fn append_owed(&self, records: Vec<Entry>) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        self.future(records, true)
    }

    /// As [`AuditLog::append`], for callers without a future: the thread waits.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    pub fn append_blocking(&self, records: Vec<Entry>) -> Result<(), AuditError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.send(records, false, Reply::Thread(reply))?;
        answer.recv().unwrap_or(Err(AuditError::Unavailable))
    }

    /// Whether records can be written: false from the first write that failed until a probe could be
    /// written, which is tried once a second. Costs one atomic load.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.inner.shared.writable()
    }

    /// The log in numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.shared.status()
    }

    /// Records that are on disk, newest first. Reads files, so it blocks: at most 50,000 lines a call.
    ///
    /// # Errors
    /// [`AuditError::InvalidCursor`], [`AuditError::Read`].
    pub fn query(&self, filter: &Filter) -> Result<Page, AuditError> {
        query::query(&self.inner.folder, self.inner.shared.view(), filter)
    }

    /// Writes and syncs what was queued before, and ends the thread; what comes later is
    /// [`AuditError::Unavailable`]. Dropping the last clone does the same.
    pub fn close(&self) {
        self.inner.close();
    }

    fn future(&self, records: Vec<Entry>, owed: bool) -> impl Future<Output = Result<(), AuditError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(records, owed, Reply::Future(reply));
        async move {
            sent?;
            answer.await.unwrap_or(Err(AuditError::Unavailable))
        }
    }

    fn send(&self, mut entries: Vec<Entry>, owed: bool, reply: Reply) -> Result<(), AuditError> {
        if !owed && !self.writable() {
            return Err(AuditError::Unavailable);
        }
        entries.iter_mut().for_each(record::clip);
        let job = Job {
            entries,
            at: OffsetDateTime::now_utc(),
            owed,
            reply,
        };
        let Err(SendError(message)) = self.inner.queue.send(Message::Append(job)) else {
            return Ok(());
        };
        if let Message::Append(Job {
            entries, owed: true, ..
        }) = message
        {
            writer::say_lost(&entries);
        }
        Err(AuditError::Unavailable)
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog")
            .field("folder", &self.inner.folder)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // Both fail only if the thread has panicked; it has then said so itself.
        let _ = self.queue.send(Message::Stop);
        let _ = thread.join();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
