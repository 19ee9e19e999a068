//! What goes over the wire: requests and answers, problem documents, and the OpenAPI document that describes them.
//!
//! - [`body`] reads a request's body or query strictly and says which field is wrong without repeating its value.
//! - [`wire`] has the requests and answers.
//! - [`problem`] is the one table of error codes, from which problem documents and the errors page follow.
//! - [`document`] begins the OpenAPI document, completes what handlers declared, and reads the scopes back from it.
//!
//! Names in the document (algorithms, key types, curves, usages) come from `hsm_core`'s tables.

mod algorithms_page;
pub mod binary;
pub mod body;
pub mod document;
mod errors_page;
pub mod names;
pub mod problem;
mod texts;
pub mod wire;

pub use algorithms_page::algorithms_markdown;
pub use binary::{Base64, SecretBase64};
pub use body::{BodyError, parse_body, parse_query};
pub use errors_page::{errors_html, errors_markdown};
pub use problem::{Problem, ProblemCode};
