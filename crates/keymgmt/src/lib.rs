//! Keys a caller may name, what may be done with them, and the record of what was done.
//! No HTTP here, and no PKCS#11: the server is above, `hsm-core` below.

pub mod audit;
pub mod key_id;
pub mod managed;
pub mod service;
pub mod store;
pub mod tokens;

pub use key_id::{KeyId, ManagedId};
pub use service::{Action, Caller, Error, Hooks, KeyService, Result};
pub use tokens::{Further, Tokens};
