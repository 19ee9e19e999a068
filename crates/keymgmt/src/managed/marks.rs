//! What the audit log tells of keys: a record of the store that is older than that was put back by somebody.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::record::{KeyRecord, KeyState};
use crate::ManagedId;
use crate::audit::{AuditLog, Filter, MAX_LIMIT, Outcome, Record};
use crate::service::{Action, Error, Result};

/// Pages of the log that are read at the start for each action, at most. A page ends after 1,000 records of the action, or
/// when 50,000 lines were looked at: so it is at most about the last 200,000 lines, however long the log is. Of a key whose
/// last rotation or destruction lies before them nothing is known, and its record is taken as it is.
const MOST_PAGES: usize = 4;

/// For each key the newest version that was recorded, and whether its destruction was.
#[derive(Default)]
pub(crate) struct Marks(Mutex<HashMap<ManagedId, Mark>>);

#[derive(Clone, Copy, Default)]
struct Mark {
    version: u32,
    destroyed: bool,
}

impl Marks {
    /// From the newest records of the log. Reads files, so it blocks.
    pub(crate) fn read(audit: &AuditLog) -> Marks {
        let marks = Marks::default();
        for action in [Action::Rotate, Action::Destroy] {
            let mut filter = Filter {
                action: Some(action.name().into()),
                limit: MAX_LIMIT,
                ..Filter::default()
            };
            for _ in 0..MOST_PAGES {
                let page = match audit.query(&filter) {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(%error, "the audit log could not be read for the versions of keys");
                        break;
                    }
                };
                page.records.iter().for_each(|record| marks.learn(action, record));
                filter.cursor = page.next_cursor;
                if filter.cursor.is_none() {
                    break;
                }
            }
        }
        marks
    }

    /// A version was made, and recorded.
    pub(crate) fn version(&self, name: &ManagedId, version: u32) {
        self.change(name, |mark| mark.version = mark.version.max(version));
    }

    /// A key was destroyed, and that recorded.
    pub(crate) fn destroyed(&self, name: &ManagedId) {
        self.change(name, |mark| mark.destroyed = true);
    }

    /// That a record is not older than the log.
    ///
    /// # Errors
    /// [`Error::Tampered`].
    pub(crate) fn check(&self, record: &KeyRecord) -> Result<()> {
        let KeyRecord { name, state, .. } = record;
        let mark = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        let mark = mark.unwrap_or_default();
        let known = record.latest_version();
        if mark.version > known {
            return Err(Error::Tampered(format!(
                "the audit log tells of version {} of the key `{name}`, the store only of version {known}: its record was \
                 replaced by an older one, and the key is not used; restore a newer backup of the store, or, if versions \
                 are lost for good, archive the audit log and start again",
                mark.version
            )));
        }
        if mark.destroyed && *state != KeyState::Destroyed {
            return Err(Error::Tampered(format!(
                "the audit log tells that the key `{name}` was destroyed, the store that it is {}: its record was replaced \
                 by an older one, and the key is not used; make a new key, or restore a newer backup of the store",
                state.name()
            )));
        }
        Ok(())
    }

    fn learn(&self, action: Action, record: &Record) {
        let name = record.key_id.as_deref().and_then(ManagedId::parse);
        let Some(name) = name.filter(|_| record.outcome == Outcome::Success) else {
            return;
        };
        match (action, record.key_version) {
            (Action::Destroy, _) => self.destroyed(&name),
            (_, Some(version)) => self.version(&name, version),
            (_, None) => {}
        }
    }

    fn change(&self, name: &ManagedId, change: impl FnOnce(&mut Mark)) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(marks.entry(name.clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed::change::tests::sample;

    #[test]
    fn a_record_older_than_the_log_is_refused() {
        let marks = Marks::default();
        let record = sample(2);
        assert!(marks.check(&record).is_ok());
        marks.version(&record.name, 2);
        assert!(marks.check(&record).is_ok());
        marks.version(&record.name, 3);
        marks.version(&record.name, 1);
        assert!(matches!(marks.check(&record), Err(Error::Tampered(_))));
    }

    #[test]
    fn a_destroyed_key_does_not_come_back() {
        let marks = Marks::default();
        let mut record = sample(1);
        marks.destroyed(&record.name);
        assert!(matches!(marks.check(&record), Err(Error::Tampered(_))));
        record.state = KeyState::Destroyed;
        assert!(marks.check(&record).is_ok());
    }
}
