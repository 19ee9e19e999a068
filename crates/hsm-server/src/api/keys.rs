//! Keys: made, listed, looked at, destroyed. Under `/hsm` only ids of the token are taken; beside it every id.

use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder, delete, get, patch, post, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hsm_core::key::KeySize;
use hsm_core::{HsmKeyId, KeyAttributes, KeyInfo, KeyQuery, KeySpec, KeyType, Label, NewKey, Usage, Usages, encoding};
use hsm_openapi::document::tag;
use hsm_openapi::wire::{CreateKeyRequest, Jwk, Key, KeyList, KeyListQuery, UpdateKeyRequest};
use hsm_openapi::{BodyError, ProblemCode};
use keymgmt::KeyId;
use sha2::{Digest, Sha256};

use super::{Answer, to_the_end};
use crate::app::State;
use crate::extract::{Body, NoQuery, PathKeyId, Query, Who};
use crate::problem::ApiError;
use crate::routes::API;

/// Makes a key on the token.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create"])), request_body = CreateKeyRequest,
    responses((status = 201, description = "The key", body = Key, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/keys")]
pub async fn hsm_create_key(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<CreateKeyRequest>,
) -> Answer<HttpResponse> {
    let (token, new) = new_key(body.0)?;
    let service = state.service.clone();
    let info = to_the_end(
        &state,
        async move { service.create(&who.0, token.as_deref(), new).await },
    )
    .await?;
    Ok(created(&info.id).json(wire(info)))
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
    Ok(web::Json(wire(state.service.key(id.into()).await?)))
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
    Ok(web::Json(wire(info)))
}

/// Destroys a key on the token: both halves of a pair, at once and for ever.
#[utoipa::path(tag = tag::HSM_KEYS, security(("bearer" = ["keys:delete"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 204, description = "The key is gone")))]
#[delete("/keys/{key_id}")]
pub async fn hsm_delete_key(state: web::Data<State>, who: Who, id: PathKeyId, _: NoQuery) -> Answer<HttpResponse> {
    let id = HsmKeyId::parse(&id.0)?;
    destroy(&state, who, id.into()).await
}

/// Lists keys of every kind.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:read"])), params(KeyListQuery), responses((status = 200, description = "A page of keys", body = KeyList)))]
#[get("/keys")]
pub async fn list_keys(state: web::Data<State>, query: Query<KeyListQuery>) -> Answer<web::Json<KeyList>> {
    page(&state, query.0).await
}

/// Tells what is known of a key.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:read"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 200, description = "The key", body = Key)))]
#[get("/keys/{key_id}")]
pub async fn get_key(state: web::Data<State>, id: PathKeyId, _: NoQuery) -> Answer<web::Json<Key>> {
    let id = KeyId::parse(&id.0)?;
    Ok(web::Json(wire(state.service.key(id).await?)))
}

/// Destroys a key; one on the token at once and for ever.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:delete"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 204, description = "The key is gone")))]
#[delete("/keys/{key_id}")]
pub async fn delete_key(state: web::Data<State>, who: Who, id: PathKeyId, _: NoQuery) -> Answer<HttpResponse> {
    let id = KeyId::parse(&id.0)?;
    destroy(&state, who, id).await
}

async fn destroy(state: &State, who: Who, id: KeyId) -> Answer<HttpResponse> {
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
    let after = cursor.map(|cursor| read_cursor(&cursor)).transpose()?;
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
        .map(|last| cursor_after(&last.id));
    Ok(web::Json(KeyList {
        keys: found.keys.into_iter().map(wire).collect(),
        next_cursor,
    }))
}

/// Bytes of a cursor that tell one of ours from an invented one.
const CHECK: usize = 6;

fn cursor_check(id: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"cursor of a list of keys")
        .chain_update(id)
        .finalize()
        .into()
}

fn cursor_after(id: &HsmKeyId) -> String {
    let id = id.to_string();
    let check = cursor_check(&id);
    let bytes: Vec<u8> = check.iter().take(CHECK).chain(id.as_bytes()).copied().collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(cursor: &str) -> Answer<HsmKeyId> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let parts = bytes.as_deref().and_then(|bytes| bytes.split_at_checked(CHECK));
    let id = parts
        .and_then(|(check, id)| Some((check, std::str::from_utf8(id).ok()?)))
        .filter(|(check, id)| cursor_check(id).starts_with(check))
        .and_then(|(_, id)| HsmKeyId::parse(id).ok());
    id.ok_or_else(|| {
        ApiError::new(
            ProblemCode::InvalidRequest,
            "`cursor` is not one that a list answered as `next_cursor`",
        )
    })
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
        label,
        extractable,
        usages,
    } = attributes(spec.key_type(), &key_label, extractable, usages)?;
    let new = NewKey {
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
        label: Label::parse(key_label)?,
        extractable: extractable.unwrap_or(false),
        usages,
    })
}

/// A key as it is answered.
pub fn wire(info: KeyInfo) -> Key {
    let KeyInfo {
        id,
        key_type,
        size,
        label,
        extractable,
        sensitive,
        usages,
        public_key,
        uri,
    } = info;
    let (key_size, curve, parameter_set) = match size {
        KeySize::Bits(bits) => (Some(bits), None, None),
        KeySize::Curve(curve) => (None, Some(curve.name().to_owned()), None),
        KeySize::ParameterSet(set) => (None, None, Some(set.name().to_owned())),
        KeySize::Unknown => (None, None, None),
    };
    Key {
        key_id: id.to_string(),
        key_type: key_type.name().to_owned(),
        key_size,
        curve,
        parameter_set,
        key_label: label,
        algorithm: key_type.name().to_owned(),
        extractable,
        sensitive,
        usages: usages.iter().map(Usage::name).map(str::to_owned).collect(),
        pkcs11_uri: uri,
        public_key_pem: public_key.as_ref().map(encoding::public_key_pem),
        public_key_jwk: public_key.as_ref().map(|key| {
            let encoding::Jwk {
                kty,
                crv,
                n,
                e,
                x,
                y,
                alg,
                public,
            } = encoding::jwk(key);
            Jwk {
                kty: kty.to_owned(),
                crv: crv.map(str::to_owned),
                x,
                y,
                n,
                e,
                alg: alg.map(str::to_owned),
                public,
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_ours_or_refused() {
        let id = HsmKeyId::from_bytes(&[0, 255, 7]).expect("an id");
        let cursor = cursor_after(&id);
        assert_eq!(read_cursor(&cursor).expect("ours"), id);
        let named = HsmKeyId::parse("hsm:backup:00ff07").expect("an id");
        assert_eq!(read_cursor(&cursor_after(&named)).expect("ours"), named);
        for invented in ["", "x", "AAAA", "AAECAwQFBgc", &cursor[1..], &format!("{cursor}A")] {
            assert!(read_cursor(invented).is_err(), "{invented}");
        }
    }
}
