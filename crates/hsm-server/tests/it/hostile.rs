//! Clients that do not behave, and what the server shows to whom: TLS, a proxy in front, metrics.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use softhsm_test::Token;

use crate::support::{Builder, Reply, Server, base64, mint, run, send, text};
use crate::tools::{audit_records, only_fault, raw, sh, wait_until};

/// Who says nothing for so long has nothing to say to what is no HTTP.
const SILENCE: Duration = Duration::from_secs(1);

fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn two_hundred_slow_clients_stop_nobody() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = json!({"key_id": key["key_id"], "data": base64(b"x")});
    let bearer = mint(&json!({"scope": "*"}));
    let half_a_head = b"POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nAuthorization: Bea".to_vec();
    let half_a_body = format!(
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{\"data\":"
    );
    let half_a_chunk = format!(
        "POST /api/v1/hsm/encrypt HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{{\"da"
    );
    let starts = [&b""[..], &half_a_head, half_a_body.as_bytes(), half_a_chunk.as_bytes()];
    let mut slow: Vec<TcpStream> = (0..200)
        .map(|number| connect(server.address(), starts[number % starts.len()]))
        .collect();
    for _ in 0..5 {
        caller.hsm("sign", &body).good(200);
        caller.get("/api/v1/hsm/keys").good(200);
        server.anonymous().get("/health/ready").good(200);
        // They go on, a byte at a time.
        for stream in &mut slow {
            let _ = stream.write_all(b" ");
        }
    }
    caller.key(json!({"key_type": "AES", "key_size": 256}));
    drop(slow);
    caller.hsm("sign", &body).good(200);
}

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    let server = Server::softhsm();
    let mut stream = connect(server.address(), b"GET /health/live HTTP/1.1\r\nHost: x\r\n");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = Vec::new();
    // The end of the connection, and not of this test's patience.
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = Server::softhsm();
    let one = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let all = one.repeat(19) + last;
    let answer = raw(server.address(), all.as_bytes(), Duration::from_secs(60));
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 20, "{answer}");
    // The body of a refused request is not taken for the next request.
    let smuggled = "GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = format!(
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{smuggled}",
        smuggled.len()
    );
    let answer = raw(server.address(), refused.as_bytes(), SILENCE);
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn what_is_no_http() {
    let server = Server::softhsm();
    let many_headers = format!(
        "GET /health/live HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X-Filler: y\r\n".repeat(5000)
    );
    let large_header = format!(
        "GET /health/live HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n",
        "y".repeat(1024 * 1024)
    );
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(1024 * 1024));
    let pipelined = format!(
        "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n{}",
        "\u{0}\u{1}garbage\r\n\r\n".repeat(100)
    );
    let both_lengths =
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let two_lengths =
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456";
    let bad_chunks =
        "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n";
    let negative = "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n";
    let huge = "POST /api/v1/hsm/sign HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    for bytes in [
        many_headers.as_str(),
        &large_header,
        &long_path,
        &pipelined,
        both_lengths,
        two_lengths,
        bad_chunks,
        negative,
        huge,
        "\u{16}\u{3}\u{1}\u{2}",
        "GET\r\n\r\n",
        "GET /health/live HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
    ] {
        let answer = raw(server.address(), bytes.as_bytes(), SILENCE);
        let answer = String::from_utf8_lossy(&answer);
        for line in answer.lines().filter(|line| line.starts_with("HTTP/1.1 ")) {
            assert!(!line.starts_with("HTTP/1.1 5"), "{line}: {bytes:.80}");
        }
        server.anonymous().get("/health/ready").good(200);
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn no_method_on_no_path_is_a_fault_of_the_server() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "AES", "key_size": 256}));
    let own = format!("/api/v1/hsm/keys/{}", text(&key["key_id"]));
    let paths = [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/hsm",
        "/api/v1/hsm/slots",
        "/api/v1/hsm/keys",
        "/api/v1/hsm/keys/",
        "/api/v1/hsm/keys/hsm:01",
        "/api/v1/hsm/keys/hsm:",
        "/api/v1/hsm/keys/orders",
        "/api/v1/hsm/keys/%00",
        "/api/v1/hsm/keys/%ff%fe",
        "/api/v1/hsm/keys/hsm%3A01",
        "/api/v1/hsm/keys/..%2f..%2fetc%2fpasswd",
        "/api/v1/hsm/keys/../../../etc/passwd",
        "/api/v1/hsm/keys?limit=%00&cursor=%ff",
        "/api/v1/hsm/encrypt",
        "/api/v1/hsm/decrypt",
        "/api/v1/hsm/sign",
        "/api/v1/hsm/verify",
        "/api/v1/keys",
        "/api/v1/keys/orders",
        "/api/v1/encrypt",
        "/api/v1/decrypt",
        "/api/v1/sign",
        "/api/v1/verify",
        "/api/v1/audit",
        "/api/v1/audit?since=%00",
        "/api/v1/openapi.json",
        "/api/v1/wrap",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/docs",
        "/docs/",
        "/docs/errors",
        "/docs/nothing",
        "/docs/../../etc/passwd",
        "//api//v1",
        &own,
    ];
    let methods = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "FOO", "DELETE",
    ];
    let bodies = [
        &b""[..],
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{\"data\":null}",
        b"{\"data\":\"\",\"key_id\":\"hsm:01\"}",
    ];
    for path in paths {
        for method in methods {
            // The key itself is kept to the end.
            if path == own && method == "DELETE" {
                continue;
            }
            for who in [&caller, &server.anonymous()] {
                for body in bodies {
                    let headers = [("Content-Type", "application/json")];
                    let reply = who.raw(method, path, &headers, body);
                    assert!(reply.status < 500, "{method} {path}: {} {}", reply.status, reply.text());
                    if method == "HEAD" {
                        break;
                    }
                    let is_problem = reply.header("content-type") == Some("application/problem+json");
                    assert!(reply.status < 400 || is_problem, "{method} {path}: {reply:?}");
                    reply.request_id();
                }
            }
        }
    }
    let list = caller.get("/api/v1/hsm/keys").good(200);
    assert_eq!(list["keys"], json!([key]));
    caller.delete(&own).good(204);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// A server with a certificate for `localhost`, and where that lies.
fn with_tls(builder: Builder) -> (Server, String) {
    let folder = builder.scratch().path("tls");
    std::fs::create_dir(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let (cert, key) = (cert.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned());
    sh(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {cert}"
    ));
    let builder = builder
        .env("HSM_SERVER__TLS_CERT", &cert)
        .env("HSM_SERVER__TLS_KEY", &key);
    (builder.start_unready(), cert)
}

#[test]
fn tls() {
    let builder = Server::with(Token::softhsm()).env("HSM_SERVER__LISTEN", "0.0.0.0:0");
    let (server, cert) = with_tls(builder);
    let port = server.address().port();
    let url = format!("https://localhost:{port}");
    let curl = |args: &[&str]| run("curl", [&["-sS", "--max-time", "60"], args].concat());
    let version = ["-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
    let live = format!("{url}/health/live");
    let two = curl(&[&version[..], &["--http2", "--cacert", &cert, &live]].concat());
    // HTTP/2 is not offered: nothing bounds its streams.
    assert_eq!(two.line(), "1.1 200", "{}", two.stderr);
    let one = curl(&[&version[..], &["--http1.1", "--cacert", &cert, &live]].concat());
    assert_eq!(one.line(), "1.1 200", "{}", one.stderr);
    for tls in [["--tlsv1.3", "--tls-max", "1.3"], ["--tlsv1.2", "--tls-max", "1.2"]] {
        let ended = curl(&[&version[..], &tls[..], &["--cacert", &cert, &live]].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    // Without the certificate, and without TLS.
    assert_ne!(curl(&[&live]).code, Some(0));
    let plain = curl(&[&format!("http://localhost:{port}/health/live")]);
    assert_ne!(plain.code, Some(0), "{}", plain.line());

    // A whole operation over TLS.
    let bearer = format!("Authorization: Bearer {}", mint(&json!({"scope": "*"})));
    let made = curl(&[
        "--cacert",
        &cert,
        "-H",
        &bearer,
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"key_type":"EC","curve":"P-256","key_label":"over TLS"}"#,
        &format!("{url}/api/v1/hsm/keys"),
    ]);
    let key: Value = serde_json::from_str(made.line()).unwrap();
    assert_eq!(key["key_label"], "over TLS", "{key}");
    // This listener is not on loopback alone, so metrics ask for a token.
    let metrics = curl(&[&version[..], &["--cacert", &cert, &format!("{url}/metrics")]].concat());
    assert!(metrics.line().ends_with(" 401"), "{}", metrics.line());
    // Half a handshake is in nobody's way.
    let _half: Vec<TcpStream> = (0..50)
        .map(|_| connect(SocketAddr::from(([127, 0, 0, 1], port)), b"\x16\x03\x01"))
        .collect();
    assert_eq!(curl(&["--cacert", &cert, &live]).code, Some(0));
}

#[test]
fn a_certificate_that_cannot_be_used() {
    let builder = Server::with(Token::softhsm());
    let none = builder.scratch().file("cert.pem", "no certificate");
    let none = none.to_str().unwrap();
    let ended = builder
        .env("HSM_SERVER__TLS_CERT", none)
        .env("HSM_SERVER__TLS_KEY", none)
        .refused();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("HSM_SERVER__TLS_CERT: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("HSM_SERVER__TLS_KEY: "), "{}", ended.stderr);
}

fn create_as(server: &Server, headers: &[(&str, &str)]) -> Reply {
    let bearer = format!("Bearer {}", mint(&json!({"scope": "*"})));
    let mut all = vec![("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    all.extend(headers);
    send(
        server.address(),
        "POST",
        "/api/v1/hsm/keys",
        &all,
        br#"{"key_type":"AES","key_size":128,"key_label":"a"}"#,
    )
}

fn clients(server: &Server) -> Vec<Value> {
    let records = audit_records(server);
    records.iter().map(|record| record["client"].clone()).collect()
}

#[test]
fn behind_a_proxy_the_caller_is_who_it_says() {
    let server = Server::with(Token::softhsm())
        .env("HSM_SERVER__BEHIND_PROXY", "true")
        .start();
    create_as(&server, &[("X-Forwarded-For", "203.0.113.9")]);
    // What the caller has put there itself stands before what the proxy added.
    create_as(&server, &[("X-Forwarded-For", "192.0.2.1, 203.0.113.10")]);
    create_as(
        &server,
        &[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "2001:db8::1")],
    );
    create_as(&server, &[("X-Forwarded-For", "not an address")]);
    create_as(&server, &[]);
    assert_eq!(
        clients(&server),
        ["203.0.113.9", "203.0.113.10", "2001:db8::1", "127.0.0.1", "127.0.0.1"]
    );
    // Anyone may be behind the proxy.
    server.anonymous().get("/metrics").problem(401, "unauthenticated");
    server
        .caller("keys:*")
        .get("/metrics")
        .problem_naming(403, "forbidden", "metrics:read");
    assert_eq!(server.caller("metrics:read").get("/metrics").status, 200);
}

#[test]
fn without_a_proxy_nobody_is_believed() {
    let server = Server::softhsm();
    create_as(
        &server,
        &[("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9")],
    );
    assert_eq!(clients(&server), ["127.0.0.1"]);
}

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn metrics_have_a_listener_of_their_own() {
    let address = free_port();
    let server = Server::with(Token::softhsm())
        .env("HSM_SERVER__BEHIND_PROXY", "true")
        .env("HSM_SERVER__METRICS_LISTEN", &address)
        .start();
    let there = address.parse().unwrap();
    let page = send(there, "GET", "/metrics", &[], b"");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("hsm_"));
    for path in ["/", "/api/v1/hsm/keys", "/health/live", "/api/v1/audit"] {
        assert_eq!(send(there, "GET", path, &[], b"").status, 404, "{path}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let ended = Server::with(Token::softhsm())
        .env("HSM_SERVER__METRICS_LISTEN", &taken)
        .refused();
    only_fault(&ended, 1, &["HSM_SERVER__METRICS_LISTEN", &taken]);
    drop(server);
}

#[test]
fn metrics_tell_what_happened() {
    let server = Server::softhsm();
    let caller = server.all();
    let key = caller.key(json!({"key_type": "EC", "curve": "P-256"}));
    let body = json!({"key_id": key["key_id"], "data": base64(b"x")});
    for _ in 0..3 {
        caller.hsm("sign", &body).good(200);
    }
    caller
        .hsm("sign", &json!({"key_id": "hsm:00", "data": ""}))
        .problem(404, "key_not_found");
    server
        .anonymous()
        .get("/api/v1/hsm/keys")
        .problem(401, "unauthenticated");
    let page = server.anonymous().get("/metrics");
    assert_eq!(page.status, 200);
    let page = page.text();
    let value = |start: &str, labels: &[&str]| -> f64 {
        let line = page
            .lines()
            .filter(|line| line.starts_with(start) && labels.iter().all(|label| line.contains(label)));
        let values: Vec<f64> = line
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(values.len(), 1, "{start} {labels:?}: {page}");
        values[0]
    };
    let sign = "operation=\"sign\"";
    assert_eq!(value("hsm_operations_total{", &[sign, "outcome=\"success\""]), 3.0);
    assert_eq!(
        value("hsm_operations_total{", &[sign, "outcome=\"key_not_found\""]),
        1.0
    );
    assert_eq!(
        value("hsm_operation_duration_seconds_count{", &[sign, "outcome=\"success\""]),
        3.0
    );
    let route = "route=\"/api/v1/hsm/sign\"";
    assert_eq!(value("hsm_requests_total{", &[route, "status=\"200\""]), 3.0);
    assert_eq!(value("hsm_unauthenticated_requests_total", &[]), 1.0);
    assert!(value("hsm_sessions{", &["state=\"all\""]) >= 1.0);
    assert_eq!(value("hsm_sessions{", &["state=\"hung\""]), 0.0);
    assert_eq!(value("hsm_queued_calls ", &[]), 0.0);
    assert_eq!(value("hsm_logged_in ", &[]), 1.0);
    assert_eq!(value("hsm_token_available ", &[]), 1.0);
    // Nobody but us chooses what a series is called.
    for path in ["/x1", "/x2", "/api/v1/hsm/keys/hsm:0a", "/api/v1/hsm/keys/hsm:0b"] {
        caller.get(path);
    }
    for method in ["FOO", "BAR"] {
        caller.raw(method, "/x1", &[], b"");
    }
    let page = server.anonymous().get("/metrics").text();
    for invented in ["/x1", "0a", "FOO", "BAR"] {
        assert!(!page.contains(&format!("{invented}\"")), "{invented}");
    }
}

#[test]
fn request_ids_are_the_client_s_or_new() {
    let server = Server::softhsm();
    let ask = |id: &str| {
        server
            .anonymous()
            .raw("GET", "/health/live", &[("X-Request-Id", id)], b"")
    };
    for id in ["a", "A.b_c:d-9", &"x".repeat(128)] {
        assert_eq!(ask(id).request_id(), id);
    }
    let mut seen = BTreeSet::new();
    for id in ["", "a b", "a/b", "a\"b", "ä", &"x".repeat(129)] {
        let reply = ask(id);
        let given = reply.request_id();
        assert_ne!(given, id);
        assert!(seen.insert(given.to_owned()), "{given} came twice");
    }
    server.anonymous().get("/nowhere").problem(404, "not_found");
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let server = Server::softhsm();
    let caller = server.all();
    let bearer = mint(&json!({"scope": "*"}));
    for number in 0..20 {
        let body = format!(r#"{{"key_type":"AES","key_size":256,"key_label":"gone {number}"}}"#);
        let request = format!(
            "POST /api/v1/hsm/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        drop(connect(server.address(), request.as_bytes()));
    }
    // What was done is recorded, whoever waits for the answer.
    thread::sleep(Duration::from_millis(500));
    wait_until("each key has its record", || {
        let list = caller.get("/api/v1/hsm/keys").good(200);
        let created = audit_records(&server)
            .iter()
            .filter(|record| record["action"] == "create" && record["outcome"] == "success")
            .count();
        created == list["keys"].as_array().unwrap().len()
    });
}
