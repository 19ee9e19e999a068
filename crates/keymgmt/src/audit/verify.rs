//! Walking the chain.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::folder;
use super::record::{Head, LINE_BYTES, Record};

/// A log whose chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Records that were checked.
    pub records: u64,
    /// Number of the first one. Above 1: what was before has been archived, or is gone, and its
    /// hash is taken from this record unchecked. 0 when there is no record.
    pub first_seq: u64,
    /// Number of the last one.
    pub last_seq: u64,
    /// SHA-256 of the last line in hex, to be compared with a head that was kept elsewhere.
    pub head_hash: String,
    /// Whether the newest file ends in an unfinished line, which is ignored: a server is writing, or was
    /// killed while it did.
    pub unfinished: bool,
}

/// The first record that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file that it is in.
    pub file: PathBuf,
    /// Its line, from 1; 0 when the file as a whole is meant.
    pub line: u64,
    /// Its number, where it can be told.
    pub seq: Option<u64>,
    /// What is wrong.
    pub why: Why,
}

/// Why a record does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The file can't be read.
    Unreadable(String),
    /// A `*.jsonl` file that does not have the name of an audit file.
    ForeignFile,
    /// The line is not a record as this log writes it: other fields, another order, another spacing.
    NotARecord,
    /// The line is not finished, and it is not the end of the log.
    Unfinished,
    /// Records are missing, double or in another order.
    OutOfOrder {
        /// The number that should be here.
        expected: u64,
    },
    /// The first record of all has a `prev` other than 64 zeros.
    FirstPrev,
    /// The record after it has the hash of another text: this record was changed.
    Changed,
    /// Its `prev` is not the hash of the record before, which is sound itself.
    WrongPrev,
}

impl std::error::Error for Broken {}

impl Broken {
    /// A file or folder that can't be read at all.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self {
            file: path.to_owned(),
            line: 0,
            seq: None,
            why: Why::Unreadable(error.to_string()),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if let Some(seq) = self.seq {
            write!(f, ", seq {seq}")?;
        }
        match &self.why {
            Why::Unreadable(error) => write!(f, ": can't be read: {error}"),
            Why::ForeignFile => write!(f, ": not a file of the audit log"),
            Why::NotARecord => write!(f, ": not an audit record as it was written"),
            Why::Unfinished => write!(f, ": the line is not finished"),
            Why::OutOfOrder { expected } => write!(f, ": seq {expected} is expected here"),
            Why::FirstPrev => write!(f, ": prev of the first record is not zero"),
            Why::Changed => write!(f, ": was changed: prev of the record after it is not its hash"),
            Why::WrongPrev => write!(f, ": prev is not the hash of the record before it"),
        }
    }
}

/// Checks a log: every line of every file a record to the letter, their numbers without a gap, each with the
/// hash of the line before. Streams, so its memory does not grow with the log. Works beside a
/// running server. `path` is a log's folder, or one file, which is then checked by itself.
///
/// # Errors
/// The first record that does not hold.
pub fn verify(path: &Path) -> Result<Verified, Broken> {
    let mut walk = Walk::default();
    if path.is_file() {
        walk.file(path, true)?;
        return Ok(walk.verified());
    }
    let listing = folder::list(path).map_err(|error| Broken::unreadable(path, &error))?;
    if let Some(file) = listing.foreign.into_iter().next() {
        return Err(Broken {
            file,
            line: 0,
            seq: None,
            why: Why::ForeignFile,
        });
    }
    let mut files = listing.files.iter().peekable();
    while let Some(file) = files.next() {
        walk.file(&file.path, files.peek().is_none())?;
    }
    Ok(walk.verified())
}

/// What has been walked so far.
#[derive(Default)]
struct Walk {
    records: u64,
    first_seq: u64,
    last: Option<Last>,
    unfinished: bool,
}

/// The record before.
struct Last {
    head: Head,
    file: PathBuf,
    line: u64,
}

/// The line that is looked at.
struct Here<'a> {
    file: &'a Path,
    line: u64,
}

impl Here<'_> {
    fn broken(&self, seq: Option<u64>, why: Why) -> Broken {
        Broken {
            file: self.file.to_owned(),
            line: self.line,
            seq,
            why,
        }
    }

    fn unreadable(&self, error: &io::Error) -> Broken {
        self.broken(None, Why::Unreadable(error.to_string()))
    }
}

impl Walk {
    fn file(&mut self, path: &Path, newest: bool) -> Result<(), Broken> {
        let mut here = Here { file: path, line: 0 };
        let mut lines = Lines::open(path).map_err(|error| here.unreadable(&error))?;
        loop {
            here.line += 1;
            let line = match lines.next() {
                Ok(Next::Line(line)) => line,
                Ok(Next::End) => return Ok(()),
                Ok(Next::Unfinished) if newest => {
                    self.unfinished = true;
                    return Ok(());
                }
                Ok(Next::Unfinished) => return Err(here.broken(None, Why::Unfinished)),
                Ok(Next::TooLong) => return Err(here.broken(None, Why::NotARecord)),
                Err(error) => return Err(here.unreadable(&error)),
            };
            let head = match self.step(&here, line) {
                Ok(head) => head,
                Err(broken) if broken.why == Why::WrongPrev => {
                    let hash = Head::of(0, line).hex();
                    return Err(self.blame(broken, &hash, &mut lines));
                }
                Err(broken) => return Err(broken),
            };
            self.records += 1;
            self.last = Some(Last {
                head,
                file: path.to_owned(),
                line: here.line,
            });
        }
    }

    /// Checks one line against the one before.
    fn step(&mut self, here: &Here<'_>, line: &[u8]) -> Result<Head, Broken> {
        let Some(record) = Record::parse_exact(line) else {
            let seq = Record::parse(line).map(|record| record.seq);
            return Err(here.broken(seq, Why::NotARecord));
        };
        let seq = record.seq;
        match &self.last {
            None if seq == 0 => {
                return Err(here.broken(Some(seq), Why::OutOfOrder { expected: 1 }));
            }
            None if seq == 1 && record.prev != Head::START.hex() => {
                return Err(here.broken(Some(seq), Why::FirstPrev));
            }
            None => self.first_seq = seq,
            Some(last) if seq != last.head.next_seq() => {
                let expected = last.head.next_seq();
                return Err(here.broken(Some(seq), Why::OutOfOrder { expected }));
            }
            Some(last) if record.prev != last.head.hex() => {
                return Err(here.broken(Some(seq), Why::WrongPrev));
            }
            Some(_) => {}
        }
        Ok(Head::of(seq, line))
    }

    /// Two neighbours do not fit: if the one after them fits the second, the first was changed. So it is
    /// when there is none to ask.
    fn blame(&self, second: Broken, second_hash: &str, lines: &mut Lines) -> Broken {
        let fits = match lines.next() {
            Ok(Next::Line(third)) => Record::parse(third).is_some_and(|third| third.prev == second_hash),
            _ => true,
        };
        match &self.last {
            Some(first) if fits => Broken {
                file: first.file.clone(),
                line: first.line,
                seq: Some(first.head.seq),
                why: Why::Changed,
            },
            _ => second,
        }
    }

    fn verified(self) -> Verified {
        let head = self.last.map_or(Head::START, |last| last.head);
        Verified {
            records: self.records,
            first_seq: self.first_seq,
            last_seq: head.seq,
            head_hash: head.hex(),
            unfinished: self.unfinished,
        }
    }
}

/// A file's lines, none longer than a record can be.
pub(super) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
}

pub(super) enum Next<'a> {
    Line(&'a [u8]),
    Unfinished,
    TooLong,
    End,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufReader::with_capacity(256 * 1024, File::open(path)?),
            line: Vec::new(),
        })
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let limit = LINE_BYTES as u64;
        let read = (&mut self.file).take(limit).read_until(b'\n', &mut self.line)?;
        Ok(match self.line.strip_suffix(b"\n") {
            Some(line) => Next::Line(line),
            None if read == 0 => Next::End,
            None if read as u64 == limit => Next::TooLong,
            None => Next::Unfinished,
        })
    }
}
