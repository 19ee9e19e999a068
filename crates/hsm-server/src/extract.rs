//! What handlers take from a request: bodies and queries read strictly, key ids, and who calls.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::BytesMut;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use futures_util::StreamExt;
use hsm_openapi::{ProblemCode, parse_body, parse_query};
use keymgmt::Caller;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::app::State;
use crate::auth::ScopeSet;
use crate::gate::Granted;
use crate::problem::ApiError;

/// How much longer than others the bodies of decrypt and verify may be, in bytes: what was encrypted or signed comes back
/// with an IV, a tag, a signature.
pub const GROWN: usize = 128 * 1024;

/// The longest body that says nothing, in bytes.
const EMPTY_BODY: usize = 1024;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body. `GROWTH` bytes more are taken than is configured.
pub struct Body<T, const GROWTH: usize = 0>(pub T);

impl<T: DeserializeOwned + 'static, const GROWTH: usize> FromRequest for Body<T, GROWTH> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let mut body = json(&request, payload, GROWTH).await?;
            let parsed = parse_body(&body);
            // It may hold a plaintext.
            body.as_mut().zeroize();
            Ok(Body(parsed?))
        })
    }
}

/// A JSON body and the SHA-256 of its bytes, by which a call that comes again is known.
pub struct HashedBody<T>(pub T, pub [u8; 32]);

impl<T: DeserializeOwned + 'static> FromRequest for HashedBody<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let mut body = json(&request, payload, 0).await?;
            let parsed = parse_body(&body);
            let hash = Sha256::digest(&body).into();
            body.as_mut().zeroize();
            Ok(HashedBody(parsed?, hash))
        })
    }
}

/// That there is no body, or one that says nothing: `{}`.
pub struct NoBody;

impl FromRequest for NoBody {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let refused = || invalid("this call takes no body; send none, or `{}`");
            let reading = actix_web::rt::time::timeout(BODY_TIMEOUT, read(&request, payload, EMPTY_BODY));
            let body = reading.await.map_err(|_| refused())?.map_err(|_| refused())?;
            let text: Vec<u8> = body
                .iter()
                .copied()
                .filter(|byte| !byte.is_ascii_whitespace())
                .collect();
            if text.is_empty() || text == b"{}" {
                return Ok(NoBody);
            }
            Err(refused())
        })
    }
}

/// The request's body, which must be announced as JSON.
async fn json(request: &HttpRequest, payload: Payload, growth: usize) -> Result<BytesMut, ApiError> {
    is_json(request)?;
    let limit = state(request)?.body_bytes.saturating_add(growth);
    let reading = actix_web::rt::time::timeout(BODY_TIMEOUT, read(request, payload, limit));
    reading
        .await
        .map_err(|_| invalid("the body did not arrive within 30 seconds"))?
}

fn invalid(detail: &str) -> ApiError {
    ApiError::new(ProblemCode::InvalidRequest, detail)
}

fn is_json(request: &HttpRequest) -> Result<(), ApiError> {
    let essence = request.content_type().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            ProblemCode::UnsupportedMediaType,
            "send the body as `Content-Type: application/json`",
        ));
    }
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::new(
            ProblemCode::UnsupportedMediaType,
            "send the body without a content encoding",
        ));
    }
    Ok(())
}

async fn read(request: &HttpRequest, mut payload: Payload, limit: usize) -> Result<BytesMut, ApiError> {
    let too_large = || {
        ApiError::new(
            ProblemCode::PayloadTooLarge,
            format!("the body may have {limit} bytes at most"),
        )
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or(0));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| invalid("the body did not arrive whole"))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The query's parameters.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(parse_query(request.query_string()).map(Query).map_err(ApiError::from))
    }
}

/// That there is no query: every parameter is unknown to the call.
pub struct NoQuery;

impl FromRequest for NoQuery {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let empty = request.query_string().is_empty();
        std::future::ready(if empty {
            Ok(NoQuery)
        } else {
            Err(invalid("this call takes no query parameters"))
        })
    }
}

/// The key id in the path, as it was written.
pub struct PathKeyId(pub String);

impl FromRequest for PathKeyId {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let id = web::Path::<String>::from_request(request, payload).into_inner();
        let not_text = |_| ApiError::new(ProblemCode::InvalidKeyId, "the key id in the path is not UTF-8");
        std::future::ready(id.map(|id| PathKeyId(id.into_inner())).map_err(not_text))
    }
}

/// The key id and the version in the path, as they were written.
pub struct PathVersion(pub String, pub u32);

impl FromRequest for PathVersion {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let parts = web::Path::<(String, String)>::from_request(request, payload).into_inner();
        let not_text = |_| ApiError::new(ProblemCode::InvalidKeyId, "the key id in the path is not UTF-8");
        std::future::ready(parts.map_err(not_text).and_then(|parts| {
            let (id, version) = parts.into_inner();
            let number = version
                .parse()
                .map_err(|_| invalid("`version`: must be a whole number"))?;
            Ok(PathVersion(id, number))
        }))
    }
}

/// Who calls, as the audit log records it.
pub struct Who(pub Caller);

impl FromRequest for Who {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        // A handler that is reached without having passed the gate: nobody may call it.
        std::future::ready(
            caller
                .map(Who)
                .ok_or_else(|| ApiError::new(ProblemCode::Forbidden, "nobody may call this")),
        )
    }
}

impl FromRequest for Granted {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let granted = request.extensions().get::<Granted>().copied();
        // Without the gate nobody is allowed anything.
        std::future::ready(Ok(granted.unwrap_or(Granted(ScopeSet::default()))))
    }
}

fn state(request: &HttpRequest) -> Result<&web::Data<State>, ApiError> {
    request
        .app_data::<web::Data<State>>()
        .ok_or_else(|| ApiError::new(ProblemCode::Internal, "the server is not set up"))
}
