//! The built binary over HTTP, on real tokens: what a client may rely on.
//!
//! A module an idea; each test has a server and a token of its own. [`support`] tells how they are written.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "tests: what is not as expected should stop them"
)]

/// Functions that take a server, each as a test on SoftHSM and on the embedded token.
macro_rules! on_both_tokens {
    ($($name:ident),* $(,)?) => {
        mod softhsm {
            $(#[test] fn $name() { super::$name(&crate::support::Server::softhsm()); })*
        }
        mod embedded {
            $(#[test] fn $name() { super::$name(&crate::support::Server::embedded()); })*
        }
    };
}

mod audit;
mod auth;
mod commands;
mod crypto;
mod depth;
mod dev;
mod edges;
mod errors;
mod heal;
mod hostile;
mod interop;
mod keys;
mod lasting;
mod managed;
mod odd;
mod original_page;
mod scale;
mod secrets;
mod start;
mod store_cli;
mod support;
mod tokens;
mod tools;
