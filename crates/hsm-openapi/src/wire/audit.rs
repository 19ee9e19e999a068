//! The audit log.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::Limit;
use crate::body::WrongValue;

/// Which records to answer.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only records of this key.
    #[param(required = false, nullable = false)]
    pub key_id: Option<String>,
    /// Only records of this action.
    #[param(required = false, nullable = false)]
    pub action: Option<String>,
    /// Only records from this time on (RFC 3339).
    #[param(value_type = Option<String>, required = false, nullable = false, format = DateTime)]
    pub since: Option<Since>,
    /// How many records a page has at most.
    #[param(value_type = Option<u32>, required = false, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(required = false, nullable = false)]
    pub cursor: Option<String>,
}

/// A time as in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Since(OffsetDateTime);

impl Since {
    /// The time.
    pub const fn time(self) -> OffsetDateTime {
        self.0
    }
}

impl TryFrom<String> for Since {
    type Error = WrongValue;

    fn try_from(text: String) -> Result<Since, WrongValue> {
        let time = OffsetDateTime::parse(&text, &Rfc3339);
        time.map(Since).map_err(|_| WrongValue::Time)
    }
}

/// A page of audit records, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// The records of this page.
    pub records: Vec<AuditRecord>,
    /// What to send as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// A record of the audit log, as it stands there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditRecord {
    /// The record's number; each is one more than the one before.
    #[schema(example = 42)]
    pub seq: u64,
    /// When it was written (RFC 3339, UTC).
    #[schema(format = DateTime, example = "2026-01-31T08:00:00.123456Z")]
    pub time: String,
    /// The request's `x-request-id`.
    #[schema(required)]
    pub request_id: Option<String>,
    /// Who asked: the token's `sub`.
    #[schema(required)]
    pub subject: Option<String>,
    /// The caller's address.
    #[schema(required)]
    pub client: Option<String>,
    /// What was asked for.
    #[schema(example = "sign")]
    pub action: String,
    /// The key; `null` where the call was refused before its body was read.
    #[schema(required, example = "hsm:1234567890abcdef")]
    pub key_id: Option<String>,
    /// The version of the key; `null` for a key of the token.
    #[schema(required)]
    pub key_version: Option<u32>,
    /// The algorithm.
    #[schema(required, example = "ECDSA-SHA256")]
    pub algorithm: Option<String>,
    /// `success`, `failure` or `refused`.
    #[schema(example = "success")]
    pub outcome: String,
    /// The status of the answer.
    #[schema(example = 200)]
    pub status: u16,
    /// The code of the problem; `null` without one.
    #[schema(required)]
    pub code: Option<String>,
    /// The hash of the record before, in hexadecimal digits.
    pub prev: String,
}
