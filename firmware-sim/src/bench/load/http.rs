//! The HTTP/1.1 of the load generator: requests without allocation where it matters, and responses with a length.

use std::io::Write;

use anyhow::{Context, bail};

use super::socket::Split;

/// Responses of HTTP/1.1.
pub(crate) enum Http {}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    /// The status code.
    pub(crate) status: u16,
    /// The entity tag, with its quotes.
    pub(crate) etag: Option<&'a [u8]>,
    /// The body.
    pub(crate) body: &'a [u8],
}

impl Split for Http {
    type Packet<'a> = Response<'a>;

    fn split(bytes: &[u8]) -> anyhow::Result<Option<(Response<'_>, &[u8])>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let (head, rest) = bytes.split_at_checked(end).context("a head")?;
        let rest = rest.get(4..).unwrap_or_default();
        let status = head.get(9..12).and_then(|code| str::from_utf8(code).ok()?.parse().ok());
        let status: u16 = status.with_context(|| format!("a status line: {}", String::from_utf8_lossy(head)))?;
        let length = header(head, b"content-length").and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        let length = match (status, length) {
            (204 | 304, _) => 0,
            (_, Some(length)) => length,
            _ => bail!("a response without a length: {}", String::from_utf8_lossy(head)),
        };
        let response = |(body, rest)| (Response { status, etag: header(head, b"etag"), body }, rest);
        Ok(rest.split_at_checked(length).map(response))
    }
}

/// Returns the value of a header, the name of which is given in lower case.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":").filter(|_| key.eq_ignore_ascii_case(name))?;
        Some(value.trim_ascii())
    })
}

/// Writes a request; `condition` is a whole header line without its end.
pub(crate) fn write_request(out: &mut Vec<u8>, method: &str, path: &str, condition: &[u8], body: &[u8]) {
    // Writing to memory does not fail.
    let _ = write!(out, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUmbra-Client: bench\r\n");
    if !condition.is_empty() {
        out.extend_from_slice(condition);
        out.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() {
        let kind = if method == "PATCH" { "merge-patch+json" } else { "json" };
        let _ = write!(out, "Content-Type: application/{kind}\r\nContent-Length: {}\r\n", body.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_found_however_the_bytes_arrive() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nETag: \"1-a\"\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 304 Not Modified\r\n\r\n";
        let first = bytes.len() - b"HTTP/1.1 304 Not Modified\r\n\r\n".len();
        for end in 0..bytes.len() {
            let found = Http::split(bytes.get(..end).unwrap_or_default()).expect("well formed");
            assert_eq!(found.is_some(), end >= first, "{end} bytes");
        }
        let (response, rest) = Http::split(bytes).expect("well formed").expect("complete");
        assert_eq!(response, Response { status: 200, etag: Some(b"\"1-a\""), body: b"hello" });
        let (response, rest) = Http::split(rest).expect("well formed").expect("complete");
        assert_eq!((response, rest), (Response { status: 304, etag: None, body: b"" }, &b""[..]));
        assert!(Http::split(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "neither length nor end");
        assert!(Http::split(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_has_its_length_and_condition() {
        let mut out = Vec::new();
        write_request(&mut out, "PATCH", "/v1", b"If-Match: *", b"{}");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("PATCH /v1 HTTP/1.1\r\nHost: localhost\r\n"), "{text}");
        assert!(text.contains("\r\nIf-Match: *\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 2\r\n\r\n{}"), "{text}");
    }
}
