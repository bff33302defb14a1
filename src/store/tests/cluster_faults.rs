//! The faults in the histories of [`super::clusters`].

use bytes::Bytes;

use super::{
    cluster_node::Node,
    clusters::{Cluster, NODES},
    fault_counts::Fault,
    memory_log::ReplicatedLog,
    sim_disk::{Repaired, Stop},
};
use crate::store::replication::{
    record::{LogRecord, RecordContent},
    replica::Appended,
};

impl Cluster {
    pub(super) fn pause(&mut self, node: usize) {
        self.faults.note(if self.nodes[node].is_deciding() { Fault::DeciderPaused } else { Fault::NodePaused });
        self.nodes[node].paused_until = self.step + self.below(120);
    }

    /// Cuts the connection of a node to the log, not that to other nodes.
    pub(super) fn cut_log(&mut self, node: usize) {
        self.faults.note(Fault::LogCut);
        self.nodes[node].log_cut_until = self.step + self.below(160);
    }

    /// Kills a node and starts it again, with what its disk has, and sometimes with other limits.
    pub(super) fn restart(&mut self, node: usize) {
        if self.log.log.lock().last() < self.lost {
            // It may be the one that keeps what the log has lost, or go on without it.
            return;
        }
        self.faults.note(if self.nodes[node].is_deciding() { Fault::DeciderKilled } else { Fault::NodeKilled });
        let image = {
            let disk = &self.nodes[node].disk;
            if self.random.chance(2) { disk.durable() } else { disk.torn(&mut self.random) }
        };
        if self.random.chance(4) {
            let (names, tombstones) = (self.random.below(3), self.random.below(8));
            let options = &mut self.nodes[node].options;
            options.shadow_names_max = 1 + usize::try_from(names).unwrap();
            options.document.path_tombstones_max = 1 + usize::try_from(tombstones).unwrap();
        }
        self.nodes[node].restart(node, image);
        self.check_index(node, &format!("node {node} after a start"));
    }

    /// Lets the disk of `node` fail soon, or work again. A node opens its store again at most once, since it waits the longer the
    /// oftener that fails.
    pub(super) fn disturb_disk(&mut self, node: usize) {
        self.count_failure(node);
        let random = &mut self.random;
        let Node { disk, has_failed, failure, .. } = &mut self.nodes[node];
        if disk.has_stopped() {
            let content = match random.below(3) {
                0 => Repaired::Lost,
                1 => Repaired::Pending,
                _ => Repaired::Torn(random.below(1000)),
            };
            disk.repair(content, Stop::Never);
        } else if !*has_failed && random.chance(15) {
            *has_failed = true;
            let (syncs, writes) = disk.operations();
            let (fault, stop) = match random.below(5) {
                0 => (Fault::SyncFailed, Stop::AtSync(syncs + 1 + random.below(3))),
                1 => (Fault::SyncUnheard, Stop::AfterSync(syncs + 1 + random.below(3))),
                2 | 3 => (Fault::ReadFailed, Stop::AtRead(disk.reads() + 1 + random.below(12))),
                _ => (Fault::WriteFailed, Stop::AtWrite(writes + 1 + random.below(12))),
            };
            *failure = Some(fault);
            disk.repair(Repaired::Pending, stop);
        }
    }

    /// Counts the failure of the disk of `node` if it has come.
    pub(super) fn count_failure(&mut self, node: usize) {
        let Node { disk, failure, .. } = &mut self.nodes[node];
        if disk.has_stopped() {
            failure.take().into_iter().for_each(|failure| self.faults.note(failure));
        }
    }

    /// Lets the log lose acknowledged records from its end, if all nodes have read them and one keeps them: then one of them appends
    /// them again before anything else. If one had not read them, it could go on without them, and the others would leave.
    pub(super) fn lose_end(&mut self) {
        let last = self.log.log.lock().last();
        let end = last.saturating_sub(1 + self.random.below(3));
        let is_away = |node: &Node| node.paused_until > self.step || node.log_cut_until > self.step;
        if end == 0 || last < self.lost || self.nodes.iter().any(is_away) {
            return;
        }
        (0..NODES).for_each(|node| self.read_records(node));
        let is_kept = self.nodes.iter().any(|node| node.first_kept <= end);
        let is_ahead = self.log.log.lock().last() > last || self.nodes.iter().any(|node| node.next_record <= last);
        if !is_kept || is_ahead || self.nodes.iter().any(|node| node.has_late_append(last)) {
            return;
        }
        self.faults.note(Fault::EndLost);
        // What was under way to the former end is lost as well.
        self.log.late.retain(|(expected, _)| *expected >= last);
        self.log.log.lock().lose_after(end);
        self.lost = last;
    }

    /// Appends a record. Of nodes that do not wait for the answer, a batch is taken for stored at once, and appended later.
    pub(super) fn append(&mut self, expected: u64, record: Bytes) -> Appended {
        let Some(unanswered) = &mut self.unanswered else { return self.log.append(expected, &record) };
        let content = LogRecord::decode(expected + 1, &record).map(|record| record.content);
        if matches!(content, Ok(RecordContent::Batch(_))) {
            unanswered.push_back((expected, record));
            return Appended::Stored;
        }
        self.log.append(expected, &record)
    }

    /// Appends the first record that nobody waits for, sooner or later.
    pub(super) fn append_unanswered(&mut self) {
        let Some(unanswered) = &mut self.unanswered else { return };
        if self.random.chance(2) {
            return;
        }
        let Some((expected, record)) = unanswered.pop_front() else { return };
        if self.log.append(expected, &record) == Appended::Unknown {
            unanswered.push_front((expected, record));
        }
    }
}
