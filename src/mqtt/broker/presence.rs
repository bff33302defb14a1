//! Which devices are connected, as far as this process knows: a device is while any connection of its principal is
//! open.
//!
//! A device's principal is its device id; an anonymous client counts as the device that its client id names. Either
//! only if it may update that device's classic shadow: an app or a viewer is no device, whatever it is called. That a
//! client may do everything tells nothing about what it is: such a one is the device from its first request to a shadow
//! of it on.
//!
//! Nobody is sent a presence as it changes. A change gets a number and is told to the outboxes of those who subscribed;
//! they note which topics changed or, if those are many, since which number. When it is the turn of what is noted, the
//! connection sends it as it is then ([`crate::mqtt::shadow::resync`]). So a device that comes and goes costs a slow
//! subscriber one message, and the newest state always arrives.
//!
//! The table is in memory alone. It keeps those who went away, up to a number of devices: then the ones that went first
//! are forgotten. After a start nothing is known of a device before it connects.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    auth::{Access, Operation},
    mqtt::{
        broker::{
            outbox::SessionId,
            router::{DeliveryKind, Publication, Router},
        },
        protocol::{message::Message, packet::Protocol, topic::TopicName},
        shadow::{fan_out, topics},
    },
    shadow::{DeviceId, ShadowKey, Timestamp},
    wire,
};

/// The devices that are connected, or were.
pub struct PresenceTable {
    table: Mutex<PresenceEntries>,
    devices_max: usize,
    router: Arc<Router>,
}

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether a connection of it is open.
    pub connected: bool,
    /// When it came, while it is connected; then when it was heard last.
    pub last_seen: Timestamp,
    /// Where its newest connection came from.
    pub address: IpAddr,
    /// What it spoke there.
    pub protocol: Protocol,
}

#[derive(Default)]
struct PresenceEntries {
    devices: BTreeMap<DeviceId, Device>,
    /// The number of each device's last change; the highest is the newest.
    changes: BTreeMap<u64, DeviceId>,
    /// Those numbers of devices that are not connected.
    absent: BTreeSet<u64>,
    newest: u64,
}

struct Device {
    connections: usize,
    presence: Presence,
    changed: u64,
}

/// A change on its way to those who subscribed.
struct Notice {
    key: ShadowKey,
    message: Arc<Message>,
}

impl PresenceTable {
    /// A table of at most `devices_max` devices, or as many as are connected.
    #[must_use]
    pub fn new(router: Arc<Router>, devices_max: usize) -> Self {
        Self { table: Mutex::default(), devices_max, router }
    }

    /// A connection of `device` was opened.
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
        table.forget_beyond(self.devices_max);
    }

    /// One of its connections has ended; it was heard last at `heard`.
    pub(in crate::mqtt) fn closed(&self, device: &DeviceId, heard: Timestamp) {
        let mut table = self.table.lock();
        let Some(known) = table.devices.get_mut(device) else { return };
        known.connections = known.connections.saturating_sub(1);
        if known.connections == 0 {
            let presence = Presence { connected: false, last_seen: heard, ..known.presence };
            self.change(&mut table, device, 0, presence);
        }
    }

    /// What is known of `device`.
    #[must_use]
    pub fn of(&self, device: &DeviceId) -> Option<Presence> {
        self.table.lock().devices.get(device).map(|device| device.presence)
    }

    /// How many devices are connected.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        let table = self.table.lock();
        table.devices.len() - table.absent.len()
    }

    /// The devices that are known, in order, at most `limit` after `after`.
    pub(in crate::mqtt) fn page(&self, after: Option<&DeviceId>, limit: usize) -> Vec<DeviceId> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.table.lock();
        table.devices.range((after, Bound::Unbounded)).take(limit).map(|(device, _)| device.clone()).collect()
    }

    /// The devices whose last change is numbered above `after`, oldest change first, at most `limit`.
    pub(in crate::mqtt) fn changed_after(&self, after: u64, limit: usize) -> Vec<(u64, DeviceId)> {
        let table = self.table.lock();
        let changes = table.changes.range((Bound::Excluded(after), Bound::Unbounded));
        changes.take(limit).map(|(number, device)| (*number, device.clone())).collect()
    }

    /// Keeps a change and tells it, under the lock: changes of one device are noted in their order.
    fn change(&self, table: &mut PresenceEntries, device: &DeviceId, connections: usize, presence: Presence) {
        let number = table.put(device, connections, presence);
        let notice = Notice { key: ShadowKey::classic(device.clone()), message: message(device, presence) };
        self.router.tell(&notice, DeliveryKind::Presence { number });
    }
}

impl PresenceEntries {
    fn put(&mut self, device: &DeviceId, connections: usize, presence: Presence) -> u64 {
        self.newest += 1;
        let changed = self.newest;
        if let Some(former) = self.devices.insert(device.clone(), Device { connections, presence, changed }) {
            self.changes.remove(&former.changed);
            self.absent.remove(&former.changed);
        }
        self.changes.insert(changed, device.clone());
        if !presence.connected {
            self.absent.insert(changed);
        }
        changed
    }

    fn forget_beyond(&mut self, devices_max: usize) {
        while self.devices.len() > devices_max
            && let Some(oldest) = self.absent.pop_first()
        {
            if let Some(device) = self.changes.remove(&oldest) {
                self.devices.remove(&device);
            }
        }
    }
}

impl Publication for Notice {
    fn topic(&self) -> &str {
        self.message.topic.as_str()
    }

    /// Who may read anything of a device's classic shadow may know whether it is there.
    fn told_to(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        access.projection(&self.key, Operation::Subscribe).map(|_| Arc::clone(&self.message))
    }
}

impl fmt::Debug for PresenceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceTable").finish_non_exhaustive()
    }
}

/// The message that tells that `device` is as `presence` says.
pub(in crate::mqtt) fn message(device: &DeviceId, presence: Presence) -> Arc<Message> {
    let payload = wire::presence(presence.connected, presence.last_seen);
    fan_out::retained_message(&topics::presence(device), payload)
}

/// The device that a client with `access` is, as far as its rights tell.
pub(in crate::mqtt) fn device_of(access: &Access) -> Option<DeviceId> {
    let device = DeviceId::new(called(access)).ok().filter(|_| !access.is_everything())?;
    access.admit_any(&ShadowKey::classic(device.clone()), Operation::Update).is_ok().then_some(device)
}

/// Whether a client with `access` shows, by asking something of a shadow of `device`, that it is that device.
pub(in crate::mqtt) fn acts_as(access: &Access, device: &DeviceId) -> bool {
    access.is_everything() && called(access) == device.as_str()
}

/// What a client is called if it is a device.
fn called(access: &Access) -> &str {
    let name: &str = access.principal().name();
    name.strip_prefix("anonymous/").unwrap_or(name)
}

/// The device whose presence `topic` tells.
pub(in crate::mqtt) fn device_in(topic: &TopicName) -> Option<DeviceId> {
    topics::presence_of(topic.as_str())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::net::Ipv4Addr;

    use super::*;
    use crate::{config::Limits, mqtt::broker::router::RetainedLimits};

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn table(devices_max: usize) -> PresenceTable {
        PresenceTable::new(Arc::new(Router::new(RetainedLimits::of(&Limits::default()))), devices_max)
    }

    /// Numbers, devices and whether they are connected, oldest change first.
    fn told(table: &PresenceTable) -> Vec<(u64, String, bool)> {
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
        assert_eq!((told(&table), table.connected_count()), (vec![(1, "a".to_owned(), true)], 1));
        table.closed(&a, Timestamp(103));
        assert_eq!(table.of(&a), Some(Presence { connected: false, last_seen: Timestamp(103), ..connected }));
        assert_eq!((told(&table), table.connected_count()), (vec![(2, "a".to_owned(), false)], 0));
        table.closed(&a, Timestamp(104));
        assert_eq!(told(&table).len(), 1, "one more end changes nothing");
        assert_eq!(table.of(&device("b")), None);
    }

    #[test]
    fn those_that_went_first_are_forgotten_first() {
        let table = table(3);
        let open = |id: &str| table.opened(&device(id), ADDRESS, Protocol::V4, Timestamp(1));
        let close = |id: &str| table.closed(&device(id), Timestamp(2));
        ["a", "b", "c"].into_iter().for_each(open);
        close("b");
        close("a");
        open("d");
        assert_eq!(told(&table), [(3, "c".to_owned(), true), (5, "a".to_owned(), false), (6, "d".to_owned(), true)]);
        open("e");
        open("f");
        let ids: Vec<_> = table.page(None, 10).iter().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(ids, ["c", "d", "e", "f"], "who is connected is never forgotten");
        assert_eq!(table.page(Some(&device("d")), 1), [device("e")]);
    }
}
