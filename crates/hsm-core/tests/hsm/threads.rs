//! Many threads with one token, and how its own threads end.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use hsm_core::{Decrypt, Encrypt, Error, Hsm, Sign, Stopped, Verify};

use crate::{Faulty, Fixture, aes, assert_signs, is_right, on_both, p256, sign, sign_request, until};

on_both!(
    threads_get_their_own_answers,
    the_last_one_dropped_ends_the_threads,
    a_stop_is_clean,
);

const THREADS: usize = 8;
const TURNS: usize = 250;

/// 2,000 operations of several kinds; each thread has keys of its own, so an answer to another's question shows.
fn threads_get_their_own_answers(fixture: &Fixture) {
    let clones = [fixture.hsm.clone(), fixture.hsm.clone()];
    let work = |n: usize| {
        let hsm = &clones[n % 2];
        let signer = hsm.generate(p256(&format!("signer {n}"))).wait().unwrap();
        let cipher = hsm.generate(aes(&format!("cipher {n}"))).wait().unwrap();
        for turn in 0..TURNS {
            let data = format!("thread {n}, turn {turn}").into_bytes();
            match turn % 5 {
                0 | 1 => assert!(is_right(&signer, &data, &sign(hsm, &signer, &data).unwrap())),
                2 => {
                    let encrypted = hsm.encrypt(Encrypt::new(cipher.id.clone(), data.clone())).wait();
                    let back = hsm.decrypt(Decrypt::new(cipher.id.clone(), encrypted.unwrap())).wait();
                    assert_eq!(*back.unwrap(), data);
                }
                3 => {
                    let signature = sign(hsm, &signer, &data).unwrap().signature;
                    let signed = sign_request(&signer, &data);
                    assert!(hsm.verify(Verify { signed, signature }).wait().unwrap());
                }
                _ => {
                    let key = hsm.key(&signer.id).wait().unwrap();
                    assert_eq!(
                        (key.label, key.public_key),
                        (signer.label.clone(), signer.public_key.clone())
                    );
                }
            }
        }
        (signer.id, cipher.id)
    };
    let ids: HashSet<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
        threads
            .into_iter()
            .flat_map(|thread| <[_; 2]>::from(thread.join().unwrap()))
            .collect()
    });
    assert_eq!(ids.len(), 2 * THREADS);
    assert_eq!(fixture.hsm.status().load.queued, 0);
}

fn the_last_one_dropped_ends_the_threads(fixture: &Fixture) {
    let token = &fixture.token;
    let hsm = fixture.hsm.clone();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert!(own_threads() >= 3);
    // The fixture holds the other one.
    drop(hsm);
    assert_signs(&fixture.hsm, &key);
    assert!(own_threads() >= 3);
    assert_eq!(token.objects().len(), 2);
}

#[test]
fn dropping_ends_every_thread_and_closes_every_session() {
    let Faulty { hsm, token } = Faulty::new();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    assert_signs(&hsm, &key);
    let under_way: Vec<_> = (0..20).map(|_| hsm.sign(sign_request(&key, b"data"))).collect();
    let other = hsm.clone();
    drop(hsm);
    assert!(own_threads() > 0);
    drop(other);
    for call in under_way {
        assert!(is_right(&key, b"data", &call.wait().unwrap()));
    }
    until("the end of the threads", || own_threads() == 0);
    // Those of the opening are not in the list any more.
    let closed = token.calls("C_CloseSession");
    assert!(closed > 1, "{closed}");
    assert_eq!(token.calls("C_Finalize"), 0);
}

fn a_stop_is_clean(fixture: &Fixture) {
    let hsm: Hsm = fixture.hsm.clone();
    let key = hsm.generate(p256("signer")).wait().unwrap();
    let under_way: Vec<_> = (0..20).map(|_| hsm.sign(sign_request(&key, b"data"))).collect();
    assert_eq!(hsm.stop(Duration::from_secs(30)), Stopped::Clean);
    for call in under_way {
        assert!(is_right(&key, b"data", &call.wait().unwrap()));
    }
    until("the end of the threads", || own_threads() == 0);
    let busy = |outcome: Option<Error>| assert_eq!(outcome, Some(Error::Busy));
    busy(sign(&hsm, &key, b"data").err());
    busy(hsm.encrypt(Encrypt::new(crate::id("hsm:00"), b"data")).wait().err());
    busy(hsm.generate(p256("late")).wait().err());
    busy(hsm.key(&key.id).wait().err());
    busy(hsm.delete(&key.id).wait().err());
    busy(hsm.random(8).wait().err());
    busy(hsm.slots().wait().err());
    busy(hsm.sign(Sign::new(crate::id("hsm:00"), b"data")).wait().err());
}

#[test]
fn a_stop_logs_out_and_finalises_once() {
    let Faulty { hsm, token } = Faulty::new();
    hsm.generate(p256("signer")).wait().unwrap();
    assert_eq!(hsm.stop(Duration::from_secs(30)), Stopped::Clean);
    assert_eq!((token.calls("C_Logout"), token.calls("C_Finalize")), (1, 1));
    assert_eq!(token.call_log().last().unwrap(), "C_Finalize");
}

#[test]
fn a_stop_does_not_wait_for_a_call_that_hangs() {
    let Faulty { hsm, token } = Faulty::with(|options| options.max_sessions = Some(2));
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Sign hang");
    let hanging = hsm.sign(sign_request(&key, b"data"));
    until("the call", || token.calls("C_Sign") > 0);
    assert_eq!(hsm.stop(Duration::from_millis(200)), Stopped::Hanging);
    assert_eq!(token.calls("C_Finalize"), 0);
    token.clear();
    assert!(is_right(&key, b"data", &hanging.wait().unwrap()));
}

/// What the library calls its threads.
const OWN: [&str; 3] = ["hsm-worker", "hsm-keeper", "hsm-watchdog"];

/// Threads of this process that belong to the library.
fn own_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| OWN.contains(&name.trim_end())).count()
}
