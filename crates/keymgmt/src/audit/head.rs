//! The end of a log, and single records' hashes, read beside whoever writes it.

use std::io;
use std::path::Path;

use super::folder;
use super::record::{Head, Record};
use super::verify::{Broken, Lines, Next, Verified, verify};

/// The number and the SHA-256 (hex) of the last record that is on disk; `None` where there is no log or no record. Only
/// the newest files are read, and checked by themselves; takes no lock.
///
/// # Errors
/// The first record of the newest file that does not hold, or that the folder can't be read.
pub fn head(folder: &Path) -> Result<Option<(u64, String)>, Broken> {
    if !folder.exists() {
        return Ok(None);
    }
    let listing = folder::list(folder).map_err(|error| Broken::unreadable(folder, &error))?;
    for file in listing.files.iter().rev() {
        let Verified {
            records,
            last_seq,
            head_hash,
            ..
        } = verify(&file.path)?;
        if records > 0 {
            return Ok(Some((last_seq, head_hash)));
        }
    }
    Ok(None)
}

/// The SHA-256 (hex) of the record of this number; `None` where it is not there.
///
/// # Errors
/// What the file system says.
pub fn hash_of(folder: &Path, seq: u64) -> io::Result<Option<String>> {
    if !folder.exists() {
        return Ok(None);
    }
    let listing = folder::list(folder)?;
    let Some(file) = listing.files.iter().rev().find(|file| file.first_seq <= seq) else {
        return Ok(None);
    };
    let mut lines = Lines::open(&file.path)?;
    while let Next::Line(line) = lines.next()? {
        if Record::parse(line).is_some_and(|record| record.seq == seq) {
            return Ok(Some(Head::of(seq, line).hex()));
        }
    }
    Ok(None)
}
