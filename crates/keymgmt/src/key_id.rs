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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ManagedId(Box<str>);

impl KeyId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`Error::Hsm`] with `InvalidKeyId`, saying what is wrong.
    pub fn parse(text: &str) -> Result<KeyId> {
        if text.starts_with(HsmKeyId::PREFIX) {
            return Ok(KeyId::Hsm(HsmKeyId::parse(text)?));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed) {
            return Ok(KeyId::Managed(ManagedId(text.into())));
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
            KeyId::Managed(id) => f.write_str(&id.0),
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
