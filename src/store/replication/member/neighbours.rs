//! The other nodes of a cluster, as this one hears of them: their statuses, their lag, and what is not the same at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    shadow::Timestamp,
    store::replication::{
        member::{
            GONE_AFTER, Member, STATUS_EVERY,
            health::{Difference, OtherNode},
        },
        record::{Claim, NodeId},
        requests::BusMessage,
        status::{NodeProfile, SeedingStatus, Status},
    },
};

/// The time after which a difference between nodes is reported: a change takes some seconds to reach all of them.
const DIFFERENCE_LASTS: Duration = Duration::from_secs(10);

/// The time for which the log is kept for a node that is seeded and was heard of last: its disk may be busy.
const LOG_KEPT_FOR: Duration = Duration::from_secs(30);

/// The name of the difference between versions of the program.
const VERSION: &str = "version";

/// The other nodes; see the module.
#[derive(Default)]
pub(super) struct Neighbours {
    nodes: BTreeMap<NodeId, Neighbour>,
    /// The nodes that have no store yet or have to apply the log, each with the time when it was heard of.
    seedings: BTreeMap<NodeId, (SeedingStatus, Duration)>,
    differences: BTreeMap<String, ObservedDifference>,
    /// The other process with the number of this node that was met last.
    namesake: Option<Claim>,
    last_sent: Option<Duration>,
}

/// The last status of another node.
struct Neighbour {
    status: Status,
    /// The records by which it was ahead of this node when it was heard of.
    ahead: i64,
    /// The seconds by which its clock was ahead of that of this node.
    clock_ahead: i64,
    at: Duration,
}

struct ObservedDifference {
    nodes: Vec<Vec<u64>>,
    since: Duration,
    is_logged: bool,
}

impl Neighbours {
    /// Takes the status of another node at `now`, by the date `date`. This one has `applied` the log so far.
    fn hear(&mut self, status: Status, applied: u64, (now, date): (Duration, Timestamp)) {
        let difference = |other: u64, own: u64| other.cast_signed().saturating_sub(own.cast_signed());
        let ahead = difference(status.applied, applied);
        let clock_ahead = status.date.map_or(0, |other| difference(other.0, date.0));
        self.nodes.insert(status.origin.node, Neighbour { status, ahead, clock_ahead, at: now });
    }

    /// Takes the status of a node that has no store yet, or has to apply the log, at `now`.
    pub(super) fn hear_seeding(&mut self, status: SeedingStatus, now: Duration) {
        self.seedings.retain(|_, (_, at)| now.saturating_sub(*at) <= LOG_KEPT_FOR);
        self.seedings.insert(status.node, (status, now));
    }

    /// Returns the nodes that are being seeded.
    pub(super) fn seedings(&self, now: Duration) -> Vec<SeedingStatus> {
        let lately = self.seedings.values().filter(|(_, at)| now.saturating_sub(*at) <= GONE_AFTER);
        lately.map(|(status, _)| *status).filter(|status| status.source != status.node).collect()
    }

    /// Returns the first record of the log that nodes need which are being seeded, or have to apply it.
    pub(super) fn log_needed(&self, now: Duration) -> Option<u64> {
        let needs = self.seedings.values().filter(|(_, at)| now.saturating_sub(*at) <= LOG_KEPT_FOR);
        needs.map(|(status, _)| status.needed).min()
    }

    /// Returns the records by which this node is behind the most advanced one.
    pub(super) fn own_lag(&self, now: Duration) -> u64 {
        let ahead = self.nodes.values().filter(|node| node.is_alive(now)).map(|node| node.ahead).max();
        ahead.map_or(0, |ahead| u64::try_from(ahead).unwrap_or(0))
    }

    /// Returns the other nodes. This one has `applied` the log so far.
    pub(super) fn others(&self, applied: u64, now: Duration) -> Vec<OtherNode> {
        let own_lag = self.own_lag(now);
        let other = |neighbour: &Neighbour| {
            let Neighbour { status, ahead, clock_ahead, .. } = neighbour;
            let is_alive = neighbour.is_alive(now);
            let lag = match is_alive {
                true => u64::try_from(i64::try_from(own_lag).unwrap_or(i64::MAX).saturating_sub(*ahead)).unwrap_or(0),
                false => applied.saturating_sub(status.applied),
            };
            OtherNode {
                node: status.origin.node.0,
                applied: status.applied,
                lag,
                is_alive,
                has_left: status.has_left,
                clock_ahead: *clock_ahead,
                profile: Arc::clone(&status.profile),
            }
        };
        self.nodes.values().map(other).collect()
    }

    /// Returns the differences that last.
    pub(super) fn differences(&self, now: Duration) -> Vec<Difference> {
        let lasting = self.differences.iter().filter(|(_, difference)| difference.lasts(now));
        lasting.map(|(name, difference)| Difference { name: name.clone(), nodes: difference.nodes.clone() }).collect()
    }

    /// Compares the nodes that are alive with this one, and logs each difference once when it lasts.
    fn compare(&mut self, own: (NodeId, &NodeProfile), now: Duration) {
        let others = self.nodes.iter().filter(|(_, node)| node.is_alive(now) && !node.status.has_left);
        let others = others.map(|(node, neighbour)| (*node, &*neighbour.status.profile));
        let mut found = differing(&others.chain([own]).collect::<Vec<_>>());
        self.differences.retain(|name, difference| match found.remove(name) {
            Some(nodes) => {
                difference.nodes = nodes;
                true
            }
            None => {
                if difference.is_logged {
                    tracing::info!(name, "it is the same at all nodes of the cluster again");
                }
                false
            }
        });
        let new = |(name, nodes)| (name, ObservedDifference { nodes, since: now, is_logged: false });
        self.differences.extend(found.into_iter().map(new));
        for (name, difference) in &mut self.differences {
            if difference.lasts(now) && !difference.is_logged {
                difference.is_logged = true;
                let shown = Difference { name: name.clone(), nodes: difference.nodes.clone() };
                tracing::warn!("{shown}: all nodes of a cluster need the same");
            }
        }
    }
}

impl Neighbour {
    fn is_alive(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) <= GONE_AFTER
    }
}

impl ObservedDifference {
    fn lasts(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= DIFFERENCE_LASTS
    }
}

/// Returns what is not the same at all `nodes`, by name: the nodes that have the same, together. Sections of the configuration
/// are compared only among nodes of one version: another may have other keys and defaults.
fn differing(nodes: &[(NodeId, &NodeProfile)]) -> BTreeMap<String, Vec<Vec<u64>>> {
    let groups = |value: &dyn Fn(&NodeProfile) -> Option<Vec<u8>>| {
        let mut groups = BTreeMap::<_, Vec<u64>>::new();
        for (NodeId(node), profile) in nodes {
            groups.entry(value(profile)).or_default().push(*node);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort();
        Some(groups).filter(|groups| groups.len() > 1)
    };
    let mut found = BTreeMap::new();
    let versions = groups(&|profile| Some(profile.version.clone().into_bytes()));
    let names: BTreeSet<_> = nodes.iter().flat_map(|(_, profile)| profile.digests.keys()).collect();
    for name in names.into_iter().filter(|name| versions.is_none() || !name.starts_with('[')) {
        let differing = groups(&|profile| profile.digests.get(name).map(|digest| digest.to_vec()));
        found.extend(differing.map(|groups| (name.clone(), groups)));
    }
    found.extend(versions.map(|groups| (VERSION.to_owned(), groups)));
    found
}

impl<C> Member<C> {
    /// Sends the status of this node if it is time to, and compares it with those of the others. It is `date`.
    pub(super) fn send_status(&mut self, date: Timestamp) {
        self.date = date;
        if self.neighbours.last_sent.is_some_and(|at| self.now.saturating_sub(at) < STATUS_EVERY) {
            return;
        }
        self.neighbours.last_sent = Some(self.now);
        // The number is the other process's.
        if !self.is_namesake {
            self.link.send_to_all(BusMessage::Status(self.status()).encode());
        }
        self.neighbours.compare((self.origin.node, &self.profile), self.now);
    }

    fn status(&self) -> Status {
        Status {
            origin: self.origin,
            started: self.started,
            applied: self.applied(),
            has_left: self.latched.is_some(),
            profile: Arc::clone(&self.profile),
            date: Some(self.date),
        }
    }

    /// Takes the status of a node.
    pub(super) fn hear(&mut self, status: Status) {
        let origin = status.origin;
        if origin.node != self.origin.node {
            self.neighbours.hear(status, self.applied(), (self.now, self.date));
        } else if origin != self.origin && self.status().is_older_than(&status) {
            if self.neighbours.namesake.replace(origin) != Some(origin) {
                let node = origin.node.0;
                tracing::error!(node, "another process was started with the number of this node: it is asked to leave");
            }
            // It names the other's start, so a process that has ended since cannot have sent it.
            self.link.send_to_all(BusMessage::NumberTaken(origin).encode());
        }
    }

    /// An older process has the number of the start `later`.
    pub(super) fn leave_number(&mut self, later: Claim) {
        if later == self.origin {
            self.is_namesake = true;
            self.latch(format!(
                "another process that was started earlier is node {} of this cluster: give each its own number \
                 (cluster.node), and start this one again",
                later.node.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(version: &str, digests: &[(&str, u8)]) -> NodeProfile {
        let digests = digests.iter().map(|(name, digest)| ((*name).to_owned(), [*digest; 32])).collect();
        NodeProfile { version: version.to_owned(), digests }
    }

    const DATE: Timestamp = Timestamp(1_000);

    fn status(node: u64, applied: u64, profile: &NodeProfile) -> Status {
        let origin = Claim { node: NodeId(node), incarnation: 1 };
        let (started, date, profile) = (Timestamp(0), Some(Timestamp(1_000)), Arc::new(profile.clone()));
        Status { origin, started, applied, has_left: false, profile, date }
    }

    fn found(nodes: &[NodeProfile]) -> Vec<String> {
        let nodes: Vec<_> = (1..).map(NodeId).zip(nodes).collect();
        let found = differing(&nodes);
        found.into_iter().map(|(name, nodes)| Difference { name, nodes }.to_string()).collect()
    }

    #[test]
    fn names_what_differs_and_where() {
        let same = profile("1", &[("[limits]", 1), ("auth.users", 2)]);
        assert_eq!(found(&[same.clone(), same.clone(), same.clone()]), [""; 0]);
        let other = profile("1", &[("[limits]", 1), ("auth.users", 3)]);
        assert_eq!(
            found(&[same.clone(), other.clone(), same.clone()]),
            ["auth.users is not the same at nodes 1, 3 and at node 2"]
        );
        let without = profile("1", &[("[limits]", 1)]);
        assert_eq!(
            found(&[same.clone(), other, without]),
            ["auth.users is not the same at node 1 and at node 2 and at node 3"]
        );
        // Another version may have other limits, and no other users.
        let newer = profile("2", &[("[limits]", 9), ("auth.users", 9)]);
        let version = "version is not the same at node 1 and at node 2";
        assert_eq!(found(&[same, newer]), ["auth.users is not the same at node 1 and at node 2", version]);
    }

    #[test]
    fn reports_differences_that_last() {
        let (own, other) = (profile("1", &[("auth.users", 1)]), profile("1", &[("auth.users", 2)]));
        let mut neighbours = Neighbours::default();
        let second = Duration::from_secs;
        for now in 1..=30 {
            // For some seconds nothing is heard of the other.
            if !(14..20).contains(&now) {
                neighbours.hear(status(2, 5, &other), 5, (second(now), DATE));
            }
            neighbours.compare((NodeId(1), &own), second(now));
            let lasts = (11..=18).contains(&now) || now == 30;
            assert_eq!(neighbours.differences(second(now)).len(), usize::from(lasts), "{now}");
        }
        neighbours.hear(status(2, 5, &own), 5, (second(31), DATE));
        neighbours.compare((NodeId(1), &own), second(31));
        assert_eq!(neighbours.differences(second(31)), []);
    }

    #[test]
    fn the_log_is_kept_for_nodes_that_are_seeded() {
        let (mut neighbours, second) = (Neighbours::default(), Duration::from_secs);
        let status = |node, needed| SeedingStatus { node: NodeId(node), source: NodeId(1), needed, bytes: 0 };
        assert_eq!(neighbours.log_needed(second(1)), None);
        neighbours.hear_seeding(status(3, 40), second(1));
        neighbours.hear_seeding(status(2, 50), second(20));
        assert_eq!(
            (neighbours.seedings(second(20)), neighbours.log_needed(second(20))),
            (vec![status(2, 50)], Some(40))
        );
        assert_eq!(neighbours.log_needed(second(32)), Some(50), "nothing was heard of node 3 for too long");
        assert_eq!(neighbours.log_needed(second(51)), None);
        // A node that has a store, and applies the log.
        neighbours.hear_seeding(SeedingStatus { source: NodeId(4), ..status(4, 60) }, second(60));
        assert_eq!((neighbours.seedings(second(60)), neighbours.log_needed(second(60))), (vec![], Some(60)));
        assert_eq!(neighbours.seedings.len(), 1, "the others are forgotten");
    }

    #[test]
    fn clocks_are_compared() {
        let (mut neighbours, same, now) = (Neighbours::default(), profile("1", &[]), Duration::from_secs(1));
        for (date, expected) in
            [(Some(1_000), 0), (Some(940), -60), (Some(u64::MAX), -1_001), (Some(1_007), 7), (None, 0)]
        {
            let status = Status { date: date.map(Timestamp), ..status(2, 5, &same) };
            neighbours.hear(status, 5, (now, DATE));
            let found: Vec<_> = neighbours.others(5, now).iter().map(|other| other.clock_ahead).collect();
            assert_eq!(found, [expected], "{date:?}");
        }
    }

    #[test]
    fn lag_is_counted_from_the_most_advanced_node() {
        let (mut neighbours, same, now) = (Neighbours::default(), profile("1", &[]), Duration::from_secs(1));
        assert_eq!(neighbours.own_lag(now), 0, "nobody else is known");
        neighbours.hear(status(2, 90, &same), 100, (now, DATE));
        let lags = |neighbours: &Neighbours, applied, now| {
            let others: Vec<_> = neighbours.others(applied, now).iter().map(|other| other.lag).collect();
            (neighbours.own_lag(now), others)
        };
        assert_eq!(lags(&neighbours, 100, now), (0, vec![10]));
        neighbours.hear(status(3, 130, &same), 100, (now, DATE));
        assert_eq!(lags(&neighbours, 100, now), (30, vec![40, 0]));
        // Nodes that are gone lag behind this one.
        assert_eq!(lags(&neighbours, 200, now + GONE_AFTER + STATUS_EVERY), (0, vec![110, 70]));
    }
}
