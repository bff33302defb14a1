//! A client that reads shadows over HTTP, always at the same node. Every other read is a consistent one.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    WRITERS,
    fleet::{Fleet, Kind, Observation, Process, SHARED_DEVICES},
};
use crate::harness::{Seed, shadow::version};

/// A node answers a consistent read within 10 s, if it runs.
const PATIENCE: Duration = Duration::from_secs(15);

struct Connection {
    process: Process,
    stream: BufReader<TcpStream>,
}

pub fn run(fleet: &Fleet, node: usize) {
    let mut random = Seed(fleet.seed << 8 | (WRITERS + 1 + node) as u64);
    let mut connection = None;
    while !fleet.is_ending() {
        let process = fleet.process(node);
        // What was sent to a former process of the node says nothing about this one.
        let opened = connection.take().filter(|opened: &Connection| opened.process == process);
        connection = opened.or_else(|| Connection::open(process).ok());
        if let Some(opened) = &mut connection
            && read(fleet, opened, &mut random).is_err()
        {
            connection = None;
        }
        sleep(Duration::from_millis(5 + random.below(20)));
    }
}

/// Reads some device. An error: the connection is to be closed.
fn read(fleet: &Fleet, connection: &mut Connection, random: &mut Seed) -> io::Result<()> {
    let device = match random.below(4) {
        0 => fleet.own_device(random.below(WRITERS as u64) as usize),
        _ => fleet.shared_device(random.below(SHARED_DEVICES as u64) as usize),
    };
    let is_consistent = random.below(2) == 0;
    let query = if is_consistent { "?consistent=true" } else { "" };
    let sent = Instant::now();
    let (status, body) = connection.get(&format!("/v1/devices/{device}/shadow{query}"))?;
    let received = Instant::now();
    let (version, desired) = match status {
        200 => (version(&body), body["state"]["desired"].clone()),
        404 => (0, Value::Null),
        503 => return Ok(()),
        _ => panic!("seed {}: {status} {body}", fleet.seed),
    };
    let (process, kind) = (connection.process, Kind::Read { sent, is_consistent, desired });
    fleet.observed(Observation { device, process, kind, version, received });
    Ok(())
}

impl Connection {
    fn open(process: Process) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&process.web, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { process, stream: BufReader::new(stream) })
    }

    /// The status and the body of the reply to a GET.
    fn get(&mut self, path: &str) -> io::Result<(u16, Value)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.process.web);
        self.stream.get_mut().write_all(head.as_bytes())?;
        let status = self.line()?.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(invalid)?;
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| invalid())?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
