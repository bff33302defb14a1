//! A client that stays at one node and sees the versions of each shadow rise by one while it is connected.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::fleet::{Fleet, Kind, Observation};
use crate::harness::{
    client::{Client, Received},
    packet::Packet,
    shadow::documents_version,
    wire::{self, Connect, V5},
};

/// A subscriber looks that often whether the round has ended.
const LOOK: Duration = Duration::from_millis(200);

pub fn run(fleet: &Fleet, node: usize) {
    while !fleet.is_ending() {
        if connection(fleet, node).is_none() {
            sleep(LOOK);
        }
        fleet.subscribed(node, false);
    }
}

/// One connection; `None` once it has ended.
fn connection(fleet: &Fleet, node: usize) -> Option<()> {
    let process = fleet.process(node);
    let mut client = Client::try_to(process.mqtt, V5).ok()?;
    client.try_send(Connect::new(V5, &format!("subscriber-{}-{node}", fleet.seed)).encode()).ok()?;
    let filter = format!("shadow/{}/update/documents", "+");
    let id = client.next_id();
    client.try_send(wire::subscribe(V5, id, &[(&filter, 1)], &wire::Properties::none())).ok()?;
    while !fleet.is_ending() {
        match client.recv_within(LOOK) {
            Received::Late => {}
            Received::Closed => return None,
            Received::Packet(Packet::ConnAck { code: 0, .. }) => {}
            Received::Packet(Packet::SubAck { .. }) => fleet.subscribed(node, true),
            Received::Packet(Packet::Publish(message)) => {
                client.try_send(wire::ack(0x40, message.id)).ok()?;
                let device = message.topic.split('/').nth(1).expect("the topic of a shadow");
                let version = documents_version(&message);
                let (device, received) = (device.to_owned(), Instant::now());
                let before = fleet.saw(node, &device, version);
                assert!(
                    before.is_none_or(|before| version == before + 1),
                    "seed {}, node {}: version {version} of {device} after {before:?}",
                    fleet.seed,
                    node + 1
                );
                fleet.observed(Observation { device, process, kind: Kind::Event, version, received });
            }
            Received::Packet(Packet::Disconnect { .. }) => return None,
            // A node that is ending or cannot serve yet.
            Received::Packet(Packet::ConnAck { .. }) => return None,
            Received::Packet(other) => panic!("{other:?} at a subscriber"),
        }
    }
    Some(())
}
