//! Key ids as callers write them.

use std::fmt;

use hsm_core::HsmKeyId;

use crate::service::{Error, Result};

/// A key as a caller names it: `hsm:<hex>` is a key on the token, any other id a managed key's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyId {
    /// A key on the token.
    Hsm(HsmKeyId),
    /// A managed key.
    Managed(ManagedId),
}

/// The id of a managed key: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManagedId(Box<str>);

impl ManagedId {
    /// Reads one; `None` if it may not be one.
    pub fn parse(text: &str) -> Option<ManagedId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed);
        fits.then(|| ManagedId(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ManagedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`Error::Hsm`] with `InvalidKeyId`, saying what is wrong.
    pub fn parse(text: &str) -> Result<KeyId> {
        if text.starts_with(HsmKeyId::PREFIX) {
            return Ok(KeyId::Hsm(HsmKeyId::parse(text)?));
        }
        if let Some(id) = ManagedId::parse(text) {
            return Ok(KeyId::Managed(id));
        }
        let why =
            "a key id is `hsm:` and hexadecimal digits, or 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot";
        Err(Error::Hsm(hsm_core::Error::InvalidKeyId(why.into())))
    }
}

impl From<HsmKeyId> for KeyId {
    fn from(id: HsmKeyId) -> KeyId {
        KeyId::Hsm(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyId::Hsm(id) => id.fmt(f),
            KeyId::Managed(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_apart() {
        assert!(matches!(KeyId::parse("hsm:00FF").unwrap(), KeyId::Hsm(_)));
        assert_eq!(KeyId::parse("hsm:00FF").unwrap().to_string(), "hsm:00ff");
        assert!(matches!(KeyId::parse("orders-2026_v1.x").unwrap(), KeyId::Managed(_)));
        for wrong in ["", ".x", "a b", "a:b", "hsm:", "hsm:0", "hsm:zz", &"x".repeat(65)] {
            assert!(KeyId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
