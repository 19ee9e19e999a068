//! Many operations as one call. An item is the single call's body with `operation` in it, and is read by itself: one that is
//! malformed leaves the others as they are.

mod single;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{
    DatakeyRequest, DatakeyResponse, DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, SignRequest,
    SignResponse, VerifyRequest, VerifyResponse, VersionedDecryptRequest, VersionedEncryptResponse,
    VersionedSignResponse, VersionedVerifyRequest,
};
use crate::body::{BodyError, WrongValue, parse_body};
use crate::names::{BatchKind, BatchOperationName, VersionedBatchOperationName};
use crate::problem::Problem;
use single::single;

/// How many items a batch may have.
pub const MOST_BATCH_ITEMS: usize = 1000;

/// The member that says what an item is.
const OPERATION: &str = "operation";

/// Operations with keys of the token.
#[derive(Debug)]
pub struct BatchRequest {
    /// The items, 1 to [`MOST_BATCH_ITEMS`].
    pub operations: Vec<BatchItem>,
}

/// Operations with keys of every kind.
#[derive(Debug)]
pub struct VersionedBatchRequest {
    /// The items, 1 to [`MOST_BATCH_ITEMS`].
    pub operations: Vec<BatchItem>,
}

/// An item as it was read.
#[derive(Debug)]
pub struct BatchItem {
    /// What is to be done, if that much can be read.
    pub operation: Option<BatchKind>,
    /// The rest, or what is wrong with it.
    pub body: Result<BatchOperation, BodyError>,
}

/// What is to be done; for decrypt, verify and rewrap also the version that the item names.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BatchOperation {
    Encrypt(EncryptRequest),
    Decrypt(DecryptRequest, Option<u32>),
    Sign(SignRequest),
    Verify(VerifyRequest, Option<u32>),
    Rewrap(DecryptRequest, Option<u32>),
    Datakeys(DatakeyRequest),
}

/// What became of the items, in their order.
#[derive(Debug, Serialize)]
pub struct BatchResponse {
    /// A result each.
    pub results: Vec<BatchResult>,
}

/// As [`BatchResponse`], with the versions of keys.
#[derive(Debug, Serialize)]
pub struct VersionedBatchResponse {
    /// A result each.
    pub results: Vec<BatchResult>,
}

/// What became of an item.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum BatchResult {
    /// It was done.
    Done {
        /// 200.
        status: u16,
        /// The single call's answer.
        #[serde(flatten)]
        answer: BatchAnswer,
    },
    /// It was not.
    Failed(BatchProblem),
}

/// The single call's answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BatchAnswer {
    Encrypt(EncryptResponse),
    VersionedEncrypt(VersionedEncryptResponse),
    Decrypt(DecryptResponse),
    Sign(SignResponse),
    VersionedSign(VersionedSignResponse),
    Verify(VerifyResponse),
    Datakeys(DatakeyResponse),
}

/// The single call's problem.
#[derive(Clone, Debug, Serialize)]
pub struct BatchProblem {
    /// The problem, with its status.
    #[serde(flatten)]
    pub problem: Problem,
    /// After how many seconds to try again: what a single call has in a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

impl BatchResult {
    /// An item that was done.
    pub const fn done(answer: BatchAnswer) -> BatchResult {
        BatchResult::Done { status: 200, answer }
    }
}

impl<'de> Deserialize<'de> for BatchRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BatchRequest, D::Error> {
        let Operations::<false> { operations } = Operations::deserialize(deserializer)?;
        Ok(BatchRequest {
            operations: operations.0,
        })
    }
}

impl<'de> Deserialize<'de> for VersionedBatchRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VersionedBatchRequest, D::Error> {
        let Operations::<true> { operations } = Operations::deserialize(deserializer)?;
        Ok(VersionedBatchRequest {
            operations: operations.0,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operations<const VERSIONED: bool> {
    operations: Items<VERSIONED>,
}

struct Items<const VERSIONED: bool>(Vec<BatchItem>);

impl<'de, const VERSIONED: bool> Deserialize<'de> for Items<VERSIONED> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<const VERSIONED: bool>;

        impl<'de, const VERSIONED: bool> Visitor<'de> for List<VERSIONED> {
            type Value = Items<VERSIONED>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(raw) = list.next_element::<&'de RawValue>()? {
                    if items.len() == MOST_BATCH_ITEMS {
                        return Err(WrongValue::Batch.error());
                    }
                    items.push(BatchItem::read(raw.get(), VERSIONED));
                }
                if items.is_empty() {
                    return Err(WrongValue::Batch.error());
                }
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(List::<VERSIONED>)
    }
}

impl BatchItem {
    fn read(text: &str, versioned: bool) -> BatchItem {
        let operation = if text.starts_with('{') {
            parse_body::<Kind>(text.as_bytes()).and_then(|kind| kind.operation(versioned))
        } else {
            Err(BodyError::whole("the item must be a JSON object"))
        };
        match operation {
            Err(error) => BatchItem {
                operation: None,
                body: Err(error),
            },
            Ok(operation) => BatchItem {
                operation: Some(operation),
                body: body(operation, text, versioned),
            },
        }
    }
}

fn body(operation: BatchKind, text: &str, versioned: bool) -> Result<BatchOperation, BodyError> {
    match (operation, versioned) {
        (BatchKind::Encrypt, _) => single(text).map(BatchOperation::Encrypt),
        (BatchKind::Sign, _) => single(text).map(BatchOperation::Sign),
        (BatchKind::Decrypt, false) => single(text).map(|body| BatchOperation::Decrypt(body, None)),
        (BatchKind::Verify, false) => single(text).map(|body| BatchOperation::Verify(body, None)),
        (BatchKind::Decrypt, true) => {
            let (body, version) = single::<VersionedDecryptRequest>(text)?.split();
            Ok(BatchOperation::Decrypt(body, version))
        }
        (BatchKind::Verify, true) => {
            let (body, version) = single::<VersionedVerifyRequest>(text)?.split();
            Ok(BatchOperation::Verify(body, version))
        }
        (BatchKind::Rewrap, _) => {
            let (body, version) = single::<VersionedDecryptRequest>(text)?.split();
            Ok(BatchOperation::Rewrap(body, version))
        }
        (BatchKind::Datakeys, _) => single(text).map(BatchOperation::Datakeys),
    }
}

/// What an item says of itself; its other members are read later.
#[derive(Deserialize)]
struct Kind {
    operation: String,
}

impl Kind {
    fn operation(&self, versioned: bool) -> Result<BatchKind, BodyError> {
        let (known, wrong) = if versioned {
            (BatchKind::ALL, WrongValue::AnyBatchOperation)
        } else {
            (BatchKind::OF_TOKENS, WrongValue::BatchOperation)
        };
        let found = known.iter().copied().find(|kind| kind.name() == self.operation);
        found.ok_or_else(|| BodyError::field(OPERATION, wrong.to_string()))
    }
}

/// The members of the single calls together, as one object: generators of clients make little of anything finer.
fn together(schemas: impl IntoIterator<Item = RefOr<Schema>>) -> ObjectBuilder {
    let all = schemas.into_iter().filter_map(|schema| match schema {
        RefOr::T(Schema::Object(object)) => Some(object.properties),
        _ => None,
    });
    all.flatten().fold(ObjectBuilder::new(), |object, (name, schema)| {
        object.property(name, schema)
    })
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
}

fn request_schema(versioned: bool) -> RefOr<Schema> {
    let (parts, operation) = if versioned {
        let parts = vec![
            DatakeyRequest::schema(),
            EncryptRequest::schema(),
            VersionedDecryptRequest::schema(),
            SignRequest::schema(),
            VersionedVerifyRequest::schema(),
        ];
        (parts, VersionedBatchOperationName::schema())
    } else {
        let parts = vec![
            EncryptRequest::schema(),
            DecryptRequest::schema(),
            SignRequest::schema(),
            VerifyRequest::schema(),
        ];
        (parts, BatchOperationName::schema())
    };
    let item = together(parts)
        .property(OPERATION, operation)
        .property("algorithm", text("The algorithm; without it the key decides."))
        .required(OPERATION)
        .required("key_id")
        .description(Some(
            "The body of the single call that `operation` names, and `operation`.",
        ));
    let list = ArrayBuilder::new()
        .items(item)
        .min_items(Some(1))
        .max_items(Some(MOST_BATCH_ITEMS))
        .description(Some("The operations, done in this order on each token."));
    ObjectBuilder::new()
        .property("operations", list)
        .required("operations")
        .into()
}

fn response_schema(versioned: bool) -> RefOr<Schema> {
    let (first, sign) = if versioned {
        // Its other members are those of an answer of encrypt.
        (DatakeyResponse::schema(), VersionedSignResponse::schema())
    } else {
        (EncryptResponse::schema(), SignResponse::schema())
    };
    let integer = || ObjectBuilder::new().schema_type(Type::Integer);
    let parts = [
        first,
        DecryptResponse::schema(),
        sign,
        VerifyResponse::schema(),
        Problem::schema(),
    ];
    let status = integer().description(Some("200, or the status of the problem."));
    let retry_after = integer()
        .minimum(Some(1))
        .description(Some("Seconds after which to try again; with status 503."));
    let result = together(parts)
        .property("status", status)
        .property("retry_after", retry_after)
        .required("status")
        .description(Some("The single call's answer, or its problem; and its status."));
    let list = ArrayBuilder::new()
        .items(result)
        .description(Some("What became of each, in the order of the request."));
    ObjectBuilder::new()
        .property("results", list)
        .required("results")
        .into()
}

macro_rules! documented {
    ($($type:ident = $schema:expr, with $($part:ident),*;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(<$part as ToSchema>::schemas(schemas);)*
            }
        }
    )*};
}

documented! {
    BatchRequest = request_schema(false), with EncryptRequest, DecryptRequest, SignRequest, VerifyRequest;
    VersionedBatchRequest = request_schema(true), with DatakeyRequest, EncryptRequest, VersionedDecryptRequest, SignRequest, VersionedVerifyRequest;
    BatchResponse = response_schema(false), with EncryptResponse, DecryptResponse, SignResponse, VerifyResponse, Problem;
    VersionedBatchResponse = response_schema(true), with DatakeyResponse, VersionedEncryptResponse, DecryptResponse, VersionedSignResponse, VerifyResponse, Problem;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(items: &str) -> Vec<BatchItem> {
        let body = format!("{{\"operations\":[{items}]}}");
        parse_body::<BatchRequest>(body.as_bytes()).unwrap().operations
    }

    #[test]
    fn an_item_is_read_as_its_single_call() {
        let items = read(
            r#"{"operation":"sign","key_id":"hsm:00","data":"AA=="}, {"data":"AA==","oper\u0061tion":"encrypt","key_id":"hsm:00"},
            {"operation":"decrypt","key_id":"hsm:00","ciphertext":"AA==","iv":null}"#,
        );
        assert!(matches!(&items[0].body, Ok(BatchOperation::Sign(body)) if body.key_id == "hsm:00"));
        assert!(matches!(&items[1].body, Ok(BatchOperation::Encrypt(body)) if body.data.as_bytes() == [0]));
        assert!(matches!(&items[2].body, Ok(BatchOperation::Decrypt(body, None)) if body.iv.is_none()));
        let body = br#"{"operations":[{"operation":"decrypt","key_id":"a","ciphertext":"","key_version":3}]}"#;
        let versioned = parse_body::<VersionedBatchRequest>(body).unwrap().operations;
        assert!(matches!(versioned[0].body, Ok(BatchOperation::Decrypt(_, Some(3)))));
        let body = br#"{"operations":[{"operation":"rewrap","key_id":"a","ciphertext":"","key_version":3},
            {"operation":"datakeys","key_id":"a","plaintext":false},{"operation":"wrap","key_id":"a"}]}"#;
        let versioned = parse_body::<VersionedBatchRequest>(body).unwrap().operations;
        assert!(matches!(versioned[0].body, Ok(BatchOperation::Rewrap(_, Some(3)))));
        assert!(matches!(&versioned[1].body, Ok(BatchOperation::Datakeys(body)) if body.plaintext == Some(false)));
        assert_eq!(
            versioned[2].body.as_ref().unwrap_err().to_string(),
            "`operation`: must be `encrypt`, `decrypt`, `sign`, `verify`, `rewrap` or `datakeys`"
        );
    }

    #[test]
    fn a_malformed_item_names_its_fault_and_leaves_the_others() {
        let good = r#"{"operation":"sign","key_id":"hsm:00","data":"AA=="}"#;
        for (wrong, operation, fault) in [
            ("7", None, "the item must be a JSON object"),
            ("{}", None, "`operation`: is missing"),
            (
                r#"{"operation":7}"#,
                None,
                "`operation`: must be a string, not a number",
            ),
            (
                r#"{"operation":"rewrap"}"#,
                None,
                "`operation`: must be `encrypt`, `decrypt`, `sign` or `verify`",
            ),
            (
                r#"{"operation":"sign","operation":"sign"}"#,
                None,
                "`operation`: is there twice",
            ),
            (r#"{"operation":"sign"}"#, Some(BatchKind::Sign), "`data`: is missing"),
            (
                r#"{"operation":"encrypt","key_id":"k","data":"A"}"#,
                Some(BatchKind::Encrypt),
                "`data`: must be standard base64 with padding (RFC 4648 §4)",
            ),
            (
                r#"{"operation":"verify","key_version":1}"#,
                Some(BatchKind::Verify),
                "`key_version`: is not known here; there are `data`, `signature`, `key_id`, `algorithm`, `message_type`, `signature_format`, `context`",
            ),
        ] {
            let items = read(&format!("{good},{wrong},{good}"));
            let [first, item, last] = &items[..] else {
                unreachable!()
            };
            assert!(first.body.is_ok() && last.body.is_ok());
            assert_eq!(item.operation, operation, "{wrong}");
            assert_eq!(item.body.as_ref().unwrap_err().to_string(), fault, "{wrong}");
        }
    }

    #[test]
    fn a_batch_has_one_to_a_thousand_items() {
        let batch = |count: usize| {
            let items = vec!["{}"; count].join(",");
            parse_body::<BatchRequest>(format!("{{\"operations\":[{items}]}}").as_bytes())
        };
        assert_eq!(batch(1000).unwrap().operations.len(), 1000);
        for count in [0, 1001] {
            assert_eq!(
                batch(count).unwrap_err().to_string(),
                "`operations`: must be a list of 1 to 1000 operations"
            );
        }
        for (body, fault) in [
            ("{}", "`operations`: is missing"),
            ("{\"operations\":{}}", "`operations`: must be a list, not an object"),
            (
                "{\"operations\":[{}],\"x\":1}",
                "`x`: is not known here; there are `operations`",
            ),
        ] {
            let error = parse_body::<BatchRequest>(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), fault);
        }
    }

    #[test]
    fn a_problem_has_one_status() {
        let problem = Problem::new(crate::ProblemCode::Busy, "later", "id");
        let failed = BatchResult::Failed(BatchProblem {
            problem,
            retry_after: Some(1),
        });
        let done = BatchResult::done(BatchAnswer::Verify(VerifyResponse { valid: true }));
        let response = BatchResponse {
            results: vec![done, failed],
        };
        let text = serde_json::to_string(&response).unwrap();
        assert_eq!(
            text,
            r#"{"results":[{"status":200,"valid":true},{"type":"/docs/errors#busy","title":"Too much to do just now","status":503,"detail":"later","code":"busy","request_id":"id","retry_after":1}]}"#
        );
    }
}
