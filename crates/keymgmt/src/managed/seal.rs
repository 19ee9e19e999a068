//! The seal of a record: what nobody can write who has the database alone.
//!
//! It is an HMAC by a key of the token over everything of a record but how much it was used. Every field goes in with its
//! length, so that no two records have the same bytes.

use hsm_core::{Hsm, KeySize, PublicKey, Usage};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::Inner;
use super::record::{GatewayKeys, KeyRecord, Seal, VersionMaterial, VersionRecord};
use crate::service::{Error, Result};

/// What the sealed bytes begin with. When changing what follows, also change this.
const DOMAIN: &[u8] = b"hsm-gateway key record, version 1\0";
const VERSION_DOMAIN: &[u8] = b"hsm-gateway key version, version 1\0";

/// Seals a record with the gateway keys in use.
///
/// # Errors
/// The token's, the store's.
pub(crate) async fn seal(inner: &Inner, record: &mut KeyRecord) -> Result<()> {
    let keys = inner.own.current(inner).await?;
    let to_seal = to_seal(record, keys.version);
    let mac = inner.tokens.named(None)?.own().seal(&keys.mac, to_seal).await?;
    record.seal = Seal {
        version: keys.version,
        mac,
    };
    Ok(())
}

/// Checks that a record is as a gateway wrote it, and not older than the audit log knows it.
///
/// # Errors
/// [`Error::Tampered`]; the token's, the store's.
pub(crate) async fn check(inner: &Inner, record: &KeyRecord) -> Result<()> {
    sealed(inner, record).await?;
    let Err(error) = inner.marks.check(record) else {
        return Ok(());
    };
    // It may have been changed rightly since it was read: then there is a newer one.
    match inner.store.key(&record.name).await? {
        Some(newer) if newer.revision > record.revision => {
            sealed(inner, &newer).await?;
            inner.marks.check(&newer)
        }
        Some(_) | None => Err(error),
    }
}

async fn sealed(inner: &Inner, record: &KeyRecord) -> Result<()> {
    let name = &record.name;
    let Seal { version, mac } = &record.seal;
    let Some(keys) = inner.own.find(inner, *version).await? else {
        return Err(Error::Tampered(format!(
            "the record of the key `{name}` says that it was sealed by version {version} of the gateway keys, which the \
             store does not have: the store was changed by another program; restore it from a backup"
        )));
    };
    let own = inner.tokens.named(None)?.own();
    if !own
        .check_seal(&keys.mac, to_seal(record, *version), mac.clone())
        .await?
    {
        return Err(Error::Tampered(format!(
            "the record of the key `{name}` was not written by a gateway, or was changed since; the key is not used: restore \
             the store from a backup, and find out who can write to it"
        )));
    }
    Ok(())
}

/// Whether a record has the seal that these keys make, on the token that holds them.
///
/// # Errors
/// The token's.
pub async fn is_sealed(hsm: &Hsm, keys: &GatewayKeys, record: &KeyRecord) -> Result<bool> {
    let Seal { version, mac } = &record.seal;
    let own = hsm.own();
    Ok(own
        .check_seal(&keys.mac, to_seal(record, *version), mac.clone())
        .await?)
}

/// The bytes that are sealed: short, however many versions there are.
fn to_seal(record: &KeyRecord, seal_version: u32) -> Vec<u8> {
    let digest = Sha256::digest(canonical(record, seal_version));
    [DOMAIN, digest.as_slice()].concat()
}

fn canonical(record: &KeyRecord, seal_version: u32) -> Vec<u8> {
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
        seal: _,
        usage: _,
    } = record;
    let mut bytes = Bytes::default();
    bytes.field(DOMAIN);
    bytes.number(seal_version.into());
    bytes.text(name.as_str());
    bytes.kind(key_type.name(), *size, usages.iter());
    bytes.text(protection.name());
    bytes.optional(token.as_ref(), |bytes, token| bytes.text(token.as_str()));
    bytes.text(state.name());
    bytes.optional(state_before.as_ref(), |bytes, state| bytes.text(state.name()));
    bytes.optional(destroy_at.as_ref(), |bytes, at| bytes.time(*at));
    bytes.number((*primary_version).into());
    bytes.number(versions.len() as u64);
    for version in versions {
        bytes.number(version.version.into());
        bytes.text(version.state.name());
        bytes.field(&of_version(record, version));
    }
    bytes.number(tags.len() as u64);
    for (tag, value) in tags {
        bytes.text(tag);
        bytes.text(value);
    }
    bytes.optional(rotation_period_days.as_ref(), |bytes, days| {
        bytes.number((*days).into());
    });
    bytes.optional(rotate_after_operations.as_ref(), |bytes, count| bytes.number(*count));
    bytes.optional(next_rotation_at.as_ref(), |bytes, at| bytes.time(*at));
    bytes.time(*created_at);
    bytes.time(*changed_at);
    bytes.number(*revision);
    bytes.0
}

fn of_version(record: &KeyRecord, one: &VersionRecord) -> [u8; 32] {
    let VersionRecord {
        version,
        state: _,
        material,
        public_key,
        created_at,
        encryptions_reserved: _,
    } = one;
    let mut bytes = Bytes::default();
    bytes.field(VERSION_DOMAIN);
    bytes.text(record.name.as_str());
    bytes.number((*version).into());
    bytes.kind(record.key_type.name(), record.size, record.usages.iter());
    bytes.text(record.protection.name());
    match material {
        VersionMaterial::OnToken(id) => {
            bytes.text("on token");
            bytes.text(&id.to_string());
        }
        VersionMaterial::Wrapped {
            id,
            kek_version,
            algorithm,
            wrapped,
        } => {
            bytes.text("wrapped");
            bytes.text(&id.to_string());
            bytes.number((*kek_version).into());
            bytes.text(algorithm.name());
            bytes.field(wrapped);
        }
        VersionMaterial::Destroyed => bytes.text("destroyed"),
    }
    bytes.optional(public_key.as_ref(), Bytes::public_key);
    bytes.time(*created_at);
    Sha256::digest(&bytes.0).into()
}

/// Fields one after the other, each with its length in 8 bytes before it.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn field(&mut self, field: &[u8]) {
        self.0.extend_from_slice(&(field.len() as u64).to_be_bytes());
        self.0.extend_from_slice(field);
    }

    fn text(&mut self, text: &str) {
        self.field(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.field(&number.to_be_bytes());
    }

    /// To the microsecond, as the store keeps it.
    fn time(&mut self, at: OffsetDateTime) {
        self.field(&(at.unix_timestamp_nanos() / 1000).to_be_bytes());
    }

    fn optional<T>(&mut self, value: Option<&T>, put: impl FnOnce(&mut Bytes, &T)) {
        match value {
            None => self.number(0),
            Some(value) => {
                self.number(1);
                put(self, value);
            }
        }
    }

    fn kind(&mut self, key_type: &str, size: KeySize, usages: impl Iterator<Item = Usage>) {
        self.text(key_type);
        match size {
            KeySize::Bits(bits) => {
                self.text("bits");
                self.number(bits.into());
            }
            KeySize::Curve(curve) => {
                self.text("curve");
                self.text(curve.name());
            }
            KeySize::ParameterSet(set) => {
                self.text("parameter set");
                self.text(set.name());
            }
            KeySize::Unknown => self.text("unknown"),
        }
        let usages: Vec<_> = usages.map(Usage::name).collect();
        self.number(usages.len() as u64);
        usages.into_iter().for_each(|usage| self.text(usage));
    }

    fn public_key(&mut self, key: &PublicKey) {
        match key {
            PublicKey::Rsa { modulus, exponent } => {
                self.text("RSA");
                self.field(modulus);
                self.field(exponent);
            }
            PublicKey::Curve { curve, point } => {
                self.text(curve.name());
                self.field(point);
            }
            PublicKey::PostQuantum { parameter_set, key } => {
                self.text(parameter_set.name());
                self.field(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hsm_core::{Algorithm, Curve, HsmKeyId, KeyType, TokenName};

    use super::*;
    use crate::ManagedId;
    use crate::managed::change::tests::{now, sample};
    use crate::managed::record::{KeyState, Protection, UsageCount, VersionState};

    fn wrapped() -> KeyRecord {
        let mut record = sample(2);
        record.protection = Protection::Wrapped;
        for version in &mut record.versions {
            version.material = VersionMaterial::Wrapped {
                id: HsmKeyId::from_bytes(&[7; 8]).unwrap(),
                kek_version: 1,
                algorithm: Algorithm::AesKwp,
                wrapped: vec![version.version.to_be_bytes()[3]; 40],
            };
        }
        record
    }

    #[test]
    fn every_field_of_a_record_is_sealed() {
        type Change = fn(&mut KeyRecord);
        let changes: &[(&str, Change)] = &[
            ("name", |r| r.name = ManagedId::parse("other").unwrap()),
            ("key type", |r| r.key_type = KeyType::Hmac),
            ("size", |r| r.size = KeySize::Bits(128)),
            ("size of another kind", |r| r.size = KeySize::Curve(Curve::P256)),
            ("usages", |r| r.usages = r.usages.with(Usage::Wrap)),
            ("protection", |r| r.protection = Protection::Hsm),
            ("token", |r| r.token = TokenName::parse("b")),
            ("state", |r| r.state = KeyState::Disabled),
            ("state before", |r| r.state_before = Some(KeyState::Disabled)),
            ("destroy at", |r| r.destroy_at = Some(now())),
            ("primary version", |r| r.primary_version = 1),
            ("a version less", |r| drop(r.versions.pop())),
            ("version number", |r| r.versions[0].version = 9),
            ("version state", |r| r.versions[0].state = VersionState::Disabled),
            ("material", |r| r.versions[0].material = r.versions[1].material.clone()),
            ("gone material", |r| r.versions[0].material = VersionMaterial::Destroyed),
            ("order of versions", |r| r.versions.swap(0, 1)),
            ("public key", |r| {
                let point = vec![4; 65];
                let curve = Curve::P256;
                r.versions[1].public_key = Some(PublicKey::Curve { curve, point });
            }),
            ("version's time", |r| {
                r.versions[1].created_at += time::Duration::MICROSECOND;
            }),
            ("tags", |r| drop(r.tags.insert("team".into(), "b".into()))),
            ("period", |r| r.rotation_period_days = Some(1)),
            ("operations", |r| r.rotate_after_operations = Some(1)),
            ("next rotation", |r| r.next_rotation_at = Some(now())),
            ("created", |r| r.created_at += time::Duration::SECOND),
            ("changed", |r| r.changed_at += time::Duration::SECOND),
            ("revision", |r| r.revision += 1),
        ];
        let before = to_seal(&wrapped(), 1);
        assert_ne!(before, to_seal(&wrapped(), 2));
        for (what, change) in changes {
            let mut changed = wrapped();
            change(&mut changed);
            assert_ne!(to_seal(&changed, 1), before, "{what}");
        }
    }

    #[test]
    fn the_place_and_wrapping_of_the_material_is_sealed() {
        let of = |change: fn(&mut VersionMaterial)| {
            let mut record = wrapped();
            change(&mut record.versions[0].material);
            to_seal(&record, 1)
        };
        let before = of(|_| ());
        let changed = [
            of(|m| {
                if let VersionMaterial::Wrapped { wrapped, .. } = m {
                    wrapped.push(0);
                }
            }),
            of(|m| {
                if let VersionMaterial::Wrapped { kek_version, .. } = m {
                    *kek_version = 2;
                }
            }),
            of(|m| {
                if let VersionMaterial::Wrapped { algorithm, .. } = m {
                    *algorithm = Algorithm::AesKw;
                }
            }),
            of(|m| {
                if let VersionMaterial::Wrapped { id, .. } = m {
                    *id = HsmKeyId::from_bytes(&[8; 8]).unwrap();
                }
            }),
        ];
        assert!(changed.iter().all(|one| *one != before));
    }

    #[test]
    fn what_was_used_is_not_sealed() {
        let mut record = wrapped();
        record.usage = UsageCount {
            operations: 5,
            operations_at_rotation: 1,
            last_used_at: Some(now()),
        };
        record.versions[0].encryptions_reserved = 7;
        record.seal.mac = vec![1];
        assert_eq!(to_seal(&record, 1), to_seal(&wrapped(), 1));
    }

    #[test]
    fn neighbouring_texts_do_not_run_into_each_other() {
        let with = |tags: &[(&str, &str)]| {
            let mut record = sample(1);
            record.tags = tags
                .iter()
                .map(|(tag, value)| ((*tag).into(), (*value).into()))
                .collect();
            to_seal(&record, 1)
        };
        assert_ne!(with(&[("ab", "c")]), with(&[("a", "bc")]));
        assert_ne!(with(&[("a", ""), ("b", "")]), with(&[("a", "b")]));
    }
}
