//! The strong validator of a shadow.
//!
//! The version decides conflicts; the digest lets a client verify the content. The digest is the first half of the
//! SHA-256 of the RFC 8785 form of `{"desired":…,"reported":…}`. A section that is absent from the document is `{}`
//! there. `tags` are not digested, but a change of them takes a version and therefore changes the etag.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::shadow::document::{Version, canonical, tree::Members};

/// An etag `"<version>-<first 32 hex digits of the SHA-256 of the canonical state>"`, stored as its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Etag {
    /// The version.
    pub version: Version,
    /// The first 16 bytes of the digest.
    pub digest: [u8; 16],
}

/// An error for a text that does not have the form of an [`Etag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form \"<version>-<32 hex digits>\"")]
pub struct NotAnEtag;

impl Etag {
    /// Returns the etag of a state at a version.
    #[must_use]
    pub fn of(version: Version, desired: &Members, reported: &Members) -> Self {
        let mut state = StateForm::with_capacity(1024);
        state.push(desired);
        state.push(reported);
        state.tag(version)
    }
}

/// The canonical form of `{"desired":…,"reported":…}`, written section by section.
#[derive(Debug)]
pub(crate) struct StateForm {
    bytes: Vec<u8>,
}

impl StateForm {
    /// Returns an empty form with room for about `sections` bytes.
    pub(crate) fn with_capacity(sections: usize) -> Self {
        Self { bytes: Vec::with_capacity(sections + 128) }
    }

    /// Appends the next section, `desired` first. Returns the bytes of its value, or 0 for an absent section.
    pub(crate) fn push(&mut self, members: &Members) -> usize {
        self.bytes.extend_from_slice(if self.bytes.is_empty() { b"{\"desired\":" } else { b",\"reported\":" });
        let start = self.bytes.len();
        canonical::write_members(&mut self.bytes, members);
        if members.is_empty() { 0 } else { self.bytes.len() - start }
    }

    /// Returns the etag; both sections must have been pushed.
    pub(crate) fn tag(mut self, version: Version) -> Etag {
        self.bytes.push(b'}');
        let mut digest = [0; 16];
        digest.iter_mut().zip(Sha256::digest(&self.bytes)).for_each(|(to, from)| *to = from);
        Etag { version, digest }
    }
}

/// Writes the etag in its quotes, as in headers and messages.
impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{:032x}\"", self.version.0, u128::from_be_bytes(self.digest))
    }
}

/// Parses exactly the output of `Display`: quotes, no leading zeros, lower case.
impl FromStr for Etag {
    type Err = NotAnEtag;

    fn from_str(text: &str) -> Result<Self, NotAnEtag> {
        let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(NotAnEtag)?;
        let (version, digest) = inner.split_once('-').ok_or(NotAnEtag)?;
        let version = version.parse().map_err(|_| NotAnEtag)?;
        let digest = u128::from_str_radix(digest, 16).map_err(|_| NotAnEtag)?;
        let tag = Self { version: Version(version), digest: digest.to_be_bytes() };
        // Signs, leading zeros, capitals and missing digits do not round-trip.
        if tag.to_string() == text { Ok(tag) } else { Err(NotAnEtag) }
    }
}
