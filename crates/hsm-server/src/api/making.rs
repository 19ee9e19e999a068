//! Keys that are not generated: imported, unwrapped, derived, encapsulated.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, post, web};
use hsm_core::material::{self, Format};
use hsm_core::{
    Decapsulate, Derive, Encapsulate, HsmKeyId, Import, KeyAttributes, KeySpec, KeyType, Operation, Unwrap, Usages,
    encoding,
};
use hsm_openapi::document::{IDEMPOTENCY_DESCRIPTION, tag};
use hsm_openapi::names::{SECRET_TYPES, WRAPPED, import_formats};
use hsm_openapi::wire::{
    DecapsulateRequest, DecapsulateResponse, DeriveRequest, EncapsulateRequest, EncapsulateResponse, ImportKeyRequest,
    Key,
};
use hsm_openapi::{Base64, BodyError, ProblemCode, SecretBase64};
use keymgmt::Action;
use keymgmt::service::choice;

use super::keys::{attributes, created, made};
use super::once::Once;
use super::{Answer, shown, to_the_end};
use crate::app::State;
use crate::auth::Scope;
use crate::extract::{Body, HashedBody, NoQuery, Who};
use crate::gate::{Granted, require};
use crate::problem::ApiError;

/// The longest key that is taken, in bytes.
const MOST_MATERIAL: usize = 64 * 1024;

/// Puts a key from outside on the token: in clear, or wrapped under a key of the token. A wrapped key also needs the scope
/// `crypto:unwrap`; the audit log calls it `unwrap`.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create"])), request_body = ImportKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = IDEMPOTENCY_DESCRIPTION, min_length = 1, max_length = 255)),
    responses((status = 201, description = "The key", body = Key, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/keys/import")]
pub async fn hsm_import_key(
    state: web::Data<State>,
    who: Who,
    granted: Granted,
    once: Once,
    _: NoQuery,
    body: HashedBody<ImportKeyRequest>,
) -> Answer<HttpResponse> {
    let HashedBody(body, hash) = body;
    let (service, caller) = (state.service.clone(), who.0.clone());
    if body.format == WRAPPED {
        require(&state, &who.0, granted.0, Scope::CryptoUnwrap.into(), Action::Unwrap).await?;
        let unwrap = wrapped(body)?;
        let work = move |ticket| async move { made(service.unwrap(&caller, unwrap, ticket).await?) };
        return once.run(&state, &who.0, hash, StatusCode::CREATED, work).await;
    }
    // Numbers are checked for being prime, which takes its time.
    let read = web::block(move || in_clear(body)).await;
    let (token, import) = read.map_err(|_| ApiError::new(ProblemCode::Internal, "the key could not be read"))??;
    let work = move |ticket| async move { made(service.import(&caller, token.as_deref(), import, ticket).await?) };
    once.run(&state, &who.0, hash, StatusCode::CREATED, work).await
}

/// Makes a secret key of a key of the token, on the same token.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create", "crypto:derive"])), request_body = DeriveRequest,
    responses((status = 201, description = "The key", body = Key, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/derive")]
pub async fn hsm_derive(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<DeriveRequest>,
) -> Answer<HttpResponse> {
    let DeriveRequest {
        key_id,
        algorithm,
        public_key,
        salt,
        info,
        key_type,
        key_size,
        key_label,
        usages,
        extractable,
    } = body.0;
    let spec = secret(&key_type, key_size)?;
    let derive = Derive {
        key: HsmKeyId::parse(&key_id)?,
        algorithm: choice(Some(&algorithm), Operation::Derive),
        public_key: public_key.as_deref().map(encoding::public_key_from_text).transpose()?,
        salt: salt.map(Base64::into_bytes),
        info: info.map(Base64::into_bytes),
        spec,
        attributes: attributes(spec.key_type(), &key_label, extractable, usages)?,
    };
    let service = state.service.clone();
    let info = to_the_end(&state, async move { service.derive(&who.0, derive).await }).await?;
    Ok(created(&info.id).json(shown::token_key(info, None)))
}

/// Makes a secret with the public half of an ML-KEM key: a key on the same token, and the ciphertext of which whoever has
/// the private half makes it too.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create", "crypto:derive"])), request_body = EncapsulateRequest,
    responses((status = 201, description = "The ciphertext and the key's id", body = EncapsulateResponse, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/encapsulate")]
pub async fn hsm_encapsulate(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<EncapsulateRequest>,
) -> Answer<HttpResponse> {
    let EncapsulateRequest {
        key_id,
        key_type,
        key_size,
        key_label,
        usages,
        extractable,
    } = body.0;
    let spec = secret(&key_type, key_size)?;
    let encapsulate = Encapsulate {
        key: HsmKeyId::parse(&key_id)?,
        spec,
        attributes: attributes(spec.key_type(), &key_label, extractable, usages)?,
    };
    let service = state.service.clone();
    let (info, ciphertext) = to_the_end(&state, async move { service.encapsulate(&who.0, encapsulate).await }).await?;
    Ok(created(&info.id).json(EncapsulateResponse {
        ciphertext: ciphertext.into(),
        secret_key_id: info.id.to_string(),
    }))
}

/// Makes the secret of a ciphertext again with the private half of an ML-KEM key: a key on the same token.
#[utoipa::path(
    tag = tag::HSM_KEYS, security(("bearer" = ["keys:create", "crypto:derive"])), request_body = DecapsulateRequest,
    responses((status = 201, description = "The key", body = DecapsulateResponse, headers(("Location" = String, description = "Where the key is"))))
)]
#[post("/decapsulate")]
pub async fn hsm_decapsulate(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<DecapsulateRequest>,
) -> Answer<HttpResponse> {
    let DecapsulateRequest {
        key_id,
        ciphertext,
        key_type,
        key_size,
        key_label,
        usages,
        extractable,
    } = body.0;
    let spec = secret(&key_type, key_size)?;
    let decapsulate = Decapsulate {
        key: HsmKeyId::parse(&key_id)?,
        ciphertext: ciphertext.into_bytes(),
        spec,
        attributes: attributes(spec.key_type(), &key_label, extractable, usages)?,
    };
    let service = state.service.clone();
    let info = to_the_end(&state, async move { service.decapsulate(&who.0, decapsulate).await }).await?;
    Ok(created(&info.id).json(DecapsulateResponse {
        secret_key_id: info.id.to_string(),
        key: shown::token_key(info, None),
    }))
}

/// The token that it is to be put on, and the key.
fn in_clear(request: ImportKeyRequest) -> Answer<(Option<String>, Import)> {
    let ImportKeyRequest {
        key_type,
        key_label,
        format,
        key_material,
        wrapping_key_id,
        algorithm,
        usages,
        extractable,
        token,
    } = request;
    let known = || BodyError::field("format", format!("must be one of {}", import_formats().join(", ")));
    let format = Format::parse(&format).ok_or_else(known)?;
    for (name, value) in [("wrapping_key_id", &wrapping_key_id), ("algorithm", &algorithm)] {
        if value.is_some() {
            return Err(BodyError::field(name, "is for `format` `wrapped` alone").into());
        }
    }
    let key_type = any_type(&key_type)?;
    let said = usages.is_some();
    let attributes = attributes(key_type, &key_label, extractable, usages)?;
    let usages = if format == Format::Spki && !said {
        attributes.usages.intersection(Usages::of_public_half(key_type))
    } else {
        attributes.usages
    };
    not_too_long(&key_material)?;
    let import = Import {
        material: material::parse(key_type, format, key_material.into_bytes())?,
        attributes: KeyAttributes { usages, ..attributes },
    };
    Ok((token, import))
}

fn wrapped(request: ImportKeyRequest) -> Answer<Unwrap> {
    let ImportKeyRequest {
        key_type,
        key_label,
        format: _,
        key_material,
        wrapping_key_id,
        algorithm,
        usages,
        extractable,
        token,
    } = request;
    if token.is_some() {
        let text = "must be left out: the key is made on the token of the wrapping key";
        return Err(BodyError::field("token", text).into());
    }
    let missing = |name: &str| BodyError::field(name, "is missing: `format` `wrapped` needs it");
    let key = wrapping_key_id.ok_or_else(|| missing("wrapping_key_id"))?;
    let algorithm = algorithm.ok_or_else(|| missing("algorithm"))?;
    let key_type = any_type(&key_type)?;
    not_too_long(&key_material)?;
    Ok(Unwrap {
        key: HsmKeyId::parse(&key)?,
        algorithm: choice(Some(&algorithm), Operation::Unwrap),
        wrapped_key: key_material.as_bytes().to_vec(),
        key_type,
        attributes: attributes(key_type, &key_label, extractable, usages)?,
    })
}

fn any_type(name: &str) -> Answer<KeyType> {
    let known = KeyType::ALL;
    found(name, known)
}

/// A secret key to be made.
fn secret(key_type: &str, key_size: u32) -> Answer<KeySpec> {
    let key_type = found(key_type, SECRET_TYPES)?;
    Ok(KeySpec::parse(key_type.name(), Some(key_size), None, None)?)
}

fn found(name: &str, known: &[KeyType]) -> Answer<KeyType> {
    let found = known.iter().copied().find(|key_type| key_type.name() == name);
    Ok(found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|key_type| key_type.name()).collect();
        BodyError::field("key_type", format!("must be one of {}", names.join(", ")))
    })?)
}

fn not_too_long(material: &SecretBase64) -> Answer<()> {
    if material.as_bytes().len() <= MOST_MATERIAL {
        return Ok(());
    }
    Err(BodyError::field("key_material", format!("must have {MOST_MATERIAL} bytes at most")).into())
}
