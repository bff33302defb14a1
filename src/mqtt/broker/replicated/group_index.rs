//! The groups of shared subscriptions, with their members at all nodes.
//!
//! A member whose session outlives its connection is known by the row of its subscription, the others by their number, which
//! their node writes. A message goes to one node that has members, in proportion to these, and that node picks one of them. Connected
//! members come first; others receive only what can wait for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::mqtt::{
    broker::{
        outbox::SessionId,
        replicated::{numbers, topic_index::TopicIndex},
    },
    protocol::{
        packet::{QoS, Subscription},
        topic::TopicFilter,
    },
};

/// All groups; see the module.
#[derive(Default)]
pub(super) struct GroupIndex {
    by_filter: TopicIndex<BTreeMap<Box<str>, Group>>,
    of_sessions: BTreeMap<SessionId, BTreeSet<TopicFilter>>,
    /// The groups with members that have no rows, by node.
    of_nodes: BTreeMap<u64, BTreeSet<TopicFilter>>,
}

/// The members of a group on one filter.
struct Group {
    filter: Arc<TopicFilter>,
    sessions: BTreeMap<SessionId, Member>,
    /// The same by node, with those that have no rows: a choice visits the nodes, and not all members.
    nodes: BTreeMap<u64, NodeMembers>,
}

/// The members of a group at one node.
#[derive(Default)]
struct NodeMembers {
    /// The connected members that keep messages, in order.
    keepers: Vec<SessionId>,
    /// The absent members that keep messages, in order.
    away: Vec<SessionId>,
    /// The number of connected members at QoS 0.
    at_most_once: usize,
    /// The number of members that have no rows.
    others: u32,
}

/// A member that has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt::broker) struct Member {
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) id: Option<u32>,
    /// True while it has no connection.
    pub(super) is_away: bool,
}

/// The node whose member receives a message, in one group.
#[derive(Clone, Debug)]
pub(in crate::mqtt::broker) struct GroupChoice {
    /// The filter, with the group.
    pub(in crate::mqtt::broker) filter: Arc<TopicFilter>,
    pub(in crate::mqtt::broker) node: u64,
    /// A member that keeps the message until its node has picked one; `None` if nobody there keeps it.
    pub(in crate::mqtt::broker) keeper: Option<(SessionId, Member)>,
}

impl GroupIndex {
    /// Adds or replaces a member that has a row.
    pub(super) fn insert(&mut self, session: SessionId, subscription: &Subscription, id: Option<u32>, is_away: bool) {
        let Subscription { filter, qos, retain_as_published, .. } = subscription;
        let member = Member { qos: *qos, retain_as_published: *retain_as_published, id, is_away };
        if let Some(group) = self.group(filter) {
            group.set(session, Some(member));
            self.of_sessions.entry(session).or_default().insert(filter.clone());
        }
    }

    /// Removes a member that had a row, if it is there.
    pub(super) fn remove(&mut self, session: SessionId, filter: &TopicFilter) {
        self.change(filter, |group| group.set(session, None));
        if let Some(groups) = self.of_sessions.get_mut(&session) {
            groups.remove(filter);
            if groups.is_empty() {
                self.of_sessions.remove(&session);
            }
        }
    }

    /// Notes that a session has lost its connection, or has one.
    pub(super) fn set_away(&mut self, session: SessionId, is_away: bool) {
        for filter in self.of_sessions.get(&session).cloned().unwrap_or_default() {
            self.change(&filter, |group| {
                let member = group.sessions.get(&session).map(|member| Member { is_away, ..*member });
                group.set(session, member);
            });
        }
    }

    /// Sets the number of members at `node` that have no rows.
    pub(super) fn set_others(&mut self, node: u64, filter: &TopicFilter, count: u32) {
        if count > 0 {
            if let Some(group) = self.group(filter) {
                group.nodes.entry(node).or_default().others = count;
                self.of_nodes.entry(node).or_default().insert(filter.clone());
            }
            return;
        }
        self.change(filter, |group| group.change(node, |members| members.others = 0));
        if let Some(filters) = self.of_nodes.get_mut(&node) {
            filters.remove(filter);
            if filters.is_empty() {
                self.of_nodes.remove(&node);
            }
        }
    }

    /// Removes the members of `node` that have no rows. Returns the filters of their groups.
    pub(super) fn clear_others(&mut self, node: u64) -> BTreeSet<TopicFilter> {
        let filters = self.of_nodes.get(&node).cloned().unwrap_or_default();
        filters.iter().for_each(|filter| self.set_others(node, filter, 0));
        filters
    }

    /// Returns the nodes with members that have no rows.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u64> {
        self.of_nodes.keys().copied()
    }

    /// Returns true if `node` has members without rows.
    pub(super) fn has_others(&self, node: u64) -> bool {
        self.of_nodes.contains_key(&node)
    }

    /// Returns the number of groups that select `topic` and have members who keep messages.
    pub(super) fn keeping(&self, topic: &str) -> usize {
        let mut count = 0;
        let keeps = |group: &&Group| group.nodes.values().any(|at| !at.keepers.is_empty() || !at.away.is_empty());
        self.by_filter.visit(topic, &mut |groups| count += groups.values().filter(keeps).count());
        count
    }

    /// Returns the node of each group that selects `topic`, for a message that `may_wait` for a member. The choice depends on `token`
    /// and the members alone.
    pub(super) fn choose(&self, topic: &str, may_wait: bool, token: u64) -> Vec<GroupChoice> {
        let mut chosen = Vec::new();
        let choose = &mut |groups: &BTreeMap<Box<str>, Group>| {
            chosen.extend(groups.values().filter_map(|group| group.choose(may_wait, token, None)));
        };
        self.by_filter.visit(topic, choose);
        chosen
    }

    /// As [`Self::choose`], of one group. `except` is a node that has no member for the message.
    pub(super) fn choose_in(
        &self,
        filter: &TopicFilter,
        may_wait: bool,
        token: u64,
        except: Option<u64>,
    ) -> Option<GroupChoice> {
        self.by_filter.get(filter)?.get(filter.share()?)?.choose(may_wait, token, except)
    }

    fn group(&mut self, filter: &TopicFilter) -> Option<&mut Group> {
        let name = filter.share()?;
        let group = || Group { filter: Arc::new(filter.clone()), sessions: BTreeMap::new(), nodes: BTreeMap::new() };
        Some(self.by_filter.entry(filter).entry(name.into()).or_insert_with(group))
    }

    fn change(&mut self, filter: &TopicFilter, change: impl FnOnce(&mut Group)) {
        let Some(name) = filter.share() else { return };
        self.by_filter.change(filter, |groups| {
            if let Some(group) = groups.get_mut(name) {
                change(group);
                if group.nodes.is_empty() && group.sessions.is_empty() {
                    groups.remove(name);
                }
            }
            groups.is_empty()
        });
    }
}

impl Group {
    /// Adds, replaces or removes a member that has a row.
    fn set(&mut self, session: SessionId, member: Option<Member>) {
        let former = self.sessions.remove(&session);
        self.change(numbers::node_of(session), |at| {
            former.into_iter().for_each(|former| at.remove(session, former));
            member.into_iter().for_each(|member| at.add(session, member));
        });
        self.sessions.extend(member.map(|member| (session, member)));
    }

    /// Changes the members of a node.
    fn change(&mut self, node: u64, change: impl FnOnce(&mut NodeMembers)) {
        let at = self.nodes.entry(node).or_default();
        change(at);
        if at.is_empty() {
            self.nodes.remove(&node);
        }
    }

    fn choose(&self, may_wait: bool, token: u64, except: Option<u64>) -> Option<GroupChoice> {
        let nodes = || self.nodes.iter().filter(|(node, _)| except != Some(**node));
        let (node, at) = nth(nodes(), NodeMembers::connected, token).or_else(|| {
            let waiting = |at: &NodeMembers| if may_wait { at.away.len() } else { 0 };
            nth(nodes(), waiting, token)
        })?;
        let keepers = if at.keepers.is_empty() { &at.away } else { &at.keepers };
        // The low digits of the token have chosen the node.
        let turn = usize::try_from(token >> 16).unwrap_or_default() % keepers.len().max(1);
        let keeper = keepers.get(turn).filter(|_| may_wait);
        let keeper = keeper.and_then(|id| Some((*id, *self.sessions.get(id)?)));
        Some(GroupChoice { filter: Arc::clone(&self.filter), node: *node, keeper })
    }
}

impl NodeMembers {
    fn connected(&self) -> usize {
        self.keepers.len() + self.at_most_once + self.others as usize
    }

    fn is_empty(&self) -> bool {
        self.connected() == 0 && self.away.is_empty()
    }

    fn add(&mut self, session: SessionId, member: Member) {
        match self.list(member) {
            Some(list) => {
                if let Err(at) = list.binary_search(&session) {
                    list.insert(at, session);
                }
            }
            None if member.is_away => {}
            None => self.at_most_once += 1,
        }
    }

    fn remove(&mut self, session: SessionId, member: Member) {
        match self.list(member) {
            Some(list) => {
                if let Ok(at) = list.binary_search(&session) {
                    list.remove(at);
                }
            }
            None if member.is_away => {}
            None => self.at_most_once -= 1,
        }
    }

    fn list(&mut self, member: Member) -> Option<&mut Vec<SessionId>> {
        match member {
            Member { qos: QoS::AtMostOnce, .. } => None,
            Member { is_away: false, .. } => Some(&mut self.keepers),
            Member { is_away: true, .. } => Some(&mut self.away),
        }
    }
}

/// Returns the node with the member that `token` falls on.
fn nth<'a>(
    nodes: impl Iterator<Item = (&'a u64, &'a NodeMembers)> + Clone,
    weight: impl Fn(&NodeMembers) -> usize,
    token: u64,
) -> Option<(&'a u64, &'a NodeMembers)> {
    let total: usize = nodes.clone().map(|(_, at)| weight(at)).sum();
    let mut rest = usize::try_from(token % u64::try_from(total).ok().filter(|total| *total > 0)?).ok()?;
    nodes.into_iter().find(|(_, at)| {
        let weight = weight(at);
        let is_here = rest < weight;
        rest = rest.saturating_sub(weight);
        is_here
    })
}

/// Returns a token for broadcast or change `number`, which rises in steps.
pub(in crate::mqtt::broker) fn token(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::mqtt::protocol::packet::RetainHandling;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn subscription(text: &str, qos: QoS) -> Subscription {
        let retain_handling = RetainHandling::DoNotSend;
        Subscription { filter: filter(text), qos, no_local: false, retain_as_published: false, retain_handling }
    }

    fn session(node: u64, id: u64) -> SessionId {
        SessionId(numbers::first(node, 0) + id)
    }

    /// Returns how often each node is chosen for messages on `topic`, and each keeper.
    fn counts(index: &GroupIndex, topic: &str, may_wait: bool) -> (BTreeMap<u64, u32>, BTreeMap<SessionId, u32>) {
        let (mut nodes, mut keepers) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..1200 {
            for choice in index.choose(topic, may_wait, token(number)) {
                *nodes.entry(choice.node).or_default() += 1;
                choice.keeper.into_iter().for_each(|(id, _)| *keepers.entry(id).or_default() += 1);
            }
        }
        (nodes, keepers)
    }

    #[test]
    fn nodes_are_chosen_in_proportion_to_their_connected_members() {
        let mut index = GroupIndex::default();
        index.insert(session(1, 0), &subscription("$share/g/a/+", QoS::AtLeastOnce), None, false);
        index.insert(session(1, 1), &subscription("$share/g/a/+", QoS::AtLeastOnce), None, false);
        index.insert(session(3, 0), &subscription("$share/g/a/+", QoS::AtLeastOnce), None, true);
        index.set_others(2, &filter("$share/g/a/+"), 1);
        let (nodes, keepers) = counts(&index, "a/b", true);
        assert!(nodes.len() == 2 && (700..900).contains(&nodes[&1]), "{nodes:?}");
        assert!(keepers.len() == 2 && keepers.values().all(|count| (300..500).contains(count)), "{keepers:?}");
        assert_eq!((counts(&index, "b", true).0.len(), index.keeping("a/b"), index.keeping("b")), (0, 1, 0));
        // All are away: what can wait goes to them.
        (0..2).for_each(|id| index.set_away(session(1, id), true));
        index.set_others(2, &filter("$share/g/a/+"), 0);
        assert_eq!(counts(&index, "a/b", false).0.len(), 0);
        assert_eq!(counts(&index, "a/b", true).0.len(), 2);
        assert_eq!(index.choose_in(&filter("$share/g/a/+"), true, 5, Some(1)).unwrap().node, 3);
        (0..2).for_each(|id| index.remove(session(1, id), &filter("$share/g/a/+")));
        index.remove(session(3, 0), &filter("$share/g/a/+"));
        assert!(index.by_filter.is_empty() && index.of_sessions.is_empty() && index.of_nodes.is_empty());
    }

    #[test]
    fn groups_are_apart_and_members_at_qos_0_keep_nothing() {
        let mut index = GroupIndex::default();
        index.insert(session(1, 0), &subscription("$share/g/a", QoS::AtMostOnce), None, false);
        index.insert(session(2, 0), &subscription("$share/h/a", QoS::ExactlyOnce), None, false);
        index.set_others(3, &filter("$share/g/#"), 2);
        let chosen = index.choose("a", true, 1);
        let mut found: Vec<_> = chosen.iter().map(|it| (it.filter.to_string(), it.node, it.keeper.is_some())).collect();
        found.sort();
        let expected = [("$share/g/#", 3, false), ("$share/g/a", 1, false), ("$share/h/a", 2, true)];
        assert_eq!(found, expected.map(|(filter, node, keeps)| (filter.to_owned(), node, keeps)));
        assert_eq!(index.keeping("a"), 1);
        assert_eq!(index.clear_others(3), [filter("$share/g/#")].into());
        assert!(!index.has_others(3) && index.choose("b", true, 1).is_empty());
    }
}
