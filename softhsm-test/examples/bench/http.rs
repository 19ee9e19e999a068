//! The least of an HTTP/1.1 client: connections that stay open, answers with a length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    /// The body of an answer that must have this status.
    pub(crate) fn good(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Sends a whole request and reads its answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).unwrap();
        self.received.clear();
        let head_end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more();
        };
        let head = String::from_utf8_lossy(&self.received[..head_end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
        while self.received.len() < head_end + length {
            self.read_more();
        }
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            body: String::from_utf8(self.received[head_end..].to_vec()).unwrap(),
        }
    }

    fn read_more(&mut self) {
        let mut buffer = [0; 8192];
        let count = self.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the server closed the connection");
        self.received.extend_from_slice(&buffer[..count]);
    }
}
