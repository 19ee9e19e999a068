//! A record as rows, in the database and in a backup.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hsm_core::key::{Curve, ParameterSet, Usage};
use hsm_core::{Algorithm, HsmKeyId, KeySize, KeyType, Operation, TokenName, Usages, encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use time::OffsetDateTime;

use super::error::{Result, StoreError};
use crate::key_id::ManagedId;
use crate::managed::record::{
    GatewayKeys, KeyRecord, KeyState, Protection, Seal, UsageCount, VersionMaterial, VersionRecord, VersionState,
};

/// Columns of `keys` that [`KeyRow::read`] reads.
pub(super) const KEY_COLUMNS: &str = "name, key_type, size, usages, protection, token, state, state_before, \
     destroy_at, primary_version, rotation_period_days, rotate_after_operations, next_rotation_at, created_at, \
     changed_at, revision, seal_version, seal_mac, operations, operations_at_rotation, last_used_at";

/// Columns of `versions` that [`VersionRow::read`] reads, after the key's name.
pub(super) const VERSION_COLUMNS: &str = "name, version, state, material, hsm_id, kek_version, algorithm, wrapped, \
     public_key, created_at, encryptions_reserved";

/// Bytes: base64 in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRow {
    pub(super) name: String,
    pub(super) key_type: String,
    pub(super) size: String,
    pub(super) usages: String,
    pub(super) protection: String,
    pub(super) token: Option<String>,
    pub(super) state: String,
    pub(super) state_before: Option<String>,
    pub(super) destroy_at: Option<i64>,
    pub(super) primary_version: i64,
    pub(super) rotation_period_days: Option<i64>,
    pub(super) rotate_after_operations: Option<i64>,
    pub(super) next_rotation_at: Option<i64>,
    pub(super) created_at: i64,
    pub(super) changed_at: i64,
    pub(super) revision: i64,
    pub(super) seal_version: i64,
    pub(super) seal_mac: Bytes,
    pub(super) operations: i64,
    pub(super) operations_at_rotation: i64,
    pub(super) last_used_at: Option<i64>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) versions: Vec<VersionRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionRow {
    pub(super) version: i64,
    pub(super) state: String,
    pub(super) material: String,
    pub(super) hsm_id: Option<String>,
    pub(super) kek_version: Option<i64>,
    pub(super) algorithm: Option<String>,
    pub(super) wrapped: Option<Bytes>,
    pub(super) public_key: Option<Bytes>,
    pub(super) created_at: i64,
    pub(super) encryptions_reserved: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayRow {
    pub(super) version: i64,
    pub(super) kek: String,
    pub(super) mac: String,
    pub(super) created_at: i64,
}

/// A time as it is kept.
pub(super) fn micros(time: OffsetDateTime) -> Result<i64> {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).map_err(|_| out_of_range("a time"))
}

/// A number as it is kept.
pub(super) fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| out_of_range("a number"))
}

/// A name out of a row.
pub(super) fn name(text: &str) -> Result<ManagedId> {
    ManagedId::parse(text)
        .ok_or_else(|| StoreError::Corrupt(format!("a row names a key {text:?}: no key can be named so")))
}

fn out_of_range(what: &str) -> StoreError {
    StoreError::Conflict(format!("{what} is too large for the database"))
}

/// Reads what a row has, and names the row where it can't.
struct Reader<'a> {
    row: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, column: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "the store's row of {} has a wrong value in {column}: restore a backup",
            self.row
        ))
    }

    fn need<T>(&self, column: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(column))
    }

    fn int<T: TryFrom<i64>>(&self, column: &str, value: i64) -> Result<T> {
        T::try_from(value).map_err(|_| self.wrong(column))
    }

    fn time(&self, column: &str, micros: i64) -> Result<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| self.wrong(column))
    }

    fn each<T, U>(&self, value: Option<T>, read: impl FnOnce(&Self, T) -> Result<U>) -> Result<Option<U>> {
        value.map(|value| read(self, value)).transpose()
    }
}

impl KeyRow {
    pub(super) fn of(record: &KeyRecord) -> Result<KeyRow> {
        let KeyRecord {
            name,
            key_type,
            size,
            usages,
            protection,
            token,
            state,
            state_before,
            destroy_at,
            primary_version,
            versions,
            tags,
            rotation_period_days,
            rotate_after_operations,
            next_rotation_at,
            created_at,
            changed_at,
            revision,
            seal,
            usage,
        } = record;
        Ok(KeyRow {
            name: name.to_string(),
            key_type: key_type.name().into(),
            size: size_text(*size),
            usages: usages.iter().map(Usage::name).collect::<Vec<_>>().join(" "),
            protection: protection.name().into(),
            token: token.as_ref().map(ToString::to_string),
            state: state.name().into(),
            state_before: state_before.map(|state| state.name().into()),
            destroy_at: destroy_at.map(micros).transpose()?,
            primary_version: (*primary_version).into(),
            rotation_period_days: rotation_period_days.map(Into::into),
            rotate_after_operations: rotate_after_operations.map(number).transpose()?,
            next_rotation_at: next_rotation_at.map(micros).transpose()?,
            created_at: micros(*created_at)?,
            changed_at: micros(*changed_at)?,
            revision: number(*revision)?,
            seal_version: seal.version.into(),
            seal_mac: Bytes(seal.mac.clone()),
            operations: number(usage.operations)?,
            operations_at_rotation: number(usage.operations_at_rotation)?,
            last_used_at: usage.last_used_at.map(micros).transpose()?,
            tags: tags.clone(),
            versions: versions.iter().map(VersionRow::of).collect::<Result<_>>()?,
        })
    }

    /// Reads a row of `keys`; tags and versions are put in afterwards.
    pub(super) fn read(row: &AnyRow) -> Result<KeyRow> {
        Ok(KeyRow {
            name: row.try_get("name")?,
            key_type: row.try_get("key_type")?,
            size: row.try_get("size")?,
            usages: row.try_get("usages")?,
            protection: row.try_get("protection")?,
            token: row.try_get("token")?,
            state: row.try_get("state")?,
            state_before: row.try_get("state_before")?,
            destroy_at: row.try_get("destroy_at")?,
            primary_version: row.try_get("primary_version")?,
            rotation_period_days: row.try_get("rotation_period_days")?,
            rotate_after_operations: row.try_get("rotate_after_operations")?,
            next_rotation_at: row.try_get("next_rotation_at")?,
            created_at: row.try_get("created_at")?,
            changed_at: row.try_get("changed_at")?,
            revision: row.try_get("revision")?,
            seal_version: row.try_get("seal_version")?,
            seal_mac: Bytes(row.try_get("seal_mac")?),
            operations: row.try_get("operations")?,
            operations_at_rotation: row.try_get("operations_at_rotation")?,
            last_used_at: row.try_get("last_used_at")?,
            tags: BTreeMap::new(),
            versions: Vec::new(),
        })
    }

    pub(super) fn record(self) -> Result<KeyRecord> {
        let row = format!("key {:?}", self.name);
        let read = Reader { row: &row };
        let key_type = read.need("key_type", KeyType::parse(&self.key_type))?;
        let usages: Option<Usages> = self.usages.split_whitespace().map(Usage::parse).collect();
        let numbered = (1..)
            .zip(&self.versions)
            .all(|(number, version): (i64, _)| version.version == number);
        if !numbered || self.versions.is_empty() {
            return Err(read.wrong("the numbers of its versions"));
        }
        let versions = self.versions.into_iter().map(|version| version.record(&self.name));
        Ok(KeyRecord {
            name: name(&self.name)?,
            key_type,
            size: read.need("size", parse_size(&self.size))?,
            usages: read.need("usages", usages)?,
            protection: read.need("protection", Protection::parse(&self.protection))?,
            token: read.each(self.token, |read, token| read.need("token", TokenName::parse(&token)))?,
            state: read.need("state", KeyState::parse(&self.state))?,
            state_before: read.each(self.state_before, |read, state| {
                read.need("state_before", KeyState::parse(&state))
            })?,
            destroy_at: read.each(self.destroy_at, |read, at| read.time("destroy_at", at))?,
            primary_version: read.int("primary_version", self.primary_version)?,
            versions: versions.collect::<Result<_>>()?,
            tags: self.tags,
            rotation_period_days: read.each(self.rotation_period_days, |read, days| {
                read.int("rotation_period_days", days)
            })?,
            rotate_after_operations: read.each(self.rotate_after_operations, |read, count| {
                read.int("rotate_after_operations", count)
            })?,
            next_rotation_at: read.each(self.next_rotation_at, |read, at| read.time("next_rotation_at", at))?,
            created_at: read.time("created_at", self.created_at)?,
            changed_at: read.time("changed_at", self.changed_at)?,
            revision: read.int("revision", self.revision)?,
            seal: Seal {
                version: read.int("seal_version", self.seal_version)?,
                mac: self.seal_mac.0,
            },
            usage: UsageCount {
                operations: read.int("operations", self.operations)?,
                operations_at_rotation: read.int("operations_at_rotation", self.operations_at_rotation)?,
                last_used_at: read.each(self.last_used_at, |read, at| read.time("last_used_at", at))?,
            },
        })
    }

    /// The oldest version of the gateway keys that is needed to use the record.
    pub(super) fn oldest_kek(&self) -> i64 {
        let wrapped = self.versions.iter().filter_map(|version| version.kek_version);
        wrapped.fold(self.seal_version, i64::min)
    }

    /// Whether the key is destroyed and a version's material may still be there.
    pub(super) fn unfinished(&self) -> bool {
        let destroyed = VersionState::Destroyed.name();
        let there = |version: &VersionRow| version.state != destroyed || version.material != GONE;
        self.state == KeyState::Destroyed.name() && self.versions.iter().any(there)
    }
}

pub(super) const ON_TOKEN: &str = "token";
const WRAPPED: &str = "wrapped";
const GONE: &str = "destroyed";

impl VersionRow {
    fn of(record: &VersionRecord) -> Result<VersionRow> {
        let VersionRecord {
            version,
            state,
            material,
            public_key,
            created_at,
            encryptions_reserved,
        } = record;
        let mut row = VersionRow {
            version: (*version).into(),
            state: state.name().into(),
            material: GONE.into(),
            hsm_id: None,
            kek_version: None,
            algorithm: None,
            wrapped: None,
            public_key: public_key.as_ref().map(|key| Bytes(encoding::public_key_der(key))),
            created_at: micros(*created_at)?,
            encryptions_reserved: number(*encryptions_reserved)?,
        };
        match material {
            VersionMaterial::OnToken(id) => {
                row.material = ON_TOKEN.into();
                row.hsm_id = Some(id.to_string());
            }
            VersionMaterial::Wrapped {
                id,
                kek_version,
                algorithm,
                wrapped,
            } => {
                row.material = WRAPPED.into();
                row.hsm_id = Some(id.to_string());
                row.kek_version = Some((*kek_version).into());
                row.algorithm = Some(algorithm.name().into());
                row.wrapped = Some(Bytes(wrapped.clone()));
            }
            VersionMaterial::Destroyed => {}
        }
        Ok(row)
    }

    pub(super) fn read(row: &AnyRow) -> Result<VersionRow> {
        Ok(VersionRow {
            version: row.try_get("version")?,
            state: row.try_get("state")?,
            material: row.try_get("material")?,
            hsm_id: row.try_get("hsm_id")?,
            kek_version: row.try_get("kek_version")?,
            algorithm: row.try_get("algorithm")?,
            wrapped: row.try_get::<Option<Vec<u8>>, _>("wrapped")?.map(Bytes),
            public_key: row.try_get::<Option<Vec<u8>>, _>("public_key")?.map(Bytes),
            created_at: row.try_get("created_at")?,
            encryptions_reserved: row.try_get("encryptions_reserved")?,
        })
    }

    fn record(self, key: &str) -> Result<VersionRecord> {
        let row = format!("version {} of key {key:?}", self.version);
        let read = Reader { row: &row };
        let id = |id: Option<String>| read.need("hsm_id", id.and_then(|id| HsmKeyId::parse(&id).ok()));
        let material = match self.material.as_str() {
            ON_TOKEN => VersionMaterial::OnToken(id(self.hsm_id)?),
            WRAPPED => VersionMaterial::Wrapped {
                id: id(self.hsm_id)?,
                kek_version: read.int("kek_version", read.need("kek_version", self.kek_version)?)?,
                algorithm: read.need("algorithm", self.algorithm.as_deref().and_then(parse_algorithm))?,
                wrapped: read.need("wrapped", self.wrapped)?.0,
            },
            GONE => VersionMaterial::Destroyed,
            _ => return Err(read.wrong("material")),
        };
        Ok(VersionRecord {
            version: read.int("version", self.version)?,
            state: read.need("state", VersionState::parse(&self.state))?,
            material,
            public_key: read.each(self.public_key, |read, der| {
                read.need("public_key", encoding::public_key_from_der(&der.0))
            })?,
            created_at: read.time("created_at", self.created_at)?,
            encryptions_reserved: read.int("encryptions_reserved", self.encryptions_reserved)?,
        })
    }
}

impl GatewayRow {
    pub(super) fn of(keys: &GatewayKeys) -> Result<GatewayRow> {
        Ok(GatewayRow {
            version: keys.version.into(),
            kek: keys.kek.to_string(),
            mac: keys.mac.to_string(),
            created_at: micros(keys.created_at)?,
        })
    }

    pub(super) fn read(row: &AnyRow) -> Result<GatewayRow> {
        Ok(GatewayRow {
            version: row.try_get("version")?,
            kek: row.try_get("kek")?,
            mac: row.try_get("mac")?,
            created_at: row.try_get("created_at")?,
        })
    }

    pub(super) fn keys(&self) -> Result<GatewayKeys> {
        let row = format!("the gateway's keys, version {}", self.version);
        let read = Reader { row: &row };
        Ok(GatewayKeys {
            version: read.int("version", self.version)?,
            kek: read.need("kek", HsmKeyId::parse(&self.kek).ok())?,
            mac: read.need("mac", HsmKeyId::parse(&self.mac).ok())?,
            created_at: read.time("created_at", self.created_at)?,
        })
    }
}

fn size_text(size: KeySize) -> String {
    match size {
        KeySize::Bits(bits) => format!("bits:{bits}"),
        KeySize::Curve(curve) => format!("curve:{}", curve.name()),
        KeySize::ParameterSet(set) => format!("set:{}", set.name()),
        KeySize::Unknown => "unknown".into(),
    }
}

fn parse_size(text: &str) -> Option<KeySize> {
    match text.split_once(':') {
        Some(("bits", bits)) => bits.parse().ok().map(KeySize::Bits),
        Some(("curve", curve)) => Curve::parse(curve).map(KeySize::Curve),
        Some(("set", set)) => ParameterSet::parse(set).map(KeySize::ParameterSet),
        None if text == "unknown" => Some(KeySize::Unknown),
        _ => None,
    }
}

fn parse_algorithm(name: &str) -> Option<Algorithm> {
    hsm_core::algorithm::Named::parse(name, Operation::Unwrap).map(|named| named.algorithm)
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes).map_err(serde::de::Error::custom)
    }
}
