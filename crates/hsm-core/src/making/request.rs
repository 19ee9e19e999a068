//! What is asked for when a key is to be made.

use crate::key::{HsmKeyId, KeyAttributes, KeySpec, KeyType, Material, PublicKey};
use crate::operation::Choice;

/// A key from outside.
#[derive(Clone)]
pub struct Import {
    /// Its value.
    pub material: Material,
    /// What it is given.
    pub attributes: KeyAttributes,
}

/// A wrapped key.
#[derive(Clone)]
pub struct Unwrap {
    /// The key that it is wrapped under.
    pub key: HsmKeyId,
    /// How.
    pub algorithm: Choice,
    /// The wrapped key, as [`Hsm::wrap`](crate::Hsm::wrap) answers it.
    pub wrapped_key: Vec<u8>,
    /// The type of the key that is in it.
    pub key_type: KeyType,
    /// What the new key is given.
    pub attributes: KeyAttributes,
}

/// A key to be made of another one.
#[derive(Clone)]
pub struct Derive {
    /// The key that it is made of.
    pub key: HsmKeyId,
    /// How: ECDH, or HKDF-SHA256.
    pub algorithm: Choice,
    /// The other side's key, for ECDH.
    pub public_key: Option<PublicKey>,
    /// The salt, for HKDF.
    pub salt: Option<Vec<u8>>,
    /// The info, for HKDF.
    pub info: Option<Vec<u8>>,
    /// The new key: AES or HMAC.
    pub spec: KeySpec,
    /// What it is given.
    pub attributes: KeyAttributes,
}

/// A secret to be made with an ML-KEM public key.
#[derive(Clone)]
pub struct Encapsulate {
    /// The ML-KEM key.
    pub key: HsmKeyId,
    /// The new key: AES or HMAC, of 256 bits.
    pub spec: KeySpec,
    /// What it is given.
    pub attributes: KeyAttributes,
}

/// A secret to be made again with an ML-KEM private key.
#[derive(Clone)]
pub struct Decapsulate {
    /// The ML-KEM key.
    pub key: HsmKeyId,
    /// What [`Hsm::encapsulate`](crate::Hsm::encapsulate) answered.
    pub ciphertext: Vec<u8>,
    /// The new key: AES or HMAC, of 256 bits.
    pub spec: KeySpec,
    /// What it is given.
    pub attributes: KeyAttributes,
}
