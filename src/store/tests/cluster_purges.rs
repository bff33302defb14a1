//! Purges of tombstones in the cluster in memory of [`super::clusters`].

use std::{future::Future, pin::Pin};

use futures_util::FutureExt as _;

use super::{
    clusters::{Cluster, NODES},
    count, delete, key, named,
    replicas::Dump,
};
use crate::{
    shadow::{Command, Rejection, ShadowKey, Version},
    store::{PurgedTombstones, State},
};

/// The purges of operators.
#[derive(Default)]
pub(super) struct AskedPurges {
    asked: Vec<(bool, Asked)>,
    /// The tombstones that were purged, by the answers.
    pub(super) purged: usize,
    pub(super) kept: usize,
}

type Asked = Pin<Box<dyn Future<Output = Result<PurgedTombstones, Rejection>>>>;

impl AskedPurges {
    /// Takes the answers that have come. Returns the number of purges that are not answered.
    pub(super) fn take_answers(&mut self) -> usize {
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain_mut(|(dry_run, asked)| match asked.now_or_never() {
            None => true,
            Some(Ok(PurgedTombstones { purged, kept })) => {
                self.purged += if *dry_run { 0 } else { purged };
                self.kept += kept;
                false
            }
            Some(Err(Rejection::OutcomeUnknown | Rejection::Unavailable(_))) => false,
            Some(Err(rejection)) => panic!("{rejection:?}"),
        });
        self.asked = asked;
        self.asked.len()
    }
}

impl Cluster {
    /// Sends the deletion of a shadow to `node`, or asks it to purge: not often, since a purge is decided alone and others wait for it.
    pub(super) fn submit_deletion_or_purge(&mut self, node: usize) {
        if self.random.chance(4) {
            return self.submit_purge(node);
        }
        let mut queued = self.request(self.requests.len() as u64);
        queued.envelope.command = delete();
        self.submit_queued(node, queued);
    }

    /// Asks `node` to purge the tombstones of all shadows that its requests may write.
    fn submit_purge(&mut self, node: usize) {
        let of_device = |device| [key(device), named(device, "a"), named(device, "b"), named(device, "c")];
        let keys = ["d1", "d2", "d3"].into_iter().flat_map(of_device).collect();
        let dry_run = self.random.chance(4);
        let asked = self.ask_to_purge(node, keys, dry_run);
        self.purges.asked.push((dry_run, asked));
        self.purges.take_answers();
    }

    fn ask_to_purge(&mut self, node: usize, keys: Vec<ShadowKey>, dry_run: bool) -> Asked {
        let store = self.nodes[node].stepped.store.clone();
        let mut asked: Asked = Box::pin(async move { store.purge(keys, dry_run).await });
        assert!((&mut asked).now_or_never().is_none(), "the writer has not run");
        self.run(node);
        asked
    }

    /// Lets `nodes` take turns until `node` has the answer to a purge.
    fn purge(
        &mut self,
        nodes: &[usize],
        node: usize,
        keys: &[ShadowKey],
        dry_run: bool,
    ) -> Result<PurgedTombstones, Rejection> {
        let mut asked = self.ask_to_purge(node, keys.to_vec(), dry_run);
        loop {
            if let Some(answer) = (&mut asked).now_or_never() {
                return answer;
            }
            self.turn_of(nodes);
        }
    }

    fn turn_of(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.pass_all(*node));
        nodes.iter().for_each(|node| self.read_at(*node));
    }

    /// Lets changes of `d1` take turns until the changes of `count` tombstones among `keys` have left the journal. Returns the result of
    /// their purge.
    fn wait_until_removable(
        &mut self,
        nodes: &[usize],
        node: usize,
        keys: &[ShadowKey],
        count: usize,
    ) -> Result<PurgedTombstones, Rejection> {
        let removable = Ok(PurgedTombstones { purged: count, kept: 0 });
        let mut number = 0;
        while self.purge(nodes, node, keys, true) != removable {
            number += 1;
            assert!(number < 2_000, "the deletions leave the journal");
            self.apply(nodes, node, &key("d1"), super::count(number));
        }
        removable
    }

    /// Lets `node` take a command, and `nodes` turns until it is answered.
    pub(super) fn apply(&mut self, nodes: &[usize], node: usize, key: &ShadowKey, command: Command) {
        self.submit_command(node, key, command);
        self.turn_until_answered(nodes, node);
    }

    fn submit_command(&mut self, node: usize, key: &ShadowKey, command: Command) {
        let mut queued = self.request(self.requests.len() as u64);
        (queued.envelope.key, queued.envelope.command) = (key.clone(), command);
        self.submit_queued(node, queued);
    }

    fn turn_until_answered(&mut self, nodes: &[usize], node: usize) {
        while !self.nodes[node].waiting.is_empty() {
            self.turn_of(nodes);
        }
    }
}

/// A node of a cluster refused all purges.
#[test]
fn all_nodes_purge_the_same_tombstones_when_they_read_the_record() {
    // Of an even seed: old changes leave the journal.
    let mut cluster = Cluster::open(2);
    let decider = cluster.decider();
    let (asks, away) = ((decider + 1) % NODES, (decider + 2) % NODES);
    let all = [decider, asks, away];
    let gone = [key("d2"), named("d2", "a")];
    for key in &gone {
        cluster.apply(&all, asks, key, count(1));
        cluster.apply(&all, asks, key, delete());
    }
    let keys = [&gone[..], &[key("d3"), key("d1")]].concat();
    assert_eq!(cluster.purge(&all, asks, &keys, false), Ok(PurgedTombstones { purged: 0, kept: 2 }));
    // From now on, one node neither hears the others nor reads the log.
    let rest = [decider, asks];
    cluster.nodes[away].paused_until = usize::MAX;
    let removable = cluster.wait_until_removable(&rest, asks, &keys, 2);
    assert_eq!(cluster.purge(&rest, asks, &keys, false), removable);
    assert_eq!(cluster.purge(&rest, decider, &keys, false), Ok(PurgedTombstones::default()));
    let is_recorded = |cluster: &Cluster, node: usize, key: &ShadowKey| {
        cluster.nodes[node].stepped.store.read(key).unwrap().is_recorded()
    };
    for key in &gone {
        let recorded = all.map(|node| is_recorded(&cluster, node, key));
        assert_eq!(recorded, [false, false, true], "{key}: the node that is away still has it");
    }
    // The versions go on, also while that is away.
    cluster.apply(&rest, decider, &gone[0], count(1));
    cluster.nodes[away].paused_until = 0;
    cluster.finish("after the purge");
    for node in all {
        let store = &cluster.nodes[node].stepped.store;
        assert_eq!(store.health().state, State::Writable);
        assert_eq!(store.read(&gone[0]).unwrap().document.version, Version(3), "node {node}");
        assert!(!is_recorded(&cluster, node, &gone[1]), "node {node}");
        assert_eq!(store.health().shadows, cluster.nodes[decider].stepped.store.health().shadows, "node {node}");
    }
    let states = all.map(|node| Dump::of(&cluster.nodes[node].stepped).state);
    assert_eq!((&states[1], &states[2]), (&states[0], &states[0]));
}

/// A node that read such a record took the shadow for created at the floor that the purge left.
#[test]
fn a_creation_before_a_purge_in_one_record_begins_at_the_former_floor() {
    let mut cluster = Cluster::open(2);
    let decider = cluster.decider();
    let all = [0, 1, 2];
    let [a, b, c] = ["a", "b", "c"].map(|name| named("d2", name));
    cluster.apply(&all, decider, &a, count(1));
    cluster.apply(&all, decider, &a, delete());
    cluster.wait_until_removable(&all, decider, std::slice::from_ref(&a), 1).unwrap();
    // While the record of the first is appended, the others wait for the next: one that creates `b` and then, to make room for `c`,
    // purges `a`.
    let last = cluster.log.log.lock().last();
    for key in [&key("d1"), &b, &c] {
        cluster.submit_command(decider, key, count(0));
    }
    cluster.turn_until_answered(&all, decider);
    assert_eq!(cluster.log.log.lock().last(), last + 2);
    // Every node checks the versions before and after each change that it learns of.
    cluster.finish("after both");
    for node in all {
        let version = |key| cluster.nodes[node].stepped.store.read(key).unwrap().document.version;
        assert_eq!([&a, &b, &c].map(version), [Version(2), Version(1), Version(3)], "node {node}");
    }
}

/// A node that read both records at once took the lower floor of the second purge for that of the device, and left the cluster.
#[test]
fn a_creation_after_two_purges_begins_at_the_higher_floor() {
    let mut cluster = Cluster::open(2);
    let decider = cluster.decider();
    let (away, all) = ((decider + 1) % NODES, [0, 1, 2]);
    let rest = [decider, (decider + 2) % NODES];
    let [high, low, new] = ["a", "b", "c"].map(|name| named("d2", name));
    cluster.apply(&all, decider, &low, count(1));
    for number in 1..6 {
        cluster.apply(&all, decider, &high, count(number));
    }
    let purged = Ok(PurgedTombstones { purged: 1, kept: 0 });
    for (key, nodes) in [(&high, &all[..]), (&low, &rest)] {
        cluster.apply(&all, decider, key, delete());
        cluster.wait_until_removable(&all, decider, std::slice::from_ref(key), 1).unwrap();
        cluster.nodes[away].paused_until = if nodes == all { 0 } else { usize::MAX };
        assert_eq!(cluster.purge(nodes, decider, std::slice::from_ref(key), false), purged);
    }
    cluster.apply(&rest, decider, &new, count(1));
    cluster.nodes[away].paused_until = 0;
    cluster.read_records(away);
    cluster.finish("after both");
    for node in all {
        let version = |key| cluster.nodes[node].stepped.store.read(key).unwrap().document.version;
        assert_eq!([&high, &low, &new].map(version), [Version(6), Version(6), Version(7)], "node {node}");
    }
}

/// A node that read a row and then a purge committed the row with both, the second time as a new one.
#[test]
fn a_row_is_committed_once_by_a_node_that_reads_a_purge_behind_it() {
    let mut cluster = Cluster::open(2);
    let decider = cluster.decider();
    let (away, rest) = ((decider + 1) % NODES, [decider, (decider + 2) % NODES]);
    let gone = [named("d2", "a")];
    cluster.apply(&[0, 1, 2], decider, &gone[0], count(1));
    cluster.apply(&[0, 1, 2], decider, &gone[0], delete());
    cluster.wait_until_removable(&[0, 1, 2], decider, &gone, 1).unwrap();
    cluster.read_records(away);
    let rows = |cluster: &Cluster| cluster.nodes[away].stepped.writer.progress.rows.head.seq.0;
    let before = rows(&cluster);
    cluster.opened_session(0, decider, Some(away));
    assert_eq!(cluster.purge(&rest, decider, &gone, false), Ok(PurgedTombstones { purged: 1, kept: 0 }));
    cluster.read_records(away);
    assert_eq!(rows(&cluster), before + 1);
    cluster.finish("after the purge");
    cluster.compare("after the purge");
}

/// A purge whose answer does not come is not refused as if nothing were removed.
#[test]
fn a_purge_without_an_answer_has_an_unknown_outcome() {
    let mut cluster = Cluster::open(2);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.cut = Some(node);
    let all = [0, 1, 2];
    assert_eq!(cluster.purge(&all, node, &[key("d1")], false), Err(Rejection::OutcomeUnknown));
    // The decider knows nothing of it, and takes what follows.
    cluster.cut = None;
    let mut answer = Err(Rejection::OutcomeUnknown);
    while matches!(answer, Err(Rejection::OutcomeUnknown | Rejection::Unavailable(_))) {
        answer = cluster.purge(&all, node, &[key("d1")], false);
    }
    assert_eq!(answer, Ok(PurgedTombstones::default()));
}
