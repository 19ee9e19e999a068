//! A small HTTP/1.1 client: it sends what it is told to, right or wrong, and reads one answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::Reply;

/// Far beyond what any answer takes: a test that hangs should say where.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends one request on a connection of its own and reads the answer.
///
/// `Host`, `Connection: close` and, with a body or a method that has one, `Content-Length` are added, unless `headers`
/// has them.
#[track_caller]
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_send(address, method, path, headers, body).unwrap_or_else(|why| panic!("{method} {path}: {why}"))
}

/// As [`send`], to a server that may be gone before it answers.
///
/// # Errors
/// There was no whole answer.
pub(crate) fn try_send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply, String> {
    let has = |name: &str| headers.iter().any(|(is, _)| is.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
    for (name, value) in headers {
        add(name, value);
    }
    if !has("host") {
        add("Host", &address.to_string());
    }
    if !has("connection") {
        add("Connection", "close");
    }
    let has_body = !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH");
    if has_body && !has("content-length") && !has("transfer-encoding") {
        add("Content-Length", &body.len().to_string());
    }
    head.push_str("\r\n");
    exchange(address, &[head.as_bytes(), body].concat(), method == "HEAD")
}

/// Writes and reads at once: a server may answer before it has read all.
fn exchange(address: SocketAddr, request: &[u8], no_body: bool) -> Result<Reply, String> {
    let stream = TcpStream::connect(address).map_err(|why| format!("connect: {why}"))?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time");
    stream.set_nodelay(true).expect("a socket");
    thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(request));
        let reply = read(&stream, no_body);
        // Ends a writer that nobody reads from any more.
        let _ = stream.shutdown(Shutdown::Both);
        reply
    })
}

fn read(mut stream: &TcpStream, no_body: bool) -> Result<Reply, String> {
    let mut received = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&received, b"\r\n\r\n") {
            break at;
        }
        if more(&mut stream, &mut received)? == 0 {
            return Err(format!("the connection ended after {} bytes of a head", received.len()));
        }
    };
    let mut body = received.split_off(head_end + 4);
    let head = String::from_utf8(received).map_err(|why| why.to_string())?;
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| format!("no status line: {status_line:?}"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    if no_body || status == 204 || status == 304 {
        body.clear();
    } else if header("transfer-encoding") == Some("chunked") {
        while find(&body, b"0\r\n\r\n").is_none() && more(&mut stream, &mut body)? > 0 {}
        body = joined(&body).ok_or("chunks that are none")?;
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| "a content length that is none")?;
        while body.len() < length {
            if more(&mut stream, &mut body)? == 0 {
                return Err(format!("the body ended after {} of {length} bytes", body.len()));
            }
        }
        body.truncate(length);
    } else {
        while more(&mut stream, &mut body)? > 0 {}
    }
    Ok(Reply { status, headers, body })
}

fn more(stream: &mut &TcpStream, buffer: &mut Vec<u8>) -> Result<usize, String> {
    let mut part = [0; 16 * 1024];
    loop {
        match stream.read(&mut part) {
            Ok(count) => {
                buffer.extend_from_slice(&part[..count]);
                return Ok(count);
            }
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(format!("read: {why}")),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// What chunks hold (RFC 9112 §7.1).
fn joined(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let line_end = find(chunks, b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..line_end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(all);
        }
        let start = line_end + 2;
        all.extend_from_slice(chunks.get(start..start + size)?);
        chunks = chunks.get(start + size + 2..)?;
    }
}
