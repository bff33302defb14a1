//! The events that a server sends on one response.

use serde::de::DeserializeOwned;

use super::transport::Body;
use crate::error::Error;

/// A stream of server-sent events whose data is JSON.
#[derive(Debug)]
pub(super) struct EventStream {
    body: Body,
    /// The received part of the events that are not complete.
    text: Vec<u8>,
}

impl EventStream {
    pub(super) fn new(body: Body) -> Self {
        Self { body, text: Vec::new() }
    }

    /// Returns the data of the next event; `None` at the end. A call that is cancelled loses nothing.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                // A heartbeat has none.
                let data = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: "));
                if let Some(data) = data {
                    return serde_json::from_slice(data).map(Some).map_err(Error::unreadable);
                }
            }
            match self.body.chunk().await? {
                Some(part) => self.text.extend_from_slice(&part),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::{Instant, sleep},
    };

    use crate::{DeviceId, Error, HttpClient};

    /// `umbrad trace` asked for the next event once a second, between other questions, and each time waited anew for as long as a
    /// dead connection may be silent.
    #[tokio::test]
    async fn cancelled_calls_do_not_extend_the_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            let response = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 1\n\n";
            stream.write_all(response.as_bytes()).await.expect("the response is read");
            // Silent, but open.
            assert_eq!(stream.read_u8().await.map_err(|error| error.kind()), Err(std::io::ErrorKind::UnexpectedEof));
        });
        let http = HttpClient::new(&url).expect("a URL").timeout(Duration::from_millis(500));
        let mut changes = http.changes(&DeviceId::new("lamp-1").expect("a device id")).await.expect("a stream");
        let deadline = Instant::now() + Duration::from_secs(60);
        let error = loop {
            assert!(Instant::now() < deadline, "the stream never ends");
            tokio::select! {
                change = changes.try_next() => break change.expect_err("nothing is sent"),
                () = sleep(Duration::from_millis(20)) => {}
            }
        };
        let is_late = matches!(&error, Error::Http { source, .. } if source.to_string() == "no answer within 500ms");
        assert!(is_late, "{error:#}");
        drop(changes);
        server.await.expect("the server sees the end");
    }
}
