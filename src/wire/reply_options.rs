//! The properties of a request that determine the form of its replies.

use crate::shadow::ClientToken;

/// The dialect of a request: its fields, and the shape of its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Topics under `shadow/` and paths under `/v1/`.
    Native,
    /// Topics under `$aws/things/` and the AWS-compatible paths.
    Aws,
}

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
