//! Readers of untrusted bytes, each with what must hold of whatever it reads.
//!
//! ```text
//! cargo run -p hsm-fuzz -- spki --seconds 60
//! ```

mod campaign;
mod mutation;
mod target;

pub use campaign::{Campaign, Finding, Report, corpus};
pub use target::{Target, Verdict};
