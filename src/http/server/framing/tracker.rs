//! The position in a connection's requests: head, body, next head.

use crate::http::server::HEAD_BYTES_MAX;
use crate::http::server::framing::{
    ChunkFault, HeadRefusal,
    chunked::ChunkChecker,
    head::{Framing, Head, rename, replace},
};

/// The position in the requests of one connection.
#[derive(Debug)]
pub(super) struct RequestTracker {
    state: State,
    refusal: HeadRefusal,
    /// Bytes of the partial head that are known not to contain its end.
    searched: usize,
}

#[derive(Debug)]
enum State {
    Head,
    /// A body with this number of remaining bytes.
    Length(u64),
    Chunked(ChunkChecker),
    /// After a head that hyper refuses. Nothing more is read as HTTP.
    Untracked,
    /// After a head refused here.
    Refused,
    Failed(ChunkFault),
}

impl RequestTracker {
    pub(super) fn new() -> Self {
        Self { state: State::Head, refusal: HeadRefusal::default(), searched: 0 }
    }

    /// Returns the refusal that is set once a head is refused.
    pub(super) fn refusal(&self) -> HeadRefusal {
        self.refusal.clone()
    }

    /// Reads `bytes`, which follow those that passed. Returns the number of bytes that pass.
    ///
    /// If [`expects_head`](Self::expects_head), the rest is the beginning of a head. The caller passes it again with
    /// the bytes after it. Otherwise the caller discards the rest.
    pub(super) fn advance(&mut self, bytes: &mut [u8]) -> usize {
        let mut passed = 0;
        loop {
            let rest = bytes.get_mut(passed..).unwrap_or_default();
            if rest.is_empty() {
                return passed;
            }
            let count = match &mut self.state {
                State::Head => self.head(rest),
                State::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= count as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    count
                }
                State::Chunked(body) => {
                    let (count, result) = body.advance(rest);
                    match result {
                        Ok(()) if body.is_complete() => self.state = State::Head,
                        Ok(()) => {}
                        Err(fault) => self.state = State::Failed(fault),
                    }
                    count
                }
                State::Untracked => rest.len(),
                State::Refused | State::Failed(_) => 0,
            };
            passed += count;
            if matches!(self.state, State::Refused | State::Failed(_)) || count == 0 {
                return passed;
            }
        }
    }

    /// Reads the head at the beginning of `bytes`. Returns its length, or 0 while it is partial.
    fn head(&mut self, bytes: &mut [u8]) -> usize {
        // As in hyper, a head in many pieces is parsed twice, not once per piece.
        if self.searched > 0 && bytes.len() < HEAD_BYTES_MAX && !has_end(bytes, self.searched) {
            self.searched = bytes.len();
            return 0;
        }
        self.searched = 0;
        match Head::parse(bytes) {
            Head::Partial => {
                self.searched = bytes.len();
                0
            }
            Head::Invalid => {
                self.state = State::Untracked;
                bytes.len()
            }
            Head::TooLarge(fault) => {
                let _ = self.refusal.0.set(fault); // no head is read after it
                self.state = State::Refused;
                replace(bytes)
            }
            Head::Complete { bytes: length, framing } => {
                self.state = match framing {
                    Ok(Framing::Length(0)) => State::Head,
                    Ok(Framing::Length(length)) => State::Length(length),
                    Ok(Framing::Chunked) => State::Chunked(ChunkChecker::new()),
                    Err(fault) => {
                        rename(bytes.get_mut(..length).unwrap_or_default());
                        let _ = self.refusal.0.set(fault); // no head is read after it
                        State::Refused
                    }
                };
                length
            }
        }
    }

    pub(super) fn expects_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Returns true once a head was refused. Nothing passes any more.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused)
    }

    /// Returns the fault that follows the bytes that passed.
    pub(super) fn fault(&self) -> Option<&ChunkFault> {
        match &self.state {
            State::Failed(fault) => Some(fault),
            _ => None,
        }
    }
}

/// Returns true if an empty line ends in `bytes` after the first `searched` bytes.
fn has_end(bytes: &[u8], searched: usize) -> bool {
    let bytes = bytes.get(searched.saturating_sub(3)..).unwrap_or_default();
    bytes.windows(2).any(|end| end == b"\n\n") || bytes.windows(3).any(|end| end == b"\n\r\n")
}
