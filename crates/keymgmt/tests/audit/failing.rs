//! Disks that are full, gone or in the way.

use super::*;

/// Breaks the log's files, expects one refusal and recovery; returns what is left.
fn check(damage: impl FnOnce(&Path)) -> (TempDir, AuditLog) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("audit");
    let log = open(&folder);
    write(&log, 10);
    damage(&folder);
    let refused = log.append_blocking(vec![entry("sign", 10)]);
    assert!(matches!(refused, Err(AuditError::Unavailable)));
    assert!(log.status().failures > 0);
    wait_until("recovery", || log.writable());
    write(&log, 5);
    assert_eq!(actions(&log)[5], "audit.probe");
    assert_eq!(log.status().head_seq, 16);
    (parent, log)
}

#[test]
fn a_removed_folder_is_made_again() {
    let (parent, log) = check(|folder| fs::remove_dir_all(folder).unwrap());
    let verified = verify(&parent.path().join("audit")).unwrap();
    assert_eq!((verified.first_seq, verified.last_seq), (11, 16));
    let second = AuditLog::open(&parent.path().join("audit"), Sync::Always);
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop(log);
}

#[test]
fn a_folder_moved_away_keeps_its_chain() {
    let moved = |folder: &Path| folder.with_file_name("moved");
    let (parent, _log) = check(|folder| fs::rename(folder, moved(folder)).unwrap());
    let folder = parent.path().join("audit");
    assert_eq!(verify(&moved(&folder)).unwrap().records, 10);
    for file in files(&folder) {
        fs::copy(&file, moved(&folder).join(file.file_name().unwrap())).unwrap();
    }
    assert_eq!(verify(&moved(&folder)).unwrap().records, 16);
}

#[test]
fn a_removed_file_is_begun_anew() {
    let (parent, _log) = check(|folder| fs::remove_file(&files(folder)[0]).unwrap());
    assert_eq!(verify(&parent.path().join("audit")).unwrap().first_seq, 11);
}

#[test]
fn records_taken_from_the_end_leave_a_gap() {
    let (parent, _log) = check(|folder| {
        let file = &files(folder)[0];
        let text = fs::read_to_string(file).unwrap();
        let end = text.rfind("{\"seq\":9").unwrap();
        fs::write(file, &text[..end]).unwrap();
    });
    let broken = verify(&parent.path().join("audit")).unwrap_err();
    assert_eq!(broken.why, Why::OutOfOrder { expected: 9 });
}

#[test]
fn what_somebody_else_appends_is_cut() {
    let (parent, _log) = check(|folder| {
        let file = &files(folder)[0];
        let mut text = fs::read_to_string(file).unwrap();
        text.push_str("graffiti\n");
        fs::write(file, text).unwrap();
    });
    assert_eq!(verify(&parent.path().join("audit")).unwrap().records, 16);
}

#[test]
fn while_the_path_is_blocked_all_is_refused_and_what_is_owed_comes_first() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("audit");
    let log = open(&folder);
    write(&log, 1);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();

    let done = vec![entry("delete", 1), entry("delete", 2)];
    let answer = wait(log.append_owed(done.clone()));
    assert!(matches!(answer, Err(AuditError::Unavailable)));
    let answer = wait(log.append_owed(done));
    assert!(matches!(answer, Err(AuditError::Unavailable)));
    let failures = log.status().failures;
    wait_until("a probe", || log.status().failures > failures);
    let status = log.status();
    assert!(!status.writable && status.fault.is_some());
    assert_eq!(status.owed, 4);
    assert!(log.append_blocking(vec![entry("sign", 1)]).is_err());

    fs::remove_file(&folder).unwrap();
    wait_until("recovery", || log.writable());
    assert_eq!(actions(&log), ["audit.probe", "delete", "delete", "delete", "delete"]);
    let status = log.status();
    assert_eq!((status.owed, status.fault), (0, None));
    assert_eq!(verify(&folder).unwrap().first_seq, 2);
}

#[test]
fn an_interval_notices_a_removed_folder() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("audit");
    let log = AuditLog::open(&folder, Sync::Interval(Duration::from_millis(300))).unwrap();
    write(&log, 3);
    fs::remove_dir_all(&folder).unwrap();
    wait_until("notice", || !log.writable());
    wait_until("recovery", || log.writable());
    write(&log, 1);
    drop(log);
    assert_eq!(verify(&folder).unwrap().last_seq, 5);
}

/// A limit on the size of files stands for a full disk: writes end in the middle of a line. It is set on
/// a process of its own, which is this test again.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return full_disk(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    run(again(
        "failing::a_full_disk",
        folder.path(),
        "trap '' XFSZ; ulimit -S -f 8;",
    ));
    let verified = verify(folder.path()).unwrap();
    assert!(!verified.unfinished);
    let records = files(folder.path()).into_iter().flat_map(|file| lines(&file));
    let deletions = records.filter(|line| line.contains("\"delete\"")).count();
    assert_eq!(deletions, 1);
}

#[cfg(target_os = "linux")]
fn full_disk(folder: &Path) {
    let log = open(folder);
    let mut written = 0;
    while log.append_blocking(vec![entry("sign", written)]).is_ok() {
        written += 1;
    }
    assert!(written > 5);
    let verified = verify(folder).unwrap();
    assert_eq!((verified.records, verified.unfinished), (u64::from(written), false));
    let failures = log.status().failures;
    assert!(wait(log.append_owed(vec![entry("delete", 1)])).is_err());
    wait_until("a probe", || log.status().failures > failures);
    assert!(!log.writable());
    assert_eq!(verify(folder).unwrap().records, u64::from(written));

    let own = std::process::id().to_string();
    let freed = std::process::Command::new("prlimit")
        .args(["--pid", &own, "--fsize=unlimited:"])
        .status()
        .unwrap();
    assert!(freed.success());
    wait_until("recovery", || log.writable());
    assert_eq!(actions(&log)[..2], ["audit.probe", "delete"]);
    write(&log, 10);
    let verified = verify(folder).unwrap();
    assert_eq!(verified.records, u64::from(written) + 12);
}

/// Syncs fail while a file is there: the C library's call is replaced in a process of its own, which is this test
/// again.
#[cfg(target_os = "linux")]
#[test]
fn a_failed_sync() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        let folder = Path::new(&folder);
        failed_sync(folder, Sync::Always);
        return failed_sync(folder, Sync::Interval(Duration::from_millis(20)));
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("fault.c");
    let library = folder.path().join("fault.so");
    fs::write(&source, include_str!("fault.c")).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let mut command = again("failing::a_failed_sync", folder.path(), "");
    command
        .env("LD_PRELOAD", library)
        .env("FAULT", folder.path().join("fault"));
    run(command);
}

#[cfg(target_os = "linux")]
fn failed_sync(parent: &Path, sync: Sync) {
    let fault = parent.join("fault");
    let folder = parent.join(format!("{sync:?}"));
    let log = AuditLog::open(&folder, sync).unwrap();
    write(&log, 10);
    fs::write(&fault, "").unwrap();
    let answer = log.append_blocking(vec![entry("sign", 10)]);
    assert_eq!(answer.is_err(), sync == Sync::Always);
    let answered = if answer.is_ok() { 11 } else { 10 };
    wait_until("notice", || !log.writable());
    let failures = log.status().failures;
    wait_until("a probe", || log.status().failures > failures);
    assert_eq!(verify(&folder).unwrap().records, answered);
    fs::remove_file(&fault).unwrap();
    wait_until("recovery", || log.writable());
    write(&log, 5);
    drop(log);
    assert_eq!(verify(&folder).unwrap().records, answered + 6);
    assert_eq!(files(&folder).len(), 1);
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write anywhere, so only others are refused.
    if fs::write(folder.path().join("probe"), "").is_ok() {
        fs::remove_file(folder.path().join("probe")).unwrap();
        return;
    }
    let error = AuditLog::open(folder.path(), Sync::Always).unwrap_err();
    assert!(error.to_string().contains("can't be written"), "{error}");
}
