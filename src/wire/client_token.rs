//! The text a requester correlates replies with.

use std::sync::Arc;

/// At most 64 bytes, echoed on every message a request causes. Never an identity, and never used to find duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientToken(Arc<str>);

/// What a request asks of the messages that answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyOptions<'a> {
    /// Echoed on them.
    pub token: Option<&'a ClientToken>,
    /// Whether they have metadata.
    pub metadata: bool,
}

impl<'a> From<Option<&'a ClientToken>> for ReplyOptions<'a> {
    fn from(token: Option<&'a ClientToken>) -> Self {
        Self { token, metadata: true }
    }
}

impl ClientToken {
    /// The most bytes of one.
    pub const BYTES_MAX: usize = 64;

    /// The token `text`; `None` if it is too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= Self::BYTES_MAX).then(|| Self(text.into()))
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
