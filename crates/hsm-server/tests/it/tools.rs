//! More to stand on than [`support`](crate::support): failing modules before the start, the audit log as it lies on disk,
//! connections that do not do what they should.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use softhsm_test::FaultyToken;

use crate::support::{Builder, Finished, Server};

/// Far beyond what anything here takes: a test that waits in vain should say for what.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server to be on this token behind its failing module, which stays with the test.
pub(crate) fn behind(faulty: &FaultyToken) -> Builder {
    let builder = Server::with(faulty.token().clone());
    faulty
        .env()
        .into_iter()
        .fold(builder, |builder, (name, value)| builder.env(&name, &value))
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// What a program said was in its way: the lines of stderr that start with its name, without it.
pub(crate) fn faults(ended: &Finished) -> Vec<&str> {
    let lines = ended.stderr.lines();
    lines.filter_map(|line| line.strip_prefix("hsm-server: ")).collect()
}

/// The only fault of a program that refused to start, which holds these texts.
#[track_caller]
pub(crate) fn only_fault(ended: &Finished, code: i32, named: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    let faults = faults(ended);
    assert_eq!(faults.len(), 1, "{}", ended.stderr);
    for text in named {
        assert!(faults[0].contains(text), "{text:?} is not in {:?}", faults[0]);
    }
}

/// The files of an audit log, in the order of their names.
pub(crate) fn audit_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    files
}

/// The whole lines of a server's audit log.
pub(crate) fn audit_lines(server: &Server) -> Vec<String> {
    lines_in(&server.data_dir().join("audit"))
}

/// The whole lines of an audit log.
pub(crate) fn lines_in(folder: &Path) -> Vec<String> {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let text: String = audit_files(folder).into_iter().map(read).collect();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// The records of a server's audit log.
pub(crate) fn audit_records(server: &Server) -> Vec<Value> {
    let lines = audit_lines(server);
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a line of shell; it must succeed.
#[track_caller]
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// How large the files of a running server may become; `None` for no limit.
pub(crate) fn limit_files(server: &Server, bytes: Option<u64>) {
    let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
    sh(&format!("prlimit --pid {} --fsize={limit}:", server.pid()));
}

/// Does `act`, which is all of the test of this name, in a process that has it to itself, with SIGXFSZ ignored: so has every
/// server that it starts, to which a limit of [`limit_files`] then is what a full disk is.
#[track_caller]
pub(crate) fn with_disks_that_fill(test: &str, act: fn()) {
    const INSIDE: &str = "HSM_IT_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return act();
    }
    let ended = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" --exact "$1" --nocapture"#])
        .arg(env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [ended.stdout, ended.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    assert!(
        ended.status.success() && said[0].contains("1 passed"),
        "{}{}",
        said[0],
        said[1]
    );
}

/// Sends bytes as they are and reads until the other side ends, or says nothing for so long.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8], silence: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(silence)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // A server may close before it has read all.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..count]);
    }
    answer
}
