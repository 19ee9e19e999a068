//! What `verify` finds.

use super::*;

/// Changes the lines of a ten-record log and expects the first record that does not hold.
fn check(change: impl FnOnce(&mut Vec<String>), line: u64, seq: Option<u64>, why: &Why) {
    let (folder, file) = ten();
    let mut lines = lines(&file);
    change(&mut lines);
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let broken = verify(folder.path()).unwrap_err();
    assert_eq!((broken.line, broken.seq, &broken.why), (line, seq, why));
    assert_eq!(verify(&file).unwrap_err(), broken);
    assert!(broken.to_string().contains("audit-000000000001.jsonl, line"));
}

#[test]
fn a_changed_record_is_named() {
    let change = |lines: &mut Vec<String>| lines[4] = lines[4].replace("alice", "mallo");
    check(change, 5, Some(5), &Why::Changed);
    let change = |lines: &mut Vec<String>| lines[8] = lines[8].replace("alice", "mallo");
    check(change, 9, Some(9), &Why::Changed);
}

#[test]
fn a_changed_prev_is_named() {
    let zeros = "0".repeat(64);
    check(
        |lines| {
            let start = lines[4].len() - 66;
            lines[4].replace_range(start..start + 64, &zeros);
        },
        5,
        Some(5),
        &Why::WrongPrev,
    );
    check(
        |lines| lines[0] = lines[0].replace(&zeros, &"1".repeat(64)),
        1,
        Some(1),
        &Why::FirstPrev,
    );
}

#[test]
fn a_missing_double_or_moved_line_is_named() {
    let why = |expected| Why::OutOfOrder { expected };
    check(|lines| drop(lines.remove(4)), 5, Some(6), &why(5));
    check(|lines| lines.swap(2, 3), 3, Some(4), &why(3));
    check(|lines| lines.insert(5, lines[4].clone()), 6, Some(5), &why(6));
}

#[test]
fn another_shape_is_named() {
    let spaced = |lines: &mut Vec<String>| lines[9] = lines[9].replacen(':', ": ", 1);
    check(spaced, 10, Some(10), &Why::NotARecord);
    let more = |lines: &mut Vec<String>| lines[2] = lines[2].replacen('{', "{\"x\":1,", 1);
    check(more, 3, None, &Why::NotARecord);
    let less = |lines: &mut Vec<String>| lines[2] = lines[2].replace("\"code\":null,", "");
    check(less, 3, Some(3), &Why::NotARecord);
    check(|lines| lines[6].clear(), 7, None, &Why::NotARecord);
    check(|lines| lines[6] = "x".repeat(1 << 20), 7, None, &Why::NotARecord);
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(&open_small(folder.path()), 30);
    let all = files(folder.path());
    assert!(all.len() > 3);

    let foreign = folder.path().join("notes.jsonl");
    fs::write(&foreign, "").unwrap();
    let broken = verify(folder.path()).unwrap_err();
    assert_eq!((broken.file, broken.why), (foreign.clone(), Why::ForeignFile));
    fs::remove_file(foreign).unwrap();

    let whole = fs::read(&all[1]).unwrap();
    fs::write(&all[1], &whole[..whole.len() - 1]).unwrap();
    assert_eq!(verify(folder.path()).unwrap_err().why, Why::Unfinished);

    fs::remove_file(&all[1]).unwrap();
    let broken = verify(folder.path()).unwrap_err();
    assert_eq!((&broken.file, broken.line), (&all[2], 1));

    fs::remove_file(&all[0]).unwrap();
    let verified = verify(folder.path()).unwrap();
    assert!(verified.first_seq > 1);
    assert_eq!(verified.last_seq, 30);
    assert!(verify(&folder.path().join("none")).is_err());
}

#[test]
fn an_unfinished_last_line_is_ignored() {
    let (folder, file) = ten();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 10]).unwrap();
    let verified = verify(folder.path()).unwrap();
    assert_eq!((verified.records, verified.unfinished), (9, true));
}
