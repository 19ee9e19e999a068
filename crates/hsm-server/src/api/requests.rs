//! Certification requests, and random bytes.

use std::ops::RangeInclusive;

use actix_web::{post, web};
use hsm_core::csr::Names;
use hsm_core::{HsmKeyId, Operation};
use hsm_openapi::BodyError;
use hsm_openapi::document::tag;
use hsm_openapi::wire::{CsrRequest, CsrResponse, RandomRequest, RandomResponse, VersionedCsrRequest};
use keymgmt::KeyId;
use keymgmt::service::choice;

use super::{Answer, to_the_end};
use crate::app::State;
use crate::extract::{Body, NoQuery, PathKeyId, Who};

/// How many random bytes there are at once.
const RANDOM_BYTES: RangeInclusive<u32> = 1..=4096;

/// Makes a certification request (PKCS#10) for a key of the token, signed by it.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:sign"])), params(("key_id" = String, Path, description = "The key's id")), request_body = CsrRequest, responses((status = 200, description = "The request", body = CsrResponse)))]
#[post("/keys/{key_id}/csr")]
pub async fn hsm_csr(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    _: NoQuery,
    body: Body<CsrRequest>,
) -> Answer<web::Json<CsrResponse>> {
    let key = HsmKeyId::parse(&id.0)?;
    csr_with(&state, who, key.into(), None, body.0).await
}

/// Makes a certification request (PKCS#10) for a key of any kind, signed by it.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:sign"])), params(("key_id" = String, Path, description = "The key's id")), request_body = VersionedCsrRequest, responses((status = 200, description = "The request", body = CsrResponse)))]
#[post("/keys/{key_id}/csr")]
pub async fn csr(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    _: NoQuery,
    body: Body<VersionedCsrRequest>,
) -> Answer<web::Json<CsrResponse>> {
    let (body, version) = body.0.split();
    csr_with(&state, who, KeyId::parse(&id.0)?, version, body).await
}

async fn csr_with(
    state: &State,
    who: Who,
    key: KeyId,
    version: Option<u32>,
    body: CsrRequest,
) -> Answer<web::Json<CsrResponse>> {
    let CsrRequest {
        subject,
        subject_alt_names,
        algorithm,
    } = body;
    let names = Names::parse(&subject, &subject_alt_names.unwrap_or_default())?;
    let algorithm = choice(algorithm.as_deref(), Operation::Sign);
    let service = state.service.clone();
    let work = async move { service.csr(&who.0, key, version, names, algorithm).await };
    let (_, request) = to_the_end(state, work).await?;
    let csr_pem = request.to_pem();
    Ok(web::Json(CsrResponse { csr_pem }))
}

/// Random bytes, made by the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:random"])), request_body = RandomRequest, responses((status = 200, description = "The bytes", body = RandomResponse)))]
#[post("/random")]
pub async fn hsm_random(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<RandomRequest>,
) -> Answer<web::Json<RandomResponse>> {
    let RandomRequest { length, token } = body.0;
    let fits = usize::try_from(length).ok().filter(|_| RANDOM_BYTES.contains(&length));
    let bytes = fits.ok_or_else(|| BodyError::field("length", "must be a whole number from 1 to 4096"))?;
    let service = state.service.clone();
    let data = to_the_end(
        &state,
        async move { service.random(&who.0, token.as_deref(), bytes).await },
    )
    .await?;
    Ok(web::Json(RandomResponse { data: data.into() }))
}
