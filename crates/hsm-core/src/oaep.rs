//! Which hashes the token takes for RSA-OAEP: its mechanism list does not tell, so it is tried once, with a key pair that
//! lives in the session alone.

use std::sync::{Mutex, PoisonError};

use crate::algorithm::Hash;
use crate::backend::{Made, Mechanism, Used};
use crate::error::{Ckr, Error, Failure, Result};
use crate::key::{KeySpec, Usage, Usages};
use crate::software::PreparedKey;
use crate::trial;
use crate::worker::Worker;

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
        let hashes = match try_all(worker) {
            // No key can be made for the trial: the token itself will say what it lacks.
            Err(error @ (Error::NotSupported(_) | Error::InvalidRequest { .. } | Error::UsageNotPermitted(_))) => {
                tracing::info!(%error, "RSA-OAEP could not be tried; all hashes are taken to be there");
                HASHES.to_vec()
            }
            tried => tried?,
        };
        let has = hashes.contains(&hash);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hashes);
        Ok(has)
    }

    /// Another token may have other hashes, or the same one after an update.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The hash of requests that name none, if the trial was made.
    pub(crate) fn preferred(&self) -> Option<Hash> {
        let hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_better = hashes.as_ref()?.contains(&Hash::Sha256);
        Some(if has_better { Hash::Sha256 } else { Hash::Sha1 })
    }
}

fn try_all(worker: &mut Worker) -> Result<Vec<Hash>> {
    let usages = Usages::NONE.with(Usage::Encrypt).with(Usage::Decrypt);
    trial::with_key(worker, KeySpec::Rsa { bits: 2048 }, usages, |session, made| {
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
            let mechanism = Mechanism::RsaOaep(hash);
            match session.decrypt(&mechanism, Used::freely(private), &ciphertext) {
                Ok(data) if data == b"trial" => hashes.push(hash),
                Ok(_) => {}
                // What says nothing of the hash ends the trial; it is made anew at the next need.
                Err(failure) if says_nothing_of_the_hash(&failure) => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(hashes)
    })
}

fn says_nothing_of_the_hash(failure: &Failure) -> bool {
    matches!(
        failure.rv,
        None | Some(
            Ckr::SessionHandleInvalid
                | Ckr::SessionClosed
                | Ckr::UserNotLoggedIn
                | Ckr::TokenNotPresent
                | Ckr::DeviceRemoved
                | Ckr::DeviceError
                | Ckr::DeviceMemory
                | Ckr::HostMemory
                | Ckr::CryptokiNotInitialized
                | Ckr::ObjectHandleInvalid
                | Ckr::KeyHandleInvalid
        )
    )
}

/// # Errors
/// [`Error::NotSupported`], naming the mechanism and the hash.
pub(crate) fn check(worker: &mut Worker, hash: Hash) -> Result<()> {
    let shared = worker.shared.clone();
    if shared.oaep.has(worker, hash)? {
        return Ok(());
    }
    Err(Error::NotSupported(
        format!("this token does not take {} for CKM_RSA_PKCS_OAEP", hash.name()).into(),
    ))
}
