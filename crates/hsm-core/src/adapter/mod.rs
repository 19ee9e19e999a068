//! Keys of the token as signers of other crates: each behind a feature of that crate's name.
//!
//! All of them sign by [`Hsm::sign`](crate::Hsm::sign) and wait for it on the calling thread, at most as long as
//! [`Options::timeout`](crate::Options::timeout). In asynchronous code they belong on a thread that may block.

pub mod identifier;
#[cfg(feature = "rcgen")]
pub mod rcgen;
#[cfg(feature = "rustls")]
pub mod rustls;
#[cfg(feature = "signature")]
pub mod signature;

#[cfg(any(feature = "csr", feature = "signature", feature = "rustls", feature = "rcgen"))]
use crate::{Error, KeyInfo, PublicKey, Result};

/// The public half of a key that may sign.
///
/// # Errors
/// [`Error::UsageNotPermitted`], [`Error::NotSupported`]
#[cfg(any(feature = "signature", feature = "rustls", feature = "rcgen"))]
fn signing_half(key: &KeyInfo) -> Result<&PublicKey> {
    if !key.usages.contains(crate::Usage::Sign) {
        return Err(Error::UsageNotPermitted(
            format!("the key {} may not sign", key.id).into(),
        ));
    }
    public_half(key)
}

#[cfg(any(feature = "csr", feature = "signature", feature = "rustls", feature = "rcgen"))]
/// The public half, without which nothing can be certified.
///
/// # Errors
/// [`Error::NotSupported`]
pub(crate) fn public_half(key: &KeyInfo) -> Result<&PublicKey> {
    key.public_key.as_ref().ok_or_else(|| {
        Error::NotSupported(
            format!(
                "the token does not tell the public half of {}, and nothing can be certified without it: \
             put the public key object onto the token under the same CKA_ID",
                key.id
            )
            .into(),
        )
    })
}
