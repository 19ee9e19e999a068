//! What is written, and by whom.

use super::*;

#[test]
fn records_are_a_chain_in_one_file() {
    let (folder, file) = ten();
    assert_eq!(file, folder.path().join("audit-000000000001.jsonl"));
    let verified = verify(folder.path()).unwrap();
    assert_eq!((verified.records, verified.first_seq, verified.last_seq), (10, 1, 10));
    let first = &lines(&file)[0];
    let names: Vec<_> = first
        .trim_matches(['{', '}'])
        .split(',')
        .map(|field| field.split(':').next().unwrap().trim_matches('"'))
        .collect();
    assert_eq!(
        names,
        [
            "seq",
            "time",
            "request_id",
            "subject",
            "client",
            "action",
            "key_id",
            "key_version",
            "algorithm",
            "outcome",
            "status",
            "code",
            "prev"
        ]
    );
    assert!(first.ends_with(&format!(r#""prev":"{}"}}"#, "0".repeat(64))));
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("audit");
    write(&open(&folder), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&files(&folder)[0]), 0o600);
}

#[test]
fn many_threads_share_syncs_and_stay_in_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_small(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let log = log.clone();
            scope.spawn(move || {
                for _ in 0..20 {
                    let batch = vec![entry("sign", thread), entry("verify", thread)];
                    wait(log.append(batch)).unwrap();
                }
            });
        }
    });
    let status = log.status();
    assert_eq!((status.records, status.head_seq), (1280, 1280));
    assert!(status.syncs < 640, "{} syncs for 640 calls", status.syncs);
    assert!(files(folder.path()).len() > 5);

    let verified = verify(folder.path()).unwrap();
    assert_eq!((verified.records, verified.head_hash), (1280, status.head_hash));
    let all: Vec<Record> = files(folder.path())
        .iter()
        .flat_map(|file| lines(file))
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    for pair in all.chunks(2) {
        assert_eq!(pair[0].key_id, pair[1].key_id, "a batch was torn apart");
    }
}

#[test]
fn a_dropped_future_is_written_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    drop(log.append(vec![entry("sign", 1)]));
    log.close();
    assert_eq!(verify(folder.path()).unwrap().records, 1);
}

#[test]
fn after_close_nothing_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.close();
    log.close();
    assert!(!log.writable());
    assert!(log.status().fault.is_some());
    let late = log.append_blocking(vec![entry("sign", 1)]);
    assert!(matches!(late, Err(AuditError::Unavailable)));
    assert!(matches!(
        wait(log.append_owed(vec![entry("delete", 1)])),
        Err(AuditError::Unavailable)
    ));
}

#[test]
fn an_interval_shows_records_when_they_are_synced() {
    let folder = tempfile::tempdir().unwrap();
    let log = AuditLog::open(folder.path(), Sync::Interval(Duration::from_millis(50))).unwrap();
    write(&log, 20);
    wait_until("a sync", || log.status().head_seq == 20);
    assert_eq!(actions(&log).len(), 20);
    let late = AuditLog::open(folder.path(), Sync::Always);
    assert!(matches!(late, Err(OpenError::InUse(_))));
    write(&log, 5);
    drop(log);
    assert_eq!(verify(folder.path()).unwrap().records, 25);
}

#[test]
fn a_second_writer_is_refused_until_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let error = AuditLog::open(folder.path(), Sync::Always).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    drop(first);
    open(folder.path());
}

#[test]
fn opening_again_continues_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        write(&open_small(folder.path()), 7);
    }
    let verified = verify(folder.path()).unwrap();
    assert_eq!((verified.records, verified.unfinished), (35, false));
}

#[test]
fn a_path_that_is_no_folder_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = AuditLog::open(file.path(), Sync::Always).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[test]
fn an_empty_next_file_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        file_bytes: 1,
        ..Options::default()
    };
    let log = AuditLog::open_with(folder.path(), options).unwrap();
    write(&log, 1);
    fs::write(folder.path().join("audit-000000000002.jsonl"), "").unwrap();
    write(&log, 2);
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(verify(folder.path()).unwrap().records, 3);
}
