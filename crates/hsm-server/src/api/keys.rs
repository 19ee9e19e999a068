//! Keys of the token: made, listed, looked at, relabelled, destroyed.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, delete, get, patch, post, web};
use hsm_core::{HsmKeyId, KeyAttributes, KeyInfo, KeyQuery, KeySpec, KeyType, Label, NewKey, Usages};
use hsm_openapi::BodyError;
use hsm_openapi::document::{IDEMPOTENCY_DESCRIPTION, tag};
use hsm_openapi::wire::{CreateKeyRequest, Key, KeyList, KeyListQuery, UpdateKeyRequest};
use keymgmt::KeyId;

use super::once::{Made, Once};
use super::{Answer, cursor, shown, to_the_end};
use crate::app::State;
use crate::extract::{Body, HashedBody, NoQuery, PathKeyId, Query, Who};
use crate::routes::API;

/// Makes a key on the token.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create"])), request_body = CreateKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = IDEMPOTENCY_DESCRIPTION, min_length = 1, max_length = 255)),
    responses((status = 201, description = "The key", body = Key, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/keys")]
pub async fn hsm_create_key(
    state: web::Data<State>,
    who: Who,
    once: Once,
    _: NoQuery,
    body: HashedBody<CreateKeyRequest>,
) -> Answer<HttpResponse> {
    let HashedBody(body, hash) = body;
    let (token, new) = new_key(body)?;
    let (service, caller) = (state.service.clone(), who.0.clone());
    once.run(&state, &who.0, hash, StatusCode::CREATED, move |ticket| async move {
        made(service.create(&caller, token.as_deref(), new, ticket).await?)
    })
    .await
}

/// A new key of the token, as it is answered.
///
/// # Errors
/// 500 for what can't be written.
pub fn made(info: KeyInfo) -> Answer<Made> {
    Made::created(&format!("/hsm/keys/{}", info.id), &shown::token_key(info, None))
}

/// 201, and where the key is.
pub fn created(id: &HsmKeyId) -> HttpResponseBuilder {
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, format!("{API}/hsm/keys/{id}")));
    response
}

/// Lists the token's keys, those of other programs too; a list may lag them by some seconds.
#[utoipa::path(tag = tag::HSM_KEYS, security(("bearer" = ["keys:read"])), params(KeyListQuery), responses((status = 200, description = "A page of keys", body = KeyList)))]
#[get("/keys")]
pub async fn hsm_list_keys(state: web::Data<State>, query: Query<KeyListQuery>) -> Answer<web::Json<KeyList>> {
    page(&state, query.0).await
}

/// Tells what the token knows of a key.
#[utoipa::path(tag = tag::HSM_KEYS, security(("bearer" = ["keys:read"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 200, description = "The key", body = Key)))]
#[get("/keys/{key_id}")]
pub async fn hsm_get_key(state: web::Data<State>, id: PathKeyId, _: NoQuery) -> Answer<web::Json<Key>> {
    let id = HsmKeyId::parse(&id.0)?;
    let managed_by = state.service.managed_by(&id);
    Ok(web::Json(shown::token_key(
        state.service.key(id.into()).await?,
        managed_by,
    )))
}

/// Gives a key on the token another label.
#[utoipa::path(tag = tag::HSM_KEYS, security(("bearer" = ["keys:update"])), params(("key_id" = String, Path, description = "The key's id")), request_body = UpdateKeyRequest, responses((status = 200, description = "The key", body = Key)))]
#[patch("/keys/{key_id}")]
pub async fn hsm_update_key(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    _: NoQuery,
    body: Body<UpdateKeyRequest>,
) -> Answer<web::Json<Key>> {
    let id = HsmKeyId::parse(&id.0)?;
    let label = Label::parse(&body.0.key_label)?;
    let service = state.service.clone();
    let info = to_the_end(&state, async move { service.relabel(&who.0, &id, label).await }).await?;
    Ok(web::Json(shown::token_key(info, None)))
}

/// Destroys a key on the token: both halves of a pair, at once and for ever.
#[utoipa::path(tag = tag::HSM_KEYS, security(("bearer" = ["keys:delete"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 204, description = "The key is gone")))]
#[delete("/keys/{key_id}")]
pub async fn hsm_delete_key(state: web::Data<State>, who: Who, id: PathKeyId, _: NoQuery) -> Answer<HttpResponse> {
    let id = HsmKeyId::parse(&id.0)?;
    destroy(&state, who, id.into()).await
}

/// Destroys a key of the token.
///
/// # Errors
/// What the service says.
pub async fn destroy(state: &State, who: Who, id: KeyId) -> Answer<HttpResponse> {
    let service = state.service.clone();
    to_the_end(state, async move { service.delete(&who.0, id).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn page(state: &State, query: KeyListQuery) -> Answer<web::Json<KeyList>> {
    let KeyListQuery {
        limit,
        cursor,
        key_type,
        label,
    } = query;
    let limit = limit.unwrap_or_default().entries();
    let unknown = || BodyError::field("key_type", "is none of the key types");
    let key_type = key_type
        .map(|name| KeyType::parse(&name).ok_or_else(unknown))
        .transpose()?;
    let after = match cursor.map(|cursor| cursor::read(&cursor)).transpose()? {
        None => None,
        Some(KeyId::Hsm(id)) => Some(id),
        Some(KeyId::Managed(_)) => return Err(cursor::not_ours()),
    };
    let found = state
        .service
        .keys(KeyQuery {
            after,
            limit,
            key_type,
            label,
        })
        .await?;
    let next_cursor = found
        .keys
        .last()
        .filter(|_| found.more)
        .map(|last| cursor::after(&last.id.clone().into()));
    let shown = |info: KeyInfo| {
        let managed_by = state.service.managed_by(&info.id);
        shown::token_key(info, managed_by)
    };
    Ok(web::Json(KeyList {
        keys: found.keys.into_iter().map(shown).collect(),
        next_cursor,
    }))
}

fn new_key(request: CreateKeyRequest) -> Answer<(Option<String>, NewKey)> {
    let CreateKeyRequest {
        key_type,
        key_size,
        curve,
        parameter_set,
        key_label,
        extractable,
        usages,
        token,
    } = request;
    let spec = KeySpec::parse(&key_type, key_size, curve.as_deref(), parameter_set.as_deref())?;
    let KeyAttributes {
        id,
        label,
        extractable,
        usages,
    } = attributes(spec.key_type(), &key_label, extractable, usages)?;
    let new = NewKey {
        id,
        spec,
        label,
        extractable,
        usages,
    };
    Ok((token, new))
}

/// What every new key is given.
pub fn attributes(
    key_type: KeyType,
    key_label: &str,
    extractable: Option<bool>,
    usages: Option<Vec<String>>,
) -> Answer<KeyAttributes> {
    let usages = match usages {
        Some(names) => Usages::parse(names.iter().map(String::as_str), key_type)?,
        None => Usages::default_for(key_type),
    };
    Ok(KeyAttributes {
        id: None,
        label: Label::parse(key_label)?,
        extractable: extractable.unwrap_or(false),
        usages,
    })
}
