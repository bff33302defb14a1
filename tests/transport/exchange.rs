//! A request in bytes and its answer.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::harness::{
    DEADLINE,
    server::{Server, Setup},
};

/// The head of an answer, and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a field, its name in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A server with a listener for MQTT and one for HTTP, `web`.
pub(crate) fn server(web: &str) -> Server {
    server_with("", web, "")
}

/// As [`server`], with lines for the listener for MQTT, and limits.
pub(crate) fn server_with(mqtt: &str, web: &str, limits: &'static str) -> Server {
    let listener = format!("{mqtt}\n[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n{web}");
    // As long as the test: a listener's settings are constants everywhere else.
    Server::with(Setup { listener: Box::leak(listener.into_boxed_str()), limits, ..Setup::default() })
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(*DEADLINE)).unwrap();
    stream.set_write_timeout(Some(*DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request on a connection of its own. `None`: the connection ends without an answer.
pub(crate) fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Option<Answer> {
    let mut stream = connect(address);
    // It may be refused before it was read to its end.
    let _ = stream.write_all(request.as_ref());
    read_answer(&mut stream)
}

/// Reads an answer and not a byte more.
pub(crate) fn read_answer(stream: &mut impl Read) -> Option<Answer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => {
                assert!(head.is_empty(), "the head ends early: {:?}", String::from_utf8_lossy(&head));
                return None;
            }
            Ok(_) => head.push(byte[0]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return None,
            Err(error) => panic!("no answer: {error}"),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.").unwrap()[2..5].parse().unwrap();
    let fields = lines.map(|line| line.split_once(':').unwrap());
    let fields = fields.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let mut answer = Answer { status, fields, body: String::new() };
    let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    answer.body = String::from_utf8(body).unwrap();
    Some(answer)
}

/// Waits until the server has ended the connection; how many bytes came before.
pub(crate) fn ended(stream: &mut impl Read) -> usize {
    let mut came = 0;
    let mut chunk = [0; 16 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return came,
            Ok(count) => came += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection did not end")
            }
            Err(_) => return came,
        }
    }
}
