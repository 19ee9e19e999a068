//! Health, metrics, and the documents that the server has of itself.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get, web};
use hsm_core::key::TokenName;
use hsm_core::{Hsm, Login};
use hsm_openapi::document::tag;
use hsm_openapi::wire::{HealthCheck, Live, NotReady, Ready};
use hsm_openapi::{Problem, ProblemCode, errors_html};
use keymgmt::store::Status;

use super::Answer;
use crate::app::State;
use crate::config::token_variable;
use crate::extract::{NoQuery, Who};

/// Where Prometheus asks.
pub const METRICS: &str = "/metrics";

/// Pages for people, which the document does not describe.
pub const PAGES: &[&str] = &["/docs", "/docs/errors", "/docs/{_:.*}"];

/// Tells that the process lives.
#[utoipa::path(tag = tag::HEALTH, security(()), responses((status = 200, description = "The process lives", body = Live)))]
#[get("/health/live")]
pub async fn live() -> web::Json<Live> {
    web::Json(Live::LIVE)
}

/// Tells whether requests can be served, which takes one token that serves, the audit log and the store; never waits for
/// any of them.
#[utoipa::path(tag = tag::HEALTH, security(()), responses(
    (status = 200, description = "Requests can be served", body = Ready),
    (status = 503, description = "They can't, and why", body = NotReady, content_type = "application/problem+json"),
))]
#[get("/health/ready")]
pub async fn ready(state: web::Data<State>, who: Who) -> Answer<HttpResponse> {
    let service = &state.service;
    let tokens: Vec<_> = service.tokens().iter().map(|(name, hsm)| token(name, hsm)).collect();
    let some_token = tokens.iter().any(|checks| checks.iter().all(|check| check.ok));
    let writable = service.audit().writable();
    let audit = HealthCheck {
        name: "audit".to_owned(),
        ok: writable,
        detail: (!writable).then(|| "the audit log can't be written".to_owned()),
    };
    let store = store(service.store().status());
    let stored = store.ok;
    let several = tokens.len() > 1;
    let checks: Vec<_> = tokens.into_iter().flatten().chain([audit, store]).collect();
    if some_token && writable && stored {
        return Ok(HttpResponse::Ok().json(Ready::new(checks)));
    }
    let code = if !some_token {
        ProblemCode::HsmUnavailable
    } else if !writable {
        ProblemCode::AuditUnavailable
    } else {
        ProblemCode::StoreUnavailable
    };
    let problem = Problem::new(code, why(&checks, several), who.0.request_id);
    let mut response = HttpResponse::ServiceUnavailable();
    response.insert_header((header::CONTENT_TYPE, Problem::CONTENT_TYPE));
    response.insert_header((header::RETRY_AFTER, code.retry_after_s().unwrap_or(1).to_string()));
    Ok(response.json(NotReady { problem, checks }))
}

/// What is wrong: the first of it, or of several tokens all of it, each by its name.
fn why(checks: &[HealthCheck], several: bool) -> String {
    let failed = checks.iter().filter(|check| !check.ok);
    let detail = |check: &HealthCheck| check.detail.clone().unwrap_or_else(|| check.name.clone());
    if several {
        let all: Vec<_> = failed
            .map(|check| format!("{}: {}", check.name, detail(check)))
            .collect();
        return all.join("; ");
    }
    failed.map(detail).next().unwrap_or_default()
}

/// Whether the store could be reached when it was last asked; never waits for it.
fn store(status: Status) -> HealthCheck {
    let Status {
        available,
        fault,
        last_contact,
    } = status;
    let away = || {
        let seconds = last_contact.elapsed().as_secs();
        let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        format!("the store was last reached {seconds} s ago{why}")
    };
    HealthCheck {
        name: "store".to_owned(),
        ok: available,
        detail: (!available).then(away),
    }
}

/// Whether a token is there, and whether its login holds.
fn token(name: Option<&TokenName>, hsm: &Hsm) -> [HealthCheck; 2] {
    let status = hsm.status();
    let login = match status.login {
        Login::LoggedIn | Login::NotNeeded => None,
        Login::NoPin => Some(format!(
            "no PIN is configured ({}): only what needs no login is done",
            token_variable(name, "pin")
        )),
        Login::LoggedOut => Some("the login is lost".to_owned()),
        Login::Refused => {
            Some("the PIN was refused, or may not be tried; it is not tried again before a restart".to_owned())
        }
    };
    let load = status.load;
    let stuck = load.workers > 0 && load.hung >= load.workers;
    let away = status
        .unavailable
        .or_else(|| stuck.then(|| "every session hangs in a call of the module".to_owned()));
    let named = |kind: &str| name.map_or_else(|| kind.to_owned(), |name| format!("{kind}:{name}"));
    [
        HealthCheck {
            name: named("token"),
            ok: away.is_none(),
            detail: away,
        },
        HealthCheck {
            name: named("login"),
            ok: !matches!(status.login, Login::LoggedOut | Login::Refused),
            detail: login,
        },
    ]
}

/// Metrics as Prometheus reads them. Needs no token where only this machine can ask.
#[utoipa::path(tag = tag::HEALTH, security(("bearer" = ["metrics:read"])), responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
#[get("/metrics")]
pub async fn metrics(state: web::Data<State>, request: HttpRequest) -> HttpResponse {
    metrics_page(&state, &request)
}

/// The metrics page, for both listeners that have one: `OpenMetrics` for who asks for it, which is also valid in the older
/// format.
pub fn metrics_page(state: &State, request: &HttpRequest) -> HttpResponse {
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let content_type = match accept {
        Some(accept) if accept.contains("application/openmetrics-text") => {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        }
        _ => "text/plain; version=0.0.4; charset=utf-8",
    };
    HttpResponse::Ok()
        .content_type(content_type)
        .body(state.metrics.page(&state.service))
}

/// This document.
#[utoipa::path(tag = tag::HEALTH, security(()), responses((status = 200, description = "The OpenAPI document", body = serde_json::Value)))]
#[get("/openapi.json")]
pub async fn openapi_document(state: web::Data<State>, _: NoQuery) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(state.openapi.clone())
}

/// `/docs`, to where the documentation is.
#[get("/docs")]
pub async fn docs() -> HttpResponse {
    HttpResponse::TemporaryRedirect()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

/// What each problem code means and what to do.
#[get("/docs/errors")]
pub async fn errors() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .body(errors_html())
}
