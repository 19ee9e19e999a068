//! The corpus is what its files' names say, and a short run of each target finds nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use hsm_fuzz::{Campaign, Target, Verdict, corpus};

#[test]
fn files_are_taken_or_refused_as_their_names_say() {
    for target in Target::ALL.iter().copied() {
        let files = corpus(target).unwrap();
        for (name, input) in &files {
            let expected = match name.split_once('-').unwrap().0 {
                "good" => Verdict::Taken,
                "bad" => Verdict::Refused,
                other => panic!("{name}: a file begins with good or bad, not {other}"),
            };
            assert_eq!(target.run(input), Ok(expected), "{}/{name}", target.name());
            assert!(input.len() <= 2048, "{}/{name} is too long", target.name());
        }
        for start in ["good", "bad"] {
            assert!(
                files.iter().any(|(name, _)| name.starts_with(start)),
                "{}: no {start} file",
                target.name()
            );
        }
    }
}

#[test]
fn a_short_run_finds_nothing() {
    for target in Target::ALL.iter().copied() {
        let campaign = Campaign {
            target,
            seed: 4,
            time: None,
            executions: Some(3000),
        };
        let report = campaign.run().unwrap();
        assert!(report.finding.is_none(), "{}: {:?}", target.name(), report.finding);
        assert_eq!(report.executions, 3000);
        let good = corpus(target)
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with("good"))
            .count();
        assert!(
            report.taken > u64::try_from(good).unwrap(),
            "{}: no changed input is taken",
            target.name()
        );
    }
}
