//! What the token can do, in the terms of the API: said beforehand, so that nobody learns it from a failure.

use std::sync::{Arc, Mutex, PoisonError};

use crate::algorithm::{Algorithm, Hash, MechanismId, Operation, ROWS, Row, Scheme};
use crate::backend::MechanismInfo;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::key::{Curve, KeySize, KeySpec, KeyType, ParameterSet, Usages};
use crate::making;
use crate::operation::{self, How};
use crate::shared::Shared;
use crate::trial;
use crate::worker::Worker;

names! {
    /// How something is done.
    Support {
        /// By the token, in one call of its mechanism.
        Native = "native",
        /// Partly beside the token, which lacks the mechanism; no secret leaves the token.
        Composed = "composed",
        /// Not at all: the call is answered that the token can't do it.
        No = "no",
    }
}

/// How the token does an algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlgorithmSupport {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What is done with it.
    pub operation: Operation,
    /// How.
    pub support: Support,
    /// Why it is composed, or not supported.
    pub why: Option<String>,
}

/// Which keys the token makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTypeSupport {
    /// The type.
    pub key_type: KeyType,
    /// The sizes that it makes; none if it makes no such keys.
    pub sizes: Vec<KeySize>,
    /// [`Support::Native`] or [`Support::No`].
    pub support: Support,
    /// Why not.
    pub why: Option<String>,
}

/// What a token can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Every algorithm with every operation that it serves. AES-CBC is there only where it is allowed.
    pub algorithms: Vec<AlgorithmSupport>,
    /// Every type of key.
    pub key_types: Vec<KeyTypeSupport>,
}

/// What was found out by trying, once.
#[derive(Default)]
pub(crate) struct Trials(Mutex<Option<Arc<[KeyTypeSupport]>>>);

impl Trials {
    /// Another token may make other keys, or the same one after an update.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Hsm {
    /// What the token can do. What its mechanism list does not tell is tried once, with keys that live in the session alone.
    pub fn capabilities(&self) -> Call<Capabilities> {
        if let Err(error) = self.shared().link.check_login() {
            return Call::settled(Err(error));
        }
        self.call(self.shared().options.keygen_timeout, move |worker, reply| {
            reply.settle(capabilities(worker));
        })
    }
}

fn capabilities(worker: &mut Worker) -> Result<Capabilities> {
    let shared = worker.shared.clone();
    let key_types = key_types(worker)?;
    let legacy = shared.options.legacy_algorithms;
    let mut algorithms = Vec::new();
    for row in ROWS.iter().filter(|row| legacy || row.scheme != Scheme::Cbc) {
        for operation in row.operations.iter().copied() {
            let told = how(worker, row, operation).and_then(|how| has_keys(&shared, &key_types, row).map(|()| how));
            let (support, why) = match told {
                Ok(None) => (Support::Native, None),
                Ok(Some(why)) => (Support::Composed, Some(why)),
                Err(Error::NotSupported(why)) => (Support::No, Some(why.to_string())),
                Err(error) => return Err(error),
            };
            algorithms.push(AlgorithmSupport {
                algorithm: row.algorithm,
                operation,
                support,
                why,
            });
        }
    }
    Ok(Capabilities {
        algorithms,
        key_types: key_types.to_vec(),
    })
}

/// That there may be keys for an algorithm: made on the token, or by others before. A token that nothing can be changed on
/// uses those that it has.
fn has_keys(shared: &Shared, key_types: &[KeyTypeSupport], row: &Row) -> Result<()> {
    let made = key_types.iter().find(|made| made.key_type == row.key_type);
    match made {
        Some(KeyTypeSupport {
            support: Support::No,
            why,
            ..
        }) if shared.link.check_change().is_ok() => Err(Error::NotSupported(why.clone().unwrap_or_default().into())),
        _ => Ok(()),
    }
}

/// How an operation would be done: by the token (`None`), or composed, and why.
///
/// # Errors
/// [`Error::NotSupported`], as the operation itself would answer it.
fn how(worker: &mut Worker, row: &Row, operation: Operation) -> Result<Option<String>> {
    let shared = worker.shared.clone();
    let listed = |mechanism: MechanismId| operation::listed(&shared, mechanism, operation);
    let lacks = |mechanism: MechanismId| format!("the token has no {mechanism}");
    match (row.scheme, operation) {
        (Scheme::Oaep(hash), Operation::Encrypt) => {
            has_oaep(worker, hash)?;
            Ok(Some("encrypted here with the public key, which needs no secret".into()))
        }
        (Scheme::Oaep(hash), Operation::Decrypt) => {
            has_oaep(worker, hash)?;
            Ok(None)
        }
        (Scheme::Oaep(hash), _) => {
            listed(MechanismId::RSA_PKCS_OAEP)?;
            has_oaep(worker, hash)?;
            Ok(None)
        }
        (Scheme::RsaAesKeyWrap, _) => {
            How::of(&shared, row.algorithm, operation)?;
            if operation == Operation::Wrap {
                making::generates(&shared, KeySpec::Aes { bits: 256 })?;
            }
            has_oaep(worker, Hash::Sha256).or_else(|_| has_oaep(worker, Hash::Sha1))?;
            Ok(Some("composed of RSA-OAEP and AES-KWP in the token".into()))
        }
        (Scheme::Kwp, _) => {
            How::of(&shared, row.algorithm, operation)?;
            let named = listed(MechanismId::AES_KEY_WRAP_KWP).is_ok();
            Ok((!named).then(|| "the token's CKM_AES_KEY_WRAP_PAD is the same algorithm".into()))
        }
        (_, Operation::Verify) if listed(row.native).is_err() => match row.bare {
            Some(bare) if listed(bare).is_ok() => Ok(Some(hashed_here(bare, row))),
            _ if row.scheme.is_verified_here() => Ok(Some(format!(
                "{}; verified here with the public key",
                lacks(row.native)
            ))),
            _ => Err(operation::no_mechanism(row.native)),
        },
        (_, _) => match (listed(row.native), row.bare) {
            (Ok(()), _) => Ok(None),
            (Err(_), Some(bare)) => listed(bare).map(|()| Some(hashed_here(bare, row))),
            (Err(error), None) => Err(error),
        },
    }
}

fn hashed_here(bare: MechanismId, row: &Row) -> String {
    format!("the token has no {}; hashed here, done by {bare}", row.native)
}

fn has_oaep(worker: &mut Worker, hash: Hash) -> Result<()> {
    let shared = worker.shared.clone();
    operation::listed(&shared, MechanismId::RSA_PKCS_OAEP, Operation::Decrypt)?;
    crate::oaep::check(worker, hash)
}

/// The types of keys, tried out once.
fn key_types(worker: &mut Worker) -> Result<Arc<[KeyTypeSupport]>> {
    let shared = worker.shared.clone();
    if let Some(known) = &*shared.trials.0.lock().unwrap_or_else(PoisonError::into_inner) {
        return Ok(known.clone());
    }
    let mut found = Vec::new();
    for key_type in KeyType::ALL.iter().copied() {
        found.push(key_type_support(worker, key_type)?);
    }
    let found: Arc<[KeyTypeSupport]> = found.into();
    *shared.trials.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
    Ok(found)
}

fn key_type_support(worker: &mut Worker, key_type: KeyType) -> Result<KeyTypeSupport> {
    if let Err(Error::NotSupported(text)) = worker.shared.link.check_change() {
        return Ok(KeyTypeSupport {
            key_type,
            sizes: Vec::new(),
            support: Support::No,
            why: Some(text.to_string()),
        });
    }
    let mut sizes = Vec::new();
    let mut why = None;
    let mut tried: Option<Result<()>> = None;
    for spec in specs(key_type) {
        let stated = stated(&worker.shared.clone(), spec);
        let made = match (stated, &tried) {
            (Err(error), _) => Err(error),
            // One of them stands for all, where the token tells of the others.
            (Ok(()), Some(outcome)) if !each_is_tried(spec) => outcome.clone(),
            (Ok(()), _) => {
                let outcome = try_to_make(worker, spec);
                tried = Some(outcome.clone());
                outcome
            }
        };
        match made {
            Ok(()) => sizes.push(spec.size()),
            Err(Error::NotSupported(text) | Error::InvalidRequest { detail: text, .. }) => {
                why.get_or_insert(text.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let none = sizes.is_empty();
    Ok(KeyTypeSupport {
        key_type,
        sizes,
        support: if none { Support::No } else { Support::Native },
        why: why.filter(|_| none),
    })
}

/// What is worth a trial: curves, which mechanism lists do not tell, and one size of each other type.
fn each_is_tried(spec: KeySpec) -> bool {
    matches!(spec, KeySpec::Curve(_))
}

fn specs(key_type: KeyType) -> Vec<KeySpec> {
    let curves = || {
        Curve::ALL
            .iter()
            .copied()
            .filter(move |curve| curve.key_type() == key_type)
    };
    match key_type {
        KeyType::Rsa => KeySpec::RSA_BITS
            .iter()
            .map(|bits| KeySpec::Rsa { bits: *bits })
            .collect(),
        KeyType::Aes => KeySpec::AES_BITS
            .iter()
            .map(|bits| KeySpec::Aes { bits: *bits })
            .collect(),
        KeyType::Hmac => [256, 384, 512].map(|bits| KeySpec::Hmac { bits }).into(),
        KeyType::Ec | KeyType::Ed => curves().map(KeySpec::Curve).collect(),
        KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => {
            let mut sets: Vec<_> = ParameterSet::of(key_type).collect();
            // The fast ones first: one of them is tried.
            sets.sort_by_key(|set| !set.name().ends_with('f'));
            sets.into_iter().map(KeySpec::PostQuantum).collect()
        }
    }
}

/// What the mechanism list says of such a key.
fn stated(shared: &Shared, spec: KeySpec) -> Result<()> {
    making::generates(shared, spec)?;
    let KeySpec::Rsa { bits } = spec else { return Ok(()) };
    let mechanisms = shared.link.mechanisms();
    let info = mechanisms
        .iter()
        .find(|info| info.id == MechanismId::RSA_PKCS_KEY_PAIR_GEN);
    let fits = |info: &MechanismInfo| {
        let told = info.max_key_size >= info.min_key_size && info.max_key_size > 0;
        !told || (info.min_key_size..=info.max_key_size).contains(&u64::from(bits))
    };
    match info {
        Some(info) if !fits(info) => {
            let text = format!(
                "this token makes RSA keys of {} to {} bits",
                info.min_key_size, info.max_key_size
            );
            Err(Error::NotSupported(text.into()))
        }
        _ => Ok(()),
    }
}

fn try_to_make(worker: &mut Worker, spec: KeySpec) -> Result<()> {
    trial::with_key(worker, spec, Usages::default_for(spec.key_type()), |_, _| Ok(()))
}
