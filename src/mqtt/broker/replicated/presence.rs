//! The presence of the devices of all nodes, as the log has it.
//!
//! Each node says of a device whether it is connected there. A device is connected as long as it is at any node, so a client
//! that goes from one node to another is never gone: the opening of its session says that it is connected to its new node, before its
//! former one can have met that opening. What a former node says of it then, however late, is about that node alone.
//!
//! *Invariant:* a device has an entry for each node that it is connected to; if there is none, one for the node where it was last.
//!
//! Disconnected devices beyond a limit are forgotten, at all nodes the same: those that were seen longest ago first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
};

use crate::{
    mqtt::broker::{
        durable::{clock_row::Stop, presence_row},
        presence::{LoggedPresence, Presence, newest},
    },
    shadow::{DeviceId, Timestamp},
    store::RowEdit,
};

/// The presence of devices by node; see the module.
#[derive(Default)]
pub(super) struct DevicePresences {
    devices: HashMap<DeviceId, AtNodes>,
    connected: BTreeMap<u64, BTreeSet<DeviceId>>,
    disconnected: BTreeSet<(Timestamp, DeviceId)>,
    /// Most devices, unless more are connected.
    devices_max: usize,
    /// The devices that have changed since the last [`Self::take_changed`].
    changed: Vec<DeviceId>,
}

/// The presence of a device at nodes, in the order of these. Nearly always there is one.
type AtNodes = Vec<(u64, Presence)>;

/// The node of the rows that a node alone has written.
const NO_NODE: u64 = 0;

impl DevicePresences {
    /// Returns no devices, of which at most `devices_max` are kept.
    pub(super) fn new(devices_max: usize) -> Self {
        Self { devices_max, ..Self::default() }
    }

    /// Takes a row of the store.
    pub(super) fn restore(&mut self, key: &[u8], value: bytes::Bytes) {
        if let Some((device, node, presence)) = presence_row::read(key, value) {
            self.put(&device, node.unwrap_or(NO_NODE), Some(presence), &mut Vec::new());
            self.changed.clear();
        }
    }

    /// Sets the presence of `device` at `node`; `None` if that node knows nothing of it.
    pub(super) fn set(&mut self, device: &DeviceId, node: u64, presence: Option<Presence>, edits: &mut Vec<RowEdit>) {
        self.put(device, node, presence, edits);
        while self.devices.len() > self.devices_max
            && let Some((_, oldest)) = self.disconnected.pop_first()
        {
            self.replace(&oldest, AtNodes::new(), edits);
        }
    }

    /// Disconnects all devices that are connected to `node`, which has stopped as `stop` says.
    pub(super) fn disconnect(&mut self, node: u64, stop: Option<&Stop>, edits: &mut Vec<RowEdit>) {
        let stopped = stop.map(|stop| Timestamp(stop.date_ms / 1000));
        for device in self.connected.get(&node).cloned().unwrap_or_default() {
            let at_node = self.devices.get(&device).and_then(|all| all.iter().find(|(other, _)| *other == node));
            let gone = at_node.map(|(_, presence)| presence.lost(stopped));
            self.set(&device, node, gone, edits);
        }
    }

    /// Returns the nodes that devices are connected to.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u64> {
        self.connected.keys().copied()
    }

    /// Returns true if a device is connected to `node`.
    pub(super) fn has_connected(&self, node: u64) -> bool {
        self.connected.contains_key(&node)
    }

    /// Returns what the log has of all devices, for `node`.
    pub(super) fn all(&self, node: u64) -> Vec<LoggedPresence> {
        self.devices.keys().map(|device| self.of(device, node)).collect()
    }

    /// Takes what has changed, as it is now, for `node`.
    pub(super) fn take_changed(&mut self, node: u64) -> Vec<LoggedPresence> {
        let changed = mem::take(&mut self.changed);
        changed.iter().map(|device| self.of(device, node)).collect()
    }

    fn of(&self, device: &DeviceId, node: u64) -> LoggedPresence {
        let all = self.devices.get(device).map(Vec::as_slice).unwrap_or_default();
        let here = all.iter().find(|(other, _)| *other == node).map(|(_, presence)| *presence);
        let elsewhere = newest(all.iter().filter(|(other, _)| *other != node).map(|(_, presence)| *presence));
        LoggedPresence { device: device.clone(), here, elsewhere }
    }

    fn put(&mut self, device: &DeviceId, node: u64, presence: Option<Presence>, edits: &mut Vec<RowEdit>) {
        let mut all = self.devices.get(device).cloned().unwrap_or_default();
        all.retain(|(other, _)| *other != node);
        all.extend(presence.map(|presence| (node, presence)));
        all.sort_by_key(|(node, _)| *node);
        if all.iter().any(|(_, presence)| presence.connected) {
            all.retain(|(_, presence)| presence.connected);
        } else if let Some(last) = all.iter().max_by_key(|(node, presence)| (presence.last_seen, *node)).copied() {
            all = vec![last];
        }
        self.replace(device, all, edits);
    }

    /// Gives a device these entries in the place of those that it has.
    fn replace(&mut self, device: &DeviceId, all: AtNodes, edits: &mut Vec<RowEdit>) {
        let former = self.devices.remove(device).unwrap_or_default();
        for (node, presence) in &former {
            self.unlist(device, *node, *presence);
            if all.iter().all(|(other, _)| other != node) {
                edits.push(presence_row::remove(device, row_node(*node)));
            }
        }
        for (node, presence) in &all {
            if !former.contains(&(*node, *presence)) {
                edits.push(presence_row::put(device, row_node(*node), *presence));
            }
            match presence.connected {
                true => drop(self.connected.entry(*node).or_default().insert(device.clone())),
                false => drop(self.disconnected.insert((presence.last_seen, device.clone()))),
            }
        }
        if !all.is_empty() {
            self.devices.insert(device.clone(), all);
        }
        self.changed.push(device.clone());
    }

    fn unlist(&mut self, device: &DeviceId, node: u64, presence: Presence) {
        if !presence.connected {
            self.disconnected.remove(&(presence.last_seen, device.clone()));
        } else if let Some(devices) = self.connected.get_mut(&node) {
            devices.remove(device);
            if devices.is_empty() {
                self.connected.remove(&node);
            }
        }
    }
}

/// Returns the node in the key of a row.
fn row_node(node: u64) -> Option<u64> {
    Some(node).filter(|node| *node != NO_NODE)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::mqtt::protocol::packet::Protocol;

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn presence(connected: bool, last_seen: u64) -> Presence {
        let (address, protocol) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Protocol::V5);
        Presence { connected, last_seen: Timestamp(last_seen), address, protocol }
    }

    /// Returns the numbers of rows that are written and removed.
    fn count(edits: &mut Vec<RowEdit>) -> (usize, usize) {
        let removals = edits.iter().filter(|edit| matches!(edit, RowEdit::Remove(_))).count();
        let all = mem::take(edits).len();
        (all - removals, removals)
    }

    /// Returns the presence of the device that has changed last, as seen from node 3.
    fn seen(presences: &mut DevicePresences) -> Option<(bool, u64)> {
        let changed = presences.take_changed(3).pop().unwrap();
        changed.elsewhere.map(|presence| (presence.connected, presence.last_seen.0))
    }

    #[test]
    fn a_device_is_connected_while_it_is_at_any_node_whatever_comes_late() {
        let (mut presences, mut edits, lamp) = (DevicePresences::new(9), Vec::new(), device("lamp"));
        for (label, node, at_node, is_seen, rows) in [
            ("connects", 1, Some(presence(true, 10)), Some((true, 10)), (1, 0)),
            ("moves", 2, Some(presence(true, 20)), Some((true, 20)), (1, 0)),
            ("its former node, later", 1, Some(presence(false, 21)), Some((true, 20)), (0, 1)),
            ("its former node, again", 1, Some(presence(false, 22)), Some((true, 20)), (0, 0)),
            ("disconnects", 2, Some(presence(false, 30)), Some((false, 30)), (1, 0)),
            ("its former node, very late", 1, Some(presence(false, 23)), Some((false, 30)), (0, 0)),
            ("comes back to the former one", 1, Some(presence(true, 40)), Some((true, 40)), (1, 1)),
            ("was refused there", 1, None, None, (0, 1)),
        ] {
            presences.set(&lamp, node, at_node, &mut edits);
            assert_eq!((seen(&mut presences), count(&mut edits)), (is_seen, rows), "{label}");
        }
        assert!(presences.devices.is_empty() && presences.connected.is_empty() && presences.disconnected.is_empty());
    }

    #[test]
    fn the_devices_of_a_node_that_is_gone_are_disconnected_unless_they_are_elsewhere() {
        let (mut presences, mut edits) = (DevicePresences::new(9), Vec::new());
        for (name, node) in [("a", 1), ("b", 1), ("b", 2), ("c", 2), ("d", 1)] {
            presences.set(&device(name), node, Some(presence(true, 10)), &mut edits);
        }
        assert_eq!(presences.nodes().collect::<Vec<_>>(), [1, 2]);
        let stop = Stop { date_ms: 15_999, ..Stop::default() };
        presences.take_changed(3);
        presences.disconnect(1, Some(&stop), &mut edits);
        let mut changed = presences.take_changed(3);
        changed.sort_by(|a, b| a.device.cmp(&b.device));
        let elsewhere: Vec<_> = changed.into_iter().map(|it| it.elsewhere.unwrap()).collect();
        assert_eq!(elsewhere, [presence(false, 15), presence(true, 10), presence(false, 15)]);
        assert!(!presences.has_connected(1) && presences.has_connected(2));
    }

    #[test]
    fn those_that_were_seen_longest_ago_are_forgotten_first() {
        let (mut presences, mut edits) = (DevicePresences::new(2), Vec::new());
        presences.set(&device("a"), 1, Some(presence(false, 30)), &mut edits);
        presences.set(&device("b"), 2, Some(presence(false, 20)), &mut edits);
        presences.set(&device("c"), 1, Some(presence(true, 10)), &mut edits);
        let known = |presences: &mut DevicePresences| {
            let changed = presences.take_changed(1).into_iter();
            changed.map(|it| (it.device, it.here.or(it.elsewhere).is_some())).collect::<Vec<_>>()
        };
        let expected = [("a", true), ("b", false), ("c", true), ("b", false)];
        assert_eq!(known(&mut presences), expected.map(|(name, is_known)| (device(name), is_known)));
        assert_eq!(count(&mut edits), (3, 1));
        presences.set(&device("d"), 1, Some(presence(true, 10)), &mut edits);
        presences.set(&device("e"), 1, Some(presence(true, 10)), &mut edits);
        assert_eq!(presences.devices.len(), 3, "a connected device is never forgotten");
    }

    #[test]
    fn a_start_continues_from_the_rows() {
        let (mut presences, mut edits) = (DevicePresences::new(9), Vec::new());
        presences.set(&device("a"), 1, Some(presence(true, 10)), &mut edits);
        presences.set(&device("a"), 2, Some(presence(true, 12)), &mut edits);
        presences.set(&device("b"), 2, Some(presence(false, 13)), &mut edits);
        edits.push(presence_row::put(&device("old"), None, presence(true, 5)));
        let mut restored = DevicePresences::new(9);
        for edit in edits {
            if let RowEdit::Put(key, value) = edit {
                restored.restore(&key, value);
            }
        }
        assert_eq!(restored.nodes().collect::<Vec<_>>(), [NO_NODE, 1, 2], "one is of a node that was alone");
        assert!(restored.take_changed(1).is_empty());
        let of_a = restored.of(&device("a"), 1);
        assert_eq!((of_a.here, of_a.elsewhere), (Some(presence(true, 10)), Some(presence(true, 12))));
    }
}
