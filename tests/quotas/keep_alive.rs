//! A client above its rate: it stays connected, its PINGREQ is answered, and nothing that it sent is lost.
//!
//! The rate is one message a second here, so what is answered before all messages were handled is answered at once.

use std::{io::Write, sync::mpsc, thread};

use crate::{
    assert_met,
    harness::{
        client::Client,
        packet::Packet,
        server::Server,
        wire::{self, BOTH, Connect, Protocol, Publish, V5},
    },
    server,
};

/// A watcher may be slow, too.
const SLOW: &str = "publishes_rate = \"1/s burst 10\"\noutbox_bytes_max = \"8 MiB\"";
const COUNT: u16 = 3_000;

/// So many messages, numbered from 0.
fn burst(protocol: Protocol, count: u16, qos: u8) -> Vec<u8> {
    let message = |number: u16| Publish::new("burst/t", number.to_string()).encode(protocol, qos, number + 1);
    (0..count).flat_map(message).collect()
}

/// The next messages must be those numbered from 0 to `count`, each once, in their order.
fn expect(watcher: &mut Client, count: u16) {
    for number in 0..count {
        assert_eq!(watcher.message().text(), number.to_string());
    }
}

fn watcher(server: &Server) -> Client {
    let mut watcher = Client::connect(server, V5, "watcher");
    watcher.subscribe(&[("burst/t", 0), ("will/t", 0)]);
    watcher
}

/// As shipped, a burst is simply taken.
#[test]
fn a_burst_within_the_allowance_is_handled_at_once() {
    let mut server = server("outbox_bytes_max = \"8 MiB\"");
    let mut watcher = watcher(&server);
    for protocol in BOTH {
        let mut client = Client::connect_as(&server, &Connect::new(protocol, "burst").keep_alive(1)).0;
        client.send(burst(protocol, COUNT, 0));
        client.ping();
        expect(&mut watcher, COUNT);
    }
    assert_met(&mut server, &[]);
}

/// A client library ends a connection whose PINGREQ is not answered within its keep-alive, comes back and sends all of
/// it again: the ping behind a burst was answered half a minute later.
#[test]
fn a_ping_behind_a_burst_is_answered_at_once() {
    for qos in [0, 1] {
        let mut server = server(SLOW);
        for protocol in BOTH {
            let mut client = Client::connect_as(&server, &Connect::new(protocol, "burst").keep_alive(1)).0;
            // Of QoS 1 as many as an MQTT 5 client may have undecided.
            let count = if qos == 0 { COUNT } else { 60 };
            client.send(burst(protocol, count, qos));
            for _ in 0..3 {
                client.send(wire::PINGREQ);
                loop {
                    match client.recv() {
                        Packet::PingResp => break,
                        Packet::PubAck(ack) => assert!(ack.id < 50, "{} were handled before", ack.id),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        assert_met(&mut server, &["publishes"]);
    }
}

/// Packets that the old connection had not handled were dropped.
#[test]
fn a_burst_before_a_take_over_is_handled_first() {
    for answered in [true, false] {
        let mut server = server(SLOW);
        let mut watcher = watcher(&server);
        for protocol in BOTH {
            let mut old = Client::connect_as(&server, &Connect::new(protocol, "burst")).0;
            old.send(burst(protocol, COUNT, 0));
            if answered {
                old.ping(); // so all of it was received; else it lies in the socket
            }
            let mut new = Client::connect(&server, protocol, "burst");
            new.ping();
            expect(&mut watcher, COUNT);
            assert_eq!(old.closed(), (protocol == V5).then_some(0x8E));
        }
        assert_met(&mut server, &["publishes"]);
    }
}

/// A client that has said all it has to say need not wait.
#[test]
fn a_burst_before_the_end_is_handled() {
    let server = server("publishes_rate = \"50/s burst 10\"");
    let mut watcher = watcher(&server);
    for protocol in BOTH {
        for goodbye in [&wire::DISCONNECT[..], b""] {
            let will = Publish::new("will/t", "gone");
            let mut client = Client::connect_as(&server, &Connect::new(protocol, "burst").will(will, 0)).0;
            client.send([&burst(protocol, 60, 0)[..], goodbye].concat());
            client.writer().shutdown(std::net::Shutdown::Write).unwrap();
            expect(&mut watcher, 60);
            if goodbye.is_empty() {
                assert_eq!(watcher.message().text(), "gone");
            }
            while client.try_recv().is_some() {}
        }
    }
}

/// Unfinished packets of many clients: beyond what there is for all of them, one that waits in vain is ended, and the
/// others go on.
#[test]
fn unfinished_packets_are_bounded() {
    const CLIENTS: usize = 8;
    let mut server = server("memory = \"16 MiB\"");
    // A quarter of it is for them.
    let publish = Publish::new("large/t", vec![b'x'; 1_000_000]).encode(V5, 1, 1);
    let (most, rest) = publish.split_at(900_000);
    let clients: Vec<_> = (0..CLIENTS).map(|n| Client::connect(&server, V5, &format!("unfinished-{n}"))).collect();
    let writers: Vec<_> = clients.iter().map(Client::writer).collect();
    let (sender, answers) = mpsc::channel();
    let acknowledged = thread::scope(|scope| {
        for mut client in clients {
            let sender = sender.clone();
            scope.spawn(move || {
                let _it_may_be_ended_before = client.try_send(most);
                sender.send(client.recv()).unwrap();
            });
        }
        let first = answers.recv().unwrap();
        assert!(matches!(first, Packet::Disconnect { code: 0x97, .. }), "{first:?}");
        // Nobody suffers whose packets are small.
        let mut other = Client::connect(&server, V5, "other");
        other.publish("small/t", vec![b'x'; 10_000], 1);
        for mut writer in writers {
            let _it_may_be_ended = writer.write_all(rest);
        }
        let mut acknowledged = 0;
        for _ in 1..CLIENTS {
            match answers.recv().unwrap() {
                Packet::PubAck(_) => acknowledged += 1,
                other => assert!(matches!(other, Packet::Disconnect { code: 0x97, .. }), "{other:?}"),
            }
        }
        acknowledged
    });
    assert!(acknowledged >= 1);
    assert_met(&mut server, &["input_bytes"]);
}
