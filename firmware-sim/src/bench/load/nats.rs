//! The NATS protocol of the load generator: lines from the server, and what the clients write.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::socket::Split;

/// The protocol of a NATS server.
pub(crate) enum Nats {}

/// One message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromServer<'a> {
    /// The greeting.
    Info,
    /// A request to answer with `PONG`.
    Ping,
    /// The answer to `PING`.
    Pong,
    /// A message; its payload.
    Message(&'a [u8]),
}

impl Split for Nats {
    type Packet<'a> = FromServer<'a>;

    fn split(bytes: &[u8]) -> anyhow::Result<Option<(FromServer<'_>, &[u8])>> {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let (line, rest) = bytes.split_at_checked(end).context("a line")?;
        let rest = rest.get(2..).unwrap_or_default();
        let line = str::from_utf8(line).context("a line of text from NATS")?;
        let mut words = line.split_ascii_whitespace();
        let found = match words.next() {
            Some("INFO") => FromServer::Info,
            Some("PING") => FromServer::Ping,
            Some("PONG") => FromServer::Pong,
            Some("MSG") => {
                let length: usize = words.next_back().and_then(|word| word.parse().ok()).context("a length")?;
                let Some((payload, rest)) = rest.split_at_checked(length + 2) else { return Ok(None) };
                return Ok(Some((FromServer::Message(payload.get(..length).unwrap_or_default()), rest)));
            }
            _ => bail!("NATS sent {line:?}"),
        };
        Ok(Some((found, rest)))
    }
}

/// Writes the greeting of a client, a subscription to its inbox, and a `PING` whose answer says that both are done.
pub(crate) fn write_connect(out: &mut Vec<u8>, inbox: &str) {
    let options = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":false,"protocol":1}"#;
    out.extend_from_slice(format!("CONNECT {options}\r\nSUB {inbox} 1\r\nPING\r\n").as_bytes());
}

/// Writes a request: a publication with a reply to `inbox`.
pub(crate) fn write_request(out: &mut Vec<u8>, subject: &str, inbox: &str, payload: &[u8]) {
    out.extend_from_slice(format!("PUB {subject} {inbox} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Writes a put of a key of a bucket that is accepted only if `sequence` is that of its last value, 0 for none.
pub(crate) fn write_put(out: &mut Vec<u8>, subject: &str, inbox: &str, sequence: u64, payload: &[u8]) {
    let headers = format!("NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {sequence}\r\n\r\n");
    let (head, all) = (headers.len(), headers.len() + payload.len());
    out.extend_from_slice(format!("HPUB {subject} {inbox} {head} {all}\r\n{headers}").as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Returns the sequence in the answer to a put.
///
/// # Errors
///
/// The put was rejected.
pub(crate) fn put_sequence(payload: &[u8]) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Answer {
        seq: Option<u64>,
    }
    let text = || format!("a put was answered by {}", String::from_utf8_lossy(payload));
    let answer: Answer = serde_json::from_slice(payload).with_context(text)?;
    answer.seq.filter(|_| !text().contains("\"error\"")).with_context(text)
}

/// Checks the answer to a request of the JetStream API.
pub(crate) fn api_answer(payload: &[u8]) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(payload);
    ensure!(!text.contains("\"error\""), "NATS refused: {text}");
    Ok(())
}

/// The request that creates a key-value bucket `bench`, one value per key, in a file.
pub(crate) const CREATE_BUCKET: (&str, &str) = (
    "$JS.API.STREAM.CREATE.KV_bench",
    r#"{"name":"KV_bench","subjects":["$KV.bench.>"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":1,"max_msg_size":-1,"discard":"new","storage":"file","num_replicas":1,"allow_rollup_hdrs":true,"deny_delete":true,"allow_direct":true}"#,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_arrive() {
        let bytes = b"MSG _INBOX.1 1 5\r\nhello\r\nPING\r\n";
        for end in 0..bytes.len() - 6 {
            assert_eq!(Nats::split(bytes.get(..end).unwrap_or_default()).expect("well formed"), None, "{end} bytes");
        }
        let (first, rest) = Nats::split(bytes).expect("well formed").expect("complete");
        assert_eq!(first, FromServer::Message(b"hello"));
        assert_eq!(Nats::split(rest).expect("well formed"), Some((FromServer::Ping, &b""[..])));
        assert!(Nats::split(b"-ERR 'Authorization Violation'\r\n").is_err());
    }

    #[test]
    fn a_put_expects_a_sequence_and_a_rejected_one_is_an_error() {
        let mut out = Vec::new();
        write_put(&mut out, "$KV.bench.a", "_INBOX.1", 7, b"{}");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(
            text,
            "HPUB $KV.bench.a _INBOX.1 52 54\r\nNATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 7\r\n\r\n{}\r\n"
        );
        assert_eq!(put_sequence(br#"{"stream":"KV_bench","seq":8}"#).expect("accepted"), 8);
        assert!(put_sequence(br#"{"error":{"code":400,"description":"wrong last sequence: 9"},"seq":0}"#).is_err());
    }
}
