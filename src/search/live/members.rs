//! The devices for which a live query is true, and the id that names such a set.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::shadow::DeviceId;

/// Approximate memory of a device beside its id.
const MEMBER_BYTES: usize = 128;
/// The prefix of an id, so that no client computes with it.
const ID_PREFIX: char = 's';

/// A set of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    devices: BTreeSet<DeviceId>,
    /// The sum of the digests of all ids, which does not depend on their order.
    digest: u128,
    /// The bytes of all ids.
    bytes: usize,
}

/// The difference of two sets, each in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) entered: Vec<DeviceId>,
    pub(super) left: Vec<DeviceId>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn has(&self, device: &DeviceId) -> bool {
        self.devices.contains(device)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.iter()
    }

    pub(super) fn add(&mut self, device: DeviceId) {
        let (digest, bytes) = (digest(&device), device.as_str().len());
        if self.devices.insert(device) {
            self.digest = self.digest.wrapping_add(digest);
            self.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, device: &DeviceId) {
        if self.devices.remove(device) {
            self.digest = self.digest.wrapping_sub(digest(device));
            self.bytes -= device.as_str().len();
        }
    }

    /// Returns the approximate memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.len() * MEMBER_BYTES
    }

    /// Returns the id, which equal sets share.
    pub(super) fn id(&self) -> String {
        format!("{ID_PREFIX}{:x}-{:032x}", self.len(), self.digest)
    }

    /// Returns what `newer` has more and less.
    pub(super) fn difference(&self, newer: &Self) -> Difference {
        Difference {
            entered: newer.devices.difference(&self.devices).cloned().collect(),
            left: self.devices.difference(&newer.devices).cloned().collect(),
        }
    }
}

/// Returns true if `text` has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts = text.strip_prefix(ID_PREFIX).and_then(|text| text.split_once('-'));
    parts.is_some_and(|(count, digest)| {
        (1..=8).contains(&count.len()) && digest.len() == 32 && is_hex(count) && is_hex(digest)
    })
}

/// Returns the first half of the SHA-256 digest of an id.
fn digest(device: &DeviceId) -> u128 {
    let bytes = Sha256::digest(device.as_str());
    bytes.iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn members(ids: &str) -> Members {
        let mut members = Members::default();
        ids.split_whitespace().for_each(|id| members.add(DeviceId::new(id).unwrap()));
        members
    }

    #[test]
    fn equal_sets_share_an_id() {
        let mut other = members("c b x a a");
        other.remove(&DeviceId::new("x").unwrap());
        other.remove(&DeviceId::new("x").unwrap());
        let all = members("a b c");
        assert_eq!((&all, all.id(), all.memory()), (&other, other.id(), other.memory()));
        let ids = ["", "a", "b", "a b", "a b c", "ab c"].map(|ids| members(ids).id());
        for (index, id) in ids.iter().enumerate() {
            assert!(is_id(id), "{id}");
            assert_eq!(ids.iter().position(|other| other == id), Some(index));
        }
        let zeros = "0".repeat(32);
        for text in ["", "s", "s0", "s0-", "j1", &zeros, &format!("s-{zeros}"), &format!("s123456789-{zeros}")] {
            assert!(!is_id(text), "{text}");
        }
    }

    #[test]
    fn a_difference_is_what_entered_and_left() {
        let difference = members("a b c").difference(&members("b d"));
        let text = |devices: &[DeviceId]| devices.iter().map(DeviceId::as_str).collect::<Vec<_>>().join(" ");
        assert_eq!((text(&difference.entered), text(&difference.left)), ("d".to_owned(), "a c".to_owned()));
    }
}
