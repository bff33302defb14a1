//! The strong validator of a shadow.

use crate::shadow::document::Version;

/// `"<version>-<first 32 hex digits of the SHA-256 of the canonical state>"`; kept as its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Etag {
    /// The version.
    pub version: Version,
    /// The first 16 bytes of the digest.
    pub digest: [u8; 16],
}
