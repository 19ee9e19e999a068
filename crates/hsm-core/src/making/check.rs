//! What can be said of a new key before the token is asked.

use crate::algorithm::{Hash, MechanismId, Operation, ROWS};
use crate::backend::Mechanism;
use crate::encoding;
use crate::error::{Error, Result};
use crate::index::Key;
use crate::key::{Curve, KeyInfo, KeySize, KeySpec, KeyType, Material, PublicKey, Usage, Usages};
use crate::operation::{self, Choice};
use crate::shared::Shared;
use crate::software::PreparedKey;

/// The length of every shared secret of ML-KEM (FIPS 203 §3.3), in bits.
const SHARED_SECRET_BITS: u32 = 256;
/// The longest salt and info of HKDF, in bytes.
pub(super) const MOST_SALT: usize = 1024;

/// A token may unwrap what is no good key of its type: what could not be made here may not come in this way either.
pub(super) fn a_good_size(info: &KeyInfo) -> Result<()> {
    let good = match (info.key_type, info.size) {
        (KeyType::Aes, KeySize::Bits(bits)) => KeySpec::AES_BITS.contains(&bits),
        (KeyType::Hmac, KeySize::Bits(bits)) => KeySpec::HMAC_BITS.contains(&bits),
        (KeyType::Rsa, KeySize::Bits(bits)) => bits >= 2048,
        (KeyType::Aes | KeyType::Hmac | KeyType::Rsa, _) => true,
        (KeyType::Ec | KeyType::Ed, size) => matches!(size, KeySize::Curve(_)),
        (KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa, size) => matches!(size, KeySize::ParameterSet(_)),
    };
    if good {
        return Ok(());
    }
    let text = format!(
        "what is in it is no key of type {} that the gateway serves",
        info.key_type
    );
    Err(Error::invalid("key_material", text))
}

/// That the token makes such keys.
pub(crate) fn generates(shared: &Shared, spec: KeySpec) -> Result<()> {
    let mechanism = mechanism(spec);
    let mechanisms = shared.link.mechanisms();
    if mechanisms.iter().any(|info| info.id == mechanism && info.generates()) {
        return Ok(());
    }
    Err(Error::NotSupported(format!("this token has no {mechanism}").into()))
}

/// The mechanism that makes such a key.
pub(super) const fn mechanism(spec: KeySpec) -> MechanismId {
    match spec {
        KeySpec::Rsa { .. } => MechanismId::RSA_PKCS_KEY_PAIR_GEN,
        KeySpec::Aes { .. } => MechanismId::AES_KEY_GEN,
        KeySpec::Hmac { .. } => MechanismId::GENERIC_SECRET_KEY_GEN,
        KeySpec::Curve(Curve::Ed25519 | Curve::Ed448) => MechanismId::EC_EDWARDS_KEY_PAIR_GEN,
        KeySpec::Curve(Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1) => MechanismId::EC_KEY_PAIR_GEN,
        KeySpec::PostQuantum(set) => match set.key_type() {
            KeyType::MlKem => MechanismId::ML_KEM_KEY_PAIR_GEN,
            KeyType::SlhDsa => MechanismId::SLH_DSA_KEY_PAIR_GEN,
            _ => MechanismId::ML_DSA_KEY_PAIR_GEN,
        },
    }
}

/// That the token may have such a key, and that it can be used so.
pub(super) fn takes(shared: &Shared, material: &Material, usages: Usages) -> Result<()> {
    let key_type = material.key_type();
    if let Material::Public(_) = material {
        let possible = Usages::of_public_half(key_type);
        if usages.intersection(possible) != usages {
            let names: Vec<_> = possible.iter().map(Usage::name).collect();
            let text = format!("a public key alone can {}", names.join(", "));
            return Err(Error::invalid("usages", text));
        }
    }
    let good = match (material, material.size()) {
        (Material::Secret { key_type, .. }, KeySize::Bits(bits)) => match key_type {
            KeyType::Aes => KeySpec::AES_BITS.contains(&bits),
            _ => KeySpec::HMAC_BITS.contains(&bits),
        },
        (_, KeySize::Bits(bits)) => bits >= 2048,
        (_, KeySize::Curve(_) | KeySize::ParameterSet(_)) => true,
        (_, KeySize::Unknown) => false,
    };
    if !good {
        return Err(Error::invalid(
            "key_material",
            format!("is no key of type {key_type} of a length that is served"),
        ));
    }
    if let Some(public) = material.public_key() {
        encoding::check_point(&public).map_err(|error| Error::invalid("key_material", error.to_string()))?;
    }
    let mechanisms = shared.link.mechanisms();
    let knows = ROWS
        .iter()
        .filter(|row| row.key_type == key_type)
        .flat_map(|row| [Some(row.native), row.bare].into_iter().flatten())
        .any(|mechanism| mechanisms.iter().any(|info| info.id == mechanism));
    if knows {
        return Ok(());
    }
    Err(Error::NotSupported(
        format!("this token has no mechanism for keys of type {key_type}").into(),
    ))
}

pub(super) fn secret_bits(spec: KeySpec) -> Result<u32> {
    match spec {
        KeySpec::Aes { bits } if KeySpec::AES_BITS.contains(&bits) => Ok(bits),
        KeySpec::Hmac { bits } if KeySpec::HMAC_BITS.contains(&bits) && bits.is_multiple_of(8) => Ok(bits),
        KeySpec::Aes { .. } | KeySpec::Hmac { .. } => Err(Error::invalid(
            "key_size",
            "AES keys have 128, 192 or 256 bits, HMAC keys 256 to 512, a multiple of 8",
        )),
        KeySpec::Rsa { .. } | KeySpec::Curve(_) | KeySpec::PostQuantum(_) => Err(Error::invalid(
            "key_type",
            "what is derived or encapsulated is a secret: AES or HMAC",
        )),
    }
}

pub(super) fn others_point(public_key: Option<PublicKey>, curve: Curve, bits: u32) -> Result<Vec<u8>> {
    let public_key =
        public_key.ok_or_else(|| Error::invalid("public_key", "is missing: ECDH takes the other side's"))?;
    let point = match &public_key {
        PublicKey::Curve { curve: other, point } if *other == curve => point.clone(),
        other => {
            let text = format!(
                "is a key of type {} on another curve; this key is on {curve}",
                other.key_type()
            );
            return Err(Error::invalid("public_key", text));
        }
    };
    PreparedKey::new(&public_key).map_err(|error| Error::invalid("public_key", error.to_string()))?;
    let most = 8 * curve.field_bytes();
    if bits as usize > most {
        return Err(Error::invalid(
            "key_size",
            format!("the shared secret on {curve} has {most} bits"),
        ));
    }
    Ok(point)
}

pub(super) fn kem(shared: &Shared, key: &Key, spec: KeySpec, operation: Operation) -> Result<()> {
    operation::chosen(shared, key, &Choice::BY_KEY, operation)?;
    operation::permit(shared, key, operation.usage())?;
    if secret_bits(spec)? != SHARED_SECRET_BITS {
        let text = format!("the shared secret of ML-KEM has {SHARED_SECRET_BITS} bits");
        return Err(Error::invalid("key_size", text));
    }
    operation::listed(shared, MechanismId::ML_KEM, operation)
}

pub(super) fn refuse(field: &'static str, given: bool, why: &str) -> Result<()> {
    if given {
        Err(Error::invalid(field, format!("{why}: leave it out")))
    } else {
        Ok(())
    }
}

pub(super) fn at_most(field: &'static str, value: Option<&[u8]>, most: usize) -> Result<()> {
    match value {
        Some(value) if value.len() > most => Err(Error::invalid(field, format!("at most {most} bytes"))),
        _ => Ok(()),
    }
}

/// That a secret is as long as it was asked to be, where the token tells.
pub(super) fn as_long_as(spec: KeySpec) -> impl Fn(&KeyInfo) -> Result<()> + Send + 'static {
    move |info| {
        if [spec.size(), KeySize::Unknown].contains(&info.size) {
            return Ok(());
        }
        let text = "this token makes secrets of a length of its own choice";
        Err(Error::NotSupported(text.into()))
    }
}

/// That a key does not ask for a login at each use, which there is no place for in calls that make keys.
pub(super) fn asks_for_no_login(key: &Key) -> Result<()> {
    if key.always_authenticate {
        let text = "the key asks for a login at each use (CKA_ALWAYS_AUTHENTICATE), and this call has no place for one";
        return Err(Error::NotSupported(text.into()));
    }
    Ok(())
}

/// What an unwrapped secret of unknown length can be tried with.
pub(super) fn trial(shared: &Shared, key_type: KeyType) -> Option<Mechanism> {
    let (id, mechanism) = match key_type {
        KeyType::Aes => (MechanismId::AES_CMAC, Mechanism::AesCmac),
        KeyType::Hmac => (MechanismId::SHA256_HMAC, Mechanism::Hmac(Hash::Sha256)),
        KeyType::Rsa | KeyType::Ec | KeyType::Ed | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => return None,
    };
    operation::listed(shared, id, Operation::Sign)
        .is_ok()
        .then_some(mechanism)
}
