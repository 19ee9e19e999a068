//! Encrypt, decrypt, sign, verify, wrap: what a request asks of a key is checked first, then planned as one call of the token, or
//! as what is done beside it where the token lacks the mechanism and no secret is needed.

mod check;
mod mechanism;
mod request;
mod wrap;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::algorithm::{Algorithm, Hash, MechanismId, Operation, Scheme};
use crate::backend::Mechanism;
use crate::encoding;
use crate::error::{Error, Result};
use crate::index::Key;
use crate::key::{KeySize, KeyType, Usage};
use crate::oaep;
use crate::quirks;
use crate::shared::{Shared, VerifyAfterSign};
use crate::software::PreparedKey;
use crate::worker::Worker;

pub use request::{
    Choice, Decrypt, Encrypt, Encrypted, MessageType, Sign, SignatureFormat, Signed, Verify, Wrap, Wrapped,
};

pub(crate) use check::{chosen, permit};
pub(crate) use mechanism::{listed, no_half, no_mechanism};
pub(crate) use wrap::{How, under_a_key, unwrapping};

use check::{Chosen, check_signing, choose, fits_oaep, given, refuse_aad};
use mechanism::{has_right_length, key_curve, message, private, public, signing_input, signing_mechanism};

/// What is left to do of a request that has been checked.
pub(crate) type Plan<T> = Box<dyn FnOnce(&mut Worker, Arc<Key>) -> Result<T> + Send>;

const GCM_IV: usize = 12;
const GCM_TAG: usize = 16;
const BLOCK: usize = 16;

/// The algorithm that a request without one uses; `None` where only the token can tell.
pub(crate) fn default_algorithm(shared: &Shared, key: &Key, operation: Operation) -> Option<Algorithm> {
    match choose(shared, key, &Choice::BY_KEY, operation).ok()? {
        Chosen::Algorithm(algorithm) => Some(algorithm),
        Chosen::Oaep(hash) => hash.or_else(|| shared.oaep.preferred()).map(oaep_with),
    }
}

const fn oaep_with(hash: Hash) -> Algorithm {
    match hash {
        Hash::Sha1 => Algorithm::RsaOaepSha1,
        Hash::Sha256 => Algorithm::RsaOaepSha256,
        Hash::Sha384 => Algorithm::RsaOaepSha384,
        Hash::Sha512 => Algorithm::RsaOaepSha512,
    }
}

pub(crate) fn encrypt(shared: &Shared, key: &Key, request: Encrypt) -> Result<Plan<Encrypted>> {
    let Encrypt {
        key: _,
        algorithm,
        data,
        aad,
    } = request;
    let chosen = choose(shared, key, &algorithm, Operation::Encrypt)?;
    permit(shared, key, Usage::Encrypt)?;
    refuse_aad(&chosen, aad.as_deref())?;
    match chosen {
        Chosen::Oaep(hash) => {
            if let (Some(hash), Some(prepared)) = (hash, key.prepared()) {
                fits_oaep(prepared.oaep_capacity(hash), &data)?;
            }
            Ok(Box::new(move |worker, key| encrypt_oaep(worker, &key, hash, &data)))
        }
        Chosen::Algorithm(algorithm) => {
            listed(shared, algorithm.row().native, Operation::Encrypt)?;
            Ok(Box::new(move |worker, key| {
                encrypt_aes(worker, &key, algorithm, &data, aad.unwrap_or_default())
            }))
        }
    }
}

pub(crate) fn decrypt(shared: &Shared, key: &Key, request: Decrypt) -> Result<Plan<Zeroizing<Vec<u8>>>> {
    let Decrypt {
        key: _,
        algorithm,
        ciphertext,
        iv,
        tag,
        aad,
    } = request;
    let chosen = choose(shared, key, &algorithm, Operation::Decrypt)?;
    permit(shared, key, Usage::Decrypt)?;
    may_log_in(shared, key)?;
    refuse_aad(&chosen, aad.as_deref())?;
    let (needs_iv, needs_tag) = match chosen {
        Chosen::Algorithm(algorithm) => (true, algorithm.is_aead()),
        Chosen::Oaep(_) => (false, false),
    };
    let iv = given("iv", needs_iv, iv)?;
    let tag = given("tag", needs_tag, tag)?;
    match chosen {
        Chosen::Oaep(hash) => {
            listed(shared, MechanismId::RSA_PKCS_OAEP, Operation::Decrypt)?;
            if let KeySize::Bits(bits) = key.info.size
                && ciphertext.len() != bits.div_ceil(8) as usize
            {
                return Err(Error::DecryptionFailed);
            }
            Ok(Box::new(move |worker, key| {
                let hash = hash_or_default(worker, hash)?;
                oaep::check(worker, hash)?;
                decrypted(worker, &key, &Mechanism::RsaOaep(hash), &ciphertext)
            }))
        }
        Chosen::Algorithm(algorithm) => {
            let mut ciphertext = ciphertext;
            let mechanism = match algorithm.scheme() {
                Scheme::Gcm if iv.len() == GCM_IV && tag.len() == GCM_TAG => Mechanism::AesGcm {
                    iv,
                    aad: aad.unwrap_or_default(),
                },
                Scheme::Ccm if iv.len() == GCM_IV && tag.len() == GCM_TAG => Mechanism::AesCcm {
                    nonce: iv,
                    aad: aad.unwrap_or_default(),
                },
                Scheme::Ctr => Mechanism::AesCtr {
                    counter: iv.try_into().map_err(|_| Error::DecryptionFailed)?,
                },
                Scheme::Cbc if !ciphertext.is_empty() && ciphertext.len().is_multiple_of(BLOCK) => {
                    Mechanism::AesCbcPad {
                        iv: iv.try_into().map_err(|_| Error::DecryptionFailed)?,
                    }
                }
                _ => return Err(Error::DecryptionFailed),
            };
            ciphertext.extend_from_slice(&tag);
            listed(shared, algorithm.row().native, Operation::Decrypt)?;
            Ok(Box::new(move |worker, key| {
                decrypted(worker, &key, &mechanism, &ciphertext)
            }))
        }
    }
}

pub(crate) fn sign(shared: &Shared, key: &Key, request: Sign) -> Result<Plan<Signed>> {
    let (algorithm, format) = check_signing(shared, key, &request, Operation::Sign)?;
    may_log_in(shared, key)?;
    let context = request.context.clone().unwrap_or_default();
    let mechanism = signing_mechanism(shared, key, algorithm, request.message_type, &context, Operation::Sign)?;
    let check_after = match shared.options.verify_after_sign {
        VerifyAfterSign::Rsa => key.info.key_type == KeyType::Rsa,
        VerifyAfterSign::All => true,
        VerifyAfterSign::None => false,
    };
    let Sign { data, message_type, .. } = request;
    Ok(Box::new(move |worker, key| {
        let input = signing_input(&mechanism, algorithm, message_type, &data);
        let shared = worker.shared.clone();
        let signature = worker.run_with_key(&key, |session, key| {
            session.sign(&mechanism, private(&shared, key)?, &input)
        })?;
        if !has_right_length(&key, algorithm, signature.len()) {
            return Err(wrong_length("signature"));
        }
        if check_after {
            check_own_signature(worker, &key, algorithm, message_type, &context, &data, &signature)?;
        }
        let signature = match (format, key_curve(&key)) {
            (Some(SignatureFormat::Der), Some(curve)) => {
                encoding::ecdsa_to_der(&signature, curve).ok_or_else(|| wrong_length("signature"))?
            }
            _ => signature,
        };
        Ok(Signed {
            algorithm,
            signature,
            format,
        })
    }))
}

pub(crate) fn verify(shared: &Shared, key: &Key, request: Verify) -> Result<Plan<bool>> {
    let (algorithm, format) = check_signing(shared, key, &request.signed, Operation::Verify)?;
    let Verify {
        signed: Sign {
            data,
            message_type,
            context,
            ..
        },
        signature,
    } = request;
    let context = context.unwrap_or_default();
    let signature = match (format, key_curve(key)) {
        (Some(SignatureFormat::Der), Some(curve)) => encoding::ecdsa_from_der(&signature, curve),
        _ => Some(signature).filter(|signature| has_right_length(key, algorithm, signature.len())),
    };
    let Some(signature) = signature else {
        return Ok(Box::new(|_, _| Ok(false)));
    };
    let on_token = key
        .public()
        .map(|_| signing_mechanism(shared, key, algorithm, message_type, &context, Operation::Verify));
    match (on_token, key.prepared().is_some()) {
        (Some(Ok(mechanism)), _) => Ok(Box::new(move |worker, key| {
            let input = signing_input(&mechanism, algorithm, message_type, &data);
            let token = worker.shared.link.token();
            worker.run_with_key(&key, |session, key| {
                match session.verify(&mechanism, public(key)?, &input, &signature) {
                    Err(failure) if quirks::is_wrong_signature(&token, &mechanism, &failure) => Ok(false),
                    verified => verified,
                }
            })
        })),
        (_, true) => Ok(Box::new(move |_, key| match key.prepared() {
            Some(prepared) => prepared.verify(algorithm.scheme(), message(message_type, &data), &signature),
            None => Err(Error::Internal("the public key is gone".into())),
        })),
        (Some(Err(error)), false) => Err(error),
        (None, false) => Err(Error::NotSupported(
            "there is no public key to verify with on the token".into(),
        )),
    }
}

fn encrypt_aes(
    worker: &mut Worker,
    key: &Arc<Key>,
    algorithm: Algorithm,
    data: &[u8],
    aad: Vec<u8>,
) -> Result<Encrypted> {
    let shared = worker.shared.clone();
    let mut iv = [0; BLOCK];
    let fresh = if algorithm.is_aead() {
        iv.get_mut(..GCM_IV)
    } else {
        iv.get_mut(..)
    };
    shared.entropy.fill(worker, fresh.unwrap_or_default())?;
    let mut mechanism = match algorithm.scheme() {
        Scheme::Gcm => Mechanism::AesGcm {
            iv: iv.iter().copied().take(GCM_IV).collect(),
            aad,
        },
        Scheme::Ccm => Mechanism::AesCcm {
            nonce: iv.iter().copied().take(GCM_IV).collect(),
            aad,
        },
        Scheme::Ctr => Mechanism::AesCtr { counter: iv },
        _ => Mechanism::AesCbcPad { iv },
    };
    let mut ciphertext =
        worker.run_with_key(key, |session, key| session.encrypt(&mut mechanism, public(key)?, data))?;
    let (iv, tag) = match mechanism {
        Mechanism::AesGcm { iv, .. } | Mechanism::AesCcm { nonce: iv, .. } => {
            let length = ciphertext
                .len()
                .checked_sub(GCM_TAG)
                .filter(|length| *length == data.len());
            let length = length.ok_or_else(|| wrong_length("ciphertext"))?;
            // A device that was to make the IV itself and has not: the next one would be the same.
            if iv.iter().all(|byte| *byte == 0) {
                return Err(Error::Device(
                    "the token encrypted with an IV of zeros; it was not given out".into(),
                ));
            }
            (iv, Some(ciphertext.split_off(length)))
        }
        Mechanism::AesCtr { .. } if ciphertext.len() != data.len() => return Err(wrong_length("ciphertext")),
        Mechanism::AesCbcPad { .. } if ciphertext.len() != data.len() / BLOCK * BLOCK + BLOCK => {
            return Err(wrong_length("ciphertext"));
        }
        _ => (iv.to_vec(), None),
    };
    Ok(Encrypted {
        algorithm,
        ciphertext,
        iv: Some(iv),
        tag,
    })
}

/// That a key that asks for a login at each use can have it.
fn may_log_in(shared: &Shared, key: &Key) -> Result<()> {
    if key.always_authenticate {
        shared.link.context_pin()?;
    }
    Ok(())
}

fn wrong_length(what: &str) -> Error {
    Error::Device(format!("the token answered a {what} of a wrong length").into())
}

fn encrypt_oaep(worker: &mut Worker, key: &Arc<Key>, hash: Option<Hash>, data: &[u8]) -> Result<Encrypted> {
    // With the public half alone nobody decrypts on this token, and any hash will do.
    let alone = key.private().is_none();
    let hash = match hash {
        None if alone => Hash::Sha256,
        hash => hash_or_default(worker, hash)?,
    };
    if !alone {
        oaep::check(worker, hash)?;
    }
    let prepared = key
        .prepared()
        .ok_or_else(|| match key.info.public_key.as_ref().map(PreparedKey::new) {
            Some(Err(why)) => why,
            Some(Ok(_)) | None => {
                Error::NotSupported("the token does not tell the public key, which encryption needs".into())
            }
        })?;
    fits_oaep(prepared.oaep_capacity(hash), data)?;
    let ciphertext = prepared.encrypt_oaep(hash, data)?;
    let algorithm = oaep_with(hash);
    Ok(Encrypted {
        algorithm,
        ciphertext,
        iv: None,
        tag: None,
    })
}

fn hash_or_default(worker: &mut Worker, hash: Option<Hash>) -> Result<Hash> {
    let shared = worker.shared.clone();
    match hash {
        Some(hash) => Ok(hash),
        None if shared.oaep.has(worker, Hash::Sha256)? => Ok(Hash::Sha256),
        None => Ok(Hash::Sha1),
    }
}

fn decrypted(
    worker: &mut Worker,
    key: &Arc<Key>,
    mechanism: &Mechanism,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let shared = worker.shared.clone();
    worker.run_with_key(key, |session, key| {
        let data = session
            .decrypt(mechanism, private(&shared, key)?, ciphertext)
            .map(Zeroizing::new);
        data.map_err(|failure| quirks::of_decryption(&shared.link.token(), mechanism, failure))
    })
}

fn check_own_signature(
    worker: &mut Worker,
    key: &Arc<Key>,
    algorithm: Algorithm,
    message_type: MessageType,
    context: &[u8],
    data: &[u8],
    signature: &[u8],
) -> Result<()> {
    let right = match (key.prepared(), key.public()) {
        (Some(prepared), _) => prepared.verify(algorithm.scheme(), message(message_type, data), signature)?,
        (None, Some(_)) if key.info.public_key.is_some() => {
            // What is not verified here (Ed448, the post-quantum ones) is by the token.
            let shared = worker.shared.clone();
            let Ok(mechanism) = signing_mechanism(&shared, key, algorithm, message_type, context, Operation::Verify)
            else {
                return Ok(());
            };
            let input = signing_input(&mechanism, algorithm, message_type, data);
            worker.run_with_key(key, |session, key| {
                session.verify(&mechanism, public(key)?, &input, signature)
            })?
        }
        _ => return Ok(()),
    };
    if right {
        Ok(())
    } else {
        Err(Error::Device(
            "the token answered a signature that does not verify; it was not given out".into(),
        ))
    }
}
