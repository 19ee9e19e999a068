//! `hsm-server`: any PKCS#11 token as a clean, typed, authenticated REST service.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod embedded;
pub mod extract;
pub mod gate;
pub mod logging;
pub mod metrics;
pub mod problem;
pub mod routes;
pub mod secrets;
pub mod serve;
pub mod tls;
pub mod tokens;

use config::{Config, Fault, Purpose, Warning, environment};
use serve::{Ready, refuse};

/// Any PKCS#11 token as a REST service. Settings: hsm.toml (or the file that HSM_CONFIG names) and HSM_ variables.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts on loopback with a token inside the program: nothing to set up, for development only.
    Dev,
    /// Serves a token in production.
    Serve,
    /// Examines configuration, module, token, login and mechanisms, and says what to do.
    Check,
    /// Prints a bearer token made with the configured secret.
    Token(cli::token::Arguments),
    /// Prints the OpenAPI document.
    Openapi,
    /// Looks after the audit log.
    Audit {
        #[command(subcommand)]
        command: cli::audit::Command,
    },
    /// Brings the store's schema up to date, as `serve` does when it starts.
    Migrate(cli::store::Migrate),
    /// Writes a consistent copy of the store to a file; wrapped keys stay wrapped.
    Backup(cli::store::Backup),
    /// Puts a backup into an empty store.
    Restore(cli::store::Restore),
    /// Looks after the key-encryption key, under which `wrapped` keys lie.
    Kek {
        #[command(subcommand)]
        command: cli::kek::Command,
    },
}

fn main() -> ExitCode {
    let mut output = std::io::stdout().lock();
    match Arguments::parse().command {
        Command::Dev => cli::dev::run(&mut output),
        Command::Serve => serve(),
        Command::Check => cli::check::run(&mut output),
        Command::Token(arguments) => match cli::token::run(&arguments, &mut output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(lines) => refuse(&lines.into_iter().map(Fault::new).collect::<Vec<_>>()),
        },
        Command::Openapi => openapi(&mut output),
        Command::Audit { command } => cli::audit::run(command, &mut output),
        Command::Migrate(arguments) => cli::store::migrate(&arguments, &mut output),
        Command::Backup(arguments) => cli::store::backup(&arguments, &mut output),
        Command::Restore(arguments) => cli::store::restore(&arguments, &mut output),
        Command::Kek { command } => cli::kek::run(command, &mut output),
    }
}

fn serve() -> ExitCode {
    let (config, warnings) = match Config::load(environment(), Purpose::Serve) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(&faults),
    };
    start_logging(&config, &warnings);
    match Ready::prepare(&config, app::listen(config.server.listen)) {
        Ok(ready) => ready.serve(),
        Err(faults) => refuse(&faults),
    }
}

fn openapi(output: &mut impl Write) -> ExitCode {
    let document = routes::openapi().map_err(|error| error.to_string());
    match document.and_then(|document| document.to_pretty_json().map_err(|error| error.to_string())) {
        Ok(text) => {
            // A reader that went away has seen enough.
            let _: std::io::Result<()> = writeln!(output, "{text}");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&[Fault::new(error)]),
    }
}

fn start_logging(config: &Config, warnings: &[Warning]) {
    if let Err(error) = logging::start(&config.log) {
        eprintln!("hsm-server: no log: {error}");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
