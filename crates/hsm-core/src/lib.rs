//! PKCS#11 tokens as thread-safe, self-healing Rust values.
//!
//! [`Hsm`] holds one token: it keeps logged-in sessions on threads of its own, knows where each key lies, heals after a
//! lost session or a token that was away, and does beside the token what the token lacks and no secret is needed for.
//! Every operation returns a [`Call`], which can be awaited under any async runtime or waited for with [`Call::wait`].
#![cfg_attr(feature = "pkcs11", doc = include_str!("../docs/example.md"))]

pub mod algorithm;
pub mod backend;
mod call;
mod create;
mod doctor;
pub mod encoding;
mod entropy;
mod error;
mod hsm;
mod index;
mod keeper;
pub mod key;
mod link;
mod meaning;
mod oaep;
mod operation;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod quirks;
mod shared;
pub mod software;
pub mod uri;
mod worker;
mod workers;

pub use algorithm::{Algorithm, Hash, Operation};
pub use call::Call;
pub use doctor::Leftovers;
pub use error::{Ckr, Error, Result};
pub use hsm::{Hsm, KeyPage, KeyQuery, Status, Stopped};
pub use key::{Curve, HsmKeyId, KeyInfo, KeySize, KeySpec, KeyType, Label, NewKey, PublicKey, Usage, Usages};
pub use link::{Login, OpenError};
pub use operation::{Choice, Decrypt, Encrypt, Encrypted, MessageType, Sign, SignatureFormat, Signed, Verify};
pub use shared::{Options, VerifyAfterSign};
pub use workers::Load;

/// The example of the project's README, held to compile.
#[cfg(all(doctest, feature = "pkcs11"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
