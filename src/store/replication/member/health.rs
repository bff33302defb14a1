//! The part of a node in its cluster, for readiness, metrics and operators.

use std::time::Duration;

use crate::store::replication::{
    member::{GONE_AFTER, SILENCE_MAX},
    record::NodeId,
};

/// The part of a node in its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberHealth {
    /// The number of this node.
    pub node: u64,
    /// The node that decides; `None` before the first claim.
    pub decider: Option<u64>,
    /// True if this node decides.
    pub is_deciding: bool,
    /// The number of claims so far.
    pub epoch: u64,
    /// The last record that this node has applied.
    pub applied: u64,
    /// Requests of this node's clients that wait for the log.
    pub waiting_requests: usize,
    /// The time since the last record.
    pub silence: Duration,
    /// The time since which the oldest request of this node's clients waits.
    pub longest_wait: Duration,
    /// The last record of the log, if that lacks records which this node has applied.
    pub short_log: Option<u64>,
    /// The reason why this node takes no part any more.
    pub latched: Option<String>,
    /// The other nodes that this one has heard of since its start, by their numbers.
    pub others: Vec<OtherNode>,
}

/// Another node of the cluster, as this one knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// Its number.
    pub node: u64,
    /// The last record that it has applied.
    pub applied: u64,
    /// True if it was heard of in the last seconds.
    pub is_alive: bool,
}

impl MemberHealth {
    /// Returns the reason that this node takes no updates now.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Some(reason) = &self.latched {
            return Some(format!("This node has left its cluster: {reason}"));
        }
        if let (Some(tail), applied) = (self.short_log, self.applied) {
            return Some(format!(
                "The log ends at record {tail}, and this node has applied {applied}: it waits for a node that keeps the records \
                 between. If none does, restore the log"
            ));
        }
        if self.decider.is_none() {
            return Some("No node of the cluster decides yet".to_owned());
        }
        if self.silence > SILENCE_MAX {
            let seconds = self.silence.as_secs();
            return Some(format!("Nothing was heard of the cluster's log for {seconds} seconds"));
        }
        let seconds = self.longest_wait.as_secs();
        (self.longest_wait > SILENCE_MAX)
            .then(|| format!("The node that decides has not answered for {seconds} seconds"))
    }
}

/// The last status of another node.
pub(super) struct HeardOf {
    pub(super) applied: u64,
    pub(super) at: Duration,
}

impl HeardOf {
    pub(super) fn health(&self, NodeId(node): NodeId, now: Duration) -> OtherNode {
        OtherNode { node, applied: self.applied, is_alive: now.saturating_sub(self.at) <= GONE_AFTER }
    }
}
