//! The life of a managed key as functions from one record to the next: what may follow on what, and what is refused.
//!
//! Nothing here touches the token or the store.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hsm_core::{KeySize, KeySpec, KeyType, TokenName, Usages};
use time::{Duration, OffsetDateTime};

use super::record::{
    self, KeyRecord, KeyState, Protection, Seal, UsageCount, VersionMaterial, VersionRecord, VersionState,
};
use crate::ManagedId;
use crate::service::{Error, Result};

/// Tags that a key may have.
pub const MOST_TAGS: usize = 50;
/// Longest name of a tag in bytes.
pub const TAG_NAME_BYTES: usize = 128;
/// Longest value of a tag in bytes.
pub const TAG_VALUE_BYTES: usize = 256;
/// Longest period of rotation in days.
pub const MOST_PERIOD_DAYS: u32 = 3650;
/// Most operations before a rotation: 2^32, which is also where AES-GCM ends.
pub const MOST_OPERATIONS: u64 = 1 << 32;
/// Longest time before a destruction in days.
pub const MOST_WINDOW_DAYS: u8 = 30;
/// Versions that a key may have.
pub const MOST_VERSIONS: usize = 10_000;

/// When a key is rotated by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Every so many days, 1 to [`MOST_PERIOD_DAYS`].
    pub period_days: Option<u32>,
    /// After so many operations with the primary version, 1 to [`MOST_OPERATIONS`].
    pub after_operations: Option<u64>,
}

/// What is to be changed of a key; `None`: left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// All tags anew.
    pub tags: Option<BTreeMap<String, String>>,
    /// The period of rotation in days, or none.
    pub rotation_period_days: Option<Option<u32>>,
    /// The operations after which it is rotated, or none.
    pub rotate_after_operations: Option<Option<u64>>,
    /// Enabled or disabled.
    pub state: Option<KeyState>,
    /// The version that encrypts and signs.
    pub primary_version: Option<u32>,
}

/// What a new key is, before it has a version.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    pub(crate) name: ManagedId,
    pub(crate) key_type: KeyType,
    pub(crate) size: KeySize,
    pub(crate) usages: Usages,
    pub(crate) protection: Protection,
    pub(crate) token: Option<TokenName>,
    pub(crate) rotation: Rotation,
    pub(crate) tags: BTreeMap<String, String>,
}

/// This moment, to the microsecond: what any store keeps.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::from(SystemTime::now());
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}

impl Birth {
    /// Checks what its user may choose.
    ///
    /// # Errors
    /// `InvalidRequest`.
    pub(crate) fn check(&self) -> Result<()> {
        check_tags(&self.tags)?;
        check_rotation(record::spec(self.key_type, self.size), self.rotation)
    }

    /// The record of the key with its first version.
    pub(crate) fn record(
        self,
        material: VersionMaterial,
        public_key: Option<hsm_core::PublicKey>,
        now: OffsetDateTime,
    ) -> KeyRecord {
        let Birth {
            name,
            key_type,
            size,
            usages,
            protection,
            token,
            rotation,
            tags,
        } = self;
        let mut record = KeyRecord {
            name,
            key_type,
            size,
            usages,
            protection,
            token,
            state: KeyState::Enabled,
            state_before: None,
            destroy_at: None,
            primary_version: 1,
            versions: vec![VersionRecord {
                version: 1,
                state: VersionState::Enabled,
                material,
                public_key,
                created_at: now,
                encryptions_reserved: 0,
            }],
            tags,
            rotation_period_days: rotation.period_days,
            rotate_after_operations: rotation.after_operations,
            next_rotation_at: None,
            created_at: now,
            changed_at: now,
            revision: 1,
            seal: Seal::default(),
            usage: UsageCount::default(),
        };
        record.next_rotation_at = next_rotation(&record, now);
        record
    }
}

/// The specification of a new version, if one can be made.
///
/// # Errors
/// The key's state; `KeyTypeMismatch` where no version of this size is made here; `Conflict` at the last version.
pub(crate) fn may_rotate(record: &KeyRecord) -> Result<KeySpec> {
    is_alive(record)?;
    if record.state == KeyState::Disabled {
        return Err(disabled(&record.name));
    }
    if record.versions.len() >= MOST_VERSIONS {
        return Err(Error::Conflict(format!(
            "the key `{}` has {MOST_VERSIONS} versions, which is the most: make a new key",
            record.name
        )));
    }
    record.spec().ok_or_else(|| {
        let text =
            "no new version of a key of this size can be made: make a new key of a size that is in the documentation";
        hsm_core::Error::KeyTypeMismatch(text.into()).into()
    })
}

/// With a new version, which is the primary one.
///
/// # Errors
/// As [`may_rotate`].
pub(crate) fn rotated(
    record: &KeyRecord,
    material: VersionMaterial,
    public_key: Option<hsm_core::PublicKey>,
    now: OffsetDateTime,
) -> Result<KeyRecord> {
    may_rotate(record)?;
    let mut next = changed(record, now);
    let version = record.latest_version() + 1;
    next.versions.push(VersionRecord {
        version,
        state: VersionState::Enabled,
        material,
        public_key,
        created_at: now,
        encryptions_reserved: 0,
    });
    next.primary_version = version;
    next.usage.operations_at_rotation = next.usage.operations;
    next.next_rotation_at = next_rotation(&next, now);
    Ok(next)
}

/// Whether a key is to be rotated by itself.
pub(crate) fn is_due(record: &KeyRecord, now: OffsetDateTime) -> bool {
    let UsageCount {
        operations,
        operations_at_rotation,
        ..
    } = record.usage;
    let used = operations.saturating_sub(operations_at_rotation);
    record.state == KeyState::Enabled
        && (record.next_rotation_at.is_some_and(|at| at <= now)
            || record.rotate_after_operations.is_some_and(|most| used >= most))
}

/// With what is to be changed; `None` if it is so already.
///
/// # Errors
/// The key's state; `InvalidRequest`; the state of the version that is to be the primary one.
pub(crate) fn updated(record: &KeyRecord, update: &Update, now: OffsetDateTime) -> Result<Option<KeyRecord>> {
    let Update {
        tags,
        rotation_period_days,
        rotate_after_operations,
        state,
        primary_version,
    } = update;
    let mut next = record.clone();
    if let Some(tags) = tags {
        check_tags(tags)?;
        next.tags.clone_from(tags);
    }
    if let Some(days) = rotation_period_days {
        next.rotation_period_days = *days;
    }
    if let Some(count) = rotate_after_operations {
        next.rotate_after_operations = *count;
    }
    let rotation = Rotation {
        period_days: rotation_period_days.flatten(),
        after_operations: rotate_after_operations.flatten(),
    };
    check_rotation(record.spec(), rotation)?;
    match state {
        None => {}
        Some(state @ (KeyState::Enabled | KeyState::Disabled)) => next.state = *state,
        Some(KeyState::ScheduledForDestruction | KeyState::Destroyed) => {
            return Err(invalid(
                "state",
                "`enabled` or `disabled`; a key is destroyed by `DELETE`",
            ));
        }
    }
    is_alive(record)?;
    if let Some(version) = primary_version {
        let Some(one) = record.version(*version) else {
            return Err(invalid(
                "primary_version",
                "must be the number of a version that the key has",
            ));
        };
        is_enabled(&record.name, one)?;
        next.primary_version = *version;
    }
    if next.rotation_period_days != record.rotation_period_days {
        next.next_rotation_at = next_rotation(&next, now);
    }
    Ok((next != *record).then(|| changed(&next, now)))
}

/// With a version in another state; `None` if it is so already.
///
/// # Errors
/// The key's state and the version's; [`Error::VersionNotFound`]; `InvalidRequest`.
pub(crate) fn version_set(
    record: &KeyRecord,
    version: u32,
    state: VersionState,
    now: OffsetDateTime,
) -> Result<Option<KeyRecord>> {
    if state == VersionState::Destroyed {
        return Err(invalid(
            "state",
            "`enabled` or `disabled`; versions are destroyed with their key",
        ));
    }
    is_alive(record)?;
    let mut next = record.clone();
    let one = next.versions.iter_mut().find(|one| one.version == version);
    let Some(one) = one else {
        return Err(no_version(&record.name, version));
    };
    if one.state == VersionState::Destroyed {
        return Err(version_destroyed(&record.name, version));
    }
    one.state = state;
    Ok((next != *record).then(|| changed(&next, now)))
}

/// To be destroyed after so many days.
///
/// # Errors
/// The key's state; `InvalidRequest`.
pub(crate) fn scheduled(record: &KeyRecord, window_days: u8, now: OffsetDateTime) -> Result<KeyRecord> {
    if window_days > MOST_WINDOW_DAYS {
        return Err(invalid("window_days", "0 to 30 days"));
    }
    is_alive(record)?;
    let mut next = changed(record, now);
    next.state_before = Some(record.state);
    next.state = KeyState::ScheduledForDestruction;
    next.destroy_at = Some(now + Duration::days(window_days.into()));
    Ok(next)
}

/// Not to be destroyed after all.
///
/// # Errors
/// [`Error::KeyDestroyed`] when it is too late; [`Error::Conflict`] if the key is not to be destroyed.
pub(crate) fn restored(record: &KeyRecord, now: OffsetDateTime) -> Result<KeyRecord> {
    match record.state {
        KeyState::Destroyed => Err(destroyed(&record.name)),
        KeyState::Enabled | KeyState::Disabled => Err(Error::Conflict(format!(
            "the key `{}` is not scheduled for destruction: there is nothing to restore",
            record.name
        ))),
        KeyState::ScheduledForDestruction => {
            let mut next = changed(record, now);
            next.state = record.state_before.unwrap_or(KeyState::Disabled);
            next.state_before = None;
            next.destroy_at = None;
            Ok(next)
        }
    }
}

/// The first step of a destruction, after which there is no way back; `None` if its time has not come, or it is over.
pub(crate) fn doomed(record: &KeyRecord, now: OffsetDateTime) -> Option<KeyRecord> {
    let due = record.state == KeyState::ScheduledForDestruction && record.destroy_at.is_some_and(|at| at <= now);
    due.then(|| {
        let mut next = changed(record, now);
        next.state = KeyState::Destroyed;
        next.next_rotation_at = None;
        next
    })
}

/// The last step of a destruction: nothing is left of the material. `None` if that is so already, or the key lives.
pub(crate) fn emptied(record: &KeyRecord, now: OffsetDateTime) -> Option<KeyRecord> {
    let left = record.versions.iter().any(|one| one.state != VersionState::Destroyed);
    (record.state == KeyState::Destroyed && left).then(|| {
        let mut next = changed(record, now);
        for version in &mut next.versions {
            version.state = VersionState::Destroyed;
            version.material = VersionMaterial::Destroyed;
        }
        next
    })
}

/// The next revision, with other material: nothing that its user sees.
pub(crate) fn rewrapped(record: &KeyRecord, material: Vec<(u32, VersionMaterial)>) -> KeyRecord {
    let mut next = changed(record, record.changed_at);
    for (version, material) in material {
        if let Some(one) = next.versions.iter_mut().find(|one| one.version == version) {
            one.material = material;
        }
    }
    next
}

/// That a key is neither destroyed nor about to be.
///
/// # Errors
/// [`Error::KeyDestroyed`].
pub(crate) fn is_alive(record: &KeyRecord) -> Result<()> {
    match record.state {
        KeyState::Enabled | KeyState::Disabled => Ok(()),
        KeyState::ScheduledForDestruction => Err(Error::KeyDestroyed(format!(
            "the key `{0}` is scheduled for destruction; as long as it is there, `POST /api/v1/keys/{0}/restore` brings it back",
            record.name
        ))),
        KeyState::Destroyed => Err(destroyed(&record.name)),
    }
}

/// That a version may be used.
///
/// # Errors
/// [`Error::KeyDisabled`], [`Error::KeyDestroyed`].
pub(crate) fn is_enabled(name: &ManagedId, one: &VersionRecord) -> Result<()> {
    let version = one.version;
    match one.state {
        VersionState::Enabled => Ok(()),
        VersionState::Disabled => Err(Error::KeyDisabled(format!(
            "version {version} of the key `{name}` is disabled; `PATCH /api/v1/keys/{name}/versions/{version}` enables it"
        ))),
        VersionState::Destroyed => Err(version_destroyed(name, version)),
    }
}

/// A key is disabled.
pub(crate) fn disabled(name: &ManagedId) -> Error {
    Error::KeyDisabled(format!(
        "the key `{name}` is disabled; `PATCH /api/v1/keys/{name}` with the state `enabled` enables it"
    ))
}

/// A key has no such version.
pub(crate) fn no_version(name: &ManagedId, version: u32) -> Error {
    Error::VersionNotFound {
        key: name.clone(),
        version,
    }
}

fn destroyed(name: &ManagedId) -> Error {
    Error::KeyDestroyed(format!(
        "the key `{name}` is destroyed; make a new one under another name"
    ))
}

/// A version is destroyed.
pub(crate) fn version_destroyed(name: &ManagedId, version: u32) -> Error {
    Error::KeyDestroyed(format!(
        "version {version} of the key `{name}` is destroyed; use another version"
    ))
}

fn changed(record: &KeyRecord, now: OffsetDateTime) -> KeyRecord {
    KeyRecord {
        changed_at: now,
        revision: record.revision + 1,
        ..record.clone()
    }
}

/// A period after the newest version was made, and not in the past.
fn next_rotation(record: &KeyRecord, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let days = record.rotation_period_days?;
    let made = record.versions.last().map_or(now, |last| last.created_at);
    Some(made.saturating_add(Duration::days(days.into())).max(now))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    if tags.len() > MOST_TAGS {
        return Err(invalid("tags", "at most 50 tags"));
    }
    for (name, value) in tags {
        if !(1..=TAG_NAME_BYTES).contains(&name.len()) {
            return Err(invalid("tags", "the name of a tag has 1 to 128 bytes"));
        }
        if value.len() > TAG_VALUE_BYTES {
            return Err(invalid("tags", "the value of a tag has at most 256 bytes"));
        }
        if name.chars().chain(value.chars()).any(char::is_control) {
            return Err(invalid("tags", "no control characters"));
        }
        if name.contains(':') {
            return Err(invalid("tags", "no colon in the name of a tag"));
        }
    }
    Ok(())
}

fn check_rotation(spec: Option<KeySpec>, rotation: Rotation) -> Result<()> {
    let Rotation {
        period_days,
        after_operations,
    } = rotation;
    let can = |field| match spec {
        Some(_) => Ok(()),
        None => Err(invalid(
            field,
            "no new version of a key of this size can be made, so it can't be rotated",
        )),
    };
    if let Some(days) = period_days {
        can("rotation_period_days")?;
        if !(1..=MOST_PERIOD_DAYS).contains(&days) {
            return Err(invalid("rotation_period_days", "1 to 3650 days, or null"));
        }
    }
    if let Some(count) = after_operations {
        can("rotate_after_operations")?;
        if !(1..=MOST_OPERATIONS).contains(&count) {
            return Err(invalid(
                "rotate_after_operations",
                "1 to 4294967296 operations, or null",
            ));
        }
    }
    Ok(())
}

fn invalid(field: &'static str, detail: &'static str) -> Error {
    hsm_core::Error::invalid(field, detail).into()
}

#[cfg(test)]
#[path = "change_tests.rs"]
pub(super) mod tests;
