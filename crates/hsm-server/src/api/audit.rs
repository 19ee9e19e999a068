//! The audit log, read.

use actix_web::{get, web};
use hsm_openapi::ProblemCode;
use hsm_openapi::document::tag;
use hsm_openapi::wire::{AuditPage, AuditQuery, AuditRecord, Since};
use keymgmt::KeyId;
use keymgmt::audit::{Filter, Outcome, Record};

use super::Answer;
use crate::app::State;
use crate::extract::Query;
use crate::problem::ApiError;

/// Lists audit records, newest first.
#[utoipa::path(tag = tag::AUDIT, security(("bearer" = ["audit:read"])), params(AuditQuery), responses((status = 200, description = "A page of records", body = AuditPage)))]
#[get("/audit")]
pub async fn list_audit_records(state: web::Data<State>, query: Query<AuditQuery>) -> Answer<web::Json<AuditPage>> {
    let AuditQuery {
        key_id,
        action,
        since,
        limit,
        cursor,
    } = query.0;
    // Records have ids as they are answered, in lower case.
    let key_id = key_id.map(|text| KeyId::parse(&text).map_or(text, |id| id.to_string()));
    let filter = Filter {
        key_id,
        action,
        since: since.map(Since::time),
        limit: limit.unwrap_or_default().entries(),
        cursor,
    };
    let service = state.service.clone();
    let read = web::block(move || service.records(&filter)).await;
    let page = read.map_err(|_| ApiError::new(ProblemCode::Internal, "the audit log could not be read"))??;
    Ok(web::Json(AuditPage {
        records: page.records.into_iter().map(wire).collect(),
        next_cursor: page.next_cursor,
    }))
}

fn wire(record: Record) -> AuditRecord {
    let Record {
        seq,
        time,
        request_id,
        subject,
        client,
        action,
        key_id,
        key_version,
        algorithm,
        outcome,
        status,
        code,
        prev,
    } = record;
    let outcome = match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Refused => "refused",
    };
    AuditRecord {
        seq,
        time,
        request_id,
        subject,
        client,
        action,
        key_id,
        key_version,
        algorithm,
        outcome: outcome.to_owned(),
        status,
        code,
        prev,
    }
}
