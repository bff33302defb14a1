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
