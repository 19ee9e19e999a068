//! What only keys that stay are for: bringing ciphertexts under the primary version, and data keys.

use actix_web::{post, web};
use hsm_openapi::document::tag;
use hsm_openapi::wire::{DatakeyRequest, DatakeyResponse, VersionedDecryptRequest, VersionedEncryptResponse};
use keymgmt::KeyId;
use keymgmt::service::Done;
use zeroize::Zeroizing;

use super::crypto::{decryption, encrypted};
use super::{Answer, to_the_end};
use crate::app::State;
use crate::extract::{Body, GROWN, NoQuery, Who};

/// Encrypts anew, under the primary version, what encrypt answered under an older one. The data does not leave the server.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:encrypt", "crypto:decrypt"])), request_body = VersionedDecryptRequest, responses((status = 200, description = "The ciphertext", body = VersionedEncryptResponse)))]
#[post("/rewrap")]
pub async fn rewrap(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<VersionedDecryptRequest, GROWN>,
) -> Answer<web::Json<VersionedEncryptResponse>> {
    let (body, version) = body.0.split();
    let key = KeyId::parse(&body.key_id)?;
    let service = state.service.clone();
    let request = move |key| decryption(key, body);
    let work = async move { service.rewrap(&who.0, key, version, request).await };
    let (done, fresh) = to_the_end(&state, work).await?;
    Ok(web::Json(encrypted(&done.key_id, fresh).versioned(done.key_version)))
}

/// Makes a data key: random bytes of the token, in clear for use elsewhere, and encrypted under a key that stays.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = ["crypto:encrypt"])), request_body = DatakeyRequest, responses((status = 200, description = "The data key", body = DatakeyResponse)))]
#[post("/datakeys")]
pub async fn datakeys(
    state: web::Data<State>,
    who: Who,
    _: NoQuery,
    body: Body<DatakeyRequest>,
) -> Answer<web::Json<DatakeyResponse>> {
    let DatakeyRequest {
        key_id,
        key_size,
        plaintext,
    } = body.0;
    let key = KeyId::parse(&key_id)?;
    let bits = key_size.unwrap_or_default().bits();
    let service = state.service.clone();
    let work = async move { service.datakey(&who.0, key, bits).await };
    let (done, hidden, clear) = to_the_end(&state, work).await?;
    let clear = Some(clear).filter(|_| plaintext.unwrap_or(true));
    Ok(web::Json(datakey(done, hidden, clear)))
}

/// A data key, as it is answered.
pub fn datakey(done: Done, hidden: hsm_core::Encrypted, clear: Option<Zeroizing<Vec<u8>>>) -> DatakeyResponse {
    let Done { key_id, key_version } = done;
    let hsm_core::Encrypted {
        algorithm,
        ciphertext,
        iv,
        tag,
    } = hidden;
    DatakeyResponse {
        key_id,
        key_version,
        algorithm: algorithm.name().to_owned(),
        ciphertext: ciphertext.into(),
        iv: iv.map(Into::into),
        tag: tag.map(Into::into),
        plaintext: clear.map(Into::into),
    }
}
