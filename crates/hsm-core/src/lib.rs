#![doc = include_str!("../README.md")]

#[macro_use]
mod names;

pub mod adapter;
pub mod algorithm;
pub mod backend;
mod batch;
#[cfg(feature = "pkcs11")]
mod builder;
mod call;
mod capabilities;
mod choice;
mod create;
#[cfg(feature = "csr")]
pub mod csr;
mod doctor;
pub mod encoding;
mod entropy;
mod error;
mod hsm;
mod index;
mod keeper;
pub mod key;
mod link;
mod making;
pub mod material;
mod meaning;
mod module;
mod oaep;
mod operation;
mod own;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod place;
mod quirks;
mod shared;
mod slots;
pub mod software;
mod trial;
pub mod uri;
mod vault;
mod worker;
mod workers;

pub use algorithm::{Algorithm, Hash, Operation};
pub use batch::{BatchDone, BatchItem};
#[cfg(feature = "pkcs11")]
pub use builder::{BuildError, Builder};
pub use call::Call;
pub use capabilities::{AlgorithmSupport, Capabilities, KeyTypeSupport, Support};
pub use choice::OpenError;
pub use doctor::Leftovers;
pub use error::{Ckr, During, Error, ErrorKind, Failure, Reason, Result};
pub use hsm::{Hsm, KeyPage, KeyQuery, Status, Stopped};
pub use key::{
    Curve, HsmKeyId, KeyAttributes, KeyInfo, KeyRef, KeySize, KeySpec, KeyType, Label, NewKey, PublicKey, TokenName,
    Usage, Usages, WrappedKey,
};
pub use link::Login;
pub use making::{Decapsulate, Derive, Encapsulate, Import, Unwrap};
pub use module::SharedBackend;
pub use operation::{
    Choice, Decrypt, Encrypt, Encrypted, MessageType, Sign, SignatureFormat, Signed, Verify, Wrap, Wrapped,
};
pub use own::{NewWrapped, Offer, Own, Parcel, SharedKey};
pub use secrecy;
pub use shared::{Options, VerifyAfterSign};
pub use vault::LoadedKeys;
pub use workers::Load;

/// The example of the project's README, held to compile.
#[cfg(all(doctest, feature = "pkcs11"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
