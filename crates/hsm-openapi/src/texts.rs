//! The longer texts of the OpenAPI document.

/// What the document says of sign, both under `/api/v1/hsm` and under `/api/v1`.
pub const SIGN_DESCRIPTION: &str = "Signs `data`, or the hash that `data` is with `message_type` `digest`. Without `algorithm` the key decides; the answer names what was used.\n\nBefore a signature is answered it may be checked with the public key, as the server's setting `HSM_VERIFY_AFTER_SIGN` says: `rsa` (the default: a faulty RSA signature can give the key away), `all`, or `none`. A signature that does not hold is not answered but 502 `hsm_error`.";

macro_rules! batch_description {
    ($operations:literal, $others:literal) => {
        concat!(
            "Does up to 1,000 operations as one call: ", $operations, ". An item is the single call's body with `operation` in it; the results are in the order of the items, each with the `status` and the members that the single call would answer, or with those of its problem. One bad item fails alone; an item of any other operation", $others, " is answered 400.\n\nAny token may call it; each item needs the scopes of its single call, and is answered 403 without them. A batch takes one place in the queue of each token that it has keys of; the deadline of a call holds for each item. An item with status 503 has `retry_after`, the seconds that a single call has in its header. Each item has its record in the audit log, unless it ended at a full queue; if the records can't be written, the batch as a whole is 503 `audit_unavailable`."
        )
    };
}

/// What the document says of batch under `/api/v1/hsm`.
pub const HSM_BATCH_DESCRIPTION: &str = batch_description!(
    "`encrypt`, `decrypt`, `sign`, `verify`",
    ", such as `rewrap` or `datakeys`,"
);

/// What the document says of batch under `/api/v1`.
pub const BATCH_DESCRIPTION: &str =
    batch_description!("`encrypt`, `decrypt`, `sign`, `verify`, `rewrap`, `datakeys`", "");

/// The header that makes a call safe to repeat.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// What the document says of [`IDEMPOTENCY_KEY`].
pub const IDEMPOTENCY_DESCRIPTION: &str = "1 to 255 visible ASCII characters that the client chooses, a new one for each thing that it wants done. For 24 hours the same caller, path, key and body get the same answer again, with the header `Idempotency-Replayed: true`, and nothing is done; the same key with another body, or while the first call is under way, is 409 `conflict`. An error frees the key.";

/// What the document says of the API as a whole.
pub(crate) const DESCRIPTION: &str = "Keys on PKCS#11 tokens, and what can be done with them.\n\nThe id of a key on a token is `hsm:` and hexadecimal digits; a key of a further configured token has that token's name in between, `hsm:backup:1234567890abcdef`. Any other id, 1 to 64 of `A-Z a-z 0-9 . _ -` and not beginning with a dot, is that of a managed key, which has versions: one of them, the primary one, encrypts and signs, and what any of them encrypted or signed can be decrypted and verified as long as it is enabled. What is made of a key, or unwrapped under one, lies on the token of that key; wrapping and wrapped key must be on one token.\n\nBodies are JSON; binary fields are standard base64 with padding; times are RFC 3339 in UTC. Unknown fields and unknown query parameters are refused. Every call but health, documentation and this document needs `Authorization: Bearer <JWT>` with the scopes that the operation names; `keys:*`, `crypto:*` and the like, and `*`, stand for all of theirs.\n\nErrors are problem documents (RFC 9457) with a stable `code`; `/docs/errors` explains each. Every answer carries `x-request-id`: the client's own, if it sent one of 1 to 128 characters of `A-Za-z0-9._:-`.";
