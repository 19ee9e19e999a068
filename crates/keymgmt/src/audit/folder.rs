//! The folder and its files: names, modes, locks, and the end of what lies there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::record::{Head, LINE_BYTES, Record};

/// How much of the newest file is looked at when a log is opened: more than one write can be long.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// Block in which files are read backwards.
const BLOCK_BYTES: u64 = 64 * 1024;

/// One file of the log, named `audit-` and the number of its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFile {
    pub(super) first_seq: u64,
    pub(super) path: PathBuf,
}

impl LogFile {
    pub(super) fn new(folder: &Path, first_seq: u64) -> Self {
        Self {
            first_seq,
            path: folder.join(format!("audit-{first_seq:012}.jsonl")),
        }
    }

    fn parse(path: PathBuf) -> Result<Self, PathBuf> {
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        match number {
            Some(first_seq) => Ok(Self { first_seq, path }),
            None => Err(path),
        }
    }
}

/// What lies in a folder: the log's files, oldest first, and `*.jsonl` files that are none of them.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<LogFile>,
    pub(super) foreign: Vec<PathBuf>,
}

/// Lists the folder once.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.extension().is_none_or(|end| end != "jsonl") {
            continue;
        }
        match LogFile::parse(path) {
            Ok(file) => listing.files.push(file),
            Err(path) => listing.foreign.push(path),
        }
    }
    listing.files.sort_by_key(|file| file.first_seq);
    listing.foreign.sort();
    Ok(listing)
}

/// The folder, held: while this lives no other process can open the log for writing.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    held: Option<(File, Place)>,
}

impl Folder {
    /// Creates the folder (0700) if it is missing and takes its lock.
    /// [`io::ErrorKind::WouldBlock`]: somebody else has it.
    pub(super) fn hold(path: &Path) -> io::Result<Self> {
        let mut folder = Self {
            path: path.to_owned(),
            held: None,
        };
        folder.hold_again()?;
        Ok(folder)
    }

    /// Makes sure that the folder under this path is there and is the one that is locked.
    pub(super) fn hold_again(&mut self) -> io::Result<()> {
        create_folder(&self.path)?;
        let now = Place::of(&fs::metadata(&self.path)?);
        if self.held.as_ref().is_some_and(|(_, held)| *held == now) {
            return Ok(());
        }
        self.held = None;
        if cfg!(unix) {
            let handle = File::open(&self.path)?;
            lock(&handle)?;
            let place = Place::of(&handle.metadata()?);
            self.held = Some((handle, place));
        }
        Ok(())
    }

    /// Makes names that were added or removed last through a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.held.as_ref().map_or(Ok(()), |(handle, _)| handle.sync_all())
    }
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64, u64);

impl Place {
    #[cfg(unix)]
    fn of(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self(metadata.dev(), metadata.ino())
    }

    #[cfg(not(unix))]
    fn of(_: &fs::Metadata) -> Self {
        Self(0, 0)
    }
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) log_file: LogFile,
    file: File,
    place: Place,
    /// Bytes of whole lines that count, on disk or not.
    pub(super) written: u64,
    /// Bytes known to be on disk.
    pub(super) synced: u64,
}

impl Active {
    /// Creates the file (0600), or takes an empty one that an earlier try left there.
    pub(super) fn create(folder: &Folder, first_seq: u64) -> io::Result<Self> {
        let log_file = LogFile::new(&folder.path, first_seq);
        let file = match options().create_new(true).open(&log_file.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::metadata(&log_file.path)?.len() == 0 => {
                options().open(&log_file.path)
            }
            created => created,
        }?;
        let active = Self::locked(log_file, file, 0, 0)?;
        folder.sync()?;
        Ok(active)
    }

    /// Opens a file that is there and of which `written` bytes count, `synced` of them surely on disk.
    pub(super) fn open(log_file: LogFile, written: u64, synced: u64) -> io::Result<Self> {
        let file = options().open(&log_file.path)?;
        Self::locked(log_file, file, written, synced)
    }

    fn locked(log_file: LogFile, file: File, written: u64, synced: u64) -> io::Result<Self> {
        if cfg!(unix) {
            lock(&file)?;
        }
        let place = Place::of(&file.metadata()?);
        Ok(Self {
            log_file,
            file,
            place,
            written,
            synced,
        })
    }

    /// Writes behind what counts, with one call if the system takes it whole. What it adds counts only
    /// when [`Active::count`] says so.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.written))?;
        self.file.write_all(bytes)
    }

    /// Cuts off what is further than `bytes` bytes behind what counts. Never makes the file longer: if it
    /// lacks something, that must stay visible.
    pub(super) fn cut(&self, bytes: u64) -> io::Result<()> {
        let end = self.written.saturating_add(bytes);
        if self.file.metadata()?.len() <= end {
            return Ok(());
        }
        self.file.set_len(end)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn count(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
    }

    /// Whether the path still leads to this file, `bytes` bytes longer than what counts: not when it, or
    /// the folder, was removed, renamed, replaced, cut or written to by somebody else.
    pub(super) fn check(&self, bytes: u64) -> io::Result<()> {
        let found = fs::metadata(&self.log_file.path)?;
        if Place::of(&found) != self.place {
            return Err(io::Error::other("the file was replaced by another"));
        }
        if found.len() != self.written.saturating_add(bytes) {
            return Err(io::Error::other("the file was changed by somebody else"));
        }
        Ok(())
    }

    /// After a failed sync the system may have forgotten that some pages never reached the disk: writes
    /// what counts but is not surely there a second time, so that the next sync is about all of it.
    pub(super) fn write_again(&mut self) -> io::Result<()> {
        let Ok(unsure) = usize::try_from(self.written.saturating_sub(self.synced)) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        if unsure == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; unsure];
        self.file.seek(SeekFrom::Start(self.synced))?;
        self.file.read_exact(&mut bytes)?;
        self.file.seek(SeekFrom::Start(self.synced))?;
        self.file.write_all(&bytes)
    }

    /// Whether the last line that counts is the one that `head` stands for.
    pub(super) fn ends_in(&mut self, head: Head) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.written {
            return Ok(false);
        }
        match Backwards::new(&self.file, self.written).next_line() {
            Ok(Some((_, line))) => Ok(Head::of(head.seq, &line) == head),
            Ok(None) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What the end of a file holds.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last whole record, if there is one.
    pub(super) head: Option<Head>,
    /// Bytes up to its end.
    pub(super) keep: u64,
    /// Bytes behind it.
    pub(super) torn: u64,
}

/// Looks at the end of a file. A NUL byte, which no record has, is a block that never reached the disk;
/// what follows it does not count either. `None`: nothing in the last 4 MiB is a record.
pub(super) fn tail(path: &Path) -> io::Result<Option<Tail>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let start = len.saturating_sub(TAIL_BYTES);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(len - start).read_to_end(&mut bytes)?;

    let hole = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(hole.unwrap_or(bytes.len()));
    while let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
        bytes.truncate(end);
        let before = bytes.iter().rposition(|byte| *byte == b'\n');
        let line_start = match before {
            Some(newline) => newline + 1,
            None if start == 0 => 0,
            None => break,
        };
        let line = bytes.get(line_start..).unwrap_or_default();
        if let Some(record) = Record::parse(line) {
            let keep = start + end as u64 + 1;
            return Ok(Some(Tail {
                head: Some(Head::of(record.seq, line)),
                keep,
                torn: len.saturating_sub(keep),
            }));
        }
        bytes.truncate(line_start);
    }
    Ok((start == 0).then_some(Tail {
        head: None,
        keep: 0,
        torn: len,
    }))
}

/// Reads lines from the end of a file to its start, a block at a time.
#[derive(Debug)]
pub(super) struct Backwards<'a> {
    file: &'a File,
    /// Where `bytes` begins in the file.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Backwards<'a> {
    /// Begins before the byte `end`, which follows a newline.
    pub(super) fn new(file: &'a File, end: u64) -> Self {
        Self {
            file,
            start: end,
            bytes: Vec::new(),
        }
    }

    /// The line before, without its newline, and where it begins; `None` at the start of the file.
    /// [`io::ErrorKind::InvalidData`]: no newline in 256 KiB.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let body = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
            let body_len = body.len();
            let newline = body.iter().rposition(|byte| *byte == b'\n');
            let line_start = match newline {
                Some(newline) => newline + 1,
                None if self.start == 0 && self.bytes.is_empty() => return Ok(None),
                None if self.start == 0 => 0,
                None => {
                    self.read_block()?;
                    continue;
                }
            };
            self.bytes.truncate(body_len);
            let line = self.bytes.split_off(line_start);
            return Ok(Some((self.start + line_start as u64, line)));
        }
    }

    fn read_block(&mut self) -> io::Result<()> {
        if self.bytes.len() > LINE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let start = self.start.saturating_sub(BLOCK_BYTES);
        let size = usize::try_from(self.start - start).unwrap_or_default();
        let mut block = vec![0; size];
        let mut file = self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.append(&mut self.bytes);
        self.bytes = block;
        self.start = start;
        Ok(())
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)?;
    #[cfg(unix)]
    if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt as _;
        // FILE_SHARE_READ: nobody else may open it for writing.
        options.share_mode(1);
    }
    options
}

/// Takes a lock or says who can't; a file system without locks is let pass.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            tracing::warn!(%error, "no locks here: a second writer of the audit log would go unseen");
            Ok(())
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
