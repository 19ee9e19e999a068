//! Opening a log that is there: where it ends, and what must be cut off.

use std::io;

use super::OpenError;
use super::folder::{self, Active, Folder, LogFile};
use super::record::Head;

/// Where an existing log ends.
pub(super) struct End {
    pub(super) active: Active,
    pub(super) head: Head,
    /// Bytes that were cut off.
    pub(super) torn: u64,
}

impl End {
    /// Finds the last whole record, cuts what is behind it, removes newer files that have none.
    pub(super) fn find(
        folder: &Folder,
        mut files: Vec<LogFile>,
        failed: impl Fn(io::Error) -> OpenError,
    ) -> Result<Self, OpenError> {
        let mut torn = 0;
        let mut blank = Vec::new();
        while let Some(file) = files.pop() {
            let tail = folder::tail(&file.path)
                .map_err(&failed)?
                .ok_or_else(|| OpenError::Damaged(file.path.clone()))?;
            torn += tail.torn;
            let Some(head) = tail.head else {
                blank.push(file);
                continue;
            };
            let active = Active::open(file, tail.keep, 0).map_err(&failed)?;
            if tail.torn > 0 {
                active.cut(0).map_err(&failed)?;
            }
            let mut end = Self { active, head, torn };
            end.settle(folder, &blank).map_err(&failed)?;
            return Ok(end);
        }
        Self::blank(folder, &blank, torn).map_err(failed)
    }

    /// No record anywhere. The oldest file's name tells how many were archived before it.
    fn blank(folder: &Folder, blank: &[LogFile], torn: u64) -> io::Result<Self> {
        let (oldest, newer) = match blank {
            [newer @ .., oldest] => (Some(oldest), newer),
            [] => (None, blank),
        };
        let active = match oldest {
            Some(file) => Active::open(file.clone(), 0, 0)?,
            None => Active::create(folder, 1)?,
        };
        active.cut(0)?;
        let head = Head {
            seq: active.log_file.first_seq.saturating_sub(1),
            ..Head::START
        };
        let mut end = Self { active, head, torn };
        end.settle(folder, newer)?;
        Ok(end)
    }

    /// Brings to disk what a killed process may have left in memory only.
    fn settle(&mut self, folder: &Folder, blank: &[LogFile]) -> io::Result<()> {
        self.active.sync()?;
        self.active.synced = self.active.written;
        for file in blank {
            std::fs::remove_file(&file.path)?;
        }
        folder.sync()
    }
}
