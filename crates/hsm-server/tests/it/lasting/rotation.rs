//! Rotation under load.

use std::collections::BTreeSet;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::{Load, Stop, key, make, rotate, seal, without_holes_or_twins};
use crate::support::Server;

const ROTATIONS: u64 = 50;

fn under_load(protection: &str) {
    let server = Server::softhsm();
    let caller = server.all();
    make(&caller, "turning", protection);
    let stop = Stop::default();
    let started = Instant::now();
    let mut sealed = thread::scope(|scope| {
        let clients = vec![(caller.clone(), caller.clone()); 4];
        let load = Load::start(scope, &stop, &clients, &["turning"], 25, &[]);
        for version in 2..=ROTATIONS + 1 {
            let rotated = rotate(&caller, "turning").good(200);
            assert_eq!(rotated["primary_version"], version);
            // What is asked for from now on is done with the new version.
            assert!(seal(&caller, "turning").version() == version);
            sleep(Duration::from_millis(40));
        }
        load.end()
    });
    let took = started.elapsed();
    let turned = key(&caller, "turning");
    assert_eq!(without_holes_or_twins(&turned), ROTATIONS + 1);
    assert_eq!(turned["primary_version"], ROTATIONS + 1);
    eprintln!(
        "{protection}: {} encryptions during {ROTATIONS} rotations in {took:?}",
        sealed.len()
    );
    assert!(sealed.len() as u64 >= ROTATIONS, "{}", sealed.len());
    let used: BTreeSet<_> = sealed.iter().map(super::Sealed::version).collect();
    assert!(
        used.iter().all(|version| (1..=ROTATIONS + 1).contains(version)),
        "{used:?}"
    );
    assert!(used.len() as u64 > ROTATIONS / 4, "{used:?}");
    sealed.push(seal(&caller, "turning"));
    for one in &sealed {
        one.opens(&caller);
    }
    // Only the version that it names has encrypted it.
    let first = &sealed[0];
    let other = first.version() % (ROTATIONS + 1) + 1;
    let mut wrong = first.answer.clone();
    wrong["key_version"] = other.into();
    caller.post("/api/v1/decrypt", &wrong).problem(400, "decryption_failed");
}

#[test]
fn of_a_key_on_the_token() {
    under_load("hsm");
}

#[test]
fn of_a_wrapped_key() {
    under_load("wrapped");
}

#[test]
fn several_at_once() {
    let server = Server::softhsm();
    let caller = server.all();
    for protection in ["hsm", "wrapped"] {
        make(&caller, protection, protection);
        let made: Vec<u64> = thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let replies = (0..10).map(|_| rotate(&caller, protection));
                        let done = replies.filter_map(|reply| {
                            if reply.status == 409 {
                                reply.problem(409, "conflict");
                                return None;
                            }
                            reply.good(200)["primary_version"].as_u64()
                        });
                        done.collect::<Vec<_>>()
                    })
                })
                .collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        let count = without_holes_or_twins(&key(&caller, protection));
        eprintln!("{protection}: {} of 40 rotations were not met by another", made.len());
        assert!(!made.is_empty());
        let distinct: BTreeSet<_> = made.iter().copied().collect();
        assert_eq!(
            distinct,
            (2..=count).collect(),
            "no number is answered twice, or not at all"
        );
        assert_eq!(made.len(), distinct.len());
        seal(&caller, protection).opens(&caller);
    }
}
