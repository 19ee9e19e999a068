//! `hsm-server audit verify`: walks the audit log's chain.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use keymgmt::audit::Verified;

use crate::config::{Config, Purpose, environment};
use crate::serve::refuse;

/// What of the audit log.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Walks the chain, also beside a running server, and names the first record that does not hold.
    Verify {
        /// The log's folder or one of its files; the configured folder if it is not given.
        path: Option<PathBuf>,
    },
}

/// Runs the command; the verdict goes to `output`.
pub fn run(command: Command, output: &mut impl Write) -> ExitCode {
    let Command::Verify { path } = command;
    let path = match path {
        Some(path) => path,
        None => match Config::load(environment(), Purpose::Audit) {
            Ok((config, _)) => config.audit.path,
            Err(faults) => return refuse(&faults),
        },
    };
    let (verdict, code) = match keymgmt::audit::verify(&path) {
        Ok(verified) => (says(&verified), ExitCode::SUCCESS),
        Err(broken) => (broken.to_string(), ExitCode::FAILURE),
    };
    // A reader that went away has seen enough.
    let _: std::io::Result<()> = writeln!(output, "{}: {verdict}", path.display());
    code
}

fn says(verified: &Verified) -> String {
    let Verified {
        records,
        first_seq,
        last_seq,
        head_hash,
        unfinished,
    } = verified;
    if *records == 0 {
        return "there is no record here".to_owned();
    }
    let archived = if *first_seq > 1 {
        "; what was before is not here"
    } else {
        ""
    };
    let torn = if *unfinished {
        "; an unfinished line at the end is ignored"
    } else {
        ""
    };
    format!("the chain holds: {records} records, {first_seq} to {last_seq}, head {head_hash}{archived}{torn}")
}
