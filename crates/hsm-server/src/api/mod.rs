//! Handlers: a request becomes typed values, the key service acts, and its answer becomes a response. Each declares its
//! path, its document and its scope in one place.

#![allow(
    unreachable_pub,
    reason = "the route macros of actix-web make a public type and a function inside of it of each handler"
)]

use std::future::Future;

use hsm_openapi::ProblemCode;

use crate::app::State;
use crate::problem::ApiError;

pub mod audit;
pub mod batch;
pub mod crypto;
pub mod cursor;
pub mod health;
pub mod keys;
pub mod making;
pub mod managed;
pub mod managed_crypto;
pub mod once;
pub mod requests;
pub mod shown;
pub mod slots;

/// What a handler answers.
pub type Answer<T> = Result<T, ApiError>;

/// Runs `work` to its end even if the client goes away: what is done with a key must be recorded.
async fn to_the_end<T: 'static, E: Into<ApiError> + 'static>(
    state: &State,
    work: impl Future<Output = Result<T, E>> + 'static,
) -> Answer<T> {
    let under_way = state.in_flight.enter();
    let ended = actix_web::rt::spawn(async move {
        let _under_way = under_way;
        work.await
    })
    .await;
    let result = ended.map_err(|error| {
        tracing::error!(%error, "an operation ended without an answer");
        ApiError::new(ProblemCode::Internal, "the operation ended without an answer")
    })?;
    result.map_err(Into::into)
}
