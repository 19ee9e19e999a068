//! Keys as they are answered.

use hsm_core::key::KeySize;
use hsm_core::{KeyInfo, PublicKey, Usage, encoding};
use hsm_openapi::ProblemCode;
use hsm_openapi::names::{ProtectionName, StateName};
use hsm_openapi::wire::{Jwk, Key, KeyVersion, ManagedKey, NamedJwk};
use keymgmt::ManagedId;
use keymgmt::managed::record::{KeyRecord, KeyState, Protection, VersionMaterial, VersionRecord, VersionState};
use keymgmt::service::Managed;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Answer;
use crate::problem::ApiError;

/// A key of the token, and the managed key that it is a version of.
pub fn token_key(info: KeyInfo, managed_by: Option<ManagedId>) -> Key {
    let KeyInfo {
        id,
        key_type,
        size,
        label,
        extractable,
        sensitive,
        usages,
        public_key,
        uri,
    } = info;
    let (key_size, curve, parameter_set) = sizes(size);
    Key {
        key_id: id.to_string(),
        key_type: key_type.name().to_owned(),
        key_size,
        curve,
        parameter_set,
        key_label: label,
        algorithm: key_type.name().to_owned(),
        extractable,
        sensitive,
        usages: usages.iter().map(Usage::name).map(str::to_owned).collect(),
        pkcs11_uri: uri,
        managed_by: managed_by.map(|name| name.to_string()),
        public_key_pem: public_key.as_ref().map(encoding::public_key_pem),
        public_key_jwk: public_key.as_ref().map(jwk),
    }
}

/// A managed key.
///
/// # Errors
/// 500 for a time that can't be written.
pub fn managed(managed: Managed) -> Answer<ManagedKey> {
    let Managed {
        record,
        operations,
        last_used_at,
    } = managed;
    let KeyRecord {
        name,
        key_type,
        size,
        usages,
        protection,
        token,
        state,
        state_before: _,
        destroy_at,
        primary_version,
        versions,
        tags,
        rotation_period_days,
        rotate_after_operations,
        next_rotation_at,
        created_at,
        changed_at: _,
        revision: _,
        seal: _,
        usage: _,
    } = record;
    let (key_size, curve, parameter_set) = sizes(size);
    Ok(ManagedKey {
        key_id: name.to_string(),
        protection: protection_name(protection),
        key_type: key_type.name().to_owned(),
        key_size,
        curve,
        parameter_set,
        usages: usages.iter().map(Usage::name).map(str::to_owned).collect(),
        token: token.map(|token| token.to_string()),
        state: state_name(state),
        destroy_at: destroy_at.map(written).transpose()?,
        primary_version,
        versions: versions.into_iter().map(version).collect::<Answer<_>>()?,
        tags,
        rotation_period_days,
        rotate_after_operations,
        next_rotation_at: next_rotation_at.map(written).transpose()?,
        operations,
        last_used_at: last_used_at.map(written).transpose()?,
        created_at: written(created_at)?,
    })
}

/// The state of a key of the token that is a version of a managed one: what keeps it from being used, if something does.
pub fn state_of_version(record: &KeyRecord, id: &hsm_core::HsmKeyId) -> StateName {
    let of_key = state_name(record.state);
    let mut versions = record.versions.iter();
    let own =
        versions.find(|version| matches!(&version.material, VersionMaterial::OnToken(on_token) if on_token == id));
    match (of_key, own) {
        (StateName::Enabled, Some(version)) => version_state_name(version.state),
        _ => of_key,
    }
}

/// A public key with its name. `alg` is there where the key can be used with one JOSE algorithm only.
pub fn named_jwk(kid: String, usages: hsm_core::Usages, key: &PublicKey) -> NamedJwk {
    let has = |wanted: &[Usage]| usages.iter().any(|usage| wanted.contains(&usage));
    let signs = has(&[Usage::Sign, Usage::Verify]);
    let hides = usages.iter().any(|usage| !matches!(usage, Usage::Sign | Usage::Verify));
    let public_use = match (signs, hides) {
        (true, false) => Some("sig"),
        (false, true) => Some("enc"),
        _ => None,
    };
    let mut key = jwk(key);
    if public_use == Some("sig") && key.alg.is_none() {
        key.alg = match key.crv.as_deref() {
            Some("P-256") => Some("ES256"),
            Some("P-384") => Some("ES384"),
            Some("P-521") => Some("ES512"),
            Some("secp256k1") => Some("ES256K"),
            Some("Ed25519" | "Ed448") => Some("EdDSA"),
            _ => None,
        }
        .map(str::to_owned);
    }
    NamedJwk {
        kid,
        public_use: public_use.map(str::to_owned),
        key,
    }
}

/// The name of a protection.
pub const fn protection_name(protection: Protection) -> ProtectionName {
    match protection {
        Protection::Hsm => ProtectionName::Hsm,
        Protection::Wrapped => ProtectionName::Wrapped,
    }
}

const fn state_name(state: KeyState) -> StateName {
    match state {
        KeyState::Enabled => StateName::Enabled,
        KeyState::Disabled => StateName::Disabled,
        KeyState::ScheduledForDestruction => StateName::ScheduledForDestruction,
        KeyState::Destroyed => StateName::Destroyed,
    }
}

const fn version_state_name(state: VersionState) -> StateName {
    match state {
        VersionState::Enabled => StateName::Enabled,
        VersionState::Disabled => StateName::Disabled,
        VersionState::Destroyed => StateName::Destroyed,
    }
}

fn version(record: VersionRecord) -> Answer<KeyVersion> {
    let VersionRecord {
        version,
        state,
        material,
        public_key,
        created_at,
        encryptions_reserved: _,
    } = record;
    let hsm_key_id = match material {
        VersionMaterial::OnToken(id) => Some(id.to_string()),
        VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
    };
    Ok(KeyVersion {
        version,
        state: version_state_name(state),
        hsm_key_id,
        created_at: written(created_at)?,
        public_key_pem: public_key.as_ref().map(encoding::public_key_pem),
        public_key_jwk: public_key.as_ref().map(jwk),
    })
}

fn sizes(size: KeySize) -> (Option<u32>, Option<String>, Option<String>) {
    match size {
        KeySize::Bits(bits) => (Some(bits), None, None),
        KeySize::Curve(curve) => (None, Some(curve.name().to_owned()), None),
        KeySize::ParameterSet(set) => (None, None, Some(set.name().to_owned())),
        KeySize::Unknown => (None, None, None),
    }
}

fn jwk(key: &PublicKey) -> Jwk {
    let encoding::Jwk {
        kty,
        crv,
        n,
        e,
        x,
        y,
        alg,
        public,
    } = encoding::jwk(key);
    Jwk {
        kty: kty.to_owned(),
        crv: crv.map(str::to_owned),
        x,
        y,
        n,
        e,
        alg: alg.map(str::to_owned),
        public,
    }
}

fn written(time: OffsetDateTime) -> Answer<String> {
    let text = time.format(&Rfc3339);
    text.map_err(|_| ApiError::new(ProblemCode::Internal, "a time of the key can't be written"))
}

#[cfg(test)]
mod tests {
    use hsm_core::{Curve, KeyType, Usages};

    use super::*;

    #[test]
    fn a_public_key_says_what_it_is_for_where_that_is_clear() {
        let point = vec![4; 65];
        let curve = Curve::P256;
        let ec = PublicKey::Curve { curve, point };
        for (usages, public_use, alg) in [
            (&["sign", "verify"][..], Some("sig"), Some("ES256")),
            (&["derive"], Some("enc"), None),
            (&["sign", "derive"], None, None),
        ] {
            let usages = Usages::parse(usages.iter().copied(), KeyType::Ec).expect("usages");
            let shown = named_jwk("a:1".to_owned(), usages, &ec);
            assert_eq!(shown.public_use.as_deref(), public_use);
            assert_eq!(shown.key.alg.as_deref(), alg);
        }
        let rsa = PublicKey::Rsa {
            modulus: vec![0x80; 256],
            exponent: vec![1, 0, 1],
        };
        let usages = Usages::parse(["sign"], KeyType::Rsa).expect("usages");
        let shown = named_jwk("a:1".to_owned(), usages, &rsa);
        assert_eq!((shown.public_use.as_deref(), shown.key.alg), (Some("sig"), None));
    }
}
