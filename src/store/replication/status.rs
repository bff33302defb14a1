//! The status that each node of a cluster sends to the others every second, and that of a node which has no store yet.
//!
//! It says how far the node is in the log, and has digests of what must be the same at all nodes: the version of the program, the
//! sections of the configuration, and the files of users and keys. A later version may add to it: what follows the known part is ignored.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    shadow::Timestamp,
    store::{
        codec::{DecodeError, Decoder, put_len, put_str, put_u64},
        replication::{
            record::{Claim, NodeId},
            requests::BusMessage,
        },
    },
};

/// The version of a node's program, and digests of what must be the same at all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeProfile {
    /// The version of the program.
    pub version: String,
    /// The SHA-256 of files, by the keys that name them, and of sections of the configuration, by their names in brackets.
    pub digests: BTreeMap<String, [u8; 32]>,
}

/// The status of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Status {
    /// The node, and its start.
    pub(in crate::store) origin: Claim,
    /// The date of its start.
    pub(in crate::store) started: Timestamp,
    /// The last record that it has applied.
    pub(in crate::store) applied: u64,
    /// True if it takes no part any more.
    pub(in crate::store) has_left: bool,
    pub(in crate::store) profile: Arc<NodeProfile>,
    /// The date when it was sent; `None` from a node of an earlier version.
    pub(in crate::store) date: Option<Timestamp>,
}

/// The status of a node whose store is made of a backup that another node streams, or that has to apply the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedingStatus {
    /// The node.
    pub node: NodeId,
    /// The node that streams; the node itself if it has its store.
    pub source: NodeId,
    /// The first record of the log that is needed.
    pub needed: u64,
    /// The bytes that were received so far.
    pub bytes: u64,
}

impl SeedingStatus {
    /// Returns the message for the members of the cluster, which keep the log that is needed. To be sent every second.
    #[must_use]
    pub fn message(self) -> Bytes {
        BusMessage::Seeding(self).encode()
    }

    pub(in crate::store) fn put(self, out: &mut Vec<u8>) {
        let Self { node, source, needed, bytes } = self;
        for number in [node.0, source.0, needed, bytes] {
            put_u64(out, number);
        }
    }

    pub(in crate::store) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (node, source) = (NodeId(payload.u64()?), NodeId(payload.u64()?));
        Ok(Self { node, source, needed: payload.u64()?, bytes: payload.u64()? })
    }
}

impl Status {
    pub(in crate::store) fn put(&self, out: &mut Vec<u8>) {
        let Self { origin, started, applied, has_left, profile, date } = self;
        for number in [origin.node.0, origin.incarnation, started.0, *applied, u64::from(*has_left)] {
            put_u64(out, number);
        }
        put_str(out, &profile.version);
        put_len(out, profile.digests.len());
        for (name, digest) in &profile.digests {
            put_str(out, name);
            out.extend_from_slice(digest);
        }
        date.iter().for_each(|date| put_u64(out, date.0));
    }

    pub(in crate::store) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let origin = Claim { node: NodeId(payload.u64()?), incarnation: payload.u64()? };
        let (started, applied, has_left) = (Timestamp(payload.u64()?), payload.u64()?, payload.u64()? != 0);
        let version = payload.str()?.to_owned();
        let digests = (0..payload.count()?).map(|_| Ok((payload.str()?.to_owned(), payload.array()?)));
        let digests = digests.collect::<Result<_, DecodeError>>()?;
        let date = (!payload.is_empty()).then(|| payload.u64().map(Timestamp)).transpose()?;
        let profile = Arc::new(NodeProfile { version, digests });
        Ok(Self { origin, started, applied, has_left, profile, date })
    }

    /// Returns true if `self` started before `other`, which has the same number. Both agree on it.
    pub(in crate::store) fn is_older_than(&self, other: &Self) -> bool {
        (self.started, self.origin.incarnation) < (other.started, other.origin.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        frame,
        replication::requests::{BUS_FORMAT, BusMessage},
    };

    fn status(started: u64, incarnation: u64) -> Status {
        let digests = BTreeMap::from([("[limits]".to_owned(), [7; 32]), ("auth.users".to_owned(), [9; 32])]);
        Status {
            origin: Claim { node: NodeId(3), incarnation },
            started: Timestamp(started),
            applied: 1 << 40,
            has_left: true,
            profile: Arc::new(NodeProfile { version: "1.2.3".to_owned(), digests }),
            date: Some(Timestamp(1 << 33)),
        }
    }

    #[test]
    fn a_status_comes_back_and_may_have_more() {
        let sent = BusMessage::Status(status(5, u64::MAX));
        assert_eq!(BusMessage::decode(&sent.encode()), Ok(sent));
        let earlier = BusMessage::Status(Status { date: None, ..status(5, 1) });
        assert_eq!(BusMessage::decode(&earlier.encode()), Ok(earlier));
        // A later version says more.
        let mut later = Vec::new();
        frame::begin(&mut later);
        put_u64(&mut later, BUS_FORMAT);
        later.push(3);
        status(5, 1).put(&mut later);
        later.extend_from_slice(b"more");
        frame::finish(&mut later, "bus", &[]);
        assert_eq!(BusMessage::decode(&later), Ok(BusMessage::Status(status(5, 1))));
        let taken = BusMessage::NumberTaken(status(5, 1).origin);
        assert_eq!(BusMessage::decode(&taken.encode()), Ok(taken));
    }

    #[test]
    fn the_status_of_a_seed_comes_back() {
        let sent = SeedingStatus { node: NodeId(3), source: NodeId(1), needed: 7, bytes: u64::MAX };
        assert_eq!(BusMessage::decode(&sent.message()), Ok(BusMessage::Seeding(sent)));
    }

    #[test]
    fn of_two_with_one_number_one_is_older() {
        for (one, other, is_older) in [((1, 9), (2, 1), true), ((2, 1), (2, 9), true), ((3, 1), (2, 9), false)] {
            let (one, other) = (status(one.0, one.1), status(other.0, other.1));
            assert_eq!((one.is_older_than(&other), other.is_older_than(&one)), (is_older, !is_older));
        }
    }
}
