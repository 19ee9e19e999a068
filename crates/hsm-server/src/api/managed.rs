//! Keys of every kind: managed ones made, adopted, changed, rotated, destroyed; and all of them listed and looked at.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, delete, get, patch, post, web};
use hsm_core::{HsmKeyId, KeyInfo, KeySpec, KeyType, Usages};
use hsm_openapi::document::{IDEMPOTENCY_DESCRIPTION, tag};
use hsm_openapi::names::{ProtectionName, SettableState, StateName};
use hsm_openapi::wire::{
    AnyKey, AnyKeyList, AnyKeyListQuery, CreateManagedKeyRequest, DestroyQuery, JwkSet, ManagedKey, Tags, TokenKey,
    UpdateManagedKeyRequest, UpdateVersionRequest,
};
use hsm_openapi::{BodyError, ProblemCode};
use keymgmt::managed::record::{KeyState, Protection, VersionState};
use keymgmt::service::{Adopt, ListQuery, NewManaged, Rotation, Update};
use keymgmt::{KeyId, KeyService, ManagedId};
use sha2::{Digest, Sha256};

use super::once::{Made, Once};
use super::{Answer, cursor, keys, shown, to_the_end};
use crate::app::State;
use crate::extract::{Body, HashedBody, NoBody, NoQuery, PathKeyId, PathVersion, Query, Who};
use crate::problem::ApiError;

/// How long whoever has a set of public keys may go on without asking again.
const JWKS_CACHE: &str = "private, max-age=300";

/// Makes a managed key with its first version, or makes a key of the token the first version of one.
#[utoipa::path(
    tag = tag::KEYS, security(("bearer" = ["keys:create"])), request_body = CreateManagedKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = IDEMPOTENCY_DESCRIPTION, min_length = 1, max_length = 255)),
    responses((status = 201, description = "The key", body = ManagedKey, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/keys")]
pub async fn create_key(
    state: web::Data<State>,
    who: Who,
    once: Once,
    _: NoQuery,
    body: HashedBody<CreateManagedKeyRequest>,
) -> Answer<HttpResponse> {
    let HashedBody(body, hash) = body;
    let wanted = wanted(body)?;
    let (service, caller) = (state.service.clone(), who.0.clone());
    once.run(&state, &who.0, hash, StatusCode::CREATED, move |ticket| async move {
        let managed = match wanted {
            Wanted::New(new) => service.create_managed(&caller, new, ticket).await?,
            Wanted::Adopted(adopt) => service.adopt(&caller, adopt, ticket).await?,
        };
        let key = shown::managed(managed)?;
        Made::created(&format!("/keys/{}", key.key_id), &key)
    })
    .await
}

/// Lists keys of every kind: managed ones, and those of the token that are no version of one; a list may lag the token by
/// some seconds.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:read"])), params(AnyKeyListQuery), responses((status = 200, description = "A page of keys", body = AnyKeyList)))]
#[get("/keys")]
pub async fn list_keys(state: web::Data<State>, query: Query<AnyKeyListQuery>) -> Answer<web::Json<AnyKeyList>> {
    let page = state.service.list(list_query(query.0)?).await?;
    let last = page.keys.last().filter(|_| page.more);
    let next_cursor = last.map(|last| cursor::after(&last.id()));
    let mut keys = Vec::with_capacity(page.keys.len());
    for key in page.keys {
        keys.push(match key {
            keymgmt::service::AnyKey::Managed(managed) => AnyKey::Managed(Box::new(shown::managed(managed)?)),
            keymgmt::service::AnyKey::Hsm(info) => unmanaged(info),
        });
    }
    Ok(web::Json(AnyKeyList { keys, next_cursor }))
}

/// Tells what is known of a key.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:read"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 200, description = "The key", body = AnyKey)))]
#[get("/keys/{key_id}")]
pub async fn get_key(state: web::Data<State>, id: PathKeyId, _: NoQuery) -> Answer<web::Json<AnyKey>> {
    Ok(web::Json(match KeyId::parse(&id.0)? {
        KeyId::Managed(name) => AnyKey::Managed(Box::new(shown::managed(state.service.managed(&name).await?)?)),
        KeyId::Hsm(id) => on_token(&state.service, id).await?,
    }))
}

/// Changes a managed key. What it has already is no error.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:update"])), params(("key_id" = String, Path, description = "The key's id")), request_body = UpdateManagedKeyRequest, responses((status = 200, description = "The key", body = ManagedKey)))]
#[patch("/keys/{key_id}")]
pub async fn update_key(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    _: NoQuery,
    body: Body<UpdateManagedKeyRequest>,
) -> Answer<web::Json<ManagedKey>> {
    let name = managed_id(&id.0)?;
    let update = update(body.0);
    let service = state.service.clone();
    let managed = to_the_end(&state, async move { service.update(&who.0, &name, update).await }).await?;
    Ok(web::Json(shown::managed(managed)?))
}

/// Has a managed key destroyed after some days, until when it can be restored; destroys a key on the token at once and for
/// ever.
#[utoipa::path(
    tag = tag::KEYS, security(("bearer" = ["keys:delete"])), params(("key_id" = String, Path, description = "The key's id"), DestroyQuery),
    responses((status = 202, description = "The managed key, scheduled for destruction", body = ManagedKey), (status = 204, description = "The key of the token is gone"))
)]
#[delete("/keys/{key_id}")]
pub async fn delete_key(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    query: Query<DestroyQuery>,
) -> Answer<HttpResponse> {
    let window = query.0.window_days;
    let name = match KeyId::parse(&id.0)? {
        KeyId::Managed(name) => name,
        KeyId::Hsm(_) if window.is_some() => {
            let text = "must be left out: a key of the token is destroyed at once";
            return Err(BodyError::field("window_days", text).into());
        }
        KeyId::Hsm(id) => return keys::destroy(&state, who, id.into()).await,
    };
    let days = window.unwrap_or_default().days();
    let service = state.service.clone();
    let managed = to_the_end(&state, async move {
        service.schedule_destruction(&who.0, &name, days).await
    })
    .await?;
    Ok(HttpResponse::Accepted().json(shown::managed(managed)?))
}

/// Has a managed key not be destroyed after all; it is in the state again that it had before.
#[utoipa::path(tag = tag::KEYS, security(("bearer" = ["keys:update"])), params(("key_id" = String, Path, description = "The key's id")), responses((status = 200, description = "The key", body = ManagedKey)))]
#[post("/keys/{key_id}/restore")]
pub async fn restore_key(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    _: NoQuery,
    _: NoBody,
) -> Answer<web::Json<ManagedKey>> {
    let name = managed_id(&id.0)?;
    let service = state.service.clone();
    let managed = to_the_end(&state, async move { service.restore(&who.0, &name).await }).await?;
    Ok(web::Json(shown::managed(managed)?))
}

/// Makes a new version, which is the primary one. What older ones encrypted or signed still decrypts and verifies.
#[utoipa::path(
    tag = tag::KEYS, security(("bearer" = ["keys:update"])),
    params(
        ("key_id" = String, Path, description = "The key's id"),
        ("Idempotency-Key" = Option<String>, Header, description = IDEMPOTENCY_DESCRIPTION, min_length = 1, max_length = 255)
    ),
    responses((status = 200, description = "The key", body = ManagedKey))
)]
#[post("/keys/{key_id}/rotate")]
pub async fn rotate_key(
    state: web::Data<State>,
    who: Who,
    id: PathKeyId,
    once: Once,
    _: NoQuery,
    _: NoBody,
) -> Answer<HttpResponse> {
    let name = managed_id(&id.0)?;
    let (service, caller) = (state.service.clone(), who.0.clone());
    let nothing = Sha256::digest([]).into();
    once.run(&state, &who.0, nothing, StatusCode::OK, move |ticket| async move {
        Made::ok(&shown::managed(service.rotate(&caller, &name, ticket).await?)?)
    })
    .await
}

/// Enables or disables a version of a managed key.
#[utoipa::path(
    tag = tag::KEYS, security(("bearer" = ["keys:update"])),
    params(("key_id" = String, Path, description = "The key's id"), ("version" = u32, Path, description = "The version's number", minimum = 1)),
    request_body = UpdateVersionRequest, responses((status = 200, description = "The key", body = ManagedKey))
)]
#[patch("/keys/{key_id}/versions/{version}")]
pub async fn update_version(
    state: web::Data<State>,
    who: Who,
    at: PathVersion,
    _: NoQuery,
    body: Body<UpdateVersionRequest>,
) -> Answer<web::Json<ManagedKey>> {
    let PathVersion(id, version) = at;
    let name = managed_id(&id)?;
    let wanted = match body.0.state {
        SettableState::Enabled => VersionState::Enabled,
        SettableState::Disabled => VersionState::Disabled,
    };
    let service = state.service.clone();
    let changed = async move { service.update_version(&who.0, &name, version, wanted).await };
    Ok(web::Json(shown::managed(to_the_end(&state, changed).await?)?))
}

/// The public keys of all enabled versions, for whoever checks signatures or encrypts by himself.
#[utoipa::path(
    tag = tag::KEYS, security(("bearer" = ["keys:read"])),
    params(
        ("key_id" = String, Path, description = "The key's id"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the set that the client has")
    ),
    responses(
        (status = 200, description = "The public keys", body = JwkSet, headers(("ETag" = String, description = "Changes with the set"), ("Cache-Control" = String, description = "How long the set may be kept"))),
        (status = 304, description = "The set is the one that the client has"),
    )
)]
#[get("/keys/{key_id}/jwks")]
pub async fn jwks(state: web::Data<State>, id: PathKeyId, _: NoQuery, request: HttpRequest) -> Answer<HttpResponse> {
    let found = state.service.jwks(&KeyId::parse(&id.0)?).await?;
    let named = found.keys.iter();
    let set = JwkSet {
        keys: named
            .map(|(kid, key)| shown::named_jwk(kid.clone(), found.usages, key))
            .collect(),
    };
    let lost = |_| ApiError::new(ProblemCode::Internal, "the answer can't be written");
    let body = serde_json::to_vec(&set).map_err(lost)?;
    let tag = entity_tag(&body);
    let known = request.headers().get_all(header::IF_NONE_MATCH);
    let known = known
        .filter_map(|value| value.to_str().ok())
        .any(|value| names(value, &tag));
    let mut response = if known {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response.insert_header((header::CACHE_CONTROL, JWKS_CACHE));
    response.insert_header((header::ETAG, tag));
    if known {
        return Ok(response.finish());
    }
    Ok(response.content_type("application/json").body(body))
}

/// What a creation asks for.
enum Wanted {
    New(NewManaged),
    Adopted(Adopt),
}

fn wanted(request: CreateManagedKeyRequest) -> Answer<Wanted> {
    let CreateManagedKeyRequest {
        name,
        key_type,
        key_size,
        curve,
        parameter_set,
        protection,
        usages,
        token,
        hsm_key_id,
        rotation_period_days,
        rotate_after_operations,
        tags,
    } = request;
    let name = ManagedId::parse(&name).ok_or_else(|| {
        let text = "`name`: must be 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot";
        ApiError::new(ProblemCode::InvalidKeyId, text)
    })?;
    let tags = tags.map(|Tags(tags)| tags).unwrap_or_default();
    let rotation = Rotation {
        period_days: rotation_period_days,
        after_operations: rotate_after_operations,
    };
    let Some(hsm_key_id) = hsm_key_id else {
        let missing = || {
            BodyError::field(
                "key_type",
                "is missing; to adopt a key of the token, name it in `hsm_key_id`",
            )
        };
        let key_type = key_type.ok_or_else(missing)?;
        let spec = KeySpec::parse(&key_type, key_size, curve.as_deref(), parameter_set.as_deref())?;
        return Ok(Wanted::New(NewManaged {
            name,
            spec,
            protection: protection.map_or(Protection::Hsm, stored_protection),
            usages: match usages {
                Some(names) => Usages::parse(names.iter().map(String::as_str), spec.key_type())?,
                None => Usages::default_for(spec.key_type()),
            },
            token,
            rotation,
            tags,
        }));
    };
    for (field, said) in [
        ("key_type", key_type.is_some()),
        ("key_size", key_size.is_some()),
        ("curve", curve.is_some()),
        ("parameter_set", parameter_set.is_some()),
        ("protection", protection.is_some()),
        ("usages", usages.is_some()),
        ("token", token.is_some()),
    ] {
        if said {
            let text = "must be left out: with `hsm_key_id` it is that of the adopted key";
            return Err(BodyError::field(field, text).into());
        }
    }
    Ok(Wanted::Adopted(Adopt {
        name,
        hsm_key_id: HsmKeyId::parse(&hsm_key_id)?,
        rotation,
        tags,
    }))
}

fn update(request: UpdateManagedKeyRequest) -> Update {
    let UpdateManagedKeyRequest {
        tags,
        rotation_period_days,
        rotate_after_operations,
        state,
        primary_version,
    } = request;
    Update {
        tags: tags.map(|Tags(tags)| tags),
        rotation_period_days,
        rotate_after_operations,
        state: state.map(|state| match state {
            SettableState::Enabled => KeyState::Enabled,
            SettableState::Disabled => KeyState::Disabled,
        }),
        primary_version,
    }
}

fn list_query(query: AnyKeyListQuery) -> Answer<ListQuery> {
    let AnyKeyListQuery {
        limit,
        cursor,
        key_type,
        label,
        tag,
        state,
        protection,
    } = query;
    let unknown = || BodyError::field("key_type", "is none of the key types");
    let key_type = key_type
        .map(|name| KeyType::parse(&name).ok_or_else(unknown))
        .transpose()?;
    Ok(ListQuery {
        after: cursor.map(|cursor| cursor::read(&cursor)).transpose()?,
        limit: limit.unwrap_or_default().entries(),
        key_type,
        label,
        tag: tag.map(|tag| (tag.name, tag.value)),
        state: state.map(stored_state),
        protection: protection.map(stored_protection),
    })
}

/// The id of a managed key, for calls that take no other.
fn managed_id(text: &str) -> Answer<ManagedId> {
    match KeyId::parse(text)? {
        KeyId::Managed(name) => Ok(name),
        KeyId::Hsm(_) => Err(ApiError::new(
            ProblemCode::InvalidKeyId,
            "this call is for managed keys; a key of the token becomes one by `POST /api/v1/keys` with `hsm_key_id`",
        )),
    }
}

/// A key of the token; one that is a version of a managed key is in the state that this gives it.
async fn on_token(service: &KeyService, id: HsmKeyId) -> Answer<AnyKey> {
    let managed_by = service.managed_by(&id);
    let info = service.key(id.clone().into()).await?;
    let state = match &managed_by {
        None => StateName::Enabled,
        Some(name) => shown::state_of_version(&service.managed(name).await?.record, &id),
    };
    Ok(AnyKey::Token(Box::new(TokenKey {
        key: shown::token_key(info, managed_by),
        state,
        protection: ProtectionName::Hsm,
    })))
}

fn unmanaged(info: KeyInfo) -> AnyKey {
    AnyKey::Token(Box::new(TokenKey {
        key: shown::token_key(info, None),
        state: StateName::Enabled,
        protection: ProtectionName::Hsm,
    }))
}

const fn stored_protection(name: ProtectionName) -> Protection {
    match name {
        ProtectionName::Hsm => Protection::Hsm,
        ProtectionName::Wrapped => Protection::Wrapped,
    }
}

const fn stored_state(name: StateName) -> KeyState {
    match name {
        StateName::Enabled => KeyState::Enabled,
        StateName::Disabled => KeyState::Disabled,
        StateName::ScheduledForDestruction => KeyState::ScheduledForDestruction,
        StateName::Destroyed => KeyState::Destroyed,
    }
}

/// A strong validator of a body (RFC 9110 §8.8.3).
fn entity_tag(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let digits: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// Whether an `If-None-Match` names the tag (RFC 9110 §13.1.2: compared weakly).
fn names(value: &str, tag: &str) -> bool {
    let mut known = value.split(',').map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use hsm_openapi::parse_body;

    use super::*;

    fn refused(body: &str) -> (ProblemCode, String) {
        let read = parse_body(body.as_bytes()).expect("a body");
        let error = wanted(read)
            .err()
            .unwrap_or_else(|| ApiError::new(ProblemCode::Internal, "taken"));
        (error.code, error.detail)
    }

    #[test]
    fn a_creation_is_of_one_kind() {
        let adopt = r#"{"name":"a","hsm_key_id":"hsm:00ff","tags":{"team":"x"}}"#;
        assert!(matches!(
            wanted(parse_body(adopt.as_bytes()).expect("a body")),
            Ok(Wanted::Adopted(_))
        ));
        let new = r#"{"name":"a","key_type":"AES","key_size":256,"protection":"wrapped"}"#;
        assert!(matches!(
            wanted(parse_body(new.as_bytes()).expect("a body")),
            Ok(Wanted::New(NewManaged {
                protection: Protection::Wrapped,
                ..
            }))
        ));
        for field in [
            "\"key_type\":\"AES\"",
            "\"key_size\":256",
            "\"curve\":\"P-256\"",
            "\"protection\":\"hsm\"",
            "\"usages\":[]",
            "\"token\":\"t\"",
        ] {
            let (code, detail) = refused(&format!("{{\"name\":\"a\",\"hsm_key_id\":\"hsm:00ff\",{field}}}"));
            assert_eq!(code, ProblemCode::InvalidRequest, "{field}: {detail}");
            assert!(detail.contains("must be left out"), "{field}: {detail}");
        }
        assert_eq!(refused(r#"{"name":".a"}"#).0, ProblemCode::InvalidKeyId);
        assert_eq!(refused(r#"{"name":"a","hsm_key_id":"b"}"#).0, ProblemCode::InvalidKeyId);
        assert!(refused(r#"{"name":"a"}"#).1.starts_with("`key_type`"));
    }

    #[test]
    fn a_tag_is_known_again() {
        let tag = entity_tag(b"{}");
        for value in [tag.clone(), "*".into(), format!("W/{tag}"), format!("\"x\", {tag}")] {
            assert!(names(&value, &tag), "{value}");
        }
        for value in ["", "\"x\"", "x"] {
            assert!(!names(value, &tag), "{value}");
        }
    }
}
