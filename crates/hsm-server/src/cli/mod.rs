//! The commands.

pub mod audit;
pub mod check;
pub mod dev;
pub mod kek;
pub mod store;
pub mod token;
