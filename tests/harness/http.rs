//! An HTTP client of the tests' own: it writes literal bytes and reads what comes back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use serde_json::Value;

use super::DEADLINE;

/// Connections of [`write_many`].
const CONNECTIONS: usize = 16;

/// A connection.
pub struct Http {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream.set_read_timeout(Some(*DEADLINE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream), address }
    }

    /// Sends `head` (request line and header lines, without a Host and an end) and `body`, and reads the reply.
    pub fn send(&mut self, head: &str, body: &[u8]) -> Reply {
        self.write(head, body);
        self.reply(head.starts_with("HEAD "))
    }

    /// Sends a request whose reply is not read yet.
    pub fn write(&mut self, head: &str, body: &[u8]) {
        let mut bytes = format!("{}\r\nHost: {}\r\n", head.trim_end().replace('\n', "\r\n"), self.address).into_bytes();
        if !body.is_empty() {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        self.write_bytes(&bytes);
    }

    /// Sends a request without its body, and waits until the server wants that.
    pub fn write_head(&mut self, head: &str, body_bytes: usize) {
        self.write(&format!("{head}\nExpect: 100-continue\nContent-Length: {body_bytes}"), b"");
        assert_eq!(self.head().status, 100);
    }

    /// Sends bytes as they are, such as a body that was waited with.
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the connection is open");
    }

    /// Reads status and headers alone: what follows is a stream.
    pub fn head(&mut self) -> Reply {
        let line = self.line();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return Reply { status, headers, body: Vec::new() };
            }
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a reply.
    pub fn reply(&mut self, to_head: bool) -> Reply {
        let reply = self.head();
        if to_head || reply.status == 204 || reply.status == 304 { reply } else { self.body_of(reply) }
    }

    /// Reads the body that comes after the head of `reply`.
    pub fn body_of(&mut self, mut reply: Reply) -> Reply {
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                reply.body.extend(chunk);
            }
        } else {
            let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            reply.body.resize(length, 0);
            self.stream.read_exact(&mut reply.body).expect("a whole body");
        }
        reply
    }

    /// The next chunk of a stream; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line(), 16).expect("the length of a chunk");
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk).expect("a whole chunk");
        self.line();
        (length > 0).then_some(chunk)
    }

    /// The data of the changes in the journal from its beginning, in order, until the one of the device `end-of-journal` that has
    /// `mark` in it.
    pub fn journal_until(mut self, mark: &str) -> Vec<Value> {
        self.write("GET /v1/events HTTP/1.1\nAccept: text/event-stream\nLast-Event-ID: j0", b"");
        assert_eq!(self.head().status, 200);
        let (mut text, mut changes) = (String::new(), Vec::new());
        loop {
            text.push_str(std::str::from_utf8(&self.chunk().expect("a stream")).unwrap());
            while let Some((block, rest)) = text.clone().split_once("\n\n") {
                text = rest.to_owned();
                let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
                let change: Value = serde_json::from_str(data).unwrap();
                if change["device"] == "end-of-journal" && change.to_string().contains(mark) {
                    return changes;
                }
                changes.push(change);
            }
        }
    }

    /// Reads all that is left, and returns true if the server has closed the connection.
    pub fn ended(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok() || rest.is_empty()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line of the reply");
        line.trim_end_matches(['\r', '\n']).to_owned()
    }
}

/// Replaces a shadow, whatever is there: the path after `/v1/devices/`, and the state.
pub fn put(client: &mut Http, path: &str, state: &Value) {
    let head = format!("PUT /v1/devices/{path}?upsert=true HTTP/1.1\nContent-Type: application/json");
    let reply = client.send(&head, state.to_string().as_bytes());
    assert!(matches!(reply.status, 200 | 201), "{path}: {}", reply.text());
}

/// Replaces many shadows over several connections, which share the commits.
pub fn write_many(address: SocketAddr, count: usize, shadow: impl Fn(usize) -> (String, Value) + Sync) {
    thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            let shadow = &shadow;
            scope.spawn(move || {
                let mut client = Http::connect(address);
                for n in (first..count).step_by(CONNECTIONS) {
                    let (path, state) = shadow(n);
                    put(&mut client, &path, &state);
                }
            });
        }
    });
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The `ETag`, which must be there.
    pub fn etag(&self) -> String {
        self.header("etag").unwrap_or_else(|| panic!("no ETag: {self:?}")).to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
