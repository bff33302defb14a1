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
//!
//! In a cluster, a device is connected as long as it is at any node. Each node writes what it knows itself to the log, and the table has
//! that of the other nodes from there ([`crate::mqtt::broker::replicated`]), as it has of its own devices after a start. A change is published
//! when a device has become connected or disconnected by all that is known, whoever knows it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    ops::Bound,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    auth::{Access, Operation},
    mqtt::{
        broker::{
            Broker,
            durable::{Recorder, presence_row},
            outbox::SessionId,
            router::{DeliveryKind, Publication, Router},
        },
        protocol::{message::Message, packet::Protocol, topic::TopicName},
        shadow::{fan_out, topics},
    },
    shadow::{DeviceId, ShadowKey, Timestamp},
    wire,
};

/// The table of devices that are or were connected.
pub struct PresenceTable {
    table: Mutex<PresenceEntries>,
    /// The number of the last change, for those who wait for one; set under the lock of the table.
    changes: watch::Sender<u64>,
    devices_max: usize,
    /// This node, in a cluster.
    node: OnceLock<u64>,
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

/// The presence of one device as the log of a cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mqtt::broker) struct LoggedPresence {
    pub(in crate::mqtt::broker) device: DeviceId,
    /// As this node has written it.
    pub(in crate::mqtt::broker) here: Option<Presence>,
    /// At the other nodes.
    pub(in crate::mqtt::broker) elsewhere: Option<Presence>,
}

#[derive(Default)]
struct PresenceEntries {
    devices: BTreeMap<DeviceId, Device>,
    /// Devices by the number of their last change; the highest is the newest.
    changes: BTreeMap<u64, DeviceId>,
    /// The numbers in `changes` of disconnected devices.
    disconnected: BTreeSet<u64>,
    newest: u64,
    /// The devices of openings that are announced and not open yet, each with their number.
    opening: HashMap<DeviceId, usize>,
    /// The number of writes of devices to the log.
    writes: u64,
    /// The number of devices with a connection to this node.
    connected_here: usize,
}

#[derive(Default)]
struct Device {
    /// The number of its connections to this node.
    connections: usize,
    here: Option<Presence>,
    elsewhere: Option<Presence>,
    changed: u64,
    /// The number of its last write.
    written: u64,
}

/// A presence change to publish.
struct PresenceChange {
    key: ShadowKey,
    message: Arc<Message>,
}

/// A device whose connection to this node of a cluster is in the log with the opening of its session. If dropped before the
/// connection is open, the log is corrected.
pub(in crate::mqtt) struct Announced {
    broker: Arc<Broker>,
    device: DeviceId,
    presence: Presence,
    /// The last write of the device at that time.
    as_of: u64,
    /// True if the opening goes to the log.
    pub(in crate::mqtt::broker) is_sent: bool,
    is_open: bool,
}

impl PresenceTable {
    /// Returns a table of at most `devices_max` devices. Connected devices may exceed the limit.
    #[must_use]
    pub fn new(router: Arc<Router>, devices_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            changes: watch::Sender::new(0),
            devices_max,
            node: OnceLock::new(),
            recorder: router.recorder().clone(),
            router,
        }
    }

    /// Makes this table one of `node` of a cluster. Called once, before [`PresenceTable::restore_logged`].
    pub(in crate::mqtt::broker) fn join_cluster(&self, node: u64) {
        let _is_the_first = self.node.set(node);
    }

    /// Adds the devices that rows of the store have, all as disconnected. Those that were connected were last seen at
    /// `stopped`, the last date on disk, if not later. Called once, before the first connection.
    pub(in crate::mqtt::broker) fn restore(&self, mut rows: Vec<(DeviceId, Presence)>, stopped: Option<Timestamp>) {
        let mut edits = Vec::new();
        for (device, presence) in rows.iter_mut().filter(|(_, presence)| presence.connected) {
            *presence = presence.lost(stopped);
            edits.push(presence_row::put(device, None, *presence));
        }
        rows.sort_by_key(|(_, presence)| presence.last_seen);
        let mut table = self.table.lock();
        for (device, presence) in rows {
            table.change(&device, |known| known.here = Some(presence));
        }
        edits.extend(table.evict_beyond(self.devices_max).iter().map(|device| presence_row::remove(device, None)));
        self.recorder.write(edits);
    }

    /// Adds the devices that the log of the cluster has, as [`PresenceTable::restore`] does those of a node alone. Other nodes learn
    /// that those of this node are disconnected when it has started.
    pub(in crate::mqtt::broker) fn restore_logged(&self, mut devices: Vec<LoggedPresence>, stopped: Option<Timestamp>) {
        let lost = |presence: Presence| if presence.connected { presence.lost(stopped) } else { presence };
        devices.iter_mut().for_each(|device| device.here = device.here.map(lost));
        let seen = |logged: &LoggedPresence| newest(logged.here.into_iter().chain(logged.elsewhere));
        devices.sort_by_key(|logged| seen(logged).map(|presence| presence.last_seen));
        let mut table = self.table.lock();
        for LoggedPresence { device, here, elsewhere } in devices {
            table.change(&device, |known| (known.here, known.elsewhere) = (here, elsewhere));
        }
    }

    /// Announces a connection of the device that a client with `access` counts as, for the opening of its session. `None` for a client
    /// that is no device.
    pub(in crate::mqtt) fn announce(
        broker: &Arc<Broker>,
        access: &Access,
        address: IpAddr,
        protocol: Protocol,
    ) -> Option<Announced> {
        let device = device_of(access)?;
        let (now, mut table) = (broker.service.now(), broker.presence.table.lock());
        let here = table.devices.get(&device).and_then(|known| known.here).filter(|here| here.connected);
        let presence =
            Presence { connected: true, last_seen: here.map_or(now, |here| here.last_seen), address, protocol };
        let as_of = table.last_write_of(&device);
        *table.opening.entry(device.clone()).or_default() += 1;
        drop(table);
        Some(Announced { broker: Arc::clone(broker), device, presence, as_of, is_sent: false, is_open: false })
    }

    /// Records that a connection of `device` was opened, and was `announced`.
    pub(in crate::mqtt) fn opened(
        &self,
        device: &DeviceId,
        address: IpAddr,
        protocol: Protocol,
        now: Timestamp,
        announced: Option<&mut Announced>,
    ) {
        let mut table = self.table.lock();
        let announced = announced.filter(|announced| announced.device == *device);
        // Nothing was written of it since, so the log has that it is connected.
        let is_current = |announced: &Announced| announced.is_sent && announced.as_of == table.last_write_of(device);
        let is_logged = announced.as_deref().is_some_and(is_current);
        if let Some(announced) = announced {
            announced.is_open = true;
            table.end_opening(device);
        }
        let presence = Presence { connected: true, last_seen: now, address, protocol };
        if let Some(known) = table.devices.get_mut(device).filter(|known| known.connections > 0) {
            known.connections += 1;
            known.here = Some(Presence { last_seen: known.here.map_or(now, |here| here.last_seen), ..presence });
            return;
        }
        table.connected_here += 1;
        self.change(&mut table, device, |known| (known.connections, known.here) = (1, Some(presence)));
        if !is_logged {
            self.write(&mut table, device);
        }
        let evicted = table.evict_beyond(self.devices_max);
        match self.node.get() {
            None => self.recorder.write(evicted.iter().map(|device| presence_row::remove(device, None)).collect()),
            // The log removes their rows. While it does not answer, what it would be sent of them does not pile up.
            node => evicted.iter().for_each(|device| self.recorder.forget(&presence_row::key(device, node.copied()))),
        }
    }

    /// Records that a connection of `device` ended, whose last packet was received at `last_received`.
    pub(in crate::mqtt) fn closed(&self, device: &DeviceId, last_received: Timestamp) {
        let mut table = self.table.lock();
        let Some(known) = table.devices.get_mut(device).filter(|known| known.connections > 0) else { return };
        known.connections -= 1;
        if known.connections == 0 {
            table.connected_here -= 1;
            self.change(&mut table, device, |known| {
                known.here = known.here.map(|here| Presence { connected: false, last_seen: last_received, ..here });
            });
            self.write(&mut table, device);
        }
    }

    /// Takes what the log has of some devices now.
    pub(in crate::mqtt::broker) fn receive(&self, logged: Vec<LoggedPresence>) {
        for LoggedPresence { device, here, elsewhere } in logged {
            let table = &mut *self.table.lock();
            let is_connected_here = table.devices.get(&device).is_some_and(|known| known.connections > 0);
            if is_connected_here && here.is_none_or(|here| !here.connected) {
                self.write(table, &device); // an edit of a former connection came later than this one
            }
            if here.is_none() && elsewhere.is_none() && !is_connected_here {
                table.forget(&device);
                continue;
            }
            let is_opening = table.opening.contains_key(&device);
            self.change(table, &device, |known| {
                known.elsewhere = elsewhere;
                if known.connections == 0 {
                    known.take_logged(here, is_opening);
                }
            });
        }
    }

    /// Writes again that the devices with a connection to this node are connected: another node has not heard of this one.
    pub(in crate::mqtt::broker) fn assert_connected(&self) {
        let mut table = self.table.lock();
        let connected = table.devices.iter().filter(|(_, known)| known.connections > 0);
        let connected: Vec<_> = connected.map(|(device, _)| device.clone()).collect();
        connected.iter().for_each(|device| self.write(&mut table, device));
    }

    /// Returns the presence of `device`, if it is in the table.
    #[must_use]
    pub fn of(&self, device: &DeviceId) -> Option<Presence> {
        self.table.lock().devices.get(device).and_then(Device::presence)
    }

    /// Returns the number of devices that are connected to this node.
    #[must_use]
    pub fn connected_here(&self) -> usize {
        self.table.lock().connected_here
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

    /// Changes what is known of a device, and publishes it if the device has become connected or disconnected. Both happen under
    /// the lock, so that changes of one device are marked in order.
    fn change(&self, table: &mut PresenceEntries, device: &DeviceId, change: impl FnOnce(&mut Device)) {
        let Some((number, presence)) = table.change(device, change) else { return };
        self.changes.send_replace(number);
        let change = PresenceChange { key: ShadowKey::classic(device.clone()), message: message(device, presence) };
        self.router.publish(&change, DeliveryKind::Presence { number });
    }

    /// Writes what this node knows of a device. The caller has the lock, so that changes of one device are written in order.
    fn write(&self, table: &mut PresenceEntries, device: &DeviceId) {
        table.writes += 1;
        let (node, known) = (self.node.get().copied(), table.devices.get_mut(device));
        let here = known.and_then(|known| {
            known.written = table.writes;
            known.here
        });
        self.recorder.write(vec![match here {
            Some(presence) => presence_row::put(device, node, presence),
            None => presence_row::remove(device, node),
        }]);
    }
}

impl PresenceEntries {
    /// Changes what is known of a device. If it has become connected or disconnected by that, returns the number of the change and its
    /// presence.
    fn change(&mut self, device: &DeviceId, change: impl FnOnce(&mut Device)) -> Option<(u64, Presence)> {
        let known = self.devices.entry(device.clone()).or_default();
        let former = known.presence();
        change(known);
        let Some(presence) = known.presence() else {
            self.forget(device);
            return None;
        };
        if former.is_some_and(|former| former.connected == presence.connected) {
            return None;
        }
        self.newest += 1;
        let former = std::mem::replace(&mut known.changed, self.newest);
        self.changes.remove(&former);
        self.disconnected.remove(&former);
        self.changes.insert(self.newest, device.clone());
        if !presence.connected {
            self.disconnected.insert(self.newest);
        }
        Some((self.newest, presence))
    }

    /// Notes that an opening connection of a device is open, or will not be.
    fn end_opening(&mut self, device: &DeviceId) {
        if let Some(opening) = self.opening.get_mut(device) {
            *opening -= 1;
            if *opening == 0 {
                self.opening.remove(device);
            }
        }
    }

    /// Returns the number of the last write of a device; of one that is not in the table, of all.
    fn last_write_of(&self, device: &DeviceId) -> u64 {
        self.devices.get(device).map_or(self.writes, |known| known.written)
    }

    /// Removes a device without a connection to this node.
    fn forget(&mut self, device: &DeviceId) {
        if let Some(former) = self.devices.remove(device) {
            self.changes.remove(&former.changed);
            self.disconnected.remove(&former.changed);
        }
    }

    /// Removes disconnected devices beyond `devices_max`. Returns them.
    #[must_use]
    fn evict_beyond(&mut self, devices_max: usize) -> Vec<DeviceId> {
        let mut evicted = Vec::new();
        while self.devices.len() > devices_max
            && let Some(oldest) = self.disconnected.pop_first()
        {
            if let Some(device) = self.changes.remove(&oldest) {
                self.devices.remove(&device);
                evicted.push(device);
            }
        }
        evicted
    }
}

impl Device {
    fn presence(&self) -> Option<Presence> {
        newest(self.here.into_iter().chain(self.elsewhere))
    }

    /// Takes what the log has of this node, which has no open connection of the device: it may have been written before the start, or the
    /// device may be at another node since, or `is_opening` one here.
    fn take_logged(&mut self, logged: Option<Presence>, is_opening: bool) {
        let is_newer = |logged: &Presence| self.here.is_none_or(|here| here.last_seen < logged.last_seen);
        if is_opening && logged.is_some_and(|logged| logged.connected) {
            // The log has its opening. Its former node may say first that its connection there has ended.
            self.here = logged;
        } else if self.elsewhere.is_some_and(|elsewhere| elsewhere.connected) {
            self.here = None;
        } else if let Some(logged) = logged.filter(|logged| !logged.connected).filter(is_newer) {
            self.here = Some(logged);
        }
    }
}

impl Presence {
    /// Returns the presence of a device whose connection was lost when its node stopped, at `stopped` if that is known.
    pub(in crate::mqtt::broker) fn lost(self, stopped: Option<Timestamp>) -> Self {
        let last_seen = self.last_seen.max(stopped.unwrap_or(self.last_seen));
        Self { connected: false, last_seen, ..self }
    }
}

/// Returns the presence of a device from those at several nodes.
pub(in crate::mqtt::broker) fn newest(all: impl IntoIterator<Item = Presence>) -> Option<Presence> {
    all.into_iter().max_by_key(|presence| (presence.connected, presence.last_seen))
}

impl Announced {
    /// Returns the device, and its presence with the connection.
    pub(in crate::mqtt::broker) fn of_device(&self) -> (DeviceId, Presence) {
        (self.device.clone(), self.presence)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if !self.is_open {
            let presence = &self.broker.presence;
            let mut table = presence.table.lock();
            table.end_opening(&self.device);
            if table.devices.get(&self.device).is_some_and(|known| known.connections == 0) {
                let end =
                    |known: &mut Device| known.here = known.here.map(|here| Presence { connected: false, ..here });
                presence.change(&mut table, &self.device, end);
            }
            presence.write(&mut table, &self.device);
        }
    }
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Announced").field(&self.device).finish()
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
mod tests;
