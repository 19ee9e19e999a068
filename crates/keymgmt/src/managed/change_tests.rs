//! The state machine of a managed key.

use hsm_core::{HsmKeyId, Usage};
use time::macros::datetime;

use super::*;

pub(crate) fn now() -> OffsetDateTime {
    datetime!(2026-03-01 12:00 UTC)
}

/// An AES key with so many versions on the token.
pub(crate) fn sample(versions: u8) -> KeyRecord {
    let birth = Birth {
        name: ManagedId::parse("orders").unwrap(),
        key_type: KeyType::Aes,
        size: KeySize::Bits(256),
        usages: Usages::NONE.with(Usage::Encrypt).with(Usage::Decrypt),
        protection: Protection::Hsm,
        token: None,
        rotation: Rotation::default(),
        tags: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
    };
    let mut record = birth.record(material(1), None, now());
    for version in 2..=versions {
        record = rotated(&record, material(version), None, now()).unwrap();
    }
    record
}

fn material(version: u8) -> VersionMaterial {
    VersionMaterial::OnToken(HsmKeyId::from_bytes(&[version; 8]).unwrap())
}

fn state(state: KeyState) -> Update {
    Update {
        state: Some(state),
        ..Update::default()
    }
}

fn disabled_sample() -> KeyRecord {
    updated(&sample(2), &state(KeyState::Disabled), now()).unwrap().unwrap()
}

fn scheduled_sample() -> KeyRecord {
    scheduled(&sample(2), 7, now()).unwrap()
}

fn destroyed_sample() -> KeyRecord {
    let doomed = doomed(&scheduled_sample(), now() + Duration::days(7)).unwrap();
    emptied(&doomed, now()).unwrap()
}

#[test]
fn a_new_version_is_the_primary_one_and_has_the_next_number() {
    let record = sample(3);
    assert_eq!(record.primary_version, 3);
    assert_eq!(record.revision, 3);
    let numbers: Vec<_> = record.versions.iter().map(|one| one.version).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn what_is_no_change_makes_no_revision() {
    let record = sample(2);
    let same = Update {
        tags: Some(record.tags.clone()),
        rotation_period_days: Some(None),
        rotate_after_operations: Some(None),
        state: Some(KeyState::Enabled),
        primary_version: Some(2),
    };
    assert_eq!(updated(&record, &same, now()).unwrap(), None);
    assert_eq!(version_set(&record, 1, VersionState::Enabled, now()).unwrap(), None);
}

#[test]
fn a_period_counts_from_the_newest_version() {
    let period = |days| Update {
        rotation_period_days: Some(days),
        ..Update::default()
    };
    let later = now() + Duration::days(10);
    let record = updated(&sample(1), &period(Some(30)), later).unwrap().unwrap();
    assert_eq!(record.next_rotation_at, Some(now() + Duration::days(30)));
    assert!(!is_due(&record, later));
    assert!(is_due(&record, now() + Duration::days(30)));
    let rotated = rotated(&record, material(2), None, now() + Duration::days(31)).unwrap();
    assert_eq!(rotated.next_rotation_at, Some(now() + Duration::days(61)));
    // Overdue means now, not in the past.
    let overdue = updated(&record, &period(Some(5)), later).unwrap().unwrap();
    assert_eq!(overdue.next_rotation_at, Some(later));
    let never = updated(&record, &period(None), later).unwrap().unwrap();
    assert_eq!(never.next_rotation_at, None);
}

#[test]
fn operations_count_from_the_last_rotation() {
    let mut record = sample(1);
    record.rotate_after_operations = Some(10);
    record.usage.operations = 9;
    assert!(!is_due(&record, now()));
    record.usage.operations = 10;
    assert!(is_due(&record, now()));
    let rotated = rotated(&record, material(2), None, now()).unwrap();
    assert!(!is_due(&rotated, now()));
    record.state = KeyState::Disabled;
    assert!(!is_due(&record, now()));
}

#[test]
fn the_primary_version_must_be_one_that_may_be_used() {
    let primary = |version| Update {
        primary_version: Some(version),
        ..Update::default()
    };
    let record = version_set(&sample(3), 2, VersionState::Disabled, now())
        .unwrap()
        .unwrap();
    assert_eq!(
        updated(&record, &primary(1), now()).unwrap().unwrap().primary_version,
        1
    );
    assert!(matches!(
        updated(&record, &primary(2), now()),
        Err(Error::KeyDisabled(_))
    ));
    for none in [0, 4, u32::MAX] {
        let refused = updated(&record, &primary(none), now());
        assert!(matches!(
            refused,
            Err(Error::Hsm(hsm_core::Error::InvalidRequest { .. }))
        ));
    }
}

#[test]
fn restoring_gives_back_the_state_of_before() {
    for before in [sample(2), disabled_sample()] {
        let scheduled = scheduled(&before, 30, now()).unwrap();
        assert_eq!(scheduled.state, KeyState::ScheduledForDestruction);
        assert_eq!(scheduled.destroy_at, Some(now() + Duration::days(30)));
        let restored = restored(&scheduled, now()).unwrap();
        assert_eq!(restored.state, before.state);
        assert_eq!((restored.destroy_at, restored.state_before), (None, None));
        assert!(matches!(super::restored(&restored, now()), Err(Error::Conflict(_))));
    }
}

#[test]
fn a_key_is_destroyed_when_its_time_has_come_and_not_before() {
    let scheduled = scheduled_sample();
    assert_eq!(doomed(&scheduled, now() + Duration::days(6)), None);
    assert_eq!(doomed(&sample(1), now() + Duration::days(6)), None);
    let doomed = doomed(&scheduled, now() + Duration::days(7)).unwrap();
    assert_eq!(doomed.state, KeyState::Destroyed);
    // Until it is gone the record says where the material is.
    assert_eq!(doomed.versions, scheduled.versions);
    let emptied = emptied(&doomed, now()).unwrap();
    let gone = |one: &VersionRecord| one.state == VersionState::Destroyed && one.material == VersionMaterial::Destroyed;
    assert!(emptied.versions.iter().all(gone));
    assert_eq!(super::emptied(&emptied, now()), None);
    assert_eq!(super::emptied(&scheduled, now()), None);
}

#[test]
fn nothing_is_done_with_a_key_that_is_destroyed_or_about_to_be() {
    for record in [scheduled_sample(), destroyed_sample()] {
        let refusals = [
            may_rotate(&record).err(),
            updated(&record, &state(KeyState::Enabled), now()).err(),
            updated(&record, &Update::default(), now()).err(),
            version_set(&record, 1, VersionState::Disabled, now()).err(),
            scheduled(&record, 7, now()).err(),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Some(Error::KeyDestroyed(_))), "{refusal:?}");
        }
    }
    assert!(matches!(
        restored(&destroyed_sample(), now()),
        Err(Error::KeyDestroyed(_))
    ));
}

#[test]
fn a_disabled_key_is_changed_and_not_rotated() {
    let record = disabled_sample();
    assert!(matches!(may_rotate(&record), Err(Error::KeyDisabled(_))));
    let enabled = updated(&record, &state(KeyState::Enabled), now()).unwrap().unwrap();
    assert!(may_rotate(&enabled).is_ok());
    assert!(
        version_set(&record, 1, VersionState::Disabled, now())
            .unwrap()
            .is_some()
    );
}

#[test]
fn states_that_are_reached_otherwise_are_refused() {
    for wrong in [KeyState::ScheduledForDestruction, KeyState::Destroyed] {
        let refused = updated(&sample(1), &state(wrong), now());
        assert!(matches!(
            refused,
            Err(Error::Hsm(hsm_core::Error::InvalidRequest { field: "state", .. }))
        ));
    }
    assert!(version_set(&sample(1), 1, VersionState::Destroyed, now()).is_err());
    let none = version_set(&sample(1), 2, VersionState::Disabled, now());
    assert!(matches!(none, Err(Error::VersionNotFound { version: 2, .. })));
}

#[test]
fn limits_hold_and_are_said() {
    let refused = |update: Update| {
        let error = updated(&sample(1), &update, now()).unwrap_err();
        assert!(
            matches!(error, Error::Hsm(hsm_core::Error::InvalidRequest { .. })),
            "{error}"
        );
    };
    let period = |days| Update {
        rotation_period_days: Some(Some(days)),
        ..Update::default()
    };
    let operations = |count| Update {
        rotate_after_operations: Some(Some(count)),
        ..Update::default()
    };
    let tags = |tags: Vec<(String, String)>| Update {
        tags: Some(tags.into_iter().collect()),
        ..Update::default()
    };
    refused(period(0));
    refused(period(3651));
    refused(operations(0));
    refused(operations((1 << 32) + 1));
    refused(tags(vec![(String::new(), "x".into())]));
    refused(tags(vec![("n".repeat(129), "x".into())]));
    refused(tags(vec![("n".into(), "v".repeat(257))]));
    refused(tags(vec![("a:b".into(), "x".into())]));
    refused(tags(vec![("a".into(), "\n".into())]));
    refused(tags((0..51).map(|n| (n.to_string(), String::new())).collect()));
    let most = (0..50).map(|n| (format!("{n:0>128}"), "v".repeat(256))).collect();
    for fine in [tags(most), period(1), period(3650), operations(1), operations(1 << 32)] {
        assert!(updated(&sample(1), &fine, now()).unwrap().is_some());
    }
    assert!(scheduled(&sample(1), 31, now()).is_err());
    assert!(scheduled(&sample(1), 30, now()).is_ok());
}

#[test]
fn a_key_of_odd_size_is_not_rotated() {
    let mut record = sample(1);
    record.size = KeySize::Unknown;
    assert!(matches!(
        may_rotate(&record),
        Err(Error::Hsm(hsm_core::Error::KeyTypeMismatch(_)))
    ));
    let period = Update {
        rotation_period_days: Some(Some(1)),
        ..Update::default()
    };
    assert!(updated(&record, &period, now()).is_err());
}

#[test]
fn the_last_version_is_the_ten_thousandth() {
    let mut record = sample(1);
    let one = record.versions[0].clone();
    record.versions = vec![one; MOST_VERSIONS];
    assert!(matches!(may_rotate(&record), Err(Error::Conflict(_))));
}

#[test]
fn wrapping_anew_changes_nothing_that_a_user_sees() {
    let record = sample(2);
    let next = rewrapped(&record, vec![(1, VersionMaterial::Destroyed)]);
    assert_eq!(next.changed_at, record.changed_at);
    assert_eq!(next.revision, record.revision + 1);
    assert_eq!(next.versions[0].material, VersionMaterial::Destroyed);
    assert_eq!(next.versions[1], record.versions[1]);
}
