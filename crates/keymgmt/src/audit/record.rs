//! One record, one line: its fields in their order, its text, and the chain from line to line.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::{Entry, Outcome};

/// `prev` of the first record of all: 32 zero bytes as hex.
const NO_PREV: [u8; 32] = [0; 32];

/// RFC 3339 in UTC with six digits after the second, so that texts sort as times do.
const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Longest text of one field in bytes; longer ones are cut and end in `…`.
const TEXT_BYTES: usize = 4096;

/// Longest line in bytes: seven texts, each byte of them escaped to six at worst, and the rest.
pub(super) const LINE_BYTES: usize = 256 * 1024;

/// A record as it stands in the log. The order of the fields is the order in the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<Text = String> {
    /// Number of the record: 1 for the first of the log, then without a gap.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, six digits after the second.
    pub time: Text,
    /// The request that it belongs to; none for what the log says of itself.
    pub request_id: Option<Text>,
    /// Who asked.
    pub subject: Option<Text>,
    /// The caller's address.
    pub client: Option<Text>,
    /// What was asked for.
    pub action: Text,
    /// The key that it was asked of.
    pub key_id: Option<Text>,
    /// Which version of it.
    pub key_version: Option<u32>,
    /// With which algorithm.
    pub algorithm: Option<Text>,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status of the answer.
    pub status: u16,
    /// Problem code of the answer, if it was one.
    pub code: Option<Text>,
    /// SHA-256 of the line before (its bytes without the newline) in lower-case hex.
    pub prev: Text,
}

impl Record {
    /// Reads a line (without its newline); `None` when it is not a record.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Reads a line and holds it to the letter: the same fields in the same order, nothing between them,
    /// a time that is one. `None` when this log would have written it otherwise.
    pub(super) fn parse_exact(line: &[u8]) -> Option<Self> {
        let record = Self::parse(line)?;
        let same = serde_json::to_vec(&record).is_ok_and(|again| again == line);
        let timed = PrimitiveDateTime::parse(&record.time, TIME).is_ok();
        (same && timed).then_some(record)
    }
}

/// The end of a chain: what the next record follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
}

impl Head {
    /// Nothing has been written yet.
    pub(super) const START: Self = Self { seq: 0, hash: NO_PREV };

    /// The head after `line` (without its newline), which holds the record `seq`.
    pub(super) fn of(seq: u64, line: &[u8]) -> Self {
        Self {
            seq,
            hash: Sha256::digest(line).into(),
        }
    }

    pub(super) fn next_seq(self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// The hash in lower-case hex, as the next record's `prev`.
    pub(super) fn hex(&self) -> String {
        hex(&self.hash)
    }

    /// Writes the line of `entry`, newline included, behind `out` and moves on to it.
    pub(super) fn write(&mut self, entry: &Entry, at: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let start = out.len();
        let prev = self.hex();
        let record = Record::<&str> {
            seq: self.next_seq(),
            time: at,
            request_id: entry.request_id.as_deref(),
            subject: entry.subject.as_deref(),
            client: entry.client.as_deref(),
            action: &entry.action,
            key_id: entry.key_id.as_deref(),
            key_version: entry.key_version,
            algorithm: entry.algorithm.as_deref(),
            outcome: entry.outcome,
            status: entry.status,
            code: entry.code.as_deref(),
            prev: &prev,
        };
        serde_json::to_writer(&mut *out, &record)?;
        *self = Self::of(record.seq, out.get(start..).unwrap_or_default());
        out.push(b'\n');
        Ok(())
    }
}

/// The text of a time in a record. An instant outside the years 0 to 9999 has none and becomes empty.
pub(super) fn time_text(at: OffsetDateTime) -> String {
    at.checked_to_offset(time::UtcOffset::UTC)
        .filter(|utc| (0..=9999).contains(&utc.year()))
        .and_then(|utc| utc.format(TIME).ok())
        .unwrap_or_default()
}

/// Cuts the texts of an entry to what a line may hold.
pub(super) fn clip(entry: &mut Entry) {
    let Entry {
        request_id,
        subject,
        client,
        action,
        key_id,
        key_version: _,
        algorithm,
        outcome: _,
        status: _,
        code,
    } = entry;
    clip_text(action);
    let others = [request_id, subject, client, key_id, algorithm, code];
    others.into_iter().flatten().for_each(clip_text);
}

fn clip_text(text: &mut String) {
    if text.len() <= TEXT_BYTES {
        return;
    }
    let mut end = TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('…');
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// The bytes of lower-case hex; `None` for anything else.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    fn entry() -> Entry {
        Entry {
            request_id: Some("r-1".into()),
            subject: Some("a \"quoted\"\n\u{0} subject".into()),
            client: None,
            action: "sign".into(),
            key_id: Some("hsm:01".into()),
            key_version: None,
            algorithm: Some("ECDSA_SHA256".into()),
            outcome: Outcome::Success,
            status: 200,
            code: None,
        }
    }

    #[test]
    fn a_line_has_the_fields_in_their_order() {
        let (mut head, mut line) = (Head::START, Vec::new());
        head.write(&entry(), &time_text(OffsetDateTime::UNIX_EPOCH), &mut line)
            .unwrap();
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            format!(
                concat!(
                    r#"{{"seq":1,"time":"1970-01-01T00:00:00.000000Z","request_id":"r-1","#,
                    r#""subject":"a \"quoted\"\n\u0000 subject","client":null,"action":"sign","#,
                    r#""key_id":"hsm:01","key_version":null,"algorithm":"ECDSA_SHA256","#,
                    r#""outcome":"success","status":200,"code":null,"prev":"{}"}}"#,
                    "\n"
                ),
                "0".repeat(64)
            )
        );
        let line = line.strip_suffix(b"\n").unwrap();
        assert_eq!(head, Head::of(1, line));
        assert!(Record::parse_exact(line).is_some());
    }

    #[test]
    fn another_way_to_write_the_same_is_not_exact() {
        let (mut head, mut line) = (Head::START, Vec::new());
        head.write(&entry(), &time_text(OffsetDateTime::UNIX_EPOCH), &mut line)
            .unwrap();
        let text = String::from_utf8(line).unwrap();
        let text = text.trim_end();
        for (from, to) in [
            (r#""client":null,"#, ""),
            (r#""seq":1,"#, r#""seq": 1,"#),
            ("1970-01-01T", "1970-13-01T"),
            (r#","code":null"#, r#","code":null,"more":1"#),
        ] {
            let other = text.replace(from, to);
            assert_ne!(other, text);
            assert!(Record::parse_exact(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut long = entry();
        long.subject = Some("ä".repeat(3000));
        long.action = "x".repeat(TEXT_BYTES);
        clip(&mut long);
        assert_eq!(long.subject.unwrap(), format!("{}…", "ä".repeat(2048)));
        assert_eq!(long.action.len(), TEXT_BYTES);
    }

    #[test]
    fn hex_comes_back() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(unhex("00abff"), Some(vec![0, 0xab, 0xff]));
        assert_eq!(unhex("00ABFF"), None);
        assert_eq!(unhex("0"), None);
    }
}
