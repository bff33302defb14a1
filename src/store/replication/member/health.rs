//! The part of a node in its cluster, for readiness, metrics and operators.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    shadow::Timestamp,
    store::replication::{
        member::{DeciderSince, Member, SILENCE_MAX},
        status::{NodeProfile, SeedingStatus},
    },
};

/// The part of a node in its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberHealth {
    /// The number of this node.
    pub node: u64,
    /// The node that decides; `None` before the first claim.
    pub decider: Option<u64>,
    /// The date since which it decides; `None` if that was before this node's start.
    pub decider_since: Option<Timestamp>,
    /// True if this node decides.
    pub is_deciding: bool,
    /// The number of claims so far.
    pub epoch: u64,
    /// The last record that this node has applied.
    pub applied: u64,
    /// The records by which this node is behind the most advanced one.
    pub lag: u64,
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
    /// The version and the files of this node.
    pub profile: Arc<NodeProfile>,
    /// The other nodes that this one has heard of since its start, by their numbers.
    pub others: Vec<OtherNode>,
    /// The files, settings and versions that are not the same at all nodes, for more than some seconds.
    pub differences: Vec<Difference>,
    /// The nodes whose stores are being made of that of another.
    pub seedings: Vec<SeedingStatus>,
    /// The first record of the log that these need.
    pub log_needed: Option<u64>,
}

/// Another node of the cluster, as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherNode {
    /// Its number.
    pub node: u64,
    /// The last record that it has applied.
    pub applied: u64,
    /// The records by which it is behind the most advanced one.
    pub lag: u64,
    /// True if it was heard of in the last seconds.
    pub is_alive: bool,
    /// True if it has left the cluster because of an error.
    pub has_left: bool,
    /// The seconds by which its clock was ahead of that of this node when it was heard of.
    pub clock_ahead: i64,
    /// Its version and files.
    pub profile: Arc<NodeProfile>,
}

impl OtherNode {
    /// Returns true if it is heard of and has not left: what it had is its own still.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        self.is_alive && !self.has_left
    }
}

/// A file, a section of the configuration or the version of the program that is not the same at all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key that names the file, the section in brackets, or `version`.
    pub name: String,
    /// The nodes that have the same, together.
    pub nodes: Vec<Vec<u64>>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not the same", self.name)?;
        for (index, nodes) in self.nodes.iter().enumerate() {
            let (and, plural) = (if index == 0 { "" } else { " and" }, if nodes.len() == 1 { "" } else { "s" });
            let nodes = nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            write!(f, "{and} at node{plural} {nodes}")?;
        }
        Ok(())
    }
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
                 between. If none does, the log has lost them and is to be restored; or this is the store of another cluster, to be replaced"
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

impl<C> Member<C> {
    /// Returns the health of this node.
    pub(in crate::store) fn health(&self) -> MemberHealth {
        let chain = self.replica.chain();
        MemberHealth {
            node: self.origin.node.0,
            decider: (chain.epoch.0 > 0).then_some(chain.claim.node.0),
            is_deciding: self.is_deciding(),
            decider_since: match self.decider_since {
                DeciderSince::Known(date) => Some(date),
                DeciderSince::Unknown | DeciderSince::Next => None,
            },
            epoch: chain.epoch.0,
            applied: self.applied(),
            lag: self.neighbours.own_lag(self.now),
            waiting_requests: self.own.len(),
            silence: self.silence(),
            longest_wait: self.longest_wait(),
            short_log: self.replica.short(),
            latched: self.latched.clone(),
            profile: Arc::clone(&self.profile),
            others: self.neighbours.others(self.applied(), self.now),
            differences: self.neighbours.differences(self.now),
            seedings: self.neighbours.seedings(self.now),
            log_needed: self.neighbours.log_needed(self.now),
        }
    }

    /// Returns the number of the last record that is applied.
    pub(super) fn applied(&self) -> u64 {
        self.behind_at.unwrap_or_else(|| self.replica.chain().position.number - self.records.len() as u64)
    }

    pub(super) fn silence(&self) -> Duration {
        self.now.saturating_sub(self.last_record)
    }

    pub(super) fn longest_wait(&self) -> Duration {
        self.own.oldest().map_or(Duration::ZERO, |since| self.now.saturating_sub(since))
    }
}
