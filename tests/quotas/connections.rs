//! The rate at which one connection is read: packets above it are not refused, they wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_met,
    harness::{
        client::Client,
        packet::Packet,
        wire::{self, BOTH, Properties, Protocol, Publish, V5},
    },
    server,
};

/// The packets that a client sends: `count` of each kind, and `publishes` of PUBLISH.
fn kinds(protocol: Protocol, count: u16, publishes: u16) -> Vec<(&'static str, Vec<u8>)> {
    let all = |packet: &dyn Fn(u16) -> Vec<u8>| (1..=count).flat_map(packet).collect::<Vec<u8>>();
    let held = Publish::new("rate/held", "x");
    vec![
        ("PINGREQ", all(&|_| wire::PINGREQ.to_vec())),
        ("PUBACK of nothing", all(&|id| wire::ack(0x40, id))),
        ("PUBREC of nothing", all(&|id| wire::ack(0x50, id))),
        ("PUBREL of nothing", all(&|id| wire::ack(0x62, id))),
        ("PUBCOMP of nothing", all(&|id| wire::ack(0x70, id))),
        ("SUBSCRIBE", all(&|id| wire::subscribe(protocol, id, &[("rate/#", 0)], &Properties::none()))),
        ("UNSUBSCRIBE", all(&|id| wire::unsubscribe(protocol, id, &["rate/#"]))),
        // One message, whose PUBREC is asked for again and again.
        ("PUBLISH", held.encode(protocol, 2, 1).repeat(publishes.into())),
    ]
}

#[test]
fn every_kind_of_packet_has_a_rate() {
    // The rate of PUBLISH; other packets have five times as much.
    const RATE: u16 = 20;
    const BURST: u16 = 100;
    let mut server = server("publishes_rate = \"20/s burst 100\"");
    thread::scope(|scope| {
        for protocol in BOTH {
            for (kind, packets) in kinds(protocol, BURST + 2 * 5 * RATE, BURST + 2 * RATE) {
                let mut client = Client::connect(&server, protocol, &format!("{kind} {protocol:?}"));
                scope.spawn(move || {
                    let start = Instant::now();
                    client.send(packets);
                    // Answered in their order: the last of them by the last.
                    client.send(wire::subscribe(protocol, u16::MAX, &[("rate/last", 0)], &Properties::none()));
                    while !matches!(client.recv(), Packet::SubAck { id: u16::MAX, .. }) {}
                    // The burst at once, and two seconds for the others; the clocks are two.
                    let took = start.elapsed();
                    assert!(took >= Duration::from_millis(1_900), "{kind} {protocol:?}: {took:?}");
                });
            }
        }
    });
    assert_met(&mut server, &["publishes", "control_packets"]);
}

/// Each filter of a SUBSCRIBE counts.
#[test]
fn filters_count_one_by_one() {
    let mut server = server("publishes_rate = \"12/s burst 60\"");
    let mut client = Client::connect(&server, V5, "many");
    let filters: Vec<String> = (0..60).map(|number| format!("rate/{number}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
    let start = Instant::now();
    for _ in 0..3 {
        client.subscribe(&filters);
    }
    client.publish("rate/last", "", 1);
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_met(&mut server, &["control_packets"]);
}

/// A subscriber acknowledges as often as it is sent something, which no quota of its own may hold up.
#[test]
fn acknowledgements_are_not_counted() {
    const BURST: usize = 20;
    // So slow that one packet above the burst ends the test.
    let mut server = server("publishes_rate = \"1/h burst 20\"");
    for (protocol, id) in BOTH.into_iter().zip(["reader-4", "reader-5"]) {
        let mut reader = Client::connect(&server, protocol, id);
        reader.subscribe(&[("acked/#", 2)]);
        for writer in 0..10 {
            let mut writer = Client::connect(&server, V5, &format!("writer-{writer}"));
            (0..BURST).for_each(|_| writer.ping());
            for number in 0..BURST {
                // PUBACK; PUBREC and PUBCOMP, and of the writer PUBREL.
                assert_eq!(writer.publish("acked/t", number.to_string(), 1 + number as u8 % 2), 0);
                assert_eq!(reader.message().text(), number.to_string());
            }
        }
        reader.ping();
    }
    assert_met(&mut server, &[]);
}
