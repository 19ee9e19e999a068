//! What every test here stands on: the built binary as a process of its own, a caller with a token, answers that check
//! themselves.
//!
//! ```ignore
//! let server = Server::softhsm();                              // or embedded(), linked_embedded(), on(token)
//! let caller = server.caller("keys:create crypto:sign");       // or all(), anonymous(), bearer(token)
//! let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));          // the key as it was answered
//! let body = json!({"key_id": key["key_id"], "data": base64(b"hello")});
//! let answer = caller.post("/api/v1/hsm/sign", &body).good(200);              // JSON, and the request id
//! caller.post("/api/v1/hsm/decrypt", &body).problem(403, "forbidden");        // all of RFC 9457
//! ```
//!
//! With settings: `Server::with(Token::softhsm()).env("HSM_LIMITS__QUEUE", "0").start()`; one that must not start:
//! `….refused()`; behind a module that fails on command: `Server::faulty()` and `server.fault("C_Sign rv=0x30")`.
//! The token itself: `server.token().attributes("…")`, `.make_foreign_key(…)`. Programs beside: [`run`].

mod http;
mod jwt;
mod process;
mod reply;
mod server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(crate) use http::{send, try_send};
pub(crate) use jwt::{SECRET, mint};
pub(crate) use process::{Finished, Scratch, run};
pub(crate) use reply::Reply;
pub(crate) use server::{Builder, Caller, LINKED_PIN, Server};

/// Standard base64 with padding.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 field.
#[track_caller]
pub(crate) fn bytes(field: &Value) -> Vec<u8> {
    let text = field.as_str().unwrap_or_else(|| panic!("{field} is no base64"));
    STANDARD.decode(text).unwrap_or_else(|why| panic!("{field}: {why}"))
}

/// The text of a field.
#[track_caller]
pub(crate) fn text(field: &Value) -> &str {
    field.as_str().unwrap_or_else(|| panic!("{field} is no string"))
}

/// `object` with the members of `more` put in or replaced; a member that is [`ABSENT`] is taken out.
#[track_caller]
pub(crate) fn merged(object: &Value, more: Value) -> Value {
    let mut all = object.as_object().expect("an object").clone();
    let Value::Object(more) = more else {
        panic!("{more} is no object");
    };
    for (name, value) in more {
        if value == ABSENT {
            all.remove(&name);
        } else {
            all.insert(name, value);
        }
    }
    Value::Object(all)
}

/// Stands in [`merged`] for a member that is to be taken out.
pub(crate) const ABSENT: &str = "\u{0}absent";
