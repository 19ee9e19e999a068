//! The audit log on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

mod crash;
mod failing;
mod reading;
mod tampering;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keymgmt::audit::{AuditError, AuditLog, Entry, Filter, OpenError, Options, Outcome, Record, Sync, Why, verify};
use tempfile::TempDir;

/// How long a test waits for what is promised within two seconds, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn entry(action: &str, key: u32) -> Entry {
    Entry {
        request_id: Some(format!("r-{key}")),
        subject: Some("alice".into()),
        client: Some("192.0.2.7".into()),
        action: action.into(),
        key_id: Some(format!("hsm:{key:04x}")),
        key_version: None,
        algorithm: Some("ECDSA_SHA256".into()),
        outcome: Outcome::Success,
        status: 200,
        code: None,
    }
}

fn open(folder: &Path) -> AuditLog {
    AuditLog::open(folder, Sync::Always).unwrap()
}

/// A log that begins a new file every 2,000 bytes.
fn open_small(folder: &Path) -> AuditLog {
    let options = Options {
        file_bytes: 2000,
        ..Options::default()
    };
    AuditLog::open_with(folder, options).unwrap()
}

fn write(log: &AuditLog, records: u32) {
    for key in 0..records {
        log.append_blocking(vec![entry("sign", key)]).unwrap();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A log of ten records in one file, and the file.
fn ten() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write(&open(folder.path()), 10);
    let file = files(folder.path()).remove(0);
    (folder, file)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn actions(log: &AuditLog) -> Vec<String> {
    let page = log.query(&Filter::default()).unwrap();
    page.records.into_iter().map(|r| r.action).collect()
}

/// Waits for a future without a runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// The variable that tells a test that it is its own child, and which folder to write to.
const INSIDE: &str = "AUDIT_TEST_FOLDER";

/// A command that runs one test of this binary again, in a process that may be limited or killed. `shell` is run
/// before it.
fn again(test: &str, folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!(r#"{shell} exec "$0" --exact "$1" --nocapture"#)])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, folder);
    command
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaint}");
    assert!(text.contains("1 passed"), "{text}");
}
