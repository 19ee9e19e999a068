//! A database for a test, and records to put into it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

pub(crate) use futures_executor::block_on;
use hsm_core::{Algorithm, Curve, HsmKeyId, KeySize, KeyType, PublicKey, Usages};
use keymgmt::ManagedId;
use keymgmt::managed::record::{
    KeyRecord, KeyState, Protection, Seal, UsageCount, VersionMaterial, VersionRecord, VersionState,
};
use keymgmt::store::{Place, Store};
use softhsm_test::Postgres;
use time::OffsetDateTime;

/// An empty database of one kind.
pub(crate) enum Database {
    Sqlite(tempfile::TempDir),
    Postgres(Box<Postgres>),
}

impl Database {
    pub(crate) fn sqlite() -> Database {
        Database::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Database {
        Database::Postgres(Box::new(Postgres::start()))
    }

    pub(crate) fn place(&self) -> Place {
        match self {
            Database::Sqlite(_) => Place::Sqlite(self.file()),
            Database::Postgres(server) => Place::Postgres(server.url().into()),
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Database::Sqlite(folder) => folder.path().join("store.sqlite"),
            Database::Postgres(_) => panic!("it has no file"),
        }
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(self.place()).unwrap()
    }

    /// Runs SQL past the store.
    pub(crate) fn sql(&self, sql: &str) {
        match self {
            Database::Sqlite(_) => {
                rusqlite::Connection::open(self.file())
                    .unwrap()
                    .execute_batch(sql)
                    .unwrap();
            }
            Database::Postgres(server) => {
                let psql = Command::new("psql")
                    .args(["-X", "-q", "-c", sql])
                    .arg(server.url())
                    .output();
                let psql = psql.unwrap();
                assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
            }
        }
    }
}

/// Makes each function a test on either database.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $test() { super::$test(&crate::place::Database::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $test() { super::$test(&crate::place::Database::postgres()); })*
        }
    };
}
pub(crate) use on_both;

pub(crate) fn id(name: &str) -> ManagedId {
    ManagedId::parse(name).unwrap()
}

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap() + time::Duration::microseconds(123_456)
}

pub(crate) fn on_token(hex: &str) -> HsmKeyId {
    HsmKeyId::parse(&format!("hsm:{hex}")).unwrap()
}

/// A key with one version that is wrapped.
pub(crate) fn wrapped(name: &str) -> KeyRecord {
    KeyRecord {
        name: id(name),
        key_type: KeyType::Aes,
        size: KeySize::Bits(256),
        usages: Usages::default_for(KeyType::Aes),
        protection: Protection::Wrapped,
        token: None,
        state: KeyState::Enabled,
        state_before: None,
        destroy_at: None,
        primary_version: 1,
        versions: vec![wrapped_version(1, 1)],
        tags: BTreeMap::new(),
        rotation_period_days: None,
        rotate_after_operations: None,
        next_rotation_at: None,
        created_at: at(0),
        changed_at: at(1),
        revision: 1,
        seal: Seal {
            version: 1,
            mac: vec![7; 32],
        },
        usage: UsageCount::default(),
    }
}

pub(crate) fn wrapped_version(version: u32, kek_version: u32) -> VersionRecord {
    VersionRecord {
        version,
        state: VersionState::Enabled,
        material: VersionMaterial::Wrapped {
            id: on_token("aabb"),
            kek_version,
            algorithm: Algorithm::AesKwp,
            wrapped: vec![0, 1, 2, 255],
        },
        public_key: None,
        created_at: at(2),
        encryptions_reserved: 0,
    }
}

/// A key with everything that a record can have, its first version on the token.
pub(crate) fn full(name: &str, hex: &str) -> KeyRecord {
    KeyRecord {
        key_type: KeyType::Ec,
        size: KeySize::Curve(Curve::P256),
        usages: Usages::default_for(KeyType::Ec),
        protection: Protection::Hsm,
        token: hsm_core::TokenName::parse("second"),
        state: KeyState::ScheduledForDestruction,
        state_before: Some(KeyState::Disabled),
        destroy_at: Some(at(3)),
        primary_version: 2,
        versions: vec![
            VersionRecord {
                material: VersionMaterial::OnToken(on_token(hex)),
                public_key: Some(PublicKey::Curve {
                    curve: Curve::P256,
                    point: generator(),
                }),
                state: VersionState::Disabled,
                encryptions_reserved: 65_536,
                ..wrapped_version(1, 1)
            },
            VersionRecord {
                material: VersionMaterial::Destroyed,
                state: VersionState::Destroyed,
                ..wrapped_version(2, 1)
            },
        ],
        tags: [("team", "red"), ("größe", "")]
            .map(|(tag, value)| (tag.into(), value.into()))
            .into(),
        rotation_period_days: Some(90),
        rotate_after_operations: Some(1 << 32),
        next_rotation_at: Some(at(4)),
        revision: 5,
        usage: UsageCount {
            operations: 12,
            operations_at_rotation: 3,
            last_used_at: Some(at(5)),
        },
        ..wrapped(name)
    }
}

/// The generator of P-256 (SP 800-186), uncompressed.
fn generator() -> Vec<u8> {
    let hex = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let digits: Vec<_> = hex
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The next revision of a record.
pub(crate) fn next(record: &KeyRecord, change: impl FnOnce(&mut KeyRecord)) -> KeyRecord {
    let mut record = record.clone();
    record.revision += 1;
    change(&mut record);
    record
}
