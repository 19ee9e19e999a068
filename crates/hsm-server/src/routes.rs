//! Which calls there are. A handler's declaration is route, document and permission in one; the table that the gate goes by
//! is read back from the document, so a call that declares no scope is open to nobody.

use std::collections::HashMap;

use actix_web::App;
use actix_web::http::Method;
use hsm_openapi::document;
use keymgmt::Action;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::service_config::ServiceConfig;
use utoipa_actix_web::{AppExt, scope};

use crate::api::{audit, batch, crypto, health, keys, making, managed, managed_crypto, requests, slots};
use crate::auth::{Scope, ScopeSet};

/// Where the API lies.
pub const API: &str = "/api/v1";

/// Registers every handler that the document describes.
pub fn configure(config: &mut ServiceConfig<'_>) {
    let hsm = scope::scope("/hsm")
        .service(slots::list_slots)
        .service(slots::list_mechanisms)
        .service(slots::list_capabilities)
        .service(keys::hsm_create_key)
        // Before `/keys/{key_id}`: `import` is no key id.
        .service(making::hsm_import_key)
        .service(keys::hsm_list_keys)
        .service(keys::hsm_get_key)
        .service(keys::hsm_update_key)
        .service(keys::hsm_delete_key)
        .service(requests::hsm_csr)
        .service(making::hsm_derive)
        .service(making::hsm_encapsulate)
        .service(making::hsm_decapsulate)
        .service(crypto::hsm_encrypt)
        .service(crypto::hsm_decrypt)
        .service(crypto::hsm_sign)
        .service(crypto::hsm_verify)
        .service(crypto::hsm_wrap)
        .service(requests::hsm_random)
        .service(batch::hsm_batch);
    let api = scope::scope(API)
        .service(hsm)
        .service(managed::create_key)
        .service(managed::list_keys)
        .service(managed::get_key)
        .service(managed::update_key)
        .service(managed::delete_key)
        .service(managed::rotate_key)
        .service(managed::restore_key)
        .service(managed::update_version)
        .service(managed::jwks)
        .service(requests::csr)
        .service(crypto::encrypt)
        .service(crypto::decrypt)
        .service(crypto::sign)
        .service(crypto::verify)
        .service(crypto::wrap)
        .service(managed_crypto::rewrap)
        .service(managed_crypto::datakeys)
        .service(batch::batch)
        .service(audit::list_audit_records)
        .service(health::openapi_document);
    config
        .service(api)
        .service(health::live)
        .service(health::ready)
        .service(health::metrics);
}

/// The OpenAPI document.
///
/// # Errors
/// A handler declares no scope: a mistake in the program.
pub fn openapi() -> Result<OpenApi, document::Incomplete> {
    let (_, mut document) = App::new()
        .into_utoipa_app()
        .openapi(document::base())
        .configure(configure)
        .split_for_parts();
    document::finish(&mut document)?;
    Ok(document)
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Public,
    /// Whose token has all of the scopes; the audit log names the call so.
    Scopes(ScopeSet, Action),
}

/// A method of a path.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// Who may call.
    pub access: Access,
}

/// The calls by their path's pattern.
#[derive(Debug)]
pub struct Routes(HashMap<String, Vec<Route>>);

impl Routes {
    /// Reads the table from the document. `open_metrics`: `/metrics` asks for no token.
    pub fn new(document: &OpenApi, open_metrics: bool) -> Routes {
        let mut table: HashMap<String, Vec<Route>> = HashMap::new();
        for document::Route { method, path, access } in document::routes(document) {
            let access = match access {
                document::Access::Public => Some(Access::Public),
                document::Access::Scopes(_) if open_metrics && path == health::METRICS => Some(Access::Public),
                document::Access::Scopes(names) => names
                    .iter()
                    .map(|name| Scope::parse(name))
                    .collect::<Option<ScopeSet>>()
                    .zip(action(method, &path))
                    .map(|(scopes, action)| Access::Scopes(scopes, action)),
            };
            if let (Some(access), Some(method)) = (access, crate::gate::method(method)) {
                table.entry(path).or_default().push(Route { method, access });
            }
        }
        for page in health::PAGES {
            table.insert(
                (*page).to_owned(),
                vec![Route {
                    method: Method::GET,
                    access: Access::Public,
                }],
            );
        }
        Routes(table)
    }

    /// The calls at a path.
    pub fn at(&self, pattern: &str) -> &[Route] {
        self.0.get(pattern).map_or(&[], Vec::as_slice)
    }
}

/// What the audit log calls a call that was refused.
fn action(method: &str, path: &str) -> Option<Action> {
    let last = path.rsplit('/').next()?;
    match (method, last) {
        ("GET", "slots") => Some(Action::Slots),
        ("GET", "keys") => Some(Action::List),
        ("POST", "keys") => Some(Action::Create),
        ("POST", "import") => Some(Action::Import),
        ("GET", "{key_id}") => Some(Action::Get),
        ("PATCH", "{key_id}") => Some(Action::Update),
        ("DELETE", "{key_id}") => Some(Action::Delete),
        ("POST", "encrypt") => Some(Action::Encrypt),
        ("POST", "decrypt") => Some(Action::Decrypt),
        ("POST", "sign") => Some(Action::Sign),
        ("POST", "verify") => Some(Action::Verify),
        ("POST", "rotate") => Some(Action::Rotate),
        ("PATCH", "{version}") => Some(Action::UpdateVersion),
        ("POST", "restore") => Some(Action::Restore),
        ("GET", "jwks") => Some(Action::Jwks),
        ("POST", "rewrap") => Some(Action::Rewrap),
        ("POST", "datakeys") => Some(Action::DataKey),
        ("POST", "wrap") => Some(Action::Wrap),
        ("POST", "derive") => Some(Action::Derive),
        ("POST", "encapsulate") => Some(Action::Encapsulate),
        ("POST", "decapsulate") => Some(Action::Decapsulate),
        ("POST", "csr") => Some(Action::Csr),
        ("POST", "random") => Some(Action::Random),
        ("POST", "batch") => Some(Action::Batch),
        ("GET", "mechanisms") => Some(Action::Mechanisms),
        ("GET", "capabilities") => Some(Action::Capabilities),
        ("GET", "audit") => Some(Action::Audit),
        ("GET", "metrics") => Some(Action::Metrics),
        _ => None,
    }
}
