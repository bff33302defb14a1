//! The presence of devices. A device is connected while any connection of its principal is open.
//!
//! The principal of a device has the device id as its name. An anonymous client counts as the device that its client id
//! names. Both count only if they may update the classic shadow of that device, so that apps and viewers are no
//! devices. A client with all rights counts as the device from its first request to one of the device's shadows.
//!
//! A change of presence is not queued as a message. It gets a number and is marked in the outboxes of the subscribers.
//! An outbox keeps the changed topics or, if there are many, the number since which all changes count. The connection
//! then sends the current presence ([`crate::mqtt::shadow::resync`]). A device that connects and disconnects often
//! costs a slow subscriber one message, and the newest state always arrives. A session without a connection keeps only the
//! number of the last change before, and its next connection looks up the later ones.
//!
//! The table keeps disconnected devices up to a limit, beyond which those that disconnected first are evicted. It survives
//! a restart: each device has a row of the store ([`presence_row`]). At a start all devices are disconnected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    auth::{Access, Operation},
    mqtt::{
        broker::{
            durable::{Recorder, presence_row},
            outbox::SessionId,
            router::{DeliveryKind, Publication, Router},
        },
        protocol::{message::Message, packet::Protocol, topic::TopicName},
        shadow::{fan_out, topics},
    },
    shadow::{DeviceId, ShadowKey, Timestamp},
    store::RowEdit,
    wire,
};

/// The table of devices that are or were connected.
pub struct PresenceTable {
    table: Mutex<PresenceEntries>,
    /// The number of the last change, for those who wait for one; set under the lock of the table.
    changes: watch::Sender<u64>,
    devices_max: usize,
    router: Arc<Router>,
    recorder: Recorder,
}

/// The presence of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// True while a connection of the device is open.
    pub connected: bool,
    /// While connected, the time when it connected; after that, the time when its last packet was received.
    pub last_seen: Timestamp,
    /// The client address of its newest connection.
    pub address: IpAddr,
    /// The protocol version of its newest connection.
    pub protocol: Protocol,
}

#[derive(Default)]
struct PresenceEntries {
    devices: BTreeMap<DeviceId, Device>,
    /// Devices by the number of their last change; the highest is the newest.
    changes: BTreeMap<u64, DeviceId>,
    /// The numbers in `changes` of disconnected devices.
    disconnected: BTreeSet<u64>,
    newest: u64,
}

struct Device {
    connections: usize,
    presence: Presence,
    changed: u64,
}

/// A presence change to publish.
struct PresenceChange {
    key: ShadowKey,
    message: Arc<Message>,
}

impl PresenceTable {
    /// Returns a table of at most `devices_max` devices. Connected devices may exceed the limit.
    #[must_use]
    pub fn new(router: Arc<Router>, devices_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            changes: watch::Sender::new(0),
            devices_max,
            recorder: router.recorder().clone(),
            router,
        }
    }

    /// Adds the devices that rows of the store have, all as disconnected. Those that were connected were last seen at
    /// `stopped`, the last date on disk, if not later. Called once, before the first connection.
    pub(in crate::mqtt::broker) fn restore(&self, mut rows: Vec<(DeviceId, Presence)>, stopped: Option<Timestamp>) {
        let mut edits = Vec::new();
        for (device, presence) in rows.iter_mut().filter(|(_, presence)| presence.connected) {
            let last_seen = presence.last_seen.max(stopped.unwrap_or(presence.last_seen));
            *presence = Presence { connected: false, last_seen, ..*presence };
            edits.push(presence_row::put(device, *presence));
        }
        rows.sort_by_key(|(_, presence)| presence.last_seen);
        let mut table = self.table.lock();
        for (device, presence) in rows {
            table.put(&device, 0, presence);
        }
        edits.extend(table.evict_beyond(self.devices_max));
        self.recorder.write(edits);
    }

    /// Records that a connection of `device` was opened.
    pub(in crate::mqtt) fn opened(&self, device: &DeviceId, address: IpAddr, protocol: Protocol, now: Timestamp) {
        let mut table = self.table.lock();
        let presence = Presence { connected: true, last_seen: now, address, protocol };
        let known = table.devices.get_mut(device);
        if let Some(known) = known
            && known.connections > 0
        {
            known.connections += 1;
            known.presence = Presence { last_seen: known.presence.last_seen, ..presence };
            return;
        }
        self.change(&mut table, device, 1, presence);
        self.recorder.write(table.evict_beyond(self.devices_max));
    }

    /// Records that a connection of `device` ended, whose last packet was received at `last_received`.
    pub(in crate::mqtt) fn closed(&self, device: &DeviceId, last_received: Timestamp) {
        let mut table = self.table.lock();
        let Some(known) = table.devices.get_mut(device) else { return };
        known.connections = known.connections.saturating_sub(1);
        if known.connections == 0 {
            let presence = Presence { connected: false, last_seen: last_received, ..known.presence };
            self.change(&mut table, device, 0, presence);
        }
    }

    /// Returns the presence of `device`, if it is in the table.
    #[must_use]
    pub fn of(&self, device: &DeviceId) -> Option<Presence> {
        self.table.lock().devices.get(device).map(|device| device.presence)
    }

    /// Returns the number of connected devices.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        let table = self.table.lock();
        table.devices.len() - table.disconnected.len()
    }

    /// Returns the devices in the table after `after`, in order, at most `limit`.
    pub(in crate::mqtt) fn page(&self, after: Option<&DeviceId>, limit: usize) -> Vec<DeviceId> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.table.lock();
        table.devices.range((after, Bound::Unbounded)).take(limit).map(|(device, _)| device.clone()).collect()
    }

    /// Returns the number of the last change. All changes up to it are marked in the outboxes.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.table.lock().newest
    }

    /// Returns a receiver of that number, which wakes at each change after the start.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns true if the last change of `device` has a number above `after`.
    pub(in crate::mqtt) fn has_changed(&self, device: &DeviceId, after: u64) -> bool {
        self.table.lock().devices.get(device).is_some_and(|device| device.changed > after)
    }

    /// Returns the devices whose last change has a number above `after`, oldest change first, at most `limit`.
    #[must_use]
    pub fn changed_after(&self, after: u64, limit: usize) -> Vec<(u64, DeviceId)> {
        let table = self.table.lock();
        let changes = table.changes.range((Bound::Excluded(after), Bound::Unbounded));
        changes.take(limit).map(|(number, device)| (*number, device.clone())).collect()
    }

    /// Records and publishes a change. Both happen under the lock, so that changes of one device are marked and written in
    /// order.
    fn change(&self, table: &mut PresenceEntries, device: &DeviceId, connections: usize, presence: Presence) {
        let number = table.put(device, connections, presence);
        self.changes.send_replace(number);
        self.recorder.write(vec![presence_row::put(device, presence)]);
        let change = PresenceChange { key: ShadowKey::classic(device.clone()), message: message(device, presence) };
        self.router.publish(&change, DeliveryKind::Presence { number });
    }
}

impl PresenceEntries {
    fn put(&mut self, device: &DeviceId, connections: usize, presence: Presence) -> u64 {
        self.newest += 1;
        let changed = self.newest;
        if let Some(former) = self.devices.insert(device.clone(), Device { connections, presence, changed }) {
            self.changes.remove(&former.changed);
            self.disconnected.remove(&former.changed);
        }
        self.changes.insert(changed, device.clone());
        if !presence.connected {
            self.disconnected.insert(changed);
        }
        changed
    }

    /// Removes disconnected devices beyond `devices_max`. Returns the edits that remove their rows.
    #[must_use]
    fn evict_beyond(&mut self, devices_max: usize) -> Vec<RowEdit> {
        let mut edits = Vec::new();
        while self.devices.len() > devices_max
            && let Some(oldest) = self.disconnected.pop_first()
        {
            if let Some(device) = self.changes.remove(&oldest) {
                self.devices.remove(&device);
                edits.push(presence_row::remove(&device));
            }
        }
        edits
    }
}

impl Publication for PresenceChange {
    fn topic(&self) -> &str {
        self.message.topic.as_str()
    }

    /// Presence may be read by clients that may read any part of the device's classic shadow.
    fn message_for(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        access.projection(&self.key, Operation::Subscribe).map(|_| Arc::clone(&self.message))
    }
}

impl fmt::Debug for PresenceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceTable").finish_non_exhaustive()
    }
}

/// Returns the retained message with the presence of `device`.
pub(in crate::mqtt) fn message(device: &DeviceId, presence: Presence) -> Arc<Message> {
    let payload = wire::presence(presence.connected, presence.last_seen);
    fan_out::retained_message(&topics::presence(device), payload)
}

/// Returns the device that a client with `access` counts as by its rights.
pub(in crate::mqtt) fn device_of(access: &Access) -> Option<DeviceId> {
    let device = DeviceId::new(client_name(access)).ok().filter(|_| !access.is_everything())?;
    access.admit_any(&ShadowKey::classic(device.clone()), Operation::Update).is_ok().then_some(device)
}

/// Returns true if a client with `access` counts as `device` once it requests one of the device's shadows.
pub(in crate::mqtt) fn acts_as(access: &Access, device: &DeviceId) -> bool {
    access.is_everything() && client_name(access) == device.as_str()
}

/// Returns the principal's name, or the client id of an anonymous client.
fn client_name(access: &Access) -> &str {
    let name: &str = access.principal().name();
    name.strip_prefix("anonymous/").unwrap_or(name)
}

/// Returns the device of a presence topic.
pub(in crate::mqtt) fn device_in(topic: &TopicName) -> Option<DeviceId> {
    topics::presence_of(topic.as_str())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn table(devices_max: usize) -> PresenceTable {
        PresenceTable::new(Arc::<Router>::default(), devices_max)
    }

    /// Returns the number, device and connected flag of each change, oldest first.
    fn changes(table: &PresenceTable) -> Vec<(u64, String, bool)> {
        let changes = table.changed_after(0, 100).into_iter();
        changes.map(|(number, id)| (number, id.as_str().to_owned(), table.of(&id).unwrap().connected)).collect()
    }

    #[test]
    fn a_device_is_connected_while_any_connection_is_open() {
        let table = table(10);
        let (a, open) = (device("a"), |id: &DeviceId, at| table.opened(id, ADDRESS, Protocol::V5, Timestamp(at)));
        open(&a, 100);
        open(&a, 101);
        table.closed(&a, Timestamp(102));
        let connected =
            Presence { connected: true, last_seen: Timestamp(100), address: ADDRESS, protocol: Protocol::V5 };
        assert_eq!(table.of(&a), Some(connected));
        assert_eq!((changes(&table), table.connected_count()), (vec![(1, "a".to_owned(), true)], 1));
        table.closed(&a, Timestamp(103));
        assert_eq!(table.of(&a), Some(Presence { connected: false, last_seen: Timestamp(103), ..connected }));
        assert_eq!((changes(&table), table.connected_count()), (vec![(2, "a".to_owned(), false)], 0));
        table.closed(&a, Timestamp(104));
        assert_eq!(changes(&table).len(), 1, "another close changes nothing");
        assert_eq!(table.of(&device("b")), None);
    }

    #[test]
    fn devices_that_disconnected_first_are_evicted_first() {
        let table = table(3);
        let open = |id: &str| table.opened(&device(id), ADDRESS, Protocol::V4, Timestamp(1));
        let close = |id: &str| table.closed(&device(id), Timestamp(2));
        ["a", "b", "c"].into_iter().for_each(open);
        close("b");
        close("a");
        open("d");
        assert_eq!(changes(&table), [(3, "c".to_owned(), true), (5, "a".to_owned(), false), (6, "d".to_owned(), true)]);
        open("e");
        open("f");
        let ids: Vec<_> = table.page(None, 10).iter().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(ids, ["c", "d", "e", "f"], "a connected device is never evicted");
        assert_eq!(table.page(Some(&device("d")), 1), [device("e")]);
    }

    #[test]
    fn restored_devices_are_disconnected_and_the_longest_unseen_are_evicted() {
        let table = table(2);
        let row = |id, connected, last_seen| {
            (
                device(id),
                Presence { connected, last_seen: Timestamp(last_seen), address: ADDRESS, protocol: Protocol::V5 },
            )
        };
        table.restore(
            vec![row("a", false, 10), row("b", true, 20), row("c", true, 60), row("d", false, 30)],
            Some(Timestamp(50)),
        );
        // Of those that were connected, "b" was seen up to the last date on disk, and "c" connected after it.
        assert_eq!(changes(&table), [(3, "b".to_owned(), false), (4, "c".to_owned(), false)]);
        let seen = |id: &str| table.of(&device(id)).map(|presence| presence.last_seen.0);
        assert_eq!((seen("b"), seen("c"), table.connected_count()), (Some(50), Some(60), 0));
        table.opened(&device("b"), ADDRESS, Protocol::V4, Timestamp(70));
        assert_eq!((changes(&table).len(), table.connected_count()), (2, 1));
    }
}
