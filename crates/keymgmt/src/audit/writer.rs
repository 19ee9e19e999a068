//! The thread that writes: group commit, failure and repair.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use time::OffsetDateTime;

use super::end::End;
use super::folder::{self, Active, Folder, LogFile};
use super::record::{Head, time_text};
use super::shared::{Shared, View};
use super::{AuditError, Entry, OpenError, Options, Sync};

/// A group that has reached this many bytes is written; what else waits is the next group.
const GROUP_BYTES: usize = 1024 * 1024;

/// Room that a probe asks for beside itself, at most.
const ROOM_BYTES: usize = 64 * 1024;

/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Records kept until there is room, at most.
const MAX_OWED: usize = 10_000;

/// What callers send to the thread.
pub(super) enum Message {
    Append(Job),
    Stop,
}

/// One call's records. Dropping it answers [`AuditError::Unavailable`].
pub(super) struct Job {
    pub(super) entries: Vec<Entry>,
    pub(super) at: OffsetDateTime,
    pub(super) owed: bool,
    pub(super) reply: Reply,
}

/// Where the answer goes.
pub(super) enum Reply {
    Future(oneshot::Sender<Result<(), AuditError>>),
    Thread(SyncSender<Result<(), AuditError>>),
}

impl Reply {
    /// Answers; a caller that has gone does not mind.
    fn send(self, result: Result<(), AuditError>) {
        match self {
            Self::Future(to) => drop(to.send(result)),
            Self::Thread(to) => drop(to.send(result)),
        }
    }
}

/// Records that wait for room, with the time they were made.
struct Owed {
    entries: Vec<Entry>,
    at: OffsetDateTime,
}

/// The thread's own state.
pub(super) struct Writer {
    folder: Folder,
    /// `None` while the file can't be opened.
    active: Option<Active>,
    /// What is known of the file that was active last.
    last: Known,
    head: Head,
    options: Options,
    shared: Arc<Shared>,
    owed: VecDeque<Owed>,
    buffer: Vec<u8>,
    /// Bytes that found no room last.
    missing: usize,
    /// When the next sync ([`Sync::Interval`]) or probe is due.
    due: Option<Instant>,
}

/// A file and how much of it counts.
struct Known {
    log_file: LogFile,
    written: u64,
    synced: u64,
}

impl Known {
    fn of(active: &Active) -> Self {
        Self {
            log_file: active.log_file.clone(),
            written: active.written,
            synced: active.synced,
        }
    }
}

impl Writer {
    pub(super) fn open(path: &Path, options: Options, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse(path.to_owned()),
            _ => OpenError::Io {
                folder: path.to_owned(),
                error,
            },
        };
        let folder = Folder::hold(path).map_err(failed)?;
        let listing = folder::list(path).map_err(failed)?;
        for file in listing.foreign {
            tracing::warn!(file = %file.display(), "a file in the audit folder is not the log's");
        }
        let end = End::find(&folder, listing.files, failed)?;
        let mut writer = Self {
            folder,
            last: Known::of(&end.active),
            active: Some(end.active),
            head: end.head,
            options,
            shared,
            owed: VecDeque::new(),
            buffer: Vec::new(),
            missing: 0,
            due: None,
        };
        writer.shared.writable.store(true, Ordering::Release);
        writer.publish();
        if end.torn > 0 {
            tracing::warn!(bytes = end.torn, "the end of the audit log was torn; cut");
            writer.owe(vec![Entry::own("audit.recovered")], OffsetDateTime::now_utc());
            writer.settle(None);
        }
        Ok(writer)
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        let _guard = Guard(Arc::clone(&self.shared));
        loop {
            let message = match self.due {
                Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let stop = match message {
                Ok(Message::Append(job)) => self.commit(job, queue),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            if stop {
                return self.finish(queue);
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.tick();
            }
        }
    }

    /// Writes `first` and what waits behind it; true when told to stop.
    fn commit(&mut self, first: Job, queue: &Receiver<Message>) -> bool {
        let mut group = Vec::new();
        let mut head = self.head;
        let mut next = Some(first);
        let mut stop = false;
        self.buffer.clear();
        while let Some(job) = next.take() {
            let (before, len) = (head, self.buffer.len());
            if self.shared.writable() && render(&job.entries, job.at, &mut head, &mut self.buffer) {
                group.push(job);
            } else {
                head = before;
                self.buffer.truncate(len);
                self.refuse(job);
            }
            if self.buffer.len() >= GROUP_BYTES {
                break;
            }
            match queue.try_recv() {
                Ok(Message::Append(job)) => next = Some(job),
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => stop = true,
                Err(TryRecvError::Empty) => {}
            }
        }
        if group.is_empty() {
            return stop;
        }
        match self.store(head, None) {
            Ok(()) => group.into_iter().for_each(|job| job.reply.send(Ok(()))),
            Err(error) => {
                self.missing = self.buffer.len().min(ROOM_BYTES);
                self.fail(&error);
                group.into_iter().for_each(|job| self.refuse(job));
            }
        }
        stop
    }

    /// Writes the buffer, whose last line makes the head `head`. `room`, for what the log writes about
    /// itself: so many bytes must find room behind it (they are cut off again), and it is synced at once.
    fn store(&mut self, head: Head, room: Option<usize>) -> io::Result<()> {
        self.rotate()?;
        let Some(active) = &mut self.active else {
            return Err(io::Error::other("the file is not open"));
        };
        let lines = self.buffer.len() as u64;
        active.check(0)?;
        if let Some(room) = room {
            self.buffer.resize(self.buffer.len() + room, b' ');
        }
        active.write(&self.buffer)?;
        if room.is_some() {
            active.cut(lines)?;
        }
        let sync_now = room.is_some() || self.options.sync == Sync::Always;
        if sync_now {
            active.sync()?;
            active.check(lines)?;
        }
        active.count(lines);
        let records = head.seq.saturating_sub(self.head.seq);
        self.shared.records.fetch_add(records, Ordering::Relaxed);
        self.head = head;
        if sync_now {
            self.synced();
        } else if let (Sync::Interval(every), None) = (self.options.sync, self.due) {
            self.due = Some(Instant::now() + every);
        }
        Ok(())
    }

    fn synced(&mut self) {
        if let Some(active) = &mut self.active {
            active.synced = active.written;
        }
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.publish();
    }

    /// Begins the next file if this one is long enough.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if active.written < self.options.file_bytes.max(1) {
            return Ok(());
        }
        if active.synced < active.written {
            active.sync()?;
            active.check(0)?;
            self.synced();
        }
        self.begin(self.head.next_seq())
    }

    fn begin(&mut self, first_seq: u64) -> io::Result<()> {
        let active = Active::create(&self.folder, first_seq)?;
        self.last = Known::of(&active);
        self.active = Some(active);
        self.publish();
        Ok(())
    }

    /// The interval has passed, or a probe is due.
    fn tick(&mut self) {
        self.due = None;
        if !self.shared.writable() {
            return self.probe();
        }
        let Some(active) = &self.active else { return };
        match active.sync().and_then(|()| active.check(0)) {
            Ok(()) => self.synced(),
            Err(error) => self.fail(&error),
        }
    }

    /// From here on records are refused, until a probe succeeds.
    fn fail(&mut self, error: &io::Error) {
        self.shared.writable.store(false, Ordering::Release);
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        let fault = error.to_string();
        let news = self
            .shared
            .with_state(|state| state.fault.replace(fault.clone()) != Some(fault));
        if news {
            tracing::error!(%error, "the audit log can't be written; operations are refused");
        }
        self.due = Some(Instant::now() + PROBE_EVERY);
        if let Some(active) = &self.active {
            self.last = Known::of(active);
            if let Err(error) = active.cut(0) {
                tracing::debug!(%error, "the audit log could not be cut back yet");
            }
        }
    }

    /// Answers a job that was not written, and keeps its records if they are owed.
    fn refuse(&mut self, job: Job) {
        if job.owed {
            self.owe(job.entries, job.at);
        }
        job.reply.send(Err(AuditError::Unavailable));
    }

    fn owe(&mut self, entries: Vec<Entry>, at: OffsetDateTime) {
        let kept: usize = self.owed.iter().map(|owed| owed.entries.len()).sum();
        if kept + entries.len() > MAX_OWED {
            say_lost(&entries);
            return;
        }
        let now_kept = (kept + entries.len()) as u64;
        self.shared.owed.store(now_kept, Ordering::Relaxed);
        self.owed.push_back(Owed { entries, at });
    }

    /// Tries to get back to work.
    fn probe(&mut self) {
        self.buffer.clear();
        match self.repair() {
            Ok(()) => self.settle(Some(Entry::own("audit.probe"))),
            Err(error) => self.fail(&error),
        }
    }

    /// Opens the file again and makes sure that it holds what it should, or begins a new one.
    fn repair(&mut self) -> io::Result<()> {
        self.active = None;
        self.folder.hold_again()?;
        let Known {
            log_file,
            written,
            synced,
        } = &self.last;
        match Active::open(log_file.clone(), *written, *synced) {
            Ok(mut active) => {
                if active.ends_in(self.head)? {
                    active.write_again()?;
                    active.cut(0)?;
                    self.active = Some(active);
                    return Ok(());
                }
                tracing::error!(
                    file = %log_file.path.display(),
                    "the audit file does not end in the last record written; a new file is begun"
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(
                    file = %log_file.path.display(),
                    "the audit file is gone; a new file is begun"
                );
            }
            Err(error) => return Err(error),
        }
        self.begin(self.head.next_seq())
    }

    /// Writes what is owed and then `last`; all is well if that succeeds.
    fn settle(&mut self, last: Option<Entry>) {
        let mut head = self.head;
        self.buffer.clear();
        let last = last.map(|entry| Owed {
            entries: vec![entry],
            at: OffsetDateTime::now_utc(),
        });
        let rendered = self
            .owed
            .iter()
            .chain(&last)
            .all(|owed| render(&owed.entries, owed.at, &mut head, &mut self.buffer));
        let stored = if rendered {
            self.store(head, Some(self.missing))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        };
        if let Err(error) = stored {
            return self.fail(&error);
        }
        self.owed.clear();
        self.missing = 0;
        self.due = None;
        self.shared.owed.store(0, Ordering::Relaxed);
        self.shared.with_state(|state| state.fault = None);
        if !self.shared.writable.swap(true, Ordering::AcqRel) {
            tracing::info!("the audit log can be written again");
        }
    }

    /// Tells readers how far they may read.
    fn publish(&self) {
        let Some(active) = &self.active else { return };
        let view = View {
            first_seq: active.log_file.first_seq,
            synced: active.synced,
        };
        self.shared.with_state(|state| {
            state.view = view;
            if active.synced == active.written {
                state.head = self.head;
            }
        });
    }

    fn finish(mut self, queue: &Receiver<Message>) {
        while let Ok(Message::Append(job)) = queue.try_recv() {
            self.refuse(job);
        }
        if !self.shared.writable() && !self.owed.is_empty() {
            self.probe();
        } else if self
            .active
            .as_ref()
            .is_some_and(|active| active.synced < active.written)
        {
            self.tick();
        }
        self.owed.iter().for_each(|owed| say_lost(&owed.entries));
    }
}

/// However the thread ends, nobody takes the log for writable afterwards.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.writable.store(false, Ordering::Release);
        self.0.with_state(|state| {
            state.fault.get_or_insert_with(|| "the audit log is closed".to_owned());
        });
    }
}

/// Writes the lines of one call behind `buffer`; false if one could not be put into words.
fn render(entries: &[Entry], at: OffsetDateTime, head: &mut Head, buffer: &mut Vec<u8>) -> bool {
    let at = time_text(at);
    entries.iter().all(|entry| head.write(entry, &at, buffer).is_ok())
}

/// The last resort for records of what was done: the operator's log.
pub(super) fn say_lost(entries: &[Entry]) {
    for entry in entries {
        tracing::error!(?entry, "an audit record could not be written");
    }
}
