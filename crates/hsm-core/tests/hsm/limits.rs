//! What happens when there is more to do than can be done, and when a call does not come back.

use std::time::Duration;

use hsm_core::Error;

use crate::{Faulty, assert_signs, is_right, p256, sign, sign_request, until};

#[test]
fn without_a_queue_a_second_call_is_busy() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.queue = 0;
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    until("an idle worker", || hsm.status().load.idle == 1);
    token.fault("C_Sign hang");
    let first = hsm.sign(sign_request(&key, b"data"));
    for _ in 0..3 {
        assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Busy);
    }
    until("the call", || token.calls("C_Sign") > 0);
    assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Busy);
    token.clear();
    assert!(is_right(&key, b"data", &first.wait().unwrap()));
    until("an idle worker", || hsm.status().load.idle == 1);
    assert_signs(&hsm, &key);
}

#[test]
fn as_many_calls_wait_as_the_queue_is_long() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.queue = 5;
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Sign hang");
    let first = hsm.sign(sign_request(&key, b"0"));
    until("the call", || token.calls("C_Sign") > 0);
    let waiting: Vec<_> = (1..=5_u8).map(|n| (n, hsm.sign(sign_request(&key, &[n])))).collect();
    assert_eq!(hsm.status().load.queued, 5);
    assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Busy);
    token.clear();
    assert!(is_right(&key, b"0", &first.wait().unwrap()));
    for (n, call) in waiting {
        assert!(is_right(&key, &[n], &call.wait().unwrap()));
    }
}

#[test]
fn a_call_that_hangs_is_given_up_and_its_worker_replaced() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.timeout = Duration::from_millis(500);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Sign hang count=1");
    assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Timeout);
    until("the replacement", || hsm.status().load.workers == 2);
    assert_eq!(hsm.status().load.hung, 1);
    until("a session", || hsm.status().load.idle == 1);
    assert_signs(&hsm, &key);
    assert_eq!(hsm.status().unavailable, None);

    token.clear();
    until("the end of what hung", || {
        let load = hsm.status().load;
        (load.workers, load.hung) == (1, 0)
    });
    assert_signs(&hsm, &key);
}

/// No more than as many again: then calls wait for their deadline, and what comes back works again.
#[test]
fn workers_are_replaced_up_to_a_bound() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.timeout = Duration::from_millis(300);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    token.fault("C_Sign hang");
    for _ in 0..4 {
        assert_eq!(sign(&hsm, &key, b"data").unwrap_err(), Error::Timeout);
    }
    let load = hsm.status().load;
    assert_eq!((load.workers, load.hung), (2, 2));
    token.clear();
    until("a worker", || {
        let load = hsm.status().load;
        (load.workers, load.hung, load.idle) == (1, 0, 1)
    });
    assert_signs(&hsm, &key);
}

#[test]
fn a_call_that_waits_too_long_is_given_up() {
    let Faulty { hsm, token } = Faulty::with(|options| {
        options.max_sessions = Some(1);
        options.timeout = Duration::from_millis(300);
        options.keygen_timeout = Duration::from_secs(30);
    });
    let key = hsm.generate(p256("signer")).wait().unwrap();
    // The second call too, should a worker in place of the first one's still get to it.
    token.fault("C_Sign delay_ms=1000");
    let calls = [b"1", b"2"].map(|data| hsm.sign(sign_request(&key, data)));
    for call in calls {
        assert_eq!(call.wait().unwrap_err(), Error::Timeout);
    }
    token.clear();
    until("an idle worker", || {
        hsm.status().load.idle == 1 && hsm.status().load.hung == 0
    });
    assert_signs(&hsm, &key);
}
