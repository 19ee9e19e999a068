//! Slots, the tokens in them, and what tokens can do.

use actix_web::{get, web};
use hsm_core::backend::MechanismInfo;
use hsm_core::key::KeySize;
use hsm_core::{AlgorithmSupport, KeyTypeSupport};
use hsm_openapi::Problem;
use hsm_openapi::document::tag;
use hsm_openapi::wire::{
    AlgorithmCapability, Capabilities, KeyTypeCapability, Mechanism, MechanismList, MechanismQuery, Size, Slot,
    SlotList, TokenCapabilities,
};
use keymgmt::service::ModuleSlot;

use super::Answer;
use crate::app::State;
use crate::extract::{NoQuery, Query};

/// The slots of every configured module, and the tokens in them.
#[utoipa::path(tag = tag::SLOTS, security(("bearer" = ["slots:read"])), responses((status = 200, description = "The slots", body = SlotList)))]
#[get("/slots")]
pub async fn list_slots(state: web::Data<State>, _: NoQuery) -> Answer<web::Json<SlotList>> {
    let slots = state.service.slots().await?;
    Ok(web::Json(SlotList {
        slots: slots.into_iter().map(wire).collect(),
    }))
}

/// The mechanisms of the token in a slot, as the token tells of them.
#[utoipa::path(
    tag = tag::SLOTS, security(("bearer" = ["slots:read"])),
    params(("id" = u64, Path, description = "The slot's number"), MechanismQuery),
    responses(
        (status = 200, description = "The mechanisms", body = MechanismList),
        (status = 404, description = "`not_found`: the module has no such slot", body = Problem, content_type = "application/problem+json"),
    )
)]
#[get("/slots/{id}/mechanisms")]
pub async fn list_mechanisms(
    state: web::Data<State>,
    slot: web::Path<String>,
    query: Query<MechanismQuery>,
) -> Answer<web::Json<MechanismList>> {
    let no_number = |_| keymgmt::Error::SlotNotFound(slot.escape_default().to_string());
    let slot = slot.parse().map_err(no_number)?;
    let told = state.service.mechanisms(query.0.token.as_deref(), slot).await?;
    Ok(web::Json(MechanismList {
        mechanisms: told.into_iter().map(mechanism).collect(),
    }))
}

/// What each configured token can do, in the terms of this API: what it does natively, what is composed beside it, and what
/// is answered 501. Some of it is tried on the token at the first call, with keys that are gone afterwards.
#[utoipa::path(tag = tag::SLOTS, security(("bearer" = ["slots:read"])), responses((status = 200, description = "What the tokens can do", body = Capabilities)))]
#[get("/capabilities")]
pub async fn list_capabilities(state: web::Data<State>, _: NoQuery) -> Answer<web::Json<Capabilities>> {
    let told = state.service.capabilities().await?;
    Ok(web::Json(Capabilities {
        tokens: told.into_iter().map(capabilities).collect(),
    }))
}

fn mechanism(told: MechanismInfo) -> Mechanism {
    let MechanismInfo {
        id,
        min_key_size,
        max_key_size,
        flags,
    } = told;
    Mechanism {
        name: id.to_string(),
        min_key_size,
        max_key_size,
        flags: flags.names().map(str::to_owned).collect(),
    }
}

fn capabilities(told: keymgmt::service::TokenCapabilities) -> TokenCapabilities {
    let keymgmt::service::TokenCapabilities {
        name,
        label,
        capabilities,
    } = told;
    let hsm_core::Capabilities { algorithms, key_types } = capabilities;
    TokenCapabilities {
        name: name.map(|name| name.to_string()),
        label,
        algorithms: algorithms.into_iter().map(algorithm).collect(),
        key_types: key_types.into_iter().map(key_type).collect(),
    }
}

fn algorithm(told: AlgorithmSupport) -> AlgorithmCapability {
    let AlgorithmSupport {
        algorithm,
        operation,
        support,
        why,
    } = told;
    AlgorithmCapability {
        algorithm: algorithm.name().to_owned(),
        operation: operation.name().to_owned(),
        support: support.name().to_owned(),
        why,
    }
}

fn key_type(told: KeyTypeSupport) -> KeyTypeCapability {
    let KeyTypeSupport {
        key_type,
        sizes,
        support,
        why,
    } = told;
    KeyTypeCapability {
        key_type: key_type.name().to_owned(),
        sizes: sizes.into_iter().filter_map(size).collect(),
        support: support.name().to_owned(),
        why,
    }
}

fn size(size: KeySize) -> Option<Size> {
    match size {
        KeySize::Bits(bits) => Some(Size::Bits(bits)),
        KeySize::Curve(curve) => Some(Size::Name(curve.name().to_owned())),
        KeySize::ParameterSet(set) => Some(Size::Name(set.name().to_owned())),
        KeySize::Unknown => None,
    }
}

fn wire(told: ModuleSlot) -> Slot {
    let ModuleSlot { module, slot } = told;
    let hsm_core::backend::Slot {
        id,
        description,
        manufacturer,
        token,
    } = slot;
    let has_token = token.is_some();
    let initialized = token.as_ref().is_some_and(|token| token.initialized);
    // A token that is not initialised has a model, but no label yet.
    let label = token
        .as_ref()
        .filter(|token| token.initialized)
        .map(|token| token.label.clone());
    let told = |tell: fn(&hsm_core::backend::Token) -> &String| token.as_ref().map(|token| tell(token).clone());
    Slot {
        id,
        module: module.map(|name| name.to_string()),
        description,
        manufacturer,
        has_token,
        token_label: label,
        token_model: told(|token| &token.model),
        token_serial: told(|token| &token.serial),
        token_manufacturer: told(|token| &token.manufacturer),
        firmware_version: told(|token| &token.firmware_version),
        initialized,
    }
}
