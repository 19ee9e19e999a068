//! Reading the log backwards, a page at a time.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::AuditError;
use super::folder::{self, Backwards, LogFile};
use super::record::{Record, hex, time_text, unhex};
use super::shared::View;

/// Records on a page when nothing else is asked for.
pub const DEFAULT_LIMIT: usize = 100;

/// Records on a page at most.
pub const MAX_LIMIT: usize = 1000;

/// Lines that one call reads at most.
const MAX_LINES: usize = 50_000;

/// So many records in a row older than `since` end the search. One older record does not: a clock
/// that was wrong for a while writes old times among new ones.
const MAX_OLDER: usize = 10_000;

/// Which records are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only of this key.
    pub key_id: Option<String>,
    /// Only of this action.
    pub action: Option<String>,
    /// Not older than this, to the microsecond.
    pub since: Option<OffsetDateTime>,
    /// Records on the page; taken as 1 to [`MAX_LIMIT`].
    pub limit: usize,
    /// [`Page::next_cursor`] of the page before.
    pub cursor: Option<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            key_id: None,
            action: None,
            since: None,
            limit: DEFAULT_LIMIT,
            cursor: None,
        }
    }
}

/// Records, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most [`Filter::limit`] of them. Fewer, or none, when what is asked for is rare: a call reads
    /// 50,000 lines at most.
    pub records: Vec<Record>,
    /// Where to go on; `None` at the end of the log.
    pub next_cursor: Option<String>,
}

pub(super) fn query(folder: &Path, view: View, filter: &Filter) -> Result<Page, AuditError> {
    let from = filter.cursor.as_deref().map(Cursor::parse).transpose()?;
    let newest = from.map_or(view.first_seq, |from| from.first_seq.min(view.first_seq));
    let mut files = folder::list(folder)?.files;
    files.retain(|file| file.first_seq <= newest);

    let mut search = Search::new(filter);
    while let Some(file) = files.pop() {
        let end = end_of(&file, view, from)?;
        let Some(stopped_at) = search.file(&file, end)? else {
            continue;
        };
        let more = !search.exhausted() && (stopped_at > 0 || !files.is_empty());
        let next = Cursor {
            first_seq: file.first_seq,
            offset: stopped_at,
        };
        return Ok(Page {
            records: search.records,
            next_cursor: more.then(|| next.text()),
        });
    }
    Ok(Page {
        records: search.records,
        next_cursor: None,
    })
}

/// Where reading begins in a file, from its end or from the cursor.
fn end_of(file: &LogFile, view: View, from: Option<Cursor>) -> Result<u64, AuditError> {
    let len = match file.path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    let end = match file.first_seq == view.first_seq {
        true => view.synced.min(len),
        false => len,
    };
    match from {
        Some(from) if from.first_seq == file.first_seq && from.offset > end => Err(AuditError::InvalidCursor),
        Some(from) if from.first_seq == file.first_seq => Ok(from.offset),
        _ => Ok(end),
    }
}

/// A place in the log: the records before it come next. It shows a checksum, so that
/// one made up is told from one that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    first_seq: u64,
    offset: u64,
}

impl Cursor {
    fn text(self) -> String {
        hex(&self.bytes())
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = [self.first_seq.to_be_bytes(), self.offset.to_be_bytes()].concat();
        let check = Sha256::new_with_prefix(b"audit cursor").chain_update(&bytes).finalize();
        bytes.extend(check.iter().take(4));
        bytes
    }

    fn parse(text: &str) -> Result<Self, AuditError> {
        let bytes = unhex(text).ok_or(AuditError::InvalidCursor)?;
        let ([first_seq, offset], _) = bytes.as_chunks::<8>() else {
            return Err(AuditError::InvalidCursor);
        };
        let cursor = Self {
            first_seq: u64::from_be_bytes(*first_seq),
            offset: u64::from_be_bytes(*offset),
        };
        match cursor.bytes() == bytes {
            true => Ok(cursor),
            false => Err(AuditError::InvalidCursor),
        }
    }
}

/// One call's search, with what it has found and how much it has read.
struct Search {
    needles: Vec<String>,
    since: Option<String>,
    limit: usize,
    records: Vec<Record>,
    lines: usize,
    older: usize,
}

impl Search {
    fn new(filter: &Filter) -> Self {
        let Filter {
            key_id,
            action,
            since,
            limit,
            cursor: _,
        } = filter;
        let field = |name: &str, value: &Option<String>| {
            let value = serde_json::Value::from(value.as_deref()?);
            Some(format!("\"{name}\":{value}"))
        };
        Self {
            needles: [field("key_id", key_id), field("action", action)]
                .into_iter()
                .flatten()
                .collect(),
            since: since.map(time_text),
            limit: (*limit).clamp(1, MAX_LIMIT),
            records: Vec::new(),
            lines: 0,
            older: 0,
        }
    }

    /// Reads one file backwards from `end`. `Some(place)` when the page is done; what is before that
    /// place has not been read.
    fn file(&mut self, file: &LogFile, end: u64) -> io::Result<Option<u64>> {
        let opened = match File::open(&file.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut lines = Backwards::new(&opened, end);
        loop {
            let (place, line) = match lines.next_line() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    tracing::warn!(file = %file.path.display(), "a part of the audit log can't be read");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            self.line(&line);
            if self.records.len() >= self.limit || self.lines >= MAX_LINES || self.exhausted() {
                return Ok(Some(place));
            }
        }
    }

    /// A line that is no record is passed over: to tell so is the business of `verify`.
    fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        let Ok(text) = std::str::from_utf8(line) else {
            return;
        };
        if let Some(since) = &self.since {
            let time = text
                .split_once("\"time\":\"")
                .and_then(|(_, rest)| rest.get(..since.len()));
            if time.is_none_or(|time| time < since.as_str()) {
                self.older += 1;
                return;
            }
            self.older = 0;
        }
        // A quote inside a text is written with a backslash, so only the field itself can match.
        if self.needles.iter().all(|needle| text.contains(needle)) {
            self.records.extend(Record::parse(line));
        }
    }

    fn exhausted(&self) -> bool {
        self.older >= MAX_OLDER
    }
}
