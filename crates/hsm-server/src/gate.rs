//! The gate that every request passes: it gets its id, its route is looked up, its token is checked, and only then does it
//! reach a handler. The order is the contract's: route, 401, 405, 403.

use std::net::IpAddr;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use hsm_openapi::ProblemCode;
use keymgmt::{Action, Caller};

use crate::app::State;
use crate::auth::{self, AuthError, ScopeSet};
use crate::problem::{self, ApiError};
use crate::routes::{Access, Route};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Passes a request through.
pub async fn gate(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let Some(state) = request.app_data::<web::Data<State>>().cloned() else {
        return Err(ApiError::new(ProblemCode::Internal, "the server is not set up").into());
    };
    let _in_flight = state.in_flight.enter();
    let request_id = request_id(&request);
    let pattern = request.match_pattern();
    let method = request.method().clone();
    let admitted = if state.in_flight.is_draining() {
        Err(ApiError::new(
            ProblemCode::Busy,
            "the server is stopping; try another one, or later",
        ))
    } else {
        admit(&mut request, &state, &request_id, pattern.as_deref()).await
    };
    let mut response = match admitted {
        Err(error) => {
            let response = error.answer(&request_id);
            request.into_response(response)
        }
        Ok(()) => {
            let response = next.call(request).await?;
            match response.response().error() {
                Some(error) => {
                    let answer = problem::answer_to(&request_id, error);
                    response.into_response(answer)
                }
                // The pages of the documentation know no problem documents.
                None if response.status() == StatusCode::NOT_FOUND
                    && !response.headers().contains_key(header::CONTENT_TYPE) =>
                {
                    let answer = not_found().answer(&request_id);
                    response.into_response(answer)
                }
                None => response.map_into_boxed_body(),
            }
        }
    };
    let status = response.status().as_u16();
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if state.in_flight.is_draining() {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    let elapsed = started.elapsed();
    let route = pattern.as_deref().unwrap_or("none");
    state.metrics.request(route, &method, status, elapsed);
    tracing::info!(request_id, %method, route, status, elapsed_ms = elapsed.as_secs_f64() * 1e3, "request");
    Ok(response)
}

/// Lets a request in, and notes who it is, or says why not.
async fn admit(
    request: &mut ServiceRequest,
    state: &State,
    request_id: &str,
    pattern: Option<&str>,
) -> Result<(), ApiError> {
    let routes = state.routes.at(pattern.ok_or_else(not_found)?);
    if routes.is_empty() {
        return Err(not_found());
    }
    let route = routes.iter().find(|route| route.method == *request.method());
    let mut caller = Caller {
        request_id: request_id.to_owned(),
        subject: None,
        client: client(request, state),
    };
    if let Some(Route {
        access: Access::Public, ..
    }) = route
    {
        request.extensions_mut().insert(caller);
        return Ok(());
    }
    let all_public = routes.iter().all(|route| route.access == Access::Public);
    let known = if all_public {
        None
    } else {
        Some(authenticate(request, state)?)
    };
    let Some(route) = route else {
        let allow: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
        let text = format!("this path takes {}", allow.join(", "));
        return Err(ApiError::new(ProblemCode::MethodNotAllowed, text).with_header(header::ALLOW, allow.join(", ")));
    };
    caller.subject = known.as_ref().map(|known| known.subject.clone());
    let granted = known.as_ref().map(|known| known.scopes).unwrap_or_default();
    if let Access::Scopes(needed, action) = route.access {
        require(state, &caller, granted, needed, action).await?;
    }
    request.extensions_mut().insert(Granted(granted));
    request.extensions_mut().insert(caller);
    Ok(())
}

/// What the caller's token allows.
#[derive(Clone, Copy)]
pub struct Granted(pub ScopeSet);

/// Lets a caller go on who has the scopes that are needed; any other is recorded.
///
/// # Errors
/// 403, naming what is lacking; 503 if that can't be recorded.
pub async fn require(
    state: &State,
    caller: &Caller,
    granted: ScopeSet,
    needed: ScopeSet,
    action: Action,
) -> Result<(), ApiError> {
    let lacking = needed.without(granted);
    if lacking.is_empty() {
        return Ok(());
    }
    let code = ProblemCode::Forbidden;
    let recorded = state.service.record_refusal(caller, action, code.status(), code.name());
    recorded.await?;
    Err(ApiError::lacking(lacking))
}

fn not_found() -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        "there is nothing at this path; /docs lists what there is",
    )
}

fn authenticate(request: &ServiceRequest, state: &State) -> Result<std::sync::Arc<auth::Caller>, ApiError> {
    let headers = request
        .headers()
        .get_all(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let known = auth::bearer(headers).and_then(|token| state.authenticator.authenticate(token));
    known.map_err(|error: AuthError| {
        state.metrics.unauthenticated();
        ApiError::new(ProblemCode::Unauthenticated, error.to_string())
            .with_header(header::WWW_AUTHENTICATE, error.challenge())
    })
}

/// The client's own id if it may be one, else a random one.
fn request_id(request: &ServiceRequest) -> String {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    let sent = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    if let Some(id) = sent.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(allowed)) {
        return id.to_owned();
    }
    let mut bytes = [0; 8];
    // An id that is not random is still an id.
    let _: Result<(), _> = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// The caller's address: the peer's, or what the proxy in front added last.
fn client(request: &ServiceRequest, state: &State) -> Option<String> {
    let peer = request.peer_addr().map(|address| address.ip().to_canonical());
    let forwarded = || {
        let last = request.headers().get_all("x-forwarded-for").last()?.to_str().ok()?;
        last.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
    };
    let address = if state.behind_proxy { forwarded().or(peer) } else { peer };
    address.map(|address| address.to_string())
}

/// The methods of actix, for the route table.
pub fn method(name: &str) -> Option<Method> {
    Method::from_bytes(name.as_bytes()).ok()
}
