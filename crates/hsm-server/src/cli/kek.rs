//! `hsm-server kek`: new versions of the key-encryption key, and how things stand with it.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::rt::System;
use hsm_core::{Stopped, TokenName};
use keymgmt::audit::{AuditLog, OpenError, Sync};
use keymgmt::{Hooks, KeyService};

use super::store::{open_existing, say};
use crate::config::{Config, Fault, Purpose, environment};
use crate::serve::{key_service, make_folder, open_store, refuse};
use crate::{problem, tokens};

/// How often progress is said at most.
const EVERY: Duration = Duration::from_secs(1);

/// What of the key-encryption key.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes a new version of the gateway's own keys, and wraps and seals every managed key anew. May run beside servers.
    Rotate {
        /// A further token that is to hold the new key too, by its name in the settings; once for each.
        #[arg(long, value_name = "TOKEN", conflicts_with = "resume")]
        to: Vec<String>,
        /// Makes no new version, and goes on where a rotation was broken off.
        #[arg(long)]
        resume: bool,
    },
    /// Tells the versions, and how many managed keys lie under older ones. Needs no token.
    Status,
}

/// Runs the command.
pub fn run(command: Command, output: &mut impl Write) -> ExitCode {
    match command {
        Command::Status => say(output, status),
        Command::Rotate { to, resume } => match rotate(&to, resume, output) {
            Ok(code) => code,
            Err(faults) => refuse(&faults),
        },
    }
}

fn status(config: &Config) -> Result<String, Fault> {
    let store = open_existing(config)?;
    let told = System::new().block_on(async {
        let versions = store.gateway_keys().await?;
        let outdated = match versions.last() {
            Some(last) => store.count_under_older(last.version).await?,
            None => 0,
        };
        Ok((versions, outdated))
    });
    store.close();
    let (versions, outdated) =
        told.map_err(|error: keymgmt::store::StoreError| Fault::new(format!("the store: {error}")))?;
    let Some(last) = versions.last() else {
        return Ok("there is no key-encryption key yet: it is made with the first managed key".to_owned());
    };
    let in_use = last.version;
    let mut lines: Vec<_> = versions
        .iter()
        .map(|keys| {
            let used = if keys.version == in_use { ", in use" } else { "" };
            format!(
                "version {}{used}: made {}, key-encryption key {}, seals {}",
                keys.version, keys.created_at, keys.kek, keys.mac
            )
        })
        .collect();
    let what = if outdated == 0 {
        "no managed key lies under an older version".to_owned()
    } else {
        format!("{outdated} managed keys lie under older versions: `hsm-server kek rotate --resume`")
    };
    lines.push(what);
    Ok(lines.join("\n"))
}

fn rotate(to: &[String], resume: bool, output: &mut impl Write) -> Result<ExitCode, Vec<Fault>> {
    let (config, warnings) = Config::load(environment(), Purpose::Kek)?;
    crate::start_logging(&config, &warnings);
    let to = names(&config, to)?;
    let one = |fault| vec![fault];
    make_folder(&config.data_dir, "HSM_DATA_DIR").map_err(one)?;
    let faults = tokens::faults_before_loading(&config);
    if !faults.is_empty() {
        return Err(faults);
    }
    let audit = open_audit(&config).map_err(one)?;
    let store = open_store(&config).map_err(one)?;
    let tokens = tokens::open_all(&config)?;
    let hooks = Hooks {
        describe: problem::describe,
        observe: Arc::new(|_, _, _| {}),
    };
    let service = key_service(&config, tokens, audit, store, hooks, KeyService::alone).map_err(one)?;
    let done = System::new().block_on(rotate_with(&service, &to, resume));
    service.close();
    let stopped = service.tokens().stop(config.shutdown_timeout());
    service.audit().close();
    let (version, count) = done.map_err(|error| {
        let again = "; what is left undone is done by `hsm-server kek rotate --resume`";
        vec![Fault::new(format!("{error}{again}"))]
    })?;
    let new = if resume { "is in use" } else { "is new, and in use" };
    // A reader that went away has seen enough.
    let _: io::Result<()> = writeln!(
        output,
        "version {version} of the gateway's own keys {new}; {count} managed keys were brought under it"
    );
    match stopped {
        Stopped::Clean => Ok(ExitCode::SUCCESS),
        Stopped::Hanging => {
            eprintln!("hsm-server: a call hangs in the module, which was therefore not finalized");
            hsm_core::pkcs11::leave_process(1)
        }
    }
}

/// The version in use at the end, and how many records were brought under it.
async fn rotate_with(service: &KeyService, to: &[TokenName], resume: bool) -> keymgmt::Result<(u32, u64)> {
    let mut count = 0;
    let mut said = Said::default();
    let progress = |done: u64, left: u64| {
        count = done;
        said.progress(done, left);
    };
    let version = if resume {
        service.rewrap_all(progress).await?;
        let keys = service.kek_status().await?.keys;
        keys.last().map_or(0, |keys| keys.version)
    } else {
        service.rotate_kek(to, progress).await?
    };
    Ok((version, count))
}

/// Progress on stderr: in one line of a terminal, else a line now and then.
#[derive(Default)]
struct Said(Option<Instant>);

impl Said {
    fn progress(&mut self, done: u64, left: u64) {
        if left > 0 && self.0.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.0 = Some(Instant::now());
        let terminal = io::stderr().is_terminal();
        let end = if terminal && left > 0 { "\r" } else { "\n" };
        eprint!("{done} managed keys are wrapped anew, {left} are left   {end}");
    }
}

fn names(config: &Config, to: &[String]) -> Result<Vec<TokenName>, Vec<Fault>> {
    let known = config.all_tokens();
    let known: Vec<_> = known.iter().filter_map(|token| token.name).collect();
    let mut names = Vec::new();
    let mut faults = Vec::new();
    for text in to {
        match known.iter().find(|name| name.as_str() == text) {
            Some(name) if !names.contains(*name) => names.push((*name).clone()),
            Some(_) => {}
            None => faults.push(Fault::new(format!(
                "--to {}: is not the name of a further token; `[tokens.<name>]` in the settings gives one. The default token always holds the key",
                text.escape_debug()
            ))),
        }
    }
    if faults.is_empty() { Ok(names) } else { Err(faults) }
}

/// The audit log; beside a running server, which holds that, one of its own next to it.
fn open_audit(config: &Config) -> Result<AuditLog, Fault> {
    let folder = &config.audit.path;
    let opened = AuditLog::open(folder, Sync::Always).or_else(|error| match error {
        OpenError::InUse(_) => {
            let mut name = folder.file_name().unwrap_or_default().to_owned();
            name.push("-commands");
            let beside = folder.with_file_name(name);
            eprintln!(
                "hsm-server: a server is writing the audit log; what is done here is recorded in {}",
                beside.display()
            );
            AuditLog::open(&beside, Sync::Always)
        }
        error @ (OpenError::Damaged(_) | OpenError::Io { .. }) => Err(error),
    });
    opened.map_err(|error| Fault::of("audit.path", format!("HSM_AUDIT__PATH: {error}")))
}
