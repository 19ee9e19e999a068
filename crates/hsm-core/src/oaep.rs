//! Which hashes the token takes for RSA-OAEP: its mechanism list does not tell, so it is tried once, with a key pair that
//! lives in the session alone.

use std::sync::{Mutex, PoisonError};

use crate::algorithm::{Hash, MechanismId};
use crate::backend::{Made, Mechanism, Template};
use crate::error::{Error, Result};
use crate::key::{KeySpec, Usage, Usages};
use crate::shared::Shared;
use crate::software::PreparedKey;
use crate::worker::{Again, Worker};

const HASHES: [Hash; 4] = [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512];

#[derive(Default)]
pub(crate) struct OaepHashes(Mutex<Option<Vec<Hash>>>);

impl OaepHashes {
    /// Whether the token decrypts RSA-OAEP with `hash`.
    ///
    /// # Errors
    /// What the trial answers if it could not be made.
    pub(crate) fn has(&self, worker: &mut Worker, hash: Hash) -> Result<bool> {
        if let Some(hashes) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(hashes.contains(&hash));
        }
        let hashes = try_all(worker).map_err(|error| match error {
            // The trial's own key is nothing that the caller asked for.
            Error::InvalidRequest { detail, .. } => {
                Error::NotSupported(format!("RSA-OAEP could not be tried: {detail}"))
            }
            error => error,
        })?;
        let has = hashes.contains(&hash);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hashes);
        Ok(has)
    }

    /// The hash of requests that name none, if the trial was made.
    pub(crate) fn preferred(&self) -> Option<Hash> {
        let hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_better = hashes.as_ref()?.contains(&Hash::Sha256);
        Some(if has_better { Hash::Sha256 } else { Hash::Sha1 })
    }
}

/// Whether the token has RSA-OAEP at all.
pub(crate) fn listed(shared: &Shared) -> bool {
    shared
        .link
        .mechanisms()
        .iter()
        .any(|info| info.id == MechanismId::RSA_PKCS_OAEP && info.decrypt)
}

fn try_all(worker: &mut Worker) -> Result<Vec<Hash>> {
    let template = Template {
        spec: KeySpec::Rsa { bits: 2048 },
        id: b"oaep trial",
        label: "oaep trial",
        extractable: false,
        usages: Usages::NONE.with(Usage::Encrypt).with(Usage::Decrypt),
        session_only: true,
    };
    let shared = worker.shared.clone();
    let token = shared.link.token();
    worker.run(Again::Once, |session| {
        let hold = shared.catalogue.change(&token);
        let made = session.generate(&template)?;
        drop(hold);
        let Made::Pair { public, private } = made else {
            return Ok(Vec::new());
        };
        let key = session
            .read(public)?
            .and_then(|object| object.public_key)
            .map(|key| PreparedKey::new(&key));
        let mut hashes = Vec::new();
        for hash in HASHES {
            let ciphertext = match &key {
                Some(Ok(key)) => key.encrypt_oaep(hash, b"trial").ok(),
                _ => None,
            };
            let Some(ciphertext) = ciphertext else { continue };
            match session.decrypt(&Mechanism::RsaOaep(hash), private, &ciphertext) {
                Ok(data) if data == b"trial" => hashes.push(hash),
                // Only what says that the hash is lacking is remembered.
                Err(failure) if !matches!(failure.meaning(None), Error::NotSupported(_) | Error::DecryptionFailed) => {
                    return Err(failure);
                }
                Ok(_) | Err(_) => {}
            }
        }
        let _: Result<(), _> = session.destroy(private);
        let _: Result<(), _> = session.destroy(public);
        Ok(hashes)
    })
}

/// # Errors
/// [`Error::NotSupported`], naming the mechanism and the hash.
pub(crate) fn check(worker: &mut Worker, hash: Hash) -> Result<()> {
    let shared = worker.shared.clone();
    if shared.oaep.has(worker, hash)? {
        return Ok(());
    }
    Err(Error::NotSupported(format!(
        "this token does not take {} for CKM_RSA_PKCS_OAEP",
        hash.name()
    )))
}
