//! The store, on SQLite and on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it did not expect should stop"
)]

mod away;
mod backup;
mod calls;
mod changes;
mod intents;
mod keys;
mod opening;
mod place;
