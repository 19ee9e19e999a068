//! The end of the server: what is under way ends well, and what hangs does not hold it up.

use std::net::TcpStream;
use std::thread;

use serde_json::json;

use super::{Used, faulty};
use crate::tools::{behind, wait_until};

#[test]
fn the_end_while_a_call_hangs() {
    let faulty = faulty();
    let mut used = Used::new(
        behind(&faulty)
            .env("HSM_LIMITS__HSM_TIMEOUT_MS", "300")
            .env("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "800"),
    );
    faulty.fault("C_Sign hang");
    used.sign().problem(504, "hsm_timeout");
    used.server.signal("TERM");
    assert_eq!(used.server.wait().code(), Some(1), "{}", used.server.log());
    assert_eq!(faulty.calls("C_Finalize"), 0);
}

#[test]
fn the_end_while_a_call_is_slow() {
    let faulty = faulty();
    let mut used = Used::on(&faulty);
    faulty.forget_calls();
    faulty.fault("C_Sign delay_ms=500");
    let caller = used.caller.clone();
    let body = used.sign.clone();
    let slow = thread::spawn(move || caller.hsm("sign", &body));
    wait_until("the call is under way", || faulty.calls("C_Sign") > 0);
    used.server.signal("TERM");
    slow.join().unwrap().good(200);
    assert_eq!(used.server.wait().code(), Some(0), "{}", used.server.log());
    assert_eq!(faulty.calls("C_Finalize"), 1);
    assert_eq!(faulty.calls("C_Logout"), 1);
    let log = faulty.call_log();
    assert_eq!(log.last().map(String::as_str), Some("C_Finalize"));
}

#[test]
fn while_it_ends_new_requests_are_turned_away() {
    let faulty = faulty();
    let mut used = Used::on(&faulty);
    faulty.forget_calls();
    faulty.fault("C_Sign delay_ms=1500");
    let caller = used.caller.clone();
    let body = used.sign.clone();
    let slow = thread::spawn(move || caller.hsm("sign", &body));
    wait_until("the call is under way", || faulty.calls("C_Sign") > 0);
    used.server.signal("TERM");
    wait_until("it is stopping", || used.server.log().contains("stopping"));
    if TcpStream::connect(used.server.address()).is_ok() {
        used.encrypt().problem(503, "busy");
    }
    slow.join().unwrap().good(200);
    assert_eq!(used.server.wait().code(), Some(0));
}

#[test]
fn the_end_while_a_client_sends_nothing_more() {
    use std::io::Write;
    let faulty = faulty();
    let mut used = Used::new(behind(&faulty).env("HSM_SERVER__SHUTDOWN_TIMEOUT_MS", "700"));
    let bearer = crate::support::mint(&json!({"scope": "*"}));
    let mut half = TcpStream::connect(used.server.address()).unwrap();
    write!(
        half,
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"
    )
    .unwrap();
    used.works();
    used.server.signal("TERM");
    assert_eq!(used.server.wait().code(), Some(0), "{}", used.server.log());
    assert_eq!(faulty.calls("C_Finalize"), 1);
}

#[test]
fn an_idle_server_ends_at_once_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let faulty = faulty();
        let mut used = Used::on(&faulty);
        // A connection that is kept open and idle is in nobody's way.
        let _idle = TcpStream::connect(used.server.address()).unwrap();
        used.server.signal(signal);
        assert_eq!(used.server.wait().code(), Some(0), "{}", used.server.log());
        assert_eq!(faulty.calls("C_Finalize"), 1);
        assert_eq!(faulty.calls("C_Login"), 1);
    }
}
