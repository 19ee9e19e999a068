//! Pages of records.

use super::*;

fn page_through(log: &AuditLog, filter: &Filter) -> Vec<Record> {
    let mut filter = filter.clone();
    let mut all = Vec::new();
    loop {
        let page = log.query(&filter).unwrap();
        assert!(page.records.len() <= filter.limit);
        all.extend(page.records);
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            return all;
        }
    }
}

fn hundred() -> (TempDir, AuditLog) {
    let folder = tempfile::tempdir().unwrap();
    let log = open_small(folder.path());
    for key in 0..100 {
        let action = if key % 3 == 0 { "encrypt" } else { "sign" };
        log.append_blocking(vec![entry(action, key % 10)]).unwrap();
    }
    (folder, log)
}

#[test]
fn pages_give_every_record_once_newest_first() {
    let (_folder, log) = hundred();
    for limit in [1, 7, 50, 100, 1000] {
        let filter = Filter {
            limit,
            ..Filter::default()
        };
        let seqs: Vec<_> = page_through(&log, &filter).iter().map(|r| r.seq).collect();
        assert_eq!(seqs, (1..=100).rev().collect::<Vec<_>>(), "limit {limit}");
    }
    let exactly_all = log.query(&Filter::default()).unwrap();
    assert_eq!(exactly_all.next_cursor, None);
}

#[test]
fn records_written_between_pages_do_not_move_them() {
    let (_folder, log) = hundred();
    let mut filter = Filter {
        limit: 10,
        ..Filter::default()
    };
    let first = log.query(&filter).unwrap();
    write(&log, 50);
    filter.cursor = first.next_cursor;
    assert_eq!(log.query(&filter).unwrap().records[0].seq, 90);
}

#[test]
fn filters_hold_together() {
    let (_folder, log) = hundred();
    let filter = Filter {
        key_id: Some("hsm:0003".into()),
        action: Some("encrypt".into()),
        limit: 2,
        ..Filter::default()
    };
    let seqs: Vec<_> = page_through(&log, &filter).iter().map(|r| r.seq).collect();
    assert_eq!(seqs, [94, 64, 34, 4]);
    let none = Filter {
        key_id: Some("hsm:\",\"".into()),
        ..Filter::default()
    };
    assert!(page_through(&log, &none).is_empty());
}

#[test]
fn since_is_exact() {
    let (_folder, log) = hundred();
    let all = page_through(&log, &Filter::default());
    let from = &all[40];
    let since = time_of(from);
    let filter = Filter {
        since: Some(since),
        ..Filter::default()
    };
    let found = page_through(&log, &filter);
    let expected = all.iter().filter(|r| r.time >= from.time).count();
    assert_eq!(found.len(), expected);
}

fn time_of(record: &Record) -> time::OffsetDateTime {
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(&record.time, format).unwrap()
}

#[test]
fn a_cursor_made_up_is_told() {
    let (_folder, log) = hundred();
    let filter = Filter {
        limit: 10,
        ..Filter::default()
    };
    let good = log.query(&filter).unwrap().next_cursor.unwrap();
    let other = good.replace(&good[..1], "1");
    for cursor in ["", "x", "00", &"0".repeat(40), &other, &good[1..], &good.to_uppercase()] {
        if cursor == good {
            continue;
        }
        let filter = Filter {
            cursor: Some(cursor.into()),
            ..Filter::default()
        };
        let answer = log.query(&filter);
        assert!(matches!(answer, Err(AuditError::InvalidCursor)), "{cursor}");
    }
}

#[test]
fn old_files_may_be_archived_between_pages() {
    let (folder, log) = hundred();
    let mut filter = Filter {
        limit: 90,
        ..Filter::default()
    };
    filter.cursor = log.query(&filter).unwrap().next_cursor;
    assert!(filter.cursor.is_some());
    fs::remove_file(&files(folder.path())[0]).unwrap();
    let rest = log.query(&filter).unwrap();
    assert!(rest.records.len() < 10);
    assert_eq!(rest.next_cursor, None);
}

#[test]
fn reading_and_verifying_beside_a_writer_see_whole_records() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_small(folder.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&log, 300));
        while !writer.is_finished() {
            let head = log.status().head_seq;
            let page = log.query(&Filter::default()).unwrap();
            assert!(page.records.first().map_or(0, |r| r.seq) >= head);
            assert!(page.records.windows(2).all(|two| two[0].seq == two[1].seq + 1));
            verify(folder.path()).unwrap();
        }
    });
    assert_eq!(verify(folder.path()).unwrap().records, 300);
}

#[test]
fn a_rare_record_is_found_over_several_calls() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    log.append_blocking(vec![entry("create", 1)]).unwrap();
    for _ in 0..120 {
        let batch = (0..500).map(|key| entry("sign", key)).collect();
        log.append_blocking(batch).unwrap();
    }
    let mut filter = Filter {
        action: Some("create".into()),
        ..Filter::default()
    };
    let page = log.query(&filter).unwrap();
    assert!(page.records.is_empty() && page.next_cursor.is_some());
    assert_eq!(page_through(&log, &filter).len(), 1);

    filter.since = Some(time::OffsetDateTime::now_utc() + Duration::from_secs(3600));
    let page = log.query(&filter).unwrap();
    assert!(page.records.is_empty() && page.next_cursor.is_none());
}
