//! Keys that lie outside the token, wrapped.

use std::sync::Arc;

use super::{HsmKeyId, KeyInfo, KeySize, KeyType, PublicKey, Usages};
use crate::algorithm::Algorithm;

/// The key that an operation uses.
#[derive(Clone, Debug)]
pub enum KeyRef {
    /// One on the token.
    Token(HsmKeyId),
    /// One that lies outside, wrapped under a key of the token.
    Wrapped(Arc<WrappedKey>),
}

/// A key that lies outside the token, wrapped under a key-encryption key that never leaves it. It is used inside the token
/// alone: unwrapped there as a session object (CKA_TOKEN false), which can't leave it.
///
/// Neither AES-KW nor AES-KWP says what the key is and what it may be used for: whoever keeps such a key keeps that with it,
/// safe from changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The CKA_ID that it has while it is loaded; no other key has it.
    pub id: HsmKeyId,
    /// The type.
    pub key_type: KeyType,
    /// The size.
    pub size: KeySize,
    /// Exactly what it may be used for.
    pub usages: Usages,
    /// The public half of a pair.
    pub public_key: Option<PublicKey>,
    /// The key-encryption key.
    pub kek: HsmKeyId,
    /// How it is wrapped: [`Algorithm::AesKwp`], or [`Algorithm::AesKw`] on a token without it.
    pub algorithm: Algorithm,
    /// The wrapped key: a secret's value, or a private key as PKCS#8.
    pub wrapped: Vec<u8>,
}

impl KeyRef {
    /// The id: that of the object on the token, also of one that is there only while it is loaded.
    pub fn id(&self) -> &HsmKeyId {
        match self {
            KeyRef::Token(id) => id,
            KeyRef::Wrapped(wrapped) => &wrapped.id,
        }
    }
}

impl From<HsmKeyId> for KeyRef {
    fn from(id: HsmKeyId) -> KeyRef {
        KeyRef::Token(id)
    }
}

impl From<&HsmKeyId> for KeyRef {
    fn from(id: &HsmKeyId) -> KeyRef {
        KeyRef::Token(id.clone())
    }
}

impl From<Arc<WrappedKey>> for KeyRef {
    fn from(wrapped: Arc<WrappedKey>) -> KeyRef {
        KeyRef::Wrapped(wrapped)
    }
}

impl WrappedKey {
    /// What is told of it.
    pub fn info(&self) -> KeyInfo {
        KeyInfo {
            id: self.id.clone(),
            key_type: self.key_type,
            size: self.size,
            label: String::new(),
            extractable: false,
            sensitive: true,
            usages: self.usages,
            public_key: self.public_key.clone(),
            uri: String::new(),
        }
    }
}
