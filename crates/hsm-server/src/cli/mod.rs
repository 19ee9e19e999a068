//! The commands.

pub mod audit;
pub mod check;
pub mod dev;
pub mod token;
