//! Batches: many operations as one call, each with its scope, its answer and its record.

use actix_web::{post, web};
use hsm_core::{BatchDone, HsmKeyId, Operation};
use hsm_openapi::ProblemCode;
use hsm_openapi::document::{BATCH_DESCRIPTION, tag};
use hsm_openapi::names::MessageType;
use hsm_openapi::wire::{
    BatchAnswer, BatchItem, BatchOperation, BatchProblem, BatchRequest, BatchResponse, BatchResult, DecryptResponse,
    VerifyResponse, VersionedBatchRequest, VersionedBatchResponse,
};
use keymgmt::audit::Outcome;
use keymgmt::service::{Answered, Item};
use keymgmt::{Action, KeyId};

use super::crypto::{decryption, encrypted, encryption, signed, signing, unversioned, verification};
use super::{Answer, to_the_end};
use crate::app::State;
use crate::auth::{Scope, ScopeSet};
use crate::extract::{Body, NoQuery, Who};
use crate::gate::Granted;
use crate::problem::ApiError;

/// Does many operations with keys of the token.
#[utoipa::path(tag = tag::HSM_CRYPTO, security(("bearer" = [])), description = BATCH_DESCRIPTION, request_body = BatchRequest, responses((status = 200, description = "What became of each", body = BatchResponse)))]
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
    id: HsmKeyId,
    message_type: MessageType,
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
            Ok(answered(&echo, done, keys))
        });
        done.map_or_else(|error| failed(&error, &who.0.request_id), BatchResult::done)
    });
    Ok(results.collect())
}

/// What is to be done, or the error that the item is answered with and what is recorded of it.
fn prepared(item: BatchItem, granted: ScopeSet, keys: Keys) -> (Item, Answer<Echo>) {
    let BatchItem { operation, body } = item;
    let action = operation.and_then(action).unwrap_or(Action::Batch);
    let refused = |error: ApiError, key_id: Option<String>, outcome: Outcome| {
        let record = Answered {
            action,
            key_id,
            outcome,
            status: error.code.status(),
            code: error.code.name(),
        };
        (Item::Answered(record), Err(error))
    };
    if let Some(scope) = operation.and_then(scope).filter(|scope| !granted.contains(*scope)) {
        return refused(ApiError::lacking(scope.into()), None, Outcome::Refused);
    }
    let (body, key) = match body
        .map_err(ApiError::from)
        .and_then(|body| Ok((key(&body, keys)?, body)))
    {
        Ok((key, body)) => (body, key),
        Err(error) => return refused(error, None, Outcome::Failure),
    };
    let id = match key {
        KeyId::Hsm(id) => id,
        managed @ KeyId::Managed(_) => {
            let named = managed.to_string();
            return refused(
                keymgmt::Error::KeyNotFound(managed).into(),
                Some(named),
                Outcome::Failure,
            );
        }
    };
    let mut message_type = MessageType::default();
    let key = id.clone();
    let item = match body {
        BatchOperation::Encrypt(body) => hsm_core::BatchItem::Encrypt(encryption(key, body)),
        BatchOperation::Decrypt(body, _) => hsm_core::BatchItem::Decrypt(decryption(key, body)),
        BatchOperation::Sign(body) => {
            message_type = body.message_type.unwrap_or_default();
            hsm_core::BatchItem::Sign(signing(key, body))
        }
        BatchOperation::Verify(body, _) => hsm_core::BatchItem::Verify(verification(key, body)),
    };
    (Item::Run(item), Ok(Echo { id, message_type }))
}

fn key(body: &BatchOperation, keys: Keys) -> Answer<KeyId> {
    let (id, version) = match body {
        BatchOperation::Encrypt(body) => (&body.key_id, None),
        BatchOperation::Decrypt(body, version) => (&body.key_id, *version),
        BatchOperation::Sign(body) => (&body.key_id, None),
        BatchOperation::Verify(body, version) => (&body.key_id, *version),
    };
    match keys {
        Keys::OfTokens => Ok(HsmKeyId::parse(id)?.into()),
        Keys::OfEveryKind => unversioned(KeyId::parse(id)?, version),
    }
}

fn answered(echo: &Echo, done: BatchDone, keys: Keys) -> BatchAnswer {
    let Echo { id, message_type } = echo;
    match (done, keys) {
        (BatchDone::Encrypted(done), Keys::OfTokens) => BatchAnswer::Encrypt(encrypted(id, done)),
        (BatchDone::Encrypted(done), Keys::OfEveryKind) => {
            BatchAnswer::VersionedEncrypt(encrypted(id, done).versioned(None))
        }
        (BatchDone::Signed(done), Keys::OfTokens) => BatchAnswer::Sign(signed(id, *message_type, done)),
        (BatchDone::Signed(done), Keys::OfEveryKind) => {
            BatchAnswer::VersionedSign(signed(id, *message_type, done).versioned(None))
        }
        (BatchDone::Decrypted(data), _) => BatchAnswer::Decrypt(DecryptResponse { data: data.into() }),
        (BatchDone::Verified(valid), _) => BatchAnswer::Verify(VerifyResponse { valid }),
    }
}

fn failed(error: &ApiError, request_id: &str) -> BatchResult {
    BatchResult::Failed(BatchProblem {
        problem: error.problem(request_id),
        retry_after: error.code.retry_after_s(),
    })
}

/// What the single call needs.
const fn scope(operation: Operation) -> Option<Scope> {
    match operation {
        Operation::Encrypt => Some(Scope::CryptoEncrypt),
        Operation::Decrypt => Some(Scope::CryptoDecrypt),
        Operation::Sign => Some(Scope::CryptoSign),
        Operation::Verify => Some(Scope::CryptoVerify),
        Operation::Wrap | Operation::Unwrap | Operation::Derive | Operation::Encapsulate | Operation::Decapsulate => {
            None
        }
    }
}

const fn action(operation: Operation) -> Option<Action> {
    match operation {
        Operation::Encrypt => Some(Action::Encrypt),
        Operation::Decrypt => Some(Action::Decrypt),
        Operation::Sign => Some(Action::Sign),
        Operation::Verify => Some(Action::Verify),
        Operation::Wrap | Operation::Unwrap | Operation::Derive | Operation::Encapsulate | Operation::Decapsulate => {
            None
        }
    }
}
