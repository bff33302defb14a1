//! The strong validator of a shadow.
//!
//! The version decides conflicts; the digest lets anyone check the content: it is the first half of the SHA-256 of
//! the RFC 8785 form of `{"desired":…,"reported":…}`, where a section that is absent from the document is `{}`. `tags`
//! are not part of it, but a change to them takes a version and so makes another tag.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::shadow::{canonical, document::Version, tree::Members};

/// `"<version>-<first 32 hex digits of the SHA-256 of the canonical state>"`; kept as its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Etag {
    /// The version.
    pub version: Version,
    /// The first 16 bytes of the digest.
    pub digest: [u8; 16],
}

/// A text that is not of the form of an [`Etag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form \"<version>-<32 hex digits>\"")]
pub struct NotAnEtag;

impl Etag {
    /// The tag of this state at this version.
    #[must_use]
    pub fn of(version: Version, desired: &Members, reported: &Members) -> Self {
        let mut state = StateForm::with_capacity(1024);
        state.push(desired);
        state.push(reported);
        state.tag(version)
    }
}

/// The canonical form of `{"desired":…,"reported":…}` while it is being written, section after section.
#[derive(Debug)]
pub(crate) struct StateForm {
    bytes: Vec<u8>,
}

impl StateForm {
    /// Nothing yet; about `sections` bytes are to come.
    pub(crate) fn with_capacity(sections: usize) -> Self {
        Self { bytes: Vec::with_capacity(sections + 128) }
    }

    /// Appends the next section, `desired` first, and returns how many bytes its value counts: none for one that is
    /// absent.
    pub(crate) fn push(&mut self, members: &Members) -> usize {
        self.bytes.extend_from_slice(if self.bytes.is_empty() { b"{\"desired\":" } else { b",\"reported\":" });
        let start = self.bytes.len();
        canonical::write_members(&mut self.bytes, members);
        if members.is_empty() { 0 } else { self.bytes.len() - start }
    }

    /// The tag, once both sections are in.
    pub(crate) fn tag(mut self, version: Version) -> Etag {
        self.bytes.push(b'}');
        let mut digest = [0; 16];
        digest.iter_mut().zip(Sha256::digest(&self.bytes)).for_each(|(to, from)| *to = from);
        Etag { version, digest }
    }
}

/// With its quotes, as it stands in headers and messages.
impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{:032x}\"", self.version.0, u128::from_be_bytes(self.digest))
    }
}

/// Reads exactly what `Display` writes: quotes, no leading zeros, lower case.
impl FromStr for Etag {
    type Err = NotAnEtag;

    fn from_str(text: &str) -> Result<Self, NotAnEtag> {
        let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(NotAnEtag)?;
        let (version, digest) = inner.split_once('-').ok_or(NotAnEtag)?;
        let version = version.parse().map_err(|_| NotAnEtag)?;
        let digest = u128::from_str_radix(digest, 16).map_err(|_| NotAnEtag)?;
        let tag = Self { version: Version(version), digest: digest.to_be_bytes() };
        // Signs, zeros, capitals and missing digits do not survive being written again.
        if tag.to_string() == text { Ok(tag) } else { Err(NotAnEtag) }
    }
}
