//! Real PKCS#11 tokens for tests: a fresh one each, nothing left behind.
//!
//! ```
//! let token = softhsm_test::Token::fresh();
//! token.make_foreign_key("01", "made elsewhere", "EC:prime256v1");
//! assert_eq!(token.attributes("01").len(), 2);
//! ```
//!
//! [`Token::fresh`] is a SoftHSM token in a temporary folder. The variable `HSM_TEST_TOKEN` makes it another:
//!
//! | name | token | as other user than root |
//! | --- | --- | --- |
//! | `softhsm` | SoftHSM | yes |
//! | `embedded` | the module that the crate `embedded-token` builds | yes |
//! | `nss` | NSS's softoken | yes |
//! | `opencryptoki` | openCryptoki's software token and its daemon, in namespaces of its own | no |
//! | `tpm` | tpm2-pkcs11 on a TPM made of software | yes |
//! | `p11kit` | SoftHSM in another process | yes |
//!
//! `HSM_TEST_MODULE` makes it whatever module is named:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `HSM_TEST_MODULE` | path of the module |
//! | `HSM_TEST_LABEL`, `HSM_TEST_PIN`, `HSM_TEST_SO_PIN` | an initialised token of it, which all tests then share |
//! | `HSM_TEST_INIT_ARGS` | text for C_Initialize's reserved argument |
//! | `SOFTHSM2_MODULE` | where SoftHSM's module is, if not at one of the usual places |
//!
//! [`Postgres`] is a database server.
//!
//! [`FaultyToken`] is a token behind a module that fails on command.
//!
//! Functions here stop the test when something that should work does not. Tests run one to a process (`cargo
//! nextest`): a PKCS#11 module and the environment it reads belong to the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what a test stands on either works or stops it"
)]

#[path = "../shim/src/control.rs"]
#[allow(dead_code, reason = "the module reads rules, this crate only checks them")]
mod control;
mod faulty;
mod foreign;
mod inside;
mod kind;
mod library;
mod namespace;
mod outside;
mod postgres;
mod servers;
mod token;

pub use faulty::FaultyToken;
pub use inside::{Class, ObjectFacts};
pub use kind::{NAMES, installed, missing_packages};
pub use postgres::Postgres;
pub use token::Token;
