//! Operations that need a public key alone, done here: verification and RSA-OAEP encryption.

use p256::ecdsa::signature::hazmat::PrehashVerifier;

use crate::algorithm::{Hash, Scheme};
use crate::encoding;
use crate::error::{Error, Result};
use crate::key::{Curve, PublicKey};

/// What was signed.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// The data itself.
    Raw(&'a [u8]),
    /// Its digest, exactly as long as the hash; for RSA and ECDSA alone.
    Digest(&'a [u8]),
}

/// A public key that was parsed and checked once and can be used many times.
#[derive(Clone, Debug)]
pub struct PreparedKey(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Rsa(Box<rsa::PublicKey>),
    P256(Box<p256::ecdsa::VerifyingKey>),
    P384(Box<p384::ecdsa::VerifyingKey>),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Secp256k1(Box<k256::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PreparedKey {
    /// The smallest and the largest RSA modulus that is taken, in bits.
    pub const RSA_BITS: (usize, usize) = (1024, 8192);

    /// Parses a key: numbers in range, point on its curve.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for Ed448, an RSA modulus outside [`PreparedKey::RSA_BITS`], an RSA exponent of more
    /// than 33 bits, or a key that is none.
    pub fn new(key: &PublicKey) -> Result<PreparedKey> {
        let kind = match key {
            PublicKey::Rsa { modulus, exponent } => rsa_key(modulus, exponent)?,
            PublicKey::Curve { curve, point } => curve_key(*curve, point)?,
            PublicKey::PostQuantum { parameter_set, .. } => {
                let text = format!("{parameter_set} with a public key alone is not done here, only by a token");
                return Err(Error::NotSupported(text.into()));
            }
        };
        Ok(PreparedKey(kind))
    }

    /// Whether `signature` is right. A signature of a wrong length or form is wrong, not an error.
    ///
    /// ECDSA signatures are r‖s; any of the hashes goes with any curve, and s may be in either half of the range
    /// (FIPS 186-5 knows no other rule). PSS takes a salt exactly as long as the hash. Ed25519 is checked as RFC 8032
    /// §5.1.7 says without the cofactor, which is what tokens do; the stricter check of some libraries would refuse
    /// keys that tokens accept, so that the answer would depend on where the check is made.
    ///
    /// # Errors
    /// [`Error::KeyTypeMismatch`] if the scheme is not of this key, [`Error::InvalidRequest`] for a digest of a wrong
    /// length or one where the scheme takes none.
    pub fn verify(&self, scheme: Scheme, message: Message<'_>, signature: &[u8]) -> Result<bool> {
        match (&self.0, scheme) {
            (Kind::Rsa(key), Scheme::Pkcs1(hash)) => {
                let digest = digest_of(hash, message)?;
                Ok(verify_pkcs1(key, hash, &digest, signature))
            }
            (Kind::Rsa(key), Scheme::Pss(hash)) => {
                let digest = digest_of(hash, message)?;
                Ok(verify_pss(key, hash, &digest, signature))
            }
            (Kind::Ed25519(key), Scheme::EdDsa) => {
                let Message::Raw(data) = message else {
                    return Err(no_digest());
                };
                Ok(verify_ed25519(key, data, signature))
            }
            (Kind::P256(_) | Kind::P384(_) | Kind::P521(_) | Kind::Secp256k1(_), Scheme::Ecdsa(hash)) => {
                let digest = digest_of(hash, message)?;
                Ok(self.verify_ecdsa(&digest, signature))
            }
            (_, _) => Err(Error::KeyTypeMismatch("the algorithm does not go with this key".into())),
        }
    }

    /// The longest message that RSA-OAEP with `hash` can encrypt, in bytes; `None` if the key is not RSA or too short
    /// for the hash (RFC 8017 §7.1.1).
    pub fn oaep_capacity(&self, hash: Hash) -> Option<usize> {
        let Kind::Rsa(key) = &self.0 else { return None };
        rsa::traits::PublicKeyParts::size(key.as_ref()).checked_sub(2 * hash.len() + 2)
    }

    /// Encrypts with RSA-OAEP (RFC 8017 §7.1), MGF1 with the same hash, an empty label, and the operating system's
    /// randomness.
    ///
    /// # Errors
    /// [`Error::KeyTypeMismatch`] if the key is not RSA or too short for the hash, [`Error::InvalidRequest`] for
    /// `data` that is too long, [`Error::Internal`] if the operating system gives no randomness.
    pub fn encrypt_oaep(&self, hash: Hash, data: &[u8]) -> Result<Vec<u8>> {
        let Kind::Rsa(key) = &self.0 else {
            return Err(Error::KeyTypeMismatch("RSA-OAEP takes an RSA key".into()));
        };
        let Some(capacity) = self.oaep_capacity(hash) else {
            let text = format!("the key is too short for RSA-OAEP with {}", hash.name());
            return Err(Error::KeyTypeMismatch(text.into()));
        };
        if data.len() > capacity {
            let text = format!("at most {capacity} bytes with this key and algorithm");
            return Err(Error::invalid("data", text));
        }
        let encrypted = match hash {
            Hash::Sha1 => key.oaep_encrypt::<sha1::Sha1>(data),
            Hash::Sha256 => key.oaep_encrypt::<sha2::Sha256>(data),
            Hash::Sha384 => key.oaep_encrypt::<sha2::Sha384>(data),
            Hash::Sha512 => key.oaep_encrypt::<sha2::Sha512>(data),
        };
        encrypted.map_err(|why| Error::Internal(format!("RSA-OAEP here: {why}")))
    }

    fn verify_ecdsa(&self, digest: &[u8], signature: &[u8]) -> bool {
        macro_rules! verify {
            ($key:expr, $curve:ident) => {
                $curve::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                    // The crate for secp256k1 refuses the upper half of s, tokens make both.
                    let signature = signature.normalize_s();
                    $key.verify_prehash(digest, &signature).is_ok()
                })
            };
        }
        match &self.0 {
            Kind::P256(key) => verify!(key, p256),
            Kind::P384(key) => verify!(key, p384),
            Kind::P521(key) => verify!(key, p521),
            Kind::Secp256k1(key) => verify!(key, k256),
            Kind::Rsa(_) | Kind::Ed25519(_) => false,
        }
    }
}

/// Checks one signature with a key that is not kept: see [`PreparedKey::verify`].
///
/// # Errors
/// Those of [`PreparedKey::new`] and [`PreparedKey::verify`].
pub fn verify(key: &PublicKey, scheme: Scheme, message: Message<'_>, signature: &[u8]) -> Result<bool> {
    PreparedKey::new(key)?.verify(scheme, message, signature)
}

/// Encrypts once with a key that is not kept: see [`PreparedKey::encrypt_oaep`].
///
/// # Errors
/// Those of [`PreparedKey::new`] and [`PreparedKey::encrypt_oaep`].
pub fn encrypt_oaep(key: &PublicKey, hash: Hash, data: &[u8]) -> Result<Vec<u8>> {
    PreparedKey::new(key)?.encrypt_oaep(hash, data)
}

/// The public key that made ECDSA signatures (SEC 1 §4.1.6): the one that both of two signatures of different digests can
/// come from. Signatures are r‖s.
pub(crate) fn recover_ecdsa_key(curve: Curve, signed: [(&[u8], &[u8]); 2]) -> Option<PublicKey> {
    macro_rules! recover {
        ($curve:ident) => {{
            let candidates = |(digest, signature): (&[u8], &[u8])| -> Vec<Vec<u8>> {
                let Ok(signature) = $curve::ecdsa::Signature::from_slice(signature) else {
                    return Vec::new();
                };
                let ids = (0..4).filter_map(p256::ecdsa::RecoveryId::from_byte);
                ids.filter_map(|id| {
                    let key = $curve::ecdsa::VerifyingKey::recover_from_prehash(digest, &signature, id).ok()?;
                    Some(key.to_sec1_point(false).as_bytes().to_vec())
                })
                .collect()
            };
            let [first, second] = signed.map(candidates);
            let mut both = first.into_iter().filter(|point| second.contains(point));
            both.next().filter(|_| both.next().is_none())
        }};
    }
    let point = match curve {
        Curve::P256 => recover!(p256),
        Curve::P384 => recover!(p384),
        Curve::P521 => recover!(p521),
        Curve::Secp256k1 => recover!(k256),
        Curve::Ed25519 | Curve::Ed448 => None,
    }?;
    Some(PublicKey::Curve { curve, point })
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<Kind> {
    let [n, e] = [modulus, exponent].map(rsa::BoxedUint::from_be_slice_vartime);
    let (smallest, largest) = PreparedKey::RSA_BITS;
    let key = rsa::PublicKey::new_with_size_limits(n, e, smallest..=largest)
        .map_err(|why| Error::NotSupported(format!("this RSA key can't be used here: {why}").into()))?;
    Ok(Kind::Rsa(Box::new(key)))
}

fn curve_key(curve: Curve, point: &[u8]) -> Result<Kind> {
    let wrong = || Error::NotSupported(format!("the public key is no point on {curve}").into());
    macro_rules! weierstrass {
        ($kind:ident, $curve:ident) => {
            $curve::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .map(|key| Kind::$kind(Box::new(key)))
                .map_err(|_| wrong())
        };
    }
    match curve {
        Curve::P256 => weierstrass!(P256, p256),
        Curve::P384 => weierstrass!(P384, p384),
        Curve::P521 => weierstrass!(P521, p521),
        Curve::Secp256k1 => weierstrass!(Secp256k1, k256),
        Curve::Ed25519 => {
            let key = ed25519_dalek::VerifyingKey::try_from(point).map_err(|_| wrong())?;
            Ok(Kind::Ed25519(Box::new(key)))
        }
        Curve::Ed448 => Err(Error::NotSupported(
            "Ed448 with a public key alone is not done here, only by a token".into(),
        )),
    }
}

fn digest_of(hash: Hash, message: Message<'_>) -> Result<Vec<u8>> {
    match message {
        Message::Raw(data) => Ok(encoding::digest(hash, data)),
        Message::Digest(digest) if digest.len() == hash.len() => Ok(digest.to_vec()),
        Message::Digest(_) => {
            let text = format!("a digest by {} has {} bytes", hash.name(), hash.len());
            Err(Error::invalid("data", text))
        }
    }
}

fn no_digest() -> Error {
    Error::invalid("message_type", "EdDSA takes raw data only")
}

fn verify_pkcs1(key: &rsa::PublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let valid = match hash {
        Hash::Sha1 => key.pkcs1v15_verify_prehash::<sha1::Sha1>(digest, signature),
        Hash::Sha256 => key.pkcs1v15_verify_prehash::<sha2::Sha256>(digest, signature),
        Hash::Sha384 => key.pkcs1v15_verify_prehash::<sha2::Sha384>(digest, signature),
        Hash::Sha512 => key.pkcs1v15_verify_prehash::<sha2::Sha512>(digest, signature),
    };
    valid.is_ok()
}

fn verify_pss(key: &rsa::PublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let valid = match hash {
        Hash::Sha1 => key.pss_verify_prehash::<sha1::Sha1>(digest, signature),
        Hash::Sha256 => key.pss_verify_prehash::<sha2::Sha256>(digest, signature),
        Hash::Sha384 => key.pss_verify_prehash::<sha2::Sha384>(digest, signature),
        Hash::Sha512 => key.pss_verify_prehash::<sha2::Sha512>(digest, signature),
    };
    valid.is_ok()
}

fn verify_ed25519(key: &ed25519_dalek::VerifyingKey, data: &[u8], signature: &[u8]) -> bool {
    use ed25519_dalek::Verifier as _;
    ed25519_dalek::Signature::from_slice(signature).is_ok_and(|s| key.verify(data, &s).is_ok())
}

#[cfg(test)]
mod tests;
