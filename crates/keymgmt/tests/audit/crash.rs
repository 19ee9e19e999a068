//! What a crash leaves, and how a log is opened again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use super::*;

/// Appends bytes, opens, and expects `kept` records, one that tells of the cut, and one more.
fn check_recovered(tail: &[u8], kept: u64) {
    let (folder, file) = ten();
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend_from_slice(tail);
    fs::write(&file, bytes).unwrap();

    let log = open(folder.path());
    write(&log, 1);
    assert_eq!(actions(&log)[..2], ["sign", "audit.recovered"]);
    assert_eq!(verify(folder.path()).unwrap().records, kept + 2);
}

#[test]
fn a_torn_end_is_cut_and_recorded() {
    check_recovered(b"{\"seq\":11,\"ti", 10);
    check_recovered(b"{\"seq\":11,\"ti\n", 10);
    check_recovered(b"\n\n", 10);
    check_recovered(&[0; 5000], 10);
}

#[test]
fn what_follows_a_hole_does_not_count() {
    let (folder, file) = ten();
    let last = lines(&file).pop().unwrap();
    drop(folder);
    let mut tail = vec![0; 4096];
    tail.extend_from_slice(format!("\n{last}\n").as_bytes());
    check_recovered(&tail, 10);
}

#[test]
fn a_new_file_without_a_record_is_taken_away() {
    for content in ["", "{\"seq\":11"] {
        let (folder, _) = ten();
        fs::write(folder.path().join("audit-000000000011.jsonl"), content).unwrap();
        write(&open(folder.path()), 1);
        let verified = verify(folder.path()).unwrap();
        let expected = if content.is_empty() { 11 } else { 12 };
        assert_eq!(verified.records, expected);
        assert_eq!(files(folder.path()).len(), 1);
    }
}

#[test]
fn numbers_go_on_where_all_records_were_archived() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("audit-000000000500.jsonl"), "").unwrap();
    write(&open(folder.path()), 3);
    let verified = verify(folder.path()).unwrap();
    assert_eq!((verified.first_seq, verified.last_seq), (500, 502));
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit-000000000001.jsonl");
    let other = "something else\n".repeat(400_000);
    fs::write(&file, &other).unwrap();
    let error = AuditLog::open(folder.path(), Sync::Always).unwrap_err();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), other);
}

/// What was answered is there, whenever the process is killed.
#[cfg(unix)]
#[test]
fn a_killed_process_loses_nothing_that_was_answered() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    for answers in [1, 40, 150] {
        let test = "crash::a_killed_process_loses_nothing_that_was_answered";
        let mut child = again(test, folder.path(), "").stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut seen = output
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.starts_with("head "));
        let mut last = seen.nth(answers);
        child.kill().unwrap();
        last = seen.last().or(last);
        child.wait().unwrap();
        let answered: u64 = last.unwrap().trim_start_matches("head ").parse().unwrap();
        assert!(verify(folder.path()).unwrap().last_seq >= answered);
        write(&open(folder.path()), 1);
        assert!(!verify(folder.path()).unwrap().unfinished);
    }
}

#[cfg(unix)]
fn write_until_killed(folder: &Path) {
    let log = open_small(folder);
    let mut out = std::io::stdout();
    // The test's own line is not finished yet.
    writeln!(out).unwrap();
    while log.append_blocking(vec![entry("sign", 1)]).is_ok() {
        let told = writeln!(out, "head {}", log.status().head_seq);
        if told.is_err() {
            return;
        }
    }
}
