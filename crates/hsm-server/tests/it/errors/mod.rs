//! What goes wrong, and how it is said: every code of the contract's §4 that can be met now, with its status, its content
//! type and its headers.

mod access;
mod bodies;
mod device;

const KEYS: &str = "/api/v1/hsm/keys";

const SIGN: &str = "/api/v1/hsm/sign";

const DATA: &str = "SGVsbG8gV29ybGQh";
