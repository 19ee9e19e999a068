//! `hsm-server migrate`, `backup` and `restore`: the store, without a token.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use actix_web::rt::System;
use keymgmt::audit;
use keymgmt::store::{AuditHead, Exported, Imported, Migration, Store};

use crate::config::{Config, Fault, Purpose, environment};
use crate::serve::{open_store, refuse, store_fault};

/// What of the schema.
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// Changes nothing, and tells the schema that the store has and the one that this program makes: exit code 0 if they
    /// are the same.
    #[arg(long)]
    check: bool,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The file, which must not be there yet.
    file: PathBuf,
}

/// Where from.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// A file that `backup` made.
    file: PathBuf,
}

/// Runs `migrate`.
pub fn migrate(arguments: &Migrate, output: &mut impl Write) -> ExitCode {
    say(output, |config| {
        let Migration { current, latest } = migration(config)?;
        let name = config.store_name();
        if current > latest {
            return Err(Fault::new(format!(
                "the store ({name}) has schema {current}, this program knows schemas up to {latest}: use the program that wrote it, or a newer one"
            )));
        }
        if current == latest {
            return Ok(format!(
                "{name}: schema {current}, which is the latest: nothing is to be done"
            ));
        }
        if arguments.check {
            return Err(Fault::new(format!(
                "the store ({name}) has schema {current}, this program makes schema {latest}: migrations are pending; make a backup, then `hsm-server migrate` or a start of `serve` does them"
            )));
        }
        open_store(config)?.close();
        Ok(format!("{name}: schema {latest}, was {current}"))
    })
}

/// Runs `backup`.
pub fn backup(arguments: &Backup, output: &mut impl Write) -> ExitCode {
    let path = &arguments.file;
    say(output, |config| {
        if path.symlink_metadata().is_ok() {
            return Err(Fault::new(format!(
                "{}: is there already and is not overwritten; name another file",
                path.display()
            )));
        }
        let store = open_existing(config)?;
        // Before the store is read: so what the log tells up to here is in the copy.
        let head = audit::head(&config.audit.path).map_err(|error| Fault::new(format!("the audit log: {error}")))?;
        let (seq, hash) = head.unwrap_or_default();
        let head = AuditHead {
            seq,
            hash: hash.clone(),
        };
        let in_file = |error: &dyn std::fmt::Display| Fault::new(format!("{}: {error}", path.display()));
        let made = Unfinished::make(path).map_err(|error| in_file(&error))?;
        let out = made.file.try_clone().map_err(|error| in_file(&error))?;
        let exported = System::new().block_on(store.export(io::BufWriter::new(out), head));
        store.close();
        let Exported { keys, .. } = exported.map_err(|error| Fault::new(format!("the store: {error}")))?;
        made.finish(path).map_err(|error| in_file(&error))?;
        Ok(format!(
            "{}: {keys} managed keys, wrapped ones as they are; {}",
            path.display(),
            head_says(seq, &hash)
        ))
    })
}

/// Runs `restore`.
pub fn restore(arguments: &Restore, output: &mut impl Write) -> ExitCode {
    let path = &arguments.file;
    say(output, |config| {
        let file = File::open(path).map_err(|error| Fault::new(format!("{}: {error}", path.display())))?;
        let store = open_store(config)?;
        let imported = System::new().block_on(store.import(BufReader::new(file)));
        store.close();
        let Imported { keys, audit: head, .. } =
            imported.map_err(|error| Fault::new(format!("{}: {error}", path.display())))?;
        let AuditHead { seq, hash } = head;
        Ok(format!(
            "{}: {keys} managed keys are back in {}; {}; {}",
            path.display(),
            config.store_name(),
            head_says(seq, &hash),
            continues(&config.audit.path, seq, &hash)
        ))
    })
}

/// Which schema the store has.
///
/// # Errors
/// One line that says what to do.
pub fn migration(config: &Config) -> Result<Migration, Fault> {
    Store::migration(&config.store_place()).map_err(|error| store_fault(config, &error))
}

/// Opens a store that is there; one that is not is not made.
///
/// # Errors
/// One line that says what to do.
pub fn open_existing(config: &Config) -> Result<Store, Fault> {
    if migration(config)?.current == 0 {
        let text = "there is no store yet: see whether HSM_DATA_DIR and HSM_STORE__URL are those of the server";
        return Err(Fault::new(format!("{}: {text}", config.store_name())));
    }
    open_store(config)
}

/// Does something with the settings of a store, and says what came of it on `output`.
pub fn say(output: &mut impl Write, work: impl FnOnce(&Config) -> Result<String, Fault>) -> ExitCode {
    let config = match Config::load(environment(), Purpose::Store) {
        Ok((config, _)) => config,
        Err(faults) => return refuse(&faults),
    };
    match work(&config) {
        Ok(text) => {
            // A reader that went away has seen enough.
            let _: io::Result<()> = writeln!(output, "{text}");
            ExitCode::SUCCESS
        }
        Err(fault) => refuse(&[fault]),
    }
}

fn head_says(seq: u64, hash: &str) -> String {
    if seq == 0 {
        return "the audit log had no record".to_owned();
    }
    format!("audit head: record {seq}, {hash}")
}

/// Whether the log here goes on from the head of a backup.
fn continues(log: &Path, seq: u64, hash: &str) -> String {
    let log_is = format!("the audit log in {}", log.display());
    if seq == 0 {
        return format!("{log_is} can't be compared with it");
    }
    match (audit::hash_of(log, seq), audit::head(log)) {
        (Err(error), _) => format!("{log_is} can't be read: {error}"),
        (_, Err(broken)) => format!("{log_is} does not hold: {broken}"),
        (Ok(Some(found)), Ok(Some((last, _)))) if found == hash => {
            let later = last.saturating_sub(seq);
            format!(
                "{log_is} continues it: {later} records are later than the backup, and what they tell of keys is not in it"
            )
        }
        (Ok(Some(_)), Ok(_)) => format!("{log_is} is another one: its record {seq} has another hash"),
        (Ok(None), Ok(_)) => {
            format!("{log_is} does not have record {seq}: it is another one, or that part of it was moved away")
        }
    }
}

/// A file that has its name only when it is whole. Dropped before, it goes.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    /// Beside `path`, with mode 0600.
    fn make(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".unfinished-{}", std::process::id()));
        let path = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { path, file })
    }

    /// On disk, under its name; a file that has come there meanwhile stays.
    fn finish(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::hard_link(&self.path, path)?;
        fs::remove_file(&self.path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is gone already when it has its name.
        let _: io::Result<()> = fs::remove_file(&self.path);
    }
}
