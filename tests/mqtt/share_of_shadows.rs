//! A subscriber that reads slowly while ordinary messages are published faster than it reads: messages of shadows have
//! a share of its deliveries.
//!
//! The subscriber's pace is that of its reading: for each message that it takes, several are published. Time decides
//! nothing. Every ordinary message is acknowledged to its publisher, hence queued, before the subscriber reads on.

use crate::harness::{
    client::Client,
    packet::Message,
    server::{Server, UNLIMITED},
    wire::{BOTH, Connect, Protocol, Publish, V5},
};

/// The window of QoS 1: as many ordinary messages may be under way already when something else is to be sent.
const WINDOW: usize = 64;

/// The most messages before one that has its turn: the window, and a few turns of the others.
const SOON: usize = WINDOW + 16;

/// Ordinary messages of 1 KiB that are more than may be queued towards one subscriber.
const BACKLOG: usize = 400;

/// Publishes ordinary messages.
struct Flood {
    client: Client,
    qos: u8,
    bytes: usize,
    number: usize,
}

impl Flood {
    fn new(server: &Server, qos: u8, bytes: usize) -> Self {
        Self { client: Client::connect(server, V5, &format!("flood-{qos}")), qos, bytes, number: 0 }
    }

    fn publish(&mut self, count: usize) {
        for _ in 0..count {
            self.number += 1;
            let topic = format!("flood/{}", self.number % 7);
            self.client.publish(&topic, vec![b'x'; self.bytes], self.qos);
        }
        if self.qos == 0 {
            self.client.ping();
        }
    }
}

/// Reads, and has several ordinary messages published for each, until `what` has come, after `limit` messages at most.
/// The messages before it that are not ordinary.
fn read_until(reader: &mut Client, flood: &mut Flood, limit: usize, what: impl Fn(&Message) -> bool) -> Vec<Message> {
    let mut others = Vec::new();
    for _ in 0..limit {
        let message = reader.message();
        if what(&message) {
            return others;
        }
        if !message.topic.starts_with("flood/") {
            others.push(message);
        }
        flood.publish(3);
    }
    panic!("it did not come among {limit} messages; of others came {others:?}");
}

fn set(writer: &mut Client, device: &str, value: usize) {
    let body = format!(r#"{{"state":{{"desired":{{"v":{value}}}}}}}"#);
    assert_eq!(writer.publish(&format!("shadow/{device}/update"), body, 1), 0);
}

fn version(message: &Message) -> u64 {
    message.json()["version"].as_u64().unwrap()
}

/// Returns the topics that a device or an app may follow: the delta of each dialect, and the document.
fn followed(device: &str) -> [String; 3] {
    [
        format!("shadow/{device}/update/delta"),
        format!("$aws/things/{device}/shadow/update/delta"),
        format!("shadow/{device}/document"),
    ]
}

/// Subscribers that were never away: none of ten changes came while ordinary messages did.
#[test]
fn events_are_not_delayed_by_a_flood() {
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    for protocol in BOTH {
        for qos in [0, 1] {
            let device = format!("present-{}-{qos}", protocol as u8);
            let topics = followed(&device);
            let mut reader = Client::connect(&server, protocol, &device);
            reader.subscribe(&[("flood/#", 1)]);
            reader.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), qos)));
            let mut flood = Flood::new(&server, 1, 1024);
            flood.publish(BACKLOG);
            for value in 1..=10 {
                set(&mut writer, &device, value);
                let newest = |message: &Message| message.topic == topics[2] && version(message) == value as u64;
                let before = read_until(&mut reader, &mut flood, SOON, newest);
                let deltas: Vec<_> = before.iter().map(|message| message.topic.as_str()).collect();
                assert_eq!(deltas, topics[..2], "{protocol:?} QoS {qos} change {value}");
            }
            reader.disconnect();
        }
    }
}

/// A session that comes back has ordinary messages waiting, and more come faster than it reads.
#[test]
fn a_resync_is_not_delayed_by_a_flood() {
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    for protocol in BOTH {
        for qos in [0, 1] {
            let device = format!("away-{}-{qos}", protocol as u8);
            let topics = followed(&device);
            let connect = Connect::persistent(protocol, &device);
            let (mut reader, _) = Client::connect_as(&server, &connect);
            reader.subscribe(&[("flood/#", 1)]);
            reader.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), qos)));
            reader.disconnect();
            let mut flood = Flood::new(&server, 1, 1024);
            flood.publish(BACKLOG);
            (1..=10).for_each(|value| set(&mut writer, &device, value));

            let (mut reader, _) = Client::connect_as(&server, &connect);
            let newest = |message: &Message| message.topic == topics[2] && version(message) == 10;
            let before = read_until(&mut reader, &mut flood, SOON, newest);
            let received: Vec<_> = before.iter().map(|message| (message.topic.as_str(), version(message))).collect();
            assert_eq!(received, [(topics[0].as_str(), 10), (topics[1].as_str(), 10)], "{protocol:?} QoS {qos}");
            // Changes go on; each comes once.
            for value in 11..=15 {
                set(&mut writer, &device, value);
                let newest = |message: &Message| message.topic == topics[2] && version(message) == value as u64;
                read_until(&mut reader, &mut flood, SOON, newest);
            }
            reader.disconnect();
        }
    }
}

/// Retained messages of every kind come soon to a subscription that is made during a flood; so does presence later.
#[test]
fn retained_messages_and_presence_are_not_delayed_by_a_flood() {
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    writer.publish_message(&Publish::new("kept/here", "kept").retain(), 1);
    for protocol in BOTH {
        for qos in [0, 1] {
            let name = |what: &str| format!("{what}-{}-{qos}", protocol as u8);
            let (device, mut flood) = (name("device"), Flood::new(&server, 1, 1024));
            set(&mut writer, &device, 1);
            let (mut reader, presence) =
                (Client::connect(&server, protocol, &name("reader")), format!("shadow/{device}/presence"));
            reader.subscribe(&[("flood/#", 1)]);
            flood.publish(BACKLOG);
            let document = format!("shadow/{device}/document");
            reader.subscribe(&[("kept/#", qos), (&document, qos), (&presence, qos)]);
            for topic in ["kept/here", &document] {
                let retained = |message: &Message| message.topic == topic && message.retain;
                read_until(&mut reader, &mut flood, SOON, retained);
            }
            for round in 0..3 {
                let mut itself = Client::connect(&server, V5, &device);
                set(&mut itself, &device, 2 + round); // an administrator is a device from its first request on
                let is = |connected: bool| {
                    let presence = presence.clone();
                    move |message: &Message| message.topic == presence && message.json()["connected"] == connected
                };
                read_until(&mut reader, &mut flood, SOON, is(true));
                itself.disconnect();
                read_until(&mut reader, &mut flood, SOON, is(false));
            }
            reader.disconnect();
        }
    }
}

/// Ordinary messages at QoS 0, which nothing paces but the socket: what it holds already comes first.
#[test]
fn events_are_delivered_during_a_flood_to_a_slow_socket() {
    const BYTES: usize = 8 * 1024;
    const BUFFERED: usize = 2_000; // 16 MiB, more than the sockets and the queue hold
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    for (protocol, qos) in BOTH.into_iter().zip([0, 1]) {
        let device = format!("socket-{qos}");
        let topics = followed(&device);
        let mut reader = Client::connect(&server, protocol, &device);
        reader.subscribe(&[("flood/#", 0)]);
        reader.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), qos)));
        let mut flood = Flood::new(&server, 0, BYTES);
        flood.publish(BUFFERED);
        for value in 1..=3 {
            set(&mut writer, &device, value);
        }
        // A document takes the place of an older one that is queued, so it may come before the deltas of its change.
        let newest = |topic: &str, message: &Message| message.topic == topic && version(message) == 3;
        let came = read_until(&mut reader, &mut flood, BUFFERED, |message| newest(&topics[2], message));
        if !came.iter().any(|message| newest(&topics[0], message)) {
            read_until(&mut reader, &mut flood, SOON, |message| newest(&topics[0], message));
        }
        reader.disconnect();
    }
}

/// A client that never acknowledges its ordinary messages still hears of its shadow at QoS 0.
#[test]
fn a_full_window_does_not_block_shadow_events() {
    let server = Server::with(UNLIMITED);
    let mut writer = Client::connect(&server, V5, "writer");
    writer.publish_message(&Publish::new("kept/here", "kept").retain(), 1);
    for protocol in BOTH {
        let device = format!("silent-{}", protocol as u8);
        let topics = followed(&device);
        let connect = Connect::persistent(protocol, &device);
        let (mut reader, _) = Client::connect_as(&server, &connect);
        reader.subscribe(&[("flood/#", 1)]);
        reader.subscribe(&topics.each_ref().map(|topic| (topic.as_str(), 0)));
        let mut flood = Flood::new(&server, 1, 1024);
        flood.publish(BACKLOG);
        set(&mut writer, &device, 1);
        hear(&mut reader, &topics, 1);
        reader.subscribe(&[("kept/#", 0)]);
        while reader.peek_message().topic != "kept/here" {}
        // Nor does one hold back what it missed while it was away.
        reader.abandon();
        set(&mut writer, &device, 2);
        let (mut reader, _) = Client::connect_as(&server, &connect);
        hear(&mut reader, &topics, 2);
        reader.disconnect();
    }
}

/// Reads without acknowledging until all `topics` have delivered `version`.
fn hear(reader: &mut Client, topics: &[String], expected: u64) {
    let mut left: Vec<_> = topics.iter().collect();
    while !left.is_empty() {
        let message = reader.peek_message();
        left.retain(|topic| **topic != message.topic || version(&message) != expected);
    }
}

/// When the events of one change did not fit the queue together, those that had been sent came a second time.
#[test]
fn no_event_of_a_large_change_is_repeated() {
    use crate::harness::server::Setup;
    let limits = "outbox_bytes_max = \"16 KiB\"\nrequests_rate = \"1000/s burst 40\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let mut writer = Client::connect(&server, V5, "writer");
    for (protocol, qos) in BOTH.into_iter().flat_map(|protocol: Protocol| [(protocol, 0), (protocol, 1)]) {
        let device = format!("large-{}-{qos}", protocol as u8);
        let mut reader = Client::connect(&server, protocol, &device);
        let prefix = format!("$aws/things/{device}/shadow");
        let native = ["update/+", "document"].map(|end| format!("shadow/{device}/{end}"));
        reader.subscribe(&[(&native[0], qos), (&native[1], qos), (&format!("{prefix}/#"), qos)]);
        for value in 1..=10 {
            let leaves: Vec<_> = (0..800).map(|leaf| format!(r#""{leaf}":{value}"#)).collect();
            let body = format!(r#"{{"state":{{"desired":{{{}}}}}}}"#, leaves.join(","));
            assert_eq!(writer.publish(&format!("shadow/{device}/update"), body, 1), 0);
            let mut received = Vec::new();
            while received.last() != Some(&format!("shadow/{device}/document")) {
                received.push(reader.message().topic);
            }
            let end = ["update/delta", "update/documents", "update/accepted"];
            let both = end.iter().flat_map(|end| [format!("shadow/{device}/{end}"), format!("{prefix}/{end}")]);
            let expected: Vec<_> = both.chain([format!("shadow/{device}/document")]).collect();
            assert_eq!(received, expected, "{protocol:?} QoS {qos} change {value}");
        }
        reader.disconnect();
    }
}
