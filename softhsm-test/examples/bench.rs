//! What the gateway adds to the token: the raw calls of SoftHSM beside the same operations over HTTP. `scripts/bench` runs it.
//!
//! `bench SERVER [--smoke]`: the path of a built `hsm-server`. Prints Markdown. Nothing here judges a figure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that does not work stops, and its figures are for a terminal"
)]

#[path = "bench/http.rs"]
mod http;
#[path = "bench/raw.rs"]
mod raw;
#[path = "bench/server.rs"]
mod server;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use http::Connection;
use server::Server;
use softhsm_test::Token;

/// What is measured, and for how long.
struct Plan {
    /// How many keys are on the token.
    keys: &'static [u32],
    connections: &'static [usize],
    /// How long each measurement takes.
    time: Duration,
    /// How many keys are made to see what one costs.
    creations: usize,
}

const FULL: Plan = Plan {
    keys: &[10, 1000],
    connections: &[1, 8, 32],
    time: Duration::from_secs(3),
    creations: 20,
};

const SMOKE: Plan = Plan {
    keys: &[10, 50],
    connections: &[1, 8, 32],
    time: Duration::from_millis(200),
    creations: 2,
};

/// The keys that this program makes itself: two for the raw calls, two of the server.
const OWN_KEYS: u32 = 4;

/// An operation over HTTP and the same one raw.
struct Operation {
    name: &'static str,
    path: &'static str,
    body: String,
    raw_us: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, plan) = match arguments.as_slice() {
        [program] => (program, FULL),
        [program, smoke] if smoke == "--smoke" => (program, SMOKE),
        _ => panic!("usage: bench SERVER [--smoke]"),
    };
    let program = fs::canonicalize(program).unwrap();
    println!(
        "| keys | audit | operation | connections | requests/s | p50 ms | p99 ms | server CPU µs/request | raw CPU µs | raw / server |"
    );
    println!("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut managing = Vec::new();
    for keys in plan.keys {
        let token = Token::softhsm();
        token.make_many_keys(keys - OWN_KEYS);
        let raw = raw::measure(&token, plan.time);
        for sync in ["always", "interval"] {
            let server = Server::start(&program, &token, sync);
            for operation in operations(&server, raw) {
                for connections in plan.connections {
                    let figures = load(&server, &operation, *connections, plan.time);
                    println!(
                        "| {keys} | {sync} | {} | {connections} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.2} |",
                        operation.name,
                        figures.per_second,
                        figures.p50_ms,
                        figures.p99_ms,
                        figures.cpu_us,
                        operation.raw_us,
                        operation.raw_us / figures.cpu_us,
                    );
                }
            }
            if sync == "always" {
                managing.push(manage(&server, *keys, plan.creations));
            }
            server.delete_own_keys();
        }
    }
    println!(
        "\n| keys | list all, first ms | list all, again ms | pages of 100 | create EC P-256, median ms | server CPU ms/creation |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    managing.iter().for_each(|row| println!("{row}"));
}

fn operations(server: &Server, raw: raw::Figures) -> [Operation; 2] {
    let ec = server.own_key("bench signer", r#""key_type":"EC","curve":"P-256""#);
    let aes = server.own_key("bench cipher", r#""key_type":"AES","key_size":256"#);
    // 32 bytes and 1 KiB of zeros in base64.
    let (short, long) = (format!("{}A=", "A".repeat(42)), format!("{}AA==", "A".repeat(1364)));
    [
        Operation {
            name: "sign, ECDSA P-256",
            path: "/api/v1/hsm/sign",
            body: format!(r#"{{"key_id":"{ec}","message_type":"digest","data":"{short}"}}"#),
            raw_us: raw.sign_us,
        },
        Operation {
            name: "encrypt, AES-256-GCM, 1 KiB",
            path: "/api/v1/hsm/encrypt",
            body: format!(r#"{{"key_id":"{aes}","data":"{long}"}}"#),
            raw_us: raw.encrypt_us,
        },
    ]
}

struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

/// Sends the same request over and over, one at a time on each of `connections` connections.
fn load(server: &Server, operation: &Operation, connections: usize, time: Duration) -> Figures {
    let request = server.request("POST", operation.path, &operation.body);
    let address = server.address;
    let send = |until: Instant| {
        let mut connection = Connection::open(address);
        let mut took = Vec::new();
        while Instant::now() < until {
            let started = Instant::now();
            connection.exchange(&request).good(200);
            took.push(started.elapsed());
        }
        took
    };
    let run = |time: Duration| -> Vec<Duration> {
        let until = Instant::now() + time;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..connections).map(|_| scope.spawn(|| send(until))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    };
    run(time / 10);
    let (started, before) = (Instant::now(), cpu(&server.pid()));
    let mut took = run(time);
    let (elapsed, used) = (started.elapsed(), cpu(&server.pid()) - before);
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Figures {
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us: used.as_secs_f64() * 1e6 / took.len() as f64,
    }
}

/// A row on listing all keys, for the first time since the start and once more, and on making one.
fn manage(server: &Server, keys: u32, creations: usize) -> String {
    let mut connection = Connection::open(server.address);
    let lists = [(); 2].map(|()| {
        let started = Instant::now();
        let pages = server.list_all(&mut connection);
        (started.elapsed().as_secs_f64() * 1e3, pages)
    });
    let before = cpu(&server.pid());
    let mut took: Vec<Duration> = (0..creations)
        .map(|number| {
            let started = Instant::now();
            server.own_key(&format!("bench {number}"), r#""key_type":"EC","curve":"P-256""#);
            started.elapsed()
        })
        .collect();
    let used = cpu(&server.pid()) - before;
    took.sort();
    format!(
        "| {keys} | {:.1} | {:.1} | {} | {:.1} | {:.1} |",
        lists[0].0,
        lists[1].0,
        lists[0].1,
        took[took.len() / 2].as_secs_f64() * 1e3,
        used.as_secs_f64() * 1e3 / creations as f64,
    )
}

/// CPU time of a process so far, its ended threads included: utime and stime of /proc/PID/stat, in ticks of 10 ms.
fn cpu(pid: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}
