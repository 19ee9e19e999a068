//! Health.

use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::Problem;

/// The process is alive.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Live {
    /// `live`.
    #[schema(example = "live")]
    pub status: &'static str,
}

/// Requests can be served: the audit log can be written, and one token at least serves.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ready`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// What was looked at.
    pub checks: Vec<HealthCheck>,
}

/// Why requests can't be served: a problem, and what was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NotReady {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem,
    /// What was looked at.
    pub checks: Vec<HealthCheck>,
}

/// One thing that serving needs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthCheck {
    /// `token`, `login`, `audit` or `store`; of a further token `token:<name>`, `login:<name>`.
    #[schema(example = "token")]
    pub name: String,
    /// Whether it is as it should be.
    #[schema(example = true)]
    pub ok: bool,
    /// What is wrong with it, or worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
}

impl Live {
    /// The answer.
    pub const LIVE: Live = Live { status: "live" };
}

impl Ready {
    /// The answer when all `checks` are well.
    pub const fn new(checks: Vec<HealthCheck>) -> Ready {
        Ready {
            status: "ready",
            checks,
        }
    }
}
