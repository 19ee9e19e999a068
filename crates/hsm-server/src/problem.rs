//! Errors as answers. The one place where what went wrong becomes a problem code: no other match knows both.

use std::cell::Cell;
use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use hsm_openapi::{BodyError, Problem, ProblemCode};

use crate::auth::{ScopeSet, insufficient_scope_challenge};

/// An error on its way to the client.
#[derive(Debug)]
pub struct ApiError {
    /// The code, from which the status follows.
    pub code: ProblemCode,
    /// What the client reads.
    pub detail: String,
    headers: Vec<(HeaderName, String)>,
}

impl ApiError {
    /// An error with its text for the client.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> ApiError {
        ApiError {
            code,
            detail: detail.into(),
            headers: Vec::new(),
        }
    }

    /// The caller's token has not these scopes.
    pub fn lacking(scopes: ScopeSet) -> ApiError {
        let names = scopes.to_string().replace(' ', "`, `");
        ApiError::new(ProblemCode::Forbidden, format!("the token lacks the scope `{names}`"))
            .with_header(header::WWW_AUTHENTICATE, insufficient_scope_challenge(scopes))
    }

    /// With a header that goes along.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> ApiError {
        self.headers.push((name, value.into()));
        self
    }

    /// The document of the problem, for the request with this id.
    pub fn problem(&self, request_id: &str) -> Problem {
        Problem::new(self.code, self.detail.clone(), request_id)
    }

    /// The answer to the request with this id.
    pub fn answer(&self, request_id: &str) -> HttpResponse {
        let problem = self.problem(request_id);
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((header::CONTENT_TYPE, Problem::CONTENT_TYPE));
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        for (name, value) in &self.headers {
            response.insert_header((
                name.clone(),
                HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("")),
            ));
        }
        if let Some(seconds) = self.code.retry_after_s() {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.body(problem.to_json())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

thread_local! {
    /// The id of the request whose error is being answered; handlers know nothing of it.
    static ANSWERING: Cell<Option<String>> = const { Cell::new(None) };
}

/// Answers `error` to the request with this id.
pub fn answer_to(request_id: &str, error: &actix_web::Error) -> HttpResponse {
    ANSWERING.set(Some(request_id.to_owned()));
    let response = error.as_response_error().error_response();
    ANSWERING.set(None);
    response
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let request_id = ANSWERING.take().unwrap_or_default();
        self.answer(&request_id)
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> ApiError {
        ApiError::new(ProblemCode::InvalidRequest, error.to_string())
    }
}

impl From<hsm_core::Error> for ApiError {
    fn from(error: hsm_core::Error) -> ApiError {
        ApiError::from(keymgmt::Error::from(error))
    }
}

impl From<keymgmt::Error> for ApiError {
    fn from(error: keymgmt::Error) -> ApiError {
        let code = code_of(&error);
        let detail = match (&error, code) {
            (keymgmt::Error::Hsm(hsm_core::Error::InvalidRequest { field, detail }), _) => {
                format!("`{field}`: {detail}")
            }
            (keymgmt::Error::Invalid { field, detail }, _) => format!("`{field}`: {detail}"),
            // It was written for whoever reads it, and the operator must hear of it.
            (keymgmt::Error::Tampered(text), _) => text.clone(),
            (keymgmt::Error::InvalidCursor, _) => format!("`cursor`: {error}"),
            // What went wrong inside is for the log.
            (_, ProblemCode::Internal) => {
                "something happened that should not be possible; the server's log has more".to_owned()
            }
            _ => error.to_string(),
        };
        if code == ProblemCode::Internal {
            tracing::error!(%error, "internal error");
        }
        ApiError::new(code, detail)
    }
}

/// Status and code of an error, for the audit log and the metrics.
pub fn describe(error: &keymgmt::Error) -> (u16, &'static str) {
    let code = code_of(error);
    (code.status(), code.name())
}

fn code_of(error: &keymgmt::Error) -> ProblemCode {
    use hsm_core::Error as E;
    match error {
        keymgmt::Error::KeyNotFound(_) => ProblemCode::KeyNotFound,
        keymgmt::Error::VersionNotFound { .. } => ProblemCode::KeyNotFound,
        keymgmt::Error::KeyDisabled(_) => ProblemCode::KeyDisabled,
        keymgmt::Error::KeyDestroyed(_) => ProblemCode::KeyDestroyed,
        keymgmt::Error::Conflict(_) => ProblemCode::Conflict,
        keymgmt::Error::Invalid { .. } => ProblemCode::InvalidRequest,
        keymgmt::Error::StoreUnavailable(_) => ProblemCode::StoreUnavailable,
        keymgmt::Error::Tampered(_) => ProblemCode::Internal,
        keymgmt::Error::SlotNotFound(_) => ProblemCode::NotFound,
        keymgmt::Error::AuditUnavailable => ProblemCode::AuditUnavailable,
        keymgmt::Error::InvalidCursor => ProblemCode::InvalidRequest,
        keymgmt::Error::AuditUnreadable(_) => ProblemCode::AuditUnavailable,
        keymgmt::Error::Hsm(error) => match error {
            E::InvalidRequest { .. } => ProblemCode::InvalidRequest,
            E::InvalidKeyId(_) => ProblemCode::InvalidKeyId,
            E::UnsupportedAlgorithm(_) => ProblemCode::UnsupportedAlgorithm,
            E::KeyTypeMismatch(_) => ProblemCode::KeyTypeMismatch,
            E::UsageNotPermitted(_) => ProblemCode::UsageNotPermitted,
            E::NotExtractable => ProblemCode::NotExtractable,
            E::DecryptionFailed => ProblemCode::DecryptionFailed,
            E::KeyNotFound(_) => ProblemCode::KeyNotFound,
            E::Conflict(_) => ProblemCode::Conflict,
            E::AmbiguousKey(_) => ProblemCode::AmbiguousKey,
            E::NotSupported(_) => ProblemCode::MechanismNotSupported,
            E::Busy => ProblemCode::Busy,
            E::Unavailable(_) => ProblemCode::HsmUnavailable,
            E::Device(_) => ProblemCode::HsmError,
            E::Timeout => ProblemCode::HsmTimeout,
            E::Internal(_) => ProblemCode::Internal,
        },
    }
}
