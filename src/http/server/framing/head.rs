//! The framing that a request's head announces. RFC 9112 section 6.3.

use std::{fmt, mem::MaybeUninit};

use axum::http::StatusCode;
use httparse::{Header, Status};

use crate::http::server::framing::excerpt;
use crate::http::server::{HEAD_BYTES_MAX, HEADERS_MAX};

/// The result of parsing a head at the beginning of a connection's unread bytes.
#[derive(Debug)]
pub(super) enum Head {
    /// The end is missing.
    Partial,
    /// hyper refuses it too.
    Invalid,
    /// It is too large; hyper refuses it too, without a body.
    TooLarge(HeadFault),
    Complete {
        bytes: usize,
        framing: Result<Framing, HeadFault>,
    },
}

/// The length of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// The reason that a head is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// A transfer coding other than `chunked`, or more than one. With the field's value.
    UnknownCoding(String),
    /// A Content-Length beside Transfer-Encoding.
    LengthBesideCoding,
    /// More than one Content-Length.
    RepeatedLength,
    /// A Content-Length other than digits of a number below 2^64. With the field's value.
    InvalidLength(String),
    /// A head of more than [`HEAD_BYTES_MAX`] bytes.
    TooLong,
    /// A head with more than [`HEADERS_MAX`] fields.
    TooManyFields,
}

impl Head {
    /// Parses the head at the beginning of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(Status::Complete(length)) if length > HEAD_BYTES_MAX => Self::TooLarge(HeadFault::TooLong),
            Ok(Status::Complete(length)) => match framing(request.version, request.headers) {
                Some(framing) => Self::Complete { bytes: length, framing },
                None => Self::Invalid,
            },
            Ok(Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => Self::TooLarge(HeadFault::TooLong),
            Ok(Status::Partial) => Self::Partial,
            Err(httparse::Error::TooManyHeaders) => Self::TooLarge(HeadFault::TooManyFields),
            Err(_) => Self::Invalid,
        }
    }
}

/// Returns the framing that `headers` announce; `None` if hyper refuses them.
fn framing(version: Option<u8>, headers: &[Header<'_>]) -> Option<Result<Framing, HeadFault>> {
    let mut codings = values(headers, CODING);
    let mut lengths = values(headers, LENGTH);
    let framing = match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(HeadFault::LengthBesideCoding),
        (Some(_), None) if version != Some(1) => return None, // RFC 9112 section 6.1: faulty in HTTP/1.0
        (Some(coding), None) => match codings.next() {
            None if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(HeadFault::UnknownCoding(excerpt(coding))), // RFC 9112 section 6.1
        },
        (None, Some(_)) if lengths.next().is_some() => Err(HeadFault::RepeatedLength),
        (None, Some(length)) => number(length).map(Framing::Length).ok_or(HeadFault::InvalidLength(excerpt(length))),
        (None, None) => Ok(Framing::Length(0)),
    };
    Some(framing)
}

fn values<'a>(headers: &'a [Header<'_>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Parses a Content-Length, which may only have digits.
fn number(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    if digits.bytes().all(|octet| octet.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Renames the framing fields of a parsed head to names of the same length.
pub(super) fn rename(head: &mut [u8]) {
    // The parser accepts no whitespace before the colon, no folded fields, and a CR only before an LF.
    for line in head.split_mut(|octet| *octet == b'\n') {
        for (name, renamed) in [(CODING, RENAMED_CODING), (LENGTH, RENAMED_LENGTH)] {
            if let Some((found, [b':', ..])) = line.split_at_mut_checked(name.len())
                && found.eq_ignore_ascii_case(name.as_bytes())
            {
                found.copy_from_slice(renamed.as_bytes());
            }
        }
    }
}

/// Writes a head in place of one that is too large. Returns its length, or 0 if `bytes` has too little room for it.
pub(super) fn replace(bytes: &mut [u8]) -> usize {
    let Some(begin) = bytes.get_mut(..REPLACEMENT.len()) else { return 0 };
    begin.copy_from_slice(REPLACEMENT.as_bytes());
    REPLACEMENT.len()
}

impl HeadFault {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLong | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownCoding(_) => StatusCode::NOT_IMPLEMENTED,
            Self::LengthBesideCoding | Self::RepeatedLength | Self::InvalidLength(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the code of the problem.
    pub(super) fn error(&self) -> &'static str {
        match self {
            Self::TooLong | Self::TooManyFields => "head-too-large",
            Self::UnknownCoding(_) => "unsupported-transfer-encoding",
            Self::LengthBesideCoding | Self::RepeatedLength | Self::InvalidLength(_) => "invalid-framing",
        }
    }
}

impl fmt::Display for HeadFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCoding(value) => {
                write!(formatter, "Unsupported Transfer-Encoding '{value}'; the only one supported is chunked, alone")
            }
            Self::LengthBesideCoding => {
                formatter.write_str("Content-Length beside Transfer-Encoding; send one of them")
            }
            Self::RepeatedLength => formatter.write_str("More than one Content-Length; send one"),
            Self::InvalidLength(value) => {
                write!(formatter, "Invalid Content-Length '{value}'; it is a decimal number below 2^64")
            }
            Self::TooLong => {
                write!(formatter, "The request line and the header fields exceed {HEAD_BYTES_MAX} bytes together")
            }
            Self::TooManyFields => write!(formatter, "The request has more than {HEADERS_MAX} header fields"),
        }
    }
}

const CODING: &str = "transfer-encoding";
const LENGTH: &str = "content-length";

/// The names of the framing fields in a refused head.
pub(super) const RENAMED_CODING: &str = "x-refused-codings";
pub(super) const RENAMED_LENGTH: &str = "x-extra-length";

/// The head that reaches hyper in place of one that is too large.
const REPLACEMENT: &str = "GET / HTTP/1.1\r\nx-refused-codings:\r\n\r\n";

const _: () = assert!(CODING.len() == RENAMED_CODING.len() && LENGTH.len() == RENAMED_LENGTH.len());
