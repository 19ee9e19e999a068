//! `hsm-server token`: a bearer token made with the configured secret.

use std::io::Write;
use std::time::Duration;

use crate::auth::{mint, parse_ttl};
use crate::config::{Config, Purpose, environment};

/// What the token is to say.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Subject: who will be seen as the caller, in the audit log too.
    #[arg(long, value_name = "S")]
    sub: String,
    /// Scopes, separated by spaces, such as "keys:read crypto:sign"; `crypto:*` and `*` stand
    /// for all of theirs.
    #[arg(long)]
    scope: String,
    /// How long the token holds: a number with s, m, h or d.
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
}

/// Prints the token to `output`.
///
/// # Errors
///
/// One line a fault: of the settings, or of the arguments.
pub fn run(arguments: &Arguments, output: &mut impl Write) -> Result<(), Vec<String>> {
    let (config, _) = Config::load(environment(), Purpose::Token)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let Arguments { sub, scope, ttl } = arguments;
    let token = mint(&config.auth, sub, scope, *ttl).map_err(|text| vec![text])?;
    writeln!(output, "{token}").map_err(|error| vec![format!("can't write: {error}")])
}
