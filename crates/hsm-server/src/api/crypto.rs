//! Encrypt, decrypt, sign, verify, wrap: under `/hsm` for keys of the token, beside it for keys of every kind.

use actix_web::{post, web};
use hsm_core::{Choice, Decrypt, Encrypt, HsmKeyId, KeyRef, Operation, Sign, Verify};
use hsm_openapi::Base64;
use hsm_openapi::document::{SIGN_DESCRIPTION, tag};
use hsm_openapi::names::{MessageType, SignatureFormat};
use hsm_openapi::wire::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, SignRequest, SignResponse, VerifyRequest,
    VerifyResponse, VersionedDecryptRequest, VersionedEncryptResponse, VersionedSignResponse, VersionedVerifyRequest,
    VersionedWrapResponse, WrapRequest, WrapResponse,
};
use keymgmt::KeyId;
use keymgmt::service::choice;

use super::{Answer, to_the_end};
use crate::app::State;
use crate::extract::{Body, GROWN, NoQuery, Who};

/// Encrypts data with a key of the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:encrypt"])), request_body = EncryptRequest, responses((status = 200, description = "The ciphertext", body = EncryptResponse)))]
#[post("/encrypt")]
pub async fn hsm_encrypt(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<EncryptRequest>,
) -> Answer<web::Json<EncryptResponse>> {
    let key = HsmKeyId::parse(&body.0.key_id)?;
    Ok(web::Json(encrypt_with(&state, who, key.into(), body.0).await?.0))
}

/// Decrypts what encrypt answered.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:decrypt"])), request_body = DecryptRequest, responses((status = 200, description = "The data", body = DecryptResponse)))]
#[post("/decrypt")]
pub async fn hsm_decrypt(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<DecryptRequest, GROWN>,
) -> Answer<web::Json<DecryptResponse>> {
    let key = HsmKeyId::parse(&body.0.key_id)?;
    decrypt_with(&state, who, key.into(), None, body.0).await
}

/// Signs data with a key of the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:sign"])), description = SIGN_DESCRIPTION, request_body = SignRequest, responses((status = 200, description = "The signature", body = SignResponse)))]
#[post("/sign")]
pub async fn hsm_sign(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<SignRequest>,
) -> Answer<web::Json<SignResponse>> {
    let key = HsmKeyId::parse(&body.0.key_id)?;
    Ok(web::Json(sign_with(&state, who, key.into(), body.0).await?.0))
}

/// Checks a signature; wrong or malformed signature bytes are `valid: false`.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:verify"])), request_body = VerifyRequest, responses((status = 200, description = "Whether it is good", body = VerifyResponse)))]
#[post("/verify")]
pub async fn hsm_verify(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<VerifyRequest, GROWN>,
) -> Answer<web::Json<VerifyResponse>> {
    let key = HsmKeyId::parse(&body.0.key_id)?;
    verify_with(&state, who, key.into(), None, body.0).await
}

/// Encrypts data with a key of any kind.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:encrypt"])), request_body = EncryptRequest, responses((status = 200, description = "The ciphertext", body = VersionedEncryptResponse)))]
#[post("/encrypt")]
pub async fn encrypt(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<EncryptRequest>,
) -> Answer<web::Json<VersionedEncryptResponse>> {
    let key = KeyId::parse(&body.0.key_id)?;
    let (answer, version) = encrypt_with(&state, who, key, body.0).await?;
    Ok(web::Json(answer.versioned(version)))
}

/// Decrypts what encrypt answered.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:decrypt"])), request_body = VersionedDecryptRequest, responses((status = 200, description = "The data", body = DecryptResponse)))]
#[post("/decrypt")]
pub async fn decrypt(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<VersionedDecryptRequest, GROWN>,
) -> Answer<web::Json<DecryptResponse>> {
    let (body, version) = body.0.split();
    let key = KeyId::parse(&body.key_id)?;
    decrypt_with(&state, who, key, version, body).await
}

/// Signs data with a key of any kind.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:sign"])), description = SIGN_DESCRIPTION, request_body = SignRequest, responses((status = 200, description = "The signature", body = VersionedSignResponse)))]
#[post("/sign")]
pub async fn sign(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<SignRequest>,
) -> Answer<web::Json<VersionedSignResponse>> {
    let key = KeyId::parse(&body.0.key_id)?;
    let (answer, version) = sign_with(&state, who, key, body.0).await?;
    Ok(web::Json(answer.versioned(version)))
}

/// Checks a signature; wrong or malformed signature bytes are `valid: false`.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:verify"])), request_body = VersionedVerifyRequest, responses((status = 200, description = "Whether it is good", body = VerifyResponse)))]
#[post("/verify")]
pub async fn verify(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<VersionedVerifyRequest, GROWN>,
) -> Answer<web::Json<VerifyResponse>> {
    let (body, version) = body.0.split();
    let key = KeyId::parse(&body.key_id)?;
    verify_with(&state, who, key, version, body).await
}

/// Encrypts a key under another one of the same token, so that it can leave the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = ["crypto:wrap"])), request_body = WrapRequest, responses((status = 200, description = "The wrapped key", body = WrapResponse)))]
#[post("/wrap")]
pub async fn hsm_wrap(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<WrapRequest>,
) -> Answer<web::Json<WrapResponse>> {
    let key = HsmKeyId::parse(&body.0.key_id)?;
    let target = HsmKeyId::parse(&body.0.target_key_id)?;
    let algorithm = choice(body.0.algorithm.as_deref(), Operation::Wrap);
    let (wrapped, _) = wrap_with(&state, who, key.into(), target.into(), algorithm).await?;
    Ok(web::Json(wrapped))
}

/// Encrypts a key of the token under a key of any kind, so that it can leave the token.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:wrap"])), request_body = WrapRequest, responses((status = 200, description = "The wrapped key", body = VersionedWrapResponse)))]
#[post("/wrap")]
pub async fn wrap(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<WrapRequest>,
) -> Answer<web::Json<VersionedWrapResponse>> {
    let key = KeyId::parse(&body.0.key_id)?;
    let target = KeyId::parse(&body.0.target_key_id)?;
    let algorithm = choice(body.0.algorithm.as_deref(), Operation::Wrap);
    let (wrapped, version) = wrap_with(&state, who, key, target, algorithm).await?;
    Ok(web::Json(wrapped.versioned(version)))
}

async fn wrap_with(
    state: &State,
    who: Who,
    key: KeyId,
    target: KeyId,
    algorithm: Choice,
) -> Answer<(WrapResponse, Option<u32>)> {
    let service = state.service.clone();
    let (with, done) = to_the_end(state, async move { service.wrap(&who.0, key, target, algorithm).await }).await?;
    let hsm_core::Wrapped { algorithm, wrapped_key } = done;
    let answer = WrapResponse {
        wrapped_key: wrapped_key.into(),
        key_id: with.key_id,
        algorithm: algorithm.name().to_owned(),
    };
    Ok((answer, with.key_version))
}

/// Its answer, and the version of the key.
async fn encrypt_with(
    state: &State,
    who: Who,
    key: KeyId,
    body: EncryptRequest,
) -> Answer<(EncryptResponse, Option<u32>)> {
    let service = state.service.clone();
    let request = move |key| encryption(key, body);
    let (with, done) = to_the_end(state, async move { service.encrypt(&who.0, key, request).await }).await?;
    Ok((encrypted(&with.key_id, done), with.key_version))
}

async fn decrypt_with(
    state: &State,
    who: Who,
    key: KeyId,
    version: Option<u32>,
    body: DecryptRequest,
) -> Answer<web::Json<DecryptResponse>> {
    let service = state.service.clone();
    let request = move |key| decryption(key, body);
    let work = async move { service.decrypt(&who.0, key, version, request).await };
    let data = to_the_end(state, work).await?;
    Ok(web::Json(DecryptResponse { data: data.into() }))
}

/// Its answer, and the version of the key.
async fn sign_with(state: &State, who: Who, key: KeyId, body: SignRequest) -> Answer<(SignResponse, Option<u32>)> {
    let message_type = body.message_type.unwrap_or_default();
    let service = state.service.clone();
    let request = move |key| signing(key, body);
    let (with, done) = to_the_end(state, async move { service.sign(&who.0, key, request).await }).await?;
    Ok((signed(&with.key_id, message_type, done), with.key_version))
}

async fn verify_with(
    state: &State,
    who: Who,
    key: KeyId,
    version: Option<u32>,
    body: VerifyRequest,
) -> Answer<web::Json<VerifyResponse>> {
    let service = state.service.clone();
    let request = move |key| verification(key, body);
    let work = async move { service.verify(&who.0, key, version, request).await };
    let valid = to_the_end(state, work).await?;
    Ok(web::Json(VerifyResponse { valid }))
}

/// What is asked of the key.
pub fn encryption(key: KeyRef, body: EncryptRequest) -> Encrypt {
    let EncryptRequest {
        data,
        key_id: _,
        algorithm,
        aad,
    } = body;
    Encrypt {
        key,
        algorithm: choice(algorithm.as_deref(), Operation::Encrypt),
        data: data.into_bytes(),
        aad: aad.map(Base64::into_bytes),
    }
}

/// What is asked of the key.
pub fn decryption(key: KeyRef, body: DecryptRequest) -> Decrypt {
    let DecryptRequest {
        algorithm,
        key_id: _,
        ciphertext,
        iv,
        tag,
        aad,
    } = body;
    Decrypt {
        key,
        algorithm: choice(algorithm.as_deref(), Operation::Decrypt),
        ciphertext: ciphertext.into_bytes(),
        iv: iv.map(Base64::into_bytes),
        tag: tag.map(Base64::into_bytes),
        aad: aad.map(Base64::into_bytes),
    }
}

/// What is asked of the key.
pub fn signing(key: KeyRef, body: SignRequest) -> Sign {
    let SignRequest {
        data,
        key_id: _,
        algorithm,
        message_type,
        signature_format,
        context,
    } = body;
    Sign {
        key,
        algorithm: choice(algorithm.as_deref(), Operation::Sign),
        data: data.into_bytes(),
        message_type: core_message_type(message_type.unwrap_or_default()),
        format: signature_format.map(core_format),
        context: context.map(Base64::into_bytes),
    }
}

/// What is asked of the key.
pub fn verification(key: KeyRef, body: VerifyRequest) -> Verify {
    let VerifyRequest {
        data,
        signature,
        key_id: _,
        algorithm,
        message_type,
        signature_format,
        context,
    } = body;
    Verify {
        signed: Sign {
            key,
            algorithm: choice(algorithm.as_deref(), Operation::Verify),
            data: data.into_bytes(),
            message_type: core_message_type(message_type.unwrap_or_default()),
            format: signature_format.map(core_format),
            context: context.map(Base64::into_bytes),
        },
        signature: signature.into_bytes(),
    }
}

/// What was encrypted, as it is answered.
pub fn encrypted(key_id: &str, done: hsm_core::Encrypted) -> EncryptResponse {
    let hsm_core::Encrypted {
        algorithm,
        ciphertext,
        iv,
        tag,
    } = done;
    EncryptResponse {
        algorithm: algorithm.name().to_owned(),
        key_id: key_id.to_owned(),
        ciphertext: ciphertext.into(),
        iv: iv.map(Into::into),
        tag: tag.map(Into::into),
    }
}

/// A signature, as it is answered.
pub fn signed(key_id: &str, message_type: MessageType, done: hsm_core::Signed) -> SignResponse {
    let hsm_core::Signed {
        algorithm,
        signature,
        format,
    } = done;
    let signature_format = format.map(|format| match format {
        hsm_core::SignatureFormat::Der => SignatureFormat::Der,
        hsm_core::SignatureFormat::P1363 => SignatureFormat::P1363,
    });
    SignResponse {
        signature: signature.into(),
        algorithm: algorithm.name().to_owned(),
        key_id: key_id.to_owned(),
        message_type,
        signature_format,
    }
}

const fn core_message_type(message_type: MessageType) -> hsm_core::MessageType {
    match message_type {
        MessageType::Raw => hsm_core::MessageType::Raw,
        MessageType::Digest => hsm_core::MessageType::Digest,
    }
}

const fn core_format(format: SignatureFormat) -> hsm_core::SignatureFormat {
    match format {
        SignatureFormat::Der => hsm_core::SignatureFormat::Der,
        SignatureFormat::P1363 => hsm_core::SignatureFormat::P1363,
    }
}
