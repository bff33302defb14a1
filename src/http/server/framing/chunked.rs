//! The grammar of a chunked body. RFC 9112 section 7.1.
//!
//! Chunk data is skipped. Chunk-size lines and the trailer section are checked octet by octet and not buffered. hyper
//! limits the size of the trailer section and of all extensions together.

use std::fmt;

use crate::http::server::framing::{EXCERPT_BYTES_MAX, excerpt};

/// The state of a partly read chunked body.
#[derive(Debug)]
pub(super) struct ChunkChecker {
    state: State,
    /// The value of the size digits read so far, then the remaining octets of chunk data.
    size: u64,
    /// Octets of the line so far.
    line_bytes: usize,
    /// The beginning of the line, for [`ChunkFault`].
    line: Vec<u8>,
}

/// The position of the next octet in the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a chunk size.
    SizeStart,
    Size,
    /// In whitespace after a size or an extension.
    ExtensionBlank,
    /// After the `;`.
    NameStart,
    Name,
    /// In whitespace after the name of an extension.
    NameBlank,
    /// After the `=`.
    ValueStart,
    Token,
    Quoted,
    /// After a backslash.
    QuotedPair,
    /// After the closing quote.
    QuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Before a trailer field or the final CRLF.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

/// A violation of the chunked grammar. RFC 9112 section 7.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkFault {
    part: &'static str,
    /// The beginning of the line, without the invalid octet.
    line: Vec<u8>,
    found: u8,
    expected: &'static str,
}

impl ChunkChecker {
    pub(super) fn new() -> Self {
        Self { state: State::SizeStart, size: 0, line_bytes: 0, line: Vec::new() }
    }

    /// Returns true once the last octet of the body was read.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::End
    }

    /// Reads `bytes` up to the end of the body or a fault. Returns the number of valid bytes.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> (usize, Result<(), ChunkFault>) {
        let mut rest = bytes;
        while self.state != State::End {
            if self.state == State::Data {
                let skipped = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.get(skipped..).unwrap_or_default();
                self.size -= skipped as u64;
                if self.size > 0 {
                    break;
                }
                self.state = State::DataCr;
            }
            let Some((&octet, after)) = rest.split_first() else { break };
            if let Err(expected) = self.step(octet) {
                return (bytes.len() - rest.len(), Err(self.fault(octet, expected)));
            }
            rest = after;
        }
        (bytes.len() - rest.len(), Ok(()))
    }

    /// Reads one octet outside chunk data. The error names the expected octets.
    fn step(&mut self, octet: u8) -> Result<(), &'static str> {
        let next = match self.state {
            State::SizeStart | State::Size => self.size_octet(octet)?,
            State::SizeLf => match octet {
                b'\n' if self.size == 0 => State::TrailerStart,
                b'\n' => State::Data,
                _ => return Err("a line feed"),
            },
            State::DataCr if octet == b'\r' => State::DataLf,
            State::DataLf if octet == b'\n' => State::SizeStart,
            State::DataCr | State::DataLf => return Err("CR LF after the data of the chunk"),
            State::Data | State::End => self.state,
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf => {
                trailer_octet(self.state, octet)?
            }
            extension => extension_octet(extension, octet)?,
        };
        self.count(octet, next)?;
        self.state = next;
        Ok(())
    }

    /// Reads an octet of a chunk size, or the first one after it.
    fn size_octet(&mut self, octet: u8) -> Result<State, &'static str> {
        match (octet, self.state) {
            (b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', _) => {
                let digit = char::from(octet).to_digit(16).unwrap_or_default();
                let size = self.size.checked_mul(16).filter(|_| self.line_bytes < SIZE_DIGITS_MAX);
                self.size = size.ok_or("a size of at most 16 digits")? + u64::from(digit);
                Ok(State::Size)
            }
            (_, State::SizeStart) => Err("a hexadecimal chunk size"),
            (b'\r', _) => Ok(State::SizeLf),
            (b';', _) => Ok(State::NameStart),
            (b' ' | b'\t', _) => Ok(State::ExtensionBlank),
            _ => Err("a hexadecimal digit, ';' or CR LF"),
        }
    }

    /// Adds `octet` to the current line. The line ends if `next` begins another line or chunk data.
    fn count(&mut self, octet: u8, next: State) -> Result<(), &'static str> {
        if matches!(next, State::SizeStart | State::Data | State::TrailerStart | State::End) {
            self.line_bytes = 0;
            self.line.clear();
            return Ok(());
        }
        self.line_bytes += 1;
        let in_trailer = matches!(next, State::TrailerName | State::TrailerValue | State::TrailerLf);
        if self.line_bytes > SIZE_LINE_BYTES_MAX && !in_trailer {
            return Err("a line of at most 4096 bytes");
        }
        if self.line.len() <= EXCERPT_BYTES_MAX {
            self.line.push(octet);
        }
        Ok(())
    }

    fn fault(&self, found: u8, expected: &'static str) -> ChunkFault {
        let part = match self.state {
            State::DataCr | State::DataLf => "chunk",
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf => {
                "trailer field"
            }
            _ => "chunk-size line",
        };
        ChunkFault { part, line: self.line.clone(), found, expected }
    }
}

/// Reads an octet of `chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`.
fn extension_octet(state: State, octet: u8) -> Result<State, &'static str> {
    match (state, octet) {
        (State::ExtensionBlank | State::NameStart | State::NameBlank | State::ValueStart, b' ' | b'\t') => Ok(state),
        (State::NameStart | State::Name, octet) if is_token(octet) => Ok(State::Name),
        (State::Name, b' ' | b'\t') => Ok(State::NameBlank),
        (State::Name | State::NameBlank, b'=') => Ok(State::ValueStart),
        (State::ValueStart | State::Token, octet) if is_token(octet) => Ok(State::Token),
        (State::ValueStart, b'"') => Ok(State::Quoted),
        (State::Quoted, b'"') => Ok(State::QuotedEnd),
        (State::Quoted, b'\\') => Ok(State::QuotedPair),
        (State::Quoted | State::QuotedPair, octet) if is_text(octet) => Ok(State::Quoted),
        (State::Token | State::QuotedEnd, b' ' | b'\t') => Ok(State::ExtensionBlank),
        (State::ExtensionBlank | State::Name | State::NameBlank | State::Token | State::QuotedEnd, b';') => {
            Ok(State::NameStart)
        }
        (State::Name | State::Token | State::QuotedEnd, b'\r') => Ok(State::SizeLf),
        (State::ExtensionBlank, _) => Err("';' after whitespace"),
        (State::NameStart, _) => Err("the name of a chunk extension"),
        (State::NameBlank, _) => Err("'=' or ';' after whitespace"),
        (State::ValueStart, _) => Err("a token or a quoted string"),
        (State::Quoted | State::QuotedPair, _) => Err("text or a closing quote"),
        (State::QuotedEnd, _) => Err("';' or CR LF"),
        _ => Err("a token, ';' or CR LF"),
    }
}

/// Reads an octet of `trailer-section = *( field-line CRLF )` or of the CRLF after it.
fn trailer_octet(state: State, octet: u8) -> Result<State, &'static str> {
    match (state, octet) {
        (State::TrailerStart, b'\r') => Ok(State::EndLf),
        (State::TrailerStart | State::TrailerName, octet) if is_token(octet) => Ok(State::TrailerName),
        (State::TrailerName, b':') => Ok(State::TrailerValue),
        (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
        (State::TrailerValue, octet) if is_text(octet) => Ok(State::TrailerValue),
        (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
        (State::EndLf, b'\n') => Ok(State::End),
        (State::TrailerStart, _) => Err("the name of a field or CR LF"),
        (State::TrailerName, _) => Err("a token and ':'"),
        (State::TrailerValue, _) => Err("text or CR LF"),
        _ => Err("a line feed"),
    }
}

/// Returns true for a `tchar`. RFC 9110 section 5.6.2.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// Returns true for HTAB, SP, VCHAR and `obs-text`: all octets except control characters.
fn is_text(octet: u8) -> bool {
    octet == b'\t' || (octet >= b' ' && octet != 0x7f)
}

impl fmt::Display for ChunkFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, line, found, expected } = self;
        let (line, found) = (excerpt(line), found.escape_ascii());
        write!(formatter, "invalid {part}: expected {expected}, found '{found}' after '{line}'")
    }
}

impl std::error::Error for ChunkFault {}

/// Most digits of a chunk size, leading zeros included.
const SIZE_DIGITS_MAX: usize = 16;
/// Most octets of a chunk-size line with its extensions.
const SIZE_LINE_BYTES_MAX: usize = 4096;
