//! The properties of a request that determine the form of its replies.

use std::sync::Arc;

/// The dialect of a request: its fields, and the shape of its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Topics under `shadow/` and paths under `/v1/`.
    Native,
    /// Topics under `$aws/things/` and the AWS-compatible paths.
    Aws,
}

/// A text of at most 64 bytes by which a requester correlates replies. It is echoed on every message of the request. It
/// is no identity, and is not used to find duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientToken(Arc<str>);

/// The options of a request for its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyOptions<'a> {
    /// The token to echo.
    pub token: Option<&'a ClientToken>,
    /// True to include metadata.
    pub metadata: bool,
}

impl<'a> From<Option<&'a ClientToken>> for ReplyOptions<'a> {
    fn from(token: Option<&'a ClientToken>) -> Self {
        Self { token, metadata: true }
    }
}

impl ClientToken {
    /// The most bytes of a token.
    pub const BYTES_MAX: usize = 64;

    /// Returns the token `text`; `None` if it is too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (text.len() <= Self::BYTES_MAX).then(|| Self(text.into()))
    }

    /// Returns the token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
