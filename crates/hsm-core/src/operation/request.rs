//! What is asked of a key, and what it gives.

use zeroize::Zeroizing;

use crate::algorithm::{Algorithm, Named, Operation};
use crate::key::{HsmKeyId, KeyRef};

/// Which algorithm a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice(pub(super) Option<Result<Named, Box<str>>>);

impl Choice {
    /// The one that fits the key best.
    pub const BY_KEY: Choice = Choice(None);

    /// Reads a name, ours or JOSE's. A name that nobody knows is answered once the key is known to be there.
    pub fn parse(name: &str, operation: Operation) -> Choice {
        Choice(Some(Named::parse(name, operation).ok_or_else(|| name.into())))
    }

    /// What was asked for by name: `None` leaves it to the key, `Some(None)` is a name that nobody knows.
    pub fn asked(&self) -> Option<Option<&'static str>> {
        Some(self.0.as_ref()?.as_ref().ok().map(|named| named.algorithm.name()))
    }

    /// The algorithm's name, as far as it is known before the key is.
    pub fn name(&self) -> Option<&'static str> {
        let named = self.0.as_ref()?.as_ref().ok()?;
        Some(named.algorithm.name())
    }
}

impl From<Algorithm> for Choice {
    fn from(algorithm: Algorithm) -> Choice {
        Choice(Some(Ok(algorithm.into())))
    }
}

/// Data to encrypt.
#[derive(Clone)]
pub struct Encrypt {
    /// The key.
    pub key: KeyRef,
    /// The algorithm.
    pub algorithm: Choice,
    /// The plaintext.
    pub data: Zeroizing<Vec<u8>>,
    /// Additional authenticated data, for AES-GCM and AES-CCM.
    pub aad: Option<Vec<u8>>,
}

/// What encryption gave.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// The algorithm that was used.
    pub algorithm: Algorithm,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
    /// The IV, 12 bytes (AES-GCM) or 16 (AES-CTR, AES-CBC); none for RSA.
    pub iv: Option<Vec<u8>>,
    /// The tag, 16 bytes, of AES-GCM.
    pub tag: Option<Vec<u8>>,
}

/// A ciphertext to decrypt.
#[derive(Clone)]
pub struct Decrypt {
    /// The key.
    pub key: KeyRef,
    /// The algorithm.
    pub algorithm: Choice,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
    /// The IV that encryption answered.
    pub iv: Option<Vec<u8>>,
    /// The tag that encryption answered.
    pub tag: Option<Vec<u8>>,
    /// The additional authenticated data that encryption took.
    pub aad: Option<Vec<u8>>,
}

/// What is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageType {
    /// The data.
    #[default]
    Raw,
    /// Its digest by the algorithm's hash; for RSA and ECDSA.
    Digest,
}

/// How an ECDSA signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFormat {
    /// ECDSA-Sig-Value in DER (RFC 3279 §2.2.3).
    Der,
    /// r‖s, each as long as the order (IEEE P1363).
    P1363,
}

/// Data to sign.
#[derive(Clone)]
pub struct Sign {
    /// The key.
    pub key: KeyRef,
    /// The algorithm.
    pub algorithm: Choice,
    /// The data, or its digest.
    pub data: Zeroizing<Vec<u8>>,
    /// Which of the two.
    pub message_type: MessageType,
    /// How an ECDSA signature is written: DER if not said, r‖s if not said and the algorithm has a JOSE name.
    pub format: Option<SignatureFormat>,
    /// The context of ML-DSA (FIPS 204 §5.2) and SLH-DSA (FIPS 205 §10.2), at most 255 bytes; empty if not said.
    pub context: Option<Vec<u8>>,
}

/// A signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The algorithm that was used.
    pub algorithm: Algorithm,
    /// The signature.
    pub signature: Vec<u8>,
    /// How an ECDSA signature is written.
    pub format: Option<SignatureFormat>,
}

/// A signature to check.
#[derive(Clone)]
pub struct Verify {
    /// What was signed, as it was asked for.
    pub signed: Sign,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A key to be wrapped.
#[derive(Clone, Debug)]
pub struct Wrap {
    /// The key that it is wrapped under.
    pub key: KeyRef,
    /// The key that is to leave the token.
    pub target: HsmKeyId,
    /// How.
    pub algorithm: Choice,
}

/// A wrapped key.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// The algorithm that was used.
    pub algorithm: Algorithm,
    /// The wrapped key.
    pub wrapped_key: Vec<u8>,
}

impl Encrypt {
    /// Encrypts `data` with the algorithm that fits the key.
    pub fn new(key: impl Into<KeyRef>, data: impl Into<Vec<u8>>) -> Encrypt {
        Encrypt {
            key: key.into(),
            algorithm: Choice::BY_KEY,
            data: Zeroizing::new(data.into()),
            aad: None,
        }
    }
}

impl Decrypt {
    /// Decrypts what [`Hsm::encrypt`](crate::Hsm::encrypt) answered for `key`.
    pub fn new(key: impl Into<KeyRef>, encrypted: Encrypted) -> Decrypt {
        let Encrypted {
            algorithm,
            ciphertext,
            iv,
            tag,
        } = encrypted;
        Decrypt {
            key: key.into(),
            algorithm: algorithm.into(),
            ciphertext,
            iv,
            tag,
            aad: None,
        }
    }
}

impl Sign {
    /// Signs `data` with the algorithm that fits the key.
    pub fn new(key: impl Into<KeyRef>, data: impl Into<Vec<u8>>) -> Sign {
        Sign {
            key: key.into(),
            algorithm: Choice::BY_KEY,
            data: Zeroizing::new(data.into()),
            message_type: MessageType::Raw,
            format: None,
            context: None,
        }
    }
}
