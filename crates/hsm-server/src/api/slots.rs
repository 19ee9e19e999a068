//! Slots and the tokens in them.

use actix_web::{get, web};
use hsm_openapi::document::tag;
use hsm_openapi::wire::{Slot, SlotList};

use super::Answer;
use crate::app::State;
use crate::extract::NoQuery;

/// The module's slots and the tokens in them.
#[utoipa::path(tag = tag::SLOTS, security(("bearer" = ["slots:read"])), responses((status = 200, description = "The slots", body = SlotList)))]
#[get("/slots")]
pub async fn list_slots(state: web::Data<State>, _: NoQuery) -> Answer<web::Json<SlotList>> {
    let slots = state.service.slots().await?;
    Ok(web::Json(SlotList {
        slots: slots.into_iter().map(wire).collect(),
    }))
}

fn wire(slot: hsm_core::backend::Slot) -> Slot {
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
