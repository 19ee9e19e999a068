//! The OpenAPI document: what is the same for every operation, and the scopes read back from it.
//!
//! A handler declares its path, its body, what it answers when all is well, and its scope; [`base`] begins the document
//! and [`finish`] adds the rest. So a handler's declaration is short, and an answer that every call may give is written
//! in one place.

use std::fmt;

use serde_json::Value;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ContentBuilder, Header, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::names::KeyTypeName;
use crate::problem::{Problem, ProblemCode};
use crate::texts::DESCRIPTION;

pub use crate::texts::{
    BATCH_DESCRIPTION, HSM_BATCH_DESCRIPTION, IDEMPOTENCY_DESCRIPTION, IDEMPOTENCY_KEY, SIGN_DESCRIPTION,
};

/// The name of the security scheme: `security(("bearer" = ["crypto:sign"]))` is how a handler declares its scopes,
/// `security(("bearer" = []))` that any token will do, and `security(())` that none is needed.
pub const SECURITY_SCHEME: &str = "bearer";

/// Tags of the operations, for handlers to name.
pub mod tag {
    /// Slots, tokens and what they can do.
    pub const SLOTS: &str = "slots";
    /// Keys on the token.
    pub const HSM_KEYS: &str = "hsm keys";
    /// Operations with keys on the token.
    pub const HSM_CRYPTO: &str = "hsm crypto";
    /// Keys of every kind.
    pub const KEYS: &str = "keys";
    /// Operations with keys of every kind.
    pub const CRYPTO: &str = "crypto";
    /// The audit log.
    pub const AUDIT: &str = "audit";
    /// Health, metrics and this document.
    pub const HEALTH: &str = "health";
}

const REQUEST_ID: &str = "x-request-id";
const RETRY_AFTER: &str = "Retry-After";

/// The document without its paths.
pub fn base() -> OpenApi {
    let licence = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0"));
    let info = InfoBuilder::new()
        .title("HSM gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(licence.build()));
    let tags = [
        (
            tag::SLOTS,
            "Slots of the PKCS#11 modules, the tokens in them, and what tokens can do",
        ),
        (tag::HSM_KEYS, "Keys on the token"),
        (tag::HSM_CRYPTO, "Operations with keys on the token"),
        (
            tag::KEYS,
            "Keys of every kind; a key of the token is used like any other",
        ),
        (tag::CRYPTO, "Operations with keys of every kind"),
        (tag::AUDIT, "The audit log"),
        (tag::HEALTH, "Health"),
    ];
    let tags = tags.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(tags))
        .components(Some(components().build()))
        .build()
}

fn components() -> ComponentsBuilder {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A JSON Web Token with `exp`, `sub` and `scope`"));
    let start = ComponentsBuilder::new()
        .schema(Problem::name(), Problem::schema())
        // Query parameters refer to it, and what they refer to is not collected.
        .schema(KeyTypeName::name(), KeyTypeName::schema())
        .security_scheme(SECURITY_SCHEME, SecurityScheme::Http(bearer.build()));
    STATUSES.iter().fold(start, |components, status| {
        components.response(response_name(*status), problem_response(*status))
    })
}

/// The statuses of problems that operations refer to; 404 `not_found` and 405 belong to no operation.
const STATUSES: &[u16] = &[400, 401, 403, 404, 409, 413, 415, 500, 501, 502, 503, 504];

fn response_name(status: u16) -> String {
    format!("Problem{status}")
}

fn problem_response(status: u16) -> Response {
    let codes: Vec<String> = ProblemCode::of_status(status)
        .filter(|code| *code != ProblemCode::NotFound)
        .map(|code| format!("`{}`: {}.", code.name(), code.title()))
        .collect();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    let mut response = ResponseBuilder::new()
        .description(codes.join(" "))
        .content(Problem::CONTENT_TYPE, content)
        .header(REQUEST_ID, text_header("The request's id"));
    if matches!(status, 401 | 403) {
        response = response.header("WWW-Authenticate", text_header("What is missing (RFC 6750)"));
    }
    if ProblemCode::of_status(status).any(|code| code.retry_after_s().is_some()) {
        response = response.header(RETRY_AFTER, retry_after_header());
    }
    response.build()
}

fn retry_after_header() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    HeaderBuilder::new()
        .schema(Some(seconds))
        .description(Some("Seconds after which to try again"))
        .build()
}

fn text_header(text: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(text))
        .build()
}

/// Completes the document: gives every operation the problems that it may answer and the header `x-request-id`.
/// An answer that a handler declared itself stays as it is.
///
/// # Errors
/// Operations that declare neither a scope nor that they need none, or no id: a mistake in the program.
pub fn finish(document: &mut OpenApi) -> Result<(), Incomplete> {
    let mut incomplete = Vec::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations_mut(item) {
            match access(operation) {
                Some(access) if operation.operation_id.is_some() => {
                    complete(operation, path, &access);
                }
                _ => incomplete.push(format!("{method} {path}")),
            }
        }
    }
    if incomplete.is_empty() {
        Ok(())
    } else {
        Err(Incomplete { operations: incomplete })
    }
}

/// Operations of the document that lack their scope or their id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The operations, as `METHOD path`.
    pub operations: Vec<String>,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no scope or no id declared: {}", self.operations.join(", "))
    }
}

impl std::error::Error for Incomplete {}

fn complete(operation: &mut Operation, path: &str, access: &Access) {
    for status in problems(operation, path, access) {
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_string())
            .or_insert_with(|| RefOr::Ref(Ref::from_response_name(response_name(status))));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let id = || RefOr::T(text_header("The request's id"));
        response.headers.entry(REQUEST_ID.into()).or_insert_with(id);
        if status == "503" {
            let seconds = || RefOr::T(retry_after_header());
            response.headers.entry(RETRY_AFTER.into()).or_insert_with(seconds);
        }
    }
}

/// The statuses of the problems that an operation may answer.
fn problems(operation: &Operation, path: &str, access: &Access) -> Vec<u16> {
    let Access::Scopes(scopes) = access else {
        return vec![500, 503];
    };
    let mut statuses = vec![401, 403, 500, 503];
    if operation.request_body.is_some() {
        statuses.extend([400, 413, 415]);
    }
    // Unknown query parameters.
    if path.starts_with("/api/") {
        statuses.push(400);
    }
    let families: Vec<&str> = scopes.iter().filter_map(|scope| scope.split(':').next()).collect();
    let of = |family: &str| families.contains(&family);
    // Those that name a key.
    let adopts = path == "/api/v1/keys" && operation.request_body.is_some();
    let by_body = (of("crypto") && !path.ends_with("/random")) || path.ends_with("/keys/import") || adopts;
    if path.contains("{key_id}") || by_body {
        statuses.extend([404, 409]);
    }
    let changes = scopes
        .iter()
        .any(|scope| scope.starts_with("keys:") && scope != "keys:read");
    if scopes.iter().any(|scope| scope == "keys:create") {
        statuses.push(409);
    }
    if of("crypto") || changes {
        statuses.push(501);
    }
    if of("slots") || of("keys") || of("crypto") {
        statuses.extend([502, 504]);
    }
    statuses
}

/// Who may call an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a token.
    Public,
    /// Who has all of these scopes; anyone with a token where there are none.
    Scopes(Vec<String>),
}

/// An operation of the document and who may call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path, with parameters in braces, as actix-web's `match_pattern` gives it.
    pub path: String,
    /// Who may call it.
    pub access: Access,
}

/// The table of routes, read back from the document. An operation that declares neither a scope nor that it needs none
/// is not in it: nobody may call it.
pub fn routes(document: &OpenApi) -> Vec<Route> {
    let paths = document.paths.paths.iter();
    let all = paths.flat_map(|(path, item)| operations(item).map(move |found| (path, found)));
    all.filter_map(|(path, (method, operation))| {
        let access = access(operation)?;
        Some(Route {
            method,
            path: path.clone(),
            access,
        })
    })
    .collect()
}

/// What the declaration says: exactly one requirement, of our scheme with its scopes or of nothing.
fn access(operation: &Operation) -> Option<Access> {
    let requirements = operation.security.as_deref()?;
    let [requirement] = requirements else { return None };
    let Ok(Value::Object(schemes)) = serde_json::to_value(requirement) else {
        return None;
    };
    if schemes.is_empty() {
        return Some(Access::Public);
    }
    let scopes = schemes.get(SECURITY_SCHEME)?.as_array()?;
    let names = scopes.iter().map(|scope| scope.as_str().map(str::to_owned));
    let names = names.collect::<Option<Vec<_>>>()?;
    (schemes.len() == 1).then_some(Access::Scopes(names))
}

fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let PathItem {
        get,
        put,
        post,
        delete,
        options,
        head,
        patch,
        trace,
        ..
    } = item;
    let all = [
        ("GET", get),
        ("PUT", put),
        ("POST", post),
        ("DELETE", delete),
        ("OPTIONS", options),
        ("HEAD", head),
        ("PATCH", patch),
        ("TRACE", trace),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem {
        get,
        put,
        post,
        delete,
        options,
        head,
        patch,
        trace,
        ..
    } = item;
    let all = [
        ("GET", get),
        ("PUT", put),
        ("POST", post),
        ("DELETE", delete),
        ("OPTIONS", options),
        ("HEAD", head),
        ("PATCH", patch),
        ("TRACE", trace),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi as _;

    use super::*;
    use crate::wire::{Key, KeyListQuery, Live, SignRequest, SignResponse};

    #[expect(dead_code, reason = "only the declarations are of interest")]
    mod declared {
        use super::{Key, KeyListQuery, Live, SIGN_DESCRIPTION, SignRequest, SignResponse, tag};

        #[utoipa::path(post, path = "/sign", operation_id = "sign", tag = tag::CRYPTO, description = SIGN_DESCRIPTION,
            security(("bearer" = ["crypto:sign"])), request_body = SignRequest,
            responses((status = 200, description = "signed", body = SignResponse), (status = 409, description = "own")))]
        fn sign() {}

        #[utoipa::path(get, path = "/keys/{key_id}", operation_id = "read", tag = tag::KEYS,
            security(("bearer" = ["keys:read"])), params(("key_id" = String, Path), KeyListQuery),
            responses((status = 200, description = "the key", body = Key)))]
        fn read() {}

        #[utoipa::path(post, path = "/any", operation_id = "any", tag = tag::CRYPTO, security(("bearer" = [])), responses())]
        fn any() {}

        #[utoipa::path(post, path = "/derive", operation_id = "derive", tag = tag::KEYS,
            security(("bearer" = ["keys:create", "crypto:derive"])), responses())]
        fn derive() {}

        #[utoipa::path(get, path = "/live", operation_id = "live", tag = tag::HEALTH, security(()),
            responses((status = 200, description = "alive", body = Live)))]
        fn live() {}

        #[utoipa::path(get, path = "/forgotten", operation_id = "forgotten", responses())]
        fn forgotten() {}

        #[utoipa::path(get, path = "/either", operation_id = "either", responses(),
            security((), ("bearer" = ["keys:read"])))]
        fn either() {}

        #[derive(utoipa::OpenApi)]
        #[openapi(paths(sign, read, any, derive, live))]
        pub(super) struct Complete;

        #[derive(utoipa::OpenApi)]
        #[openapi(paths(forgotten, either))]
        pub(super) struct Forgotten;
    }

    fn document(paths: OpenApi) -> OpenApi {
        let mut document = base();
        document.merge(paths);
        document
    }

    fn finished() -> Value {
        let mut document = document(declared::Complete::openapi());
        finish(&mut document).unwrap();
        serde_json::to_value(document).unwrap()
    }

    fn statuses(operation: &Value) -> Vec<u16> {
        let responses = operation["responses"].as_object().unwrap();
        responses.keys().map(|status| status.parse().unwrap()).collect()
    }

    #[test]
    fn every_operation_gets_the_problems_that_it_may_answer() {
        let document = finished();
        let sign = &document["paths"]["/sign"]["post"];
        assert_eq!(
            statuses(sign),
            [200, 400, 401, 403, 404, 409, 413, 415, 500, 501, 502, 503, 504]
        );
        let problem = "#/components/responses/Problem404";
        assert_eq!(sign["responses"]["404"]["$ref"], problem);
        assert_eq!(sign["responses"]["409"]["description"], "own");
        assert!(sign["responses"]["200"]["headers"]["x-request-id"].is_object());
        assert!(sign["description"].as_str().unwrap().contains("HSM_VERIFY_AFTER_SIGN"));
        let read = &document["paths"]["/keys/{key_id}"]["get"];
        assert_eq!(statuses(read), [200, 401, 403, 404, 409, 500, 502, 503, 504]);
        let derive = &document["paths"]["/derive"]["post"];
        assert_eq!(statuses(derive), [401, 403, 404, 409, 500, 501, 502, 503, 504]);
        assert_eq!(statuses(&document["paths"]["/live"]["get"]), [200, 500, 503]);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = finished();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1);
        for pointer in references.filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn every_code_of_an_operation_is_described() {
        let responses = finished()["components"]["responses"].to_string();
        for code in ProblemCode::ALL {
            let shown = responses.contains(&format!("`{}`", code.name()));
            let elsewhere = matches!(code, ProblemCode::NotFound | ProblemCode::MethodNotAllowed);
            assert_ne!(shown, elsewhere, "{code:?}");
        }
    }

    #[test]
    fn names_come_from_the_tables() {
        let schemas = &finished()["components"]["schemas"];
        let names = hsm_core::algorithm::Named::names(hsm_core::Operation::Sign);
        assert_eq!(schemas["SignAlgorithmName"]["enum"], serde_json::json!(names));
        assert_eq!(schemas["MessageType"]["enum"], serde_json::json!(["raw", "digest"]));
        assert_eq!(schemas["SignatureFormat"]["enum"], serde_json::json!(["der", "p1363"]));
    }

    #[test]
    fn scopes_are_read_back() {
        let routes = routes(&document(declared::Complete::openapi()));
        let access = |path: &str| {
            routes
                .iter()
                .find(|route| route.path == path)
                .map(|route| &route.access)
        };
        assert_eq!(access("/sign"), Some(&Access::Scopes(vec!["crypto:sign".into()])));
        let both = vec!["keys:create".into(), "crypto:derive".into()];
        assert_eq!(access("/derive"), Some(&Access::Scopes(both)));
        assert_eq!(access("/any"), Some(&Access::Scopes(Vec::new())));
        assert_eq!(access("/live"), Some(&Access::Public));
        assert_eq!(routes.len(), 5);
    }

    #[test]
    fn a_forgotten_scope_is_told_and_open_to_nobody() {
        let mut document = document(declared::Forgotten::openapi());
        assert_eq!(routes(&document), []);
        let incomplete = finish(&mut document).unwrap_err();
        assert_eq!(incomplete.operations, ["GET /either", "GET /forgotten"]);
    }
}
