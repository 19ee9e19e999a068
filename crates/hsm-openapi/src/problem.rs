//! Problem documents (RFC 9457) and the one table of codes.
//!
//! When adding a code: add its row in the table below, and regenerate `docs/ERRORS.md` and the OpenAPI document with
//! `UPDATE_GOLDEN=1 cargo nextest run`.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $retry_after_s:expr, $title:literal, $meaning:literal, $remedy:literal;)*) => {
        /// The code of a problem: stable, for programs to act on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemCode { $(#[doc = $meaning] $variant),* }

        impl ProblemCode {
            /// Every code, in the order of their status.
            pub const ALL: &'static [ProblemCode] = &[$(ProblemCode::$variant),*];

            /// The code as it stands in a problem document.
            pub const fn name(self) -> &'static str {
                match self { $(ProblemCode::$variant => $name),* }
            }

            /// The HTTP status that the code is answered with; each code has one.
            pub const fn status(self) -> u16 {
                match self { $(ProblemCode::$variant => $status),* }
            }

            /// The title: the same for every problem of this code.
            pub const fn title(self) -> &'static str {
                match self { $(ProblemCode::$variant => $title),* }
            }

            /// What the code means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(ProblemCode::$variant => $meaning),* }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(ProblemCode::$variant => $remedy),* }
            }

            /// What `Retry-After` says, in seconds, for codes that time may mend.
            pub const fn retry_after_s(self) -> Option<u32> {
                match self { $(ProblemCode::$variant => $retry_after_s),* }
            }

            /// `/docs/errors#<code>`: the problem's type, and where the server explains it.
            pub const fn type_uri(self) -> &'static str {
                match self { $(ProblemCode::$variant => concat!("/docs/errors#", $name)),* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 None, "The request is not valid",
        "The body or the query is not what this call takes: no JSON, no base64, a field missing, unknown, twice there or out of range.",
        "Mend the field that `detail` names.";
    InvalidKeyId "invalid_key_id" 400 None, "This is not a key id",
        "A key id on the token is `hsm:` and the CKA_ID in hexadecimal digits, two a byte, 1 to 255 bytes. That of a managed key is 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.",
        "Use a `key_id` as key creation or the list of keys answers it.";
    UnsupportedAlgorithm "unsupported_algorithm" 400 None, "The algorithm is not supported here",
        "There is no such algorithm, it does not belong to this operation, or the operator has not allowed it.",
        "Choose one from the documentation of this call, or leave `algorithm` out.";
    KeyTypeMismatch "key_type_mismatch" 400 None, "The algorithm does not fit the key",
        "The algorithm is for keys of another type, curve or size.",
        "Choose an algorithm for this key, or leave `algorithm` out; or use another key.";
    UsageNotPermitted "usage_not_permitted" 400 None, "The key is not for this use",
        "The key was made without the usage that this operation needs.",
        "Look at the key's `usages`; use or make a key that has the usage.";
    NotExtractable "not_extractable" 400 None, "The key may not leave the token",
        "The key was made with `extractable` false, which can't be changed.",
        "Where a key has to be wrapped, make it with `extractable` true.";
    DecryptionFailed "decryption_failed" 400 None, "The ciphertext does not decrypt",
        "Ciphertext, IV, tag, additional data, key or algorithm are not those of the encryption. Which of them is not said, on purpose.",
        "Send back every field as encrypt answered it, with the same `aad`.";
    Unauthenticated "unauthenticated" 401 None, "A valid bearer token is needed",
        "There is no bearer token, or it is not valid: malformed, expired, not yet valid, signed by another key, for another audience.",
        "Send `Authorization: Bearer <token>` with a token that is valid now.";
    Forbidden "forbidden" 403 None, "This is not allowed",
        "The token is valid but has not the scopes that this call needs.",
        "Ask for a token with the scope that `detail` names.";
    NotFound "not_found" 404 None, "There is nothing at this address",
        "The server has no such path, or the module no such slot.",
        "Compare the path with the list of endpoints, and a slot with those that `GET /api/v1/hsm/slots` lists.";
    KeyNotFound "key_not_found" 404 None, "There is no such key",
        "There is no key with this id, or it has no such version.",
        "Look the id up in the list of keys; perhaps the key was deleted, or is on another token.";
    MethodNotAllowed "method_not_allowed" 405 None, "The address does not take this method",
        "The path exists, but not with this method.",
        "Use one of the methods that the header `Allow` names.";
    Conflict "conflict" 409 None, "Something else is in the way",
        "The request collides with what is there, such as a label or a name that another key has, or with another request that is under way.",
        "Choose another label or name, or look at what `detail` names.";
    AmbiguousKey "ambiguous_key" 409 None, "Several keys have this id",
        "Unrelated objects of the token share one CKA_ID, so the id does not tell which key is meant.",
        "Give the objects different CKA_IDs with the token's own tools.";
    KeyDisabled "key_disabled" 409 None, "The key is disabled",
        "The key, or the version of it that is asked for, is disabled.",
        "Enable it with `PATCH /api/v1/keys/{key_id}` or `PATCH /api/v1/keys/{key_id}/versions/{version}`, or use another key.";
    KeyDestroyed "key_destroyed" 409 None, "The key is destroyed, or about to be",
        "The key is scheduled for destruction or destroyed, or the version of it that is asked for is destroyed.",
        "While it is only scheduled, `POST /api/v1/keys/{key_id}/restore` brings it back; afterwards use another key.";
    PayloadTooLarge "payload_too_large" 413 None, "The body is too large",
        "The body is longer than the server takes.",
        "Send less, or have the operator raise `HSM_LIMITS__BODY_BYTES`.";
    UnsupportedMediaType "unsupported_media_type" 415 None, "The body must be JSON",
        "The header `Content-Type` is missing or does not say `application/json`.",
        "Send JSON, with `Content-Type: application/json` and without a content encoding.";
    Internal "internal" 500 None, "The server made a mistake",
        "Something happened that should not be possible; the server's log has more under the request id.",
        "Tell the operator the `request_id`.";
    MechanismNotSupported "mechanism_not_supported" 501 None, "The token can't do this",
        "The token has not the PKCS#11 mechanism, curve or size that this needs, or it is write-protected.",
        "Choose another algorithm or key type, or another token.";
    HsmError "hsm_error" 502 None, "The token failed",
        "The token answered with an error that is not the request's fault, or with something that can't be right; `detail` names the CKR code where there is one.",
        "Try again; if it stays, the operator looks at the device with this code.";
    Busy "busy" 503 Some(1), "Too much to do just now",
        "All sessions of the token are at work and the queue is full, or the server is stopping.",
        "Try again after the seconds that `Retry-After` names.";
    HsmUnavailable "hsm_unavailable" 503 Some(5), "The token is not available",
        "The token is not there, or the server could not log in to it, or has no PIN.",
        "Try again after the seconds that `Retry-After` names; the operator looks at `/health/ready`.";
    AuditUnavailable "audit_unavailable" 503 Some(2), "The audit log can't be written",
        "Operations are refused while they could not be recorded.",
        "Try again after the seconds that `Retry-After` names; the operator looks at the space on the audit log's disk.";
    StoreUnavailable "store_unavailable" 503 Some(2), "The key store is not available",
        "The database that managed keys are kept in can't be reached, or can't be written. Keys of the token, by their `hsm:` ids, still work.",
        "Try again after the seconds that `Retry-After` names; the operator looks at `/health/ready`.";
    HsmTimeout "hsm_timeout" 504 None, "The token took too long",
        "The token did not answer before the deadline. Whether it did what was asked is not known.",
        "Try again; after a key creation look first whether the key is there. The operator may raise `HSM_LIMITS__HSM_TIMEOUT_MS` or `HSM_LIMITS__KEYGEN_TIMEOUT_MS`.";
}

impl ProblemCode {
    /// The codes that are answered with `status`.
    pub fn of_status(status: u16) -> impl Iterator<Item = ProblemCode> {
        let all = ProblemCode::ALL.iter().copied();
        all.filter(move |code| code.status() == status)
    }

    /// Looks a code up by its name.
    pub fn parse(name: &str) -> Option<ProblemCode> {
        let mut all = ProblemCode::ALL.iter().copied();
        all.find(|code| code.name() == name)
    }
}

impl Serialize for ProblemCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// An error, as RFC 9457 has it. Programs go by `code`, people by `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "/docs/errors#key_not_found",
    "title": "There is no such key",
    "status": 404,
    "detail": "there is no key hsm:1234567890abcdef",
    "code": "key_not_found",
    "request_id": "5f0c1f9e2b7d4c38"
}))]
pub struct Problem {
    /// Where the code is explained: `/docs/errors#<code>`.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference")]
    pub type_uri: &'static str,
    /// What happened, the same text for every problem of this code.
    pub title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time.
    pub detail: Cow<'static, str>,
    /// The stable code. More codes may come; treat one that you do not know by its status.
    #[schema(value_type = String)]
    pub code: ProblemCode,
    /// The request's `x-request-id`, to be found again in the server's log.
    pub request_id: String,
}

impl Problem {
    /// The media type of problem documents.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem of this code.
    pub fn new(code: ProblemCode, detail: impl Into<Cow<'static, str>>, request_id: impl Into<String>) -> Problem {
        Problem {
            type_uri: code.type_uri(),
            title: code.title(),
            status: code.status(),
            detail: detail.into(),
            code,
            request_id: request_id.into(),
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and a number: there is nothing in it that can't be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_told_apart() {
        let status: Vec<u16> = ProblemCode::ALL.iter().map(|code| code.status()).collect();
        assert!(status.is_sorted(), "{status:?}");
        for code in ProblemCode::ALL {
            assert_eq!(ProblemCode::parse(code.name()), Some(*code));
            assert_eq!(code.retry_after_s().is_some(), matches!(code.status(), 429 | 503));
        }
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_ours() {
        let problem = Problem::new(ProblemCode::Busy, "later", "r-1");
        let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        let expected = serde_json::json!({
            "type": "/docs/errors#busy",
            "title": "Too much to do just now",
            "status": 503,
            "detail": "later",
            "code": "busy",
            "request_id": "r-1",
        });
        assert_eq!(json, expected);
    }
}
