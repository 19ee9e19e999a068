//! Batches: many operations as one call, each with its scope, its answer and its record.

use actix_web::{post, web};
use hsm_core::{BatchDone, HsmKeyId};
use hsm_openapi::ProblemCode;
use hsm_openapi::document::{BATCH_DESCRIPTION, HSM_BATCH_DESCRIPTION, tag};
use hsm_openapi::names::{BatchKind, MessageType};
use hsm_openapi::wire::{
    BatchAnswer, BatchItem, BatchOperation, BatchProblem, BatchRequest, BatchResponse, BatchResult, DatakeyRequest,
    DecryptResponse, VerifyResponse, VersionedBatchRequest, VersionedBatchResponse,
};
use keymgmt::audit::Outcome;
use keymgmt::service::{Answered, Asked, Done, Item, ItemDone, Plaintext};
use keymgmt::{Action, KeyId};

use super::crypto::{decryption, encrypted, encryption, signed, signing, verification};
use super::managed_crypto::datakey;
use super::{Answer, to_the_end};
use crate::app::State;
use crate::auth::{Scope, ScopeSet};
use crate::extract::{Body, NoQuery, Who};
use crate::gate::Granted;
use crate::problem::ApiError;

/// Does many operations with keys of the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = [])), description = HSM_BATCH_DESCRIPTION, request_body = BatchRequest, responses((status = 200, description = "What became of each", body = BatchResponse)))]
#[post("/batch")]
pub async fn hsm_batch(
    state: web::Data<State>,
    who: Who,
    granted: Granted,
    _: NoQuery,
    body: Body<BatchRequest>,
) -> Answer<web::Json<BatchResponse>> {
    let results = run(&state, who, granted.0, body.0.operations, Keys::OfTokens).await?;
    Ok(web::Json(BatchResponse { results }))
}

/// Does many operations with keys of any kind.
#[utoipa::path(tag = tag::CRYPTO, security(("bearer" = [])), description = BATCH_DESCRIPTION, request_body = VersionedBatchRequest, responses((status = 200, description = "What became of each", body = VersionedBatchResponse)))]
#[post("/batch")]
pub async fn batch(
    state: web::Data<State>,
    who: Who,
    granted: Granted,
    _: NoQuery,
    body: Body<VersionedBatchRequest>,
) -> Answer<web::Json<VersionedBatchResponse>> {
    let results = run(&state, who, granted.0, body.0.operations, Keys::OfEveryKind).await?;
    Ok(web::Json(VersionedBatchResponse { results }))
}

/// Which keys a call takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    OfTokens,
    OfEveryKind,
}

/// What the answer to an item needs beside what was done.
struct Echo {
    message_type: MessageType,
    /// Whether a data key is answered in clear.
    plaintext: bool,
}

async fn run(
    state: &State,
    who: Who,
    granted: ScopeSet,
    items: Vec<BatchItem>,
    keys: Keys,
) -> Answer<Vec<BatchResult>> {
    let (items, echoes): (Vec<Item>, Vec<Answer<Echo>>) =
        items.into_iter().map(|item| prepared(item, granted, keys)).unzip();
    let service = state.service.clone();
    let caller = who.0.clone();
    let answers = to_the_end(state, async move { service.batch(&caller, items).await }).await?;
    let results = echoes.into_iter().zip(answers).map(|(echo, answer)| {
        let done = echo.and_then(|echo| {
            let lost = || ApiError::new(ProblemCode::Internal, "the item ended without an answer");
            let done = answer.ok_or_else(lost)??;
            let (with, done) = done;
            Ok(answered(&echo, with, done, keys))
        });
        done.map_or_else(|error| failed(&error, &who.0.request_id), BatchResult::done)
    });
    Ok(results.collect())
}

/// What is to be done, or the error that the item is answered with and what is recorded of it.
fn prepared(item: BatchItem, granted: ScopeSet, keys: Keys) -> (Item, Answer<Echo>) {
    let BatchItem { operation, body } = item;
    let refused = |error: ApiError, outcome: Outcome| {
        let record = Answered {
            action: operation.map_or(Action::Batch, action),
            key_id: None,
            outcome,
            status: error.code.status(),
            code: error.code.name(),
        };
        (Item::Answered(record), Err(error))
    };
    let lacking = operation.map(|kind| scopes(kind).without(granted)).unwrap_or_default();
    if !lacking.is_empty() {
        return refused(ApiError::lacking(lacking), Outcome::Refused);
    }
    match body.map_err(ApiError::from).and_then(|body| run_item(body, keys)) {
        Ok((item, echo)) => (item, Ok(echo)),
        Err(error) => refused(error, Outcome::Failure),
    }
}

fn run_item(body: BatchOperation, keys: Keys) -> Answer<(Item, Echo)> {
    let id = |text: &str| match keys {
        Keys::OfTokens => HsmKeyId::parse(text).map(KeyId::from).map_err(ApiError::from),
        Keys::OfEveryKind => KeyId::parse(text).map_err(ApiError::from),
    };
    let mut echo = Echo {
        message_type: MessageType::default(),
        plaintext: true,
    };
    let (key, version, asked) = match body {
        BatchOperation::Encrypt(body) => {
            let key = id(&body.key_id)?;
            (key, None, Asked::Encrypt(Box::new(move |key| encryption(key, body))))
        }
        BatchOperation::Decrypt(body, version) => {
            let key = id(&body.key_id)?;
            (key, version, Asked::Decrypt(Box::new(move |key| decryption(key, body))))
        }
        BatchOperation::Sign(body) => {
            let key = id(&body.key_id)?;
            echo.message_type = body.message_type.unwrap_or_default();
            (key, None, Asked::Sign(Box::new(move |key| signing(key, body))))
        }
        BatchOperation::Verify(body, version) => {
            let key = id(&body.key_id)?;
            (
                key,
                version,
                Asked::Verify(Box::new(move |key| verification(key, body))),
            )
        }
        BatchOperation::Rewrap(body, version) => {
            let key = id(&body.key_id)?;
            (key, version, Asked::Rewrap(Box::new(move |key| decryption(key, body))))
        }
        BatchOperation::Datakeys(DatakeyRequest {
            key_id,
            key_size,
            plaintext,
        }) => {
            echo.plaintext = plaintext.unwrap_or(true);
            (id(&key_id)?, None, Asked::DataKey(key_size.unwrap_or_default().bits()))
        }
    };
    Ok((Item::Run { key, version, asked }, echo))
}

fn answered(echo: &Echo, with: Done, done: ItemDone, keys: Keys) -> BatchAnswer {
    let Echo {
        message_type,
        plaintext,
    } = echo;
    let id = &with.key_id;
    match (done, keys) {
        (ItemDone::Done(BatchDone::Encrypted(done)), Keys::OfTokens) => BatchAnswer::Encrypt(encrypted(id, done)),
        (ItemDone::Done(BatchDone::Encrypted(done)), Keys::OfEveryKind) | (ItemDone::Rewrapped(done), _) => {
            BatchAnswer::VersionedEncrypt(encrypted(id, done).versioned(with.key_version))
        }
        (ItemDone::Done(BatchDone::Signed(done)), Keys::OfTokens) => BatchAnswer::Sign(signed(id, *message_type, done)),
        (ItemDone::Done(BatchDone::Signed(done)), Keys::OfEveryKind) => {
            BatchAnswer::VersionedSign(signed(id, *message_type, done).versioned(with.key_version))
        }
        (ItemDone::Done(BatchDone::Decrypted(data)), _) => BatchAnswer::Decrypt(DecryptResponse { data: data.into() }),
        (ItemDone::Done(BatchDone::Verified(valid)), _) => BatchAnswer::Verify(VerifyResponse { valid }),
        (ItemDone::DataKey(hidden, Plaintext(clear)), _) => {
            BatchAnswer::Datakeys(datakey(with, hidden, Some(clear).filter(|_| *plaintext)))
        }
    }
}

fn failed(error: &ApiError, request_id: &str) -> BatchResult {
    BatchResult::Failed(BatchProblem {
        problem: error.problem(request_id),
        retry_after: error.code.retry_after_s(),
    })
}

/// What the single call needs.
fn scopes(kind: BatchKind) -> ScopeSet {
    match kind {
        BatchKind::Encrypt | BatchKind::Datakeys => Scope::CryptoEncrypt.into(),
        BatchKind::Decrypt => Scope::CryptoDecrypt.into(),
        BatchKind::Sign => Scope::CryptoSign.into(),
        BatchKind::Verify => Scope::CryptoVerify.into(),
        BatchKind::Rewrap => ScopeSet::from(Scope::CryptoEncrypt).union(Scope::CryptoDecrypt.into()),
    }
}

const fn action(kind: BatchKind) -> Action {
    match kind {
        BatchKind::Encrypt => Action::Encrypt,
        BatchKind::Decrypt => Action::Decrypt,
        BatchKind::Sign => Action::Sign,
        BatchKind::Verify => Action::Verify,
        BatchKind::Rewrap => Action::Rewrap,
        BatchKind::Datakeys => Action::DataKey,
    }
}
