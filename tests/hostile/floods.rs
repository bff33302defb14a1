//! Clients that send as much as they can, against the quotas as they are shipped.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use crate::{
    bystander::Bystander,
    harness::{
        DEADLINE,
        client::Client,
        eventually,
        server::{Server, Setup, UNLIMITED},
        wire::{self, BOTH, Properties, Protocol, Publish, V4, V5, Value, prop},
    },
};

const MIB: u64 = 1 << 20;

/// Returns the packets that are sent over and over again, with names.
fn floods(protocol: Protocol) -> Vec<(&'static str, Vec<u8>)> {
    let filters: Vec<String> = (0..64).map(|number| format!("flood/{number}/+/#")).collect();
    let subscribed: Vec<(&str, u8)> = filters.iter().map(|filter| (&**filter, 2)).collect();
    let unsubscribed: Vec<&str> = filters.iter().map(|filter| &**filter).collect();
    let update = Publish::new("shadow/flooded/update", r#"{"state":{"reported":{"n":1}}}"#);
    let mut alternately = wire::subscribe(protocol, 7, &subscribed, &Properties::none());
    alternately.extend(wire::unsubscribe(protocol, 8, &unsubscribed));
    vec![
        ("PINGREQ", wire::PINGREQ.to_vec()),
        ("PUBACK", wire::ack(0x40, 7)),
        ("PUBREC", wire::ack(0x50, 7)),
        ("PUBREL", wire::ack(0x62, 7)),
        ("PUBLISH", Publish::new("flood/t", "x").encode(protocol, 0, 0)),
        ("large PUBLISH", Publish::new("flood/t", vec![b'x'; 100_000]).encode(protocol, 0, 0)),
        ("PUBLISH of one QoS 2 message", Publish::new("flood/t", "x").encode(protocol, 2, 9)),
        ("updates", update.encode(protocol, 0, 0)),
        ("SUBSCRIBE", wire::subscribe(protocol, 7, &subscribed, &Properties::none())),
        ("SUBSCRIBE to everything", wire::subscribe(protocol, 7, &[("#", 2)], &Properties::none())),
        ("SUBSCRIBE and UNSUBSCRIBE", alternately),
    ]
}

/// Writes `packets` until the socket is shut down; how many bytes were taken.
fn pour(mut stream: TcpStream, packets: &[u8], poured: &AtomicUsize) {
    while stream.write_all(packets).is_ok() {
        poured.fetch_add(packets.len(), Ordering::Relaxed);
    }
}

/// Four connections flood and read nothing, while the bystander's updates are decided one after another.
#[test]
fn floods_of_every_packet() {
    const FLOODERS: usize = 4;
    const UPDATES: usize = 30;
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let before = server.resident_bytes();
    for protocol in BOTH {
        for (number, (what, packets)) in floods(protocol).into_iter().enumerate() {
            let mut beside = Bystander::named(&server, &format!("beside-{number}-{}", protocol as u8));
            let packets = packets.repeat(1 + 4_096 / packets.len());
            let clients: Vec<Client> = (0..FLOODERS)
                .map(|number| Client::connect(&server, protocol, &format!("{what}-{protocol:?}-{number}")))
                .collect();
            let poured = AtomicUsize::new(0);
            let started = Instant::now();
            thread::scope(|scope| {
                for client in &clients {
                    let (stream, packets, poured) = (client.writer(), &packets, &poured);
                    scope.spawn(move || pour(stream, packets, poured));
                }
                for _ in 0..UPDATES {
                    beside.check_connection(&mut server);
                }
                for client in &clients {
                    let _ = client.writer().shutdown(Shutdown::Both);
                }
            });
            println!(
                "{what} {protocol:?}: {UPDATES} updates beside {} KiB in {:?}",
                poured.into_inner() / 1024,
                started.elapsed()
            );
        }
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 128 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
    println!("grew by {} MiB", grown / MIB);
}

/// Aliases set again and again, each to another topic of the greatest length, on many connections at once.
#[test]
fn a_flood_of_topic_aliases() {
    const CONNECTIONS: usize = 50;
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let mut clients: Vec<_> =
        (0..CONNECTIONS).map(|number| Client::connect(&server, V5, &format!("aliases-{number}"))).collect();
    let round = |clients: &mut Vec<Client>, round: usize| {
        for client in clients {
            let set = |alias: u16| {
                let topic = format!("{:0>500}", round * 16 + usize::from(alias));
                Publish::new(&topic, "").property(prop::TOPIC_ALIAS, Value::Two(alias)).encode(V5, 0, 0)
            };
            client.send((1..=16).flat_map(set).collect::<Vec<u8>>());
            client.ping();
        }
    };
    round(&mut clients, 0);
    let before = server.resident_bytes();
    (1..100).for_each(|number| round(&mut clients, number));
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB, "grew by {grown} bytes");
    // One more alias than there may be, and the last there is.
    for alias in [17, u16::MAX] {
        let mut client = clients.pop().unwrap();
        client.send(Publish::new("t", "").property(prop::TOPIC_ALIAS, Value::Two(alias)).encode(V5, 0, 0));
        assert_eq!(client.closed(), Some(0x94));
    }
    bystander.check(&mut server);
    println!("{} aliases set; grew by {} KiB", CONNECTIONS * 16 * 99, grown / 1024);
}

/// All identifiers there are, of QoS 2 messages that are never released: in one go, and by a client that comes again
/// and again and says that the session is the same.
#[test]
fn every_identifier_unreleased() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let before = server.resident_bytes();
    for protocol in BOTH {
        let all: Vec<u8> = (1..=u16::MAX).flat_map(|id| Publish::new("held", "x").encode(protocol, 2, id)).collect();
        let connect = wire::Connect::persistent(protocol, &format!("identifiers-{protocol:?}"));
        let mut taken = 0;
        for _ in 0..20 {
            let (mut client, _) = Client::connect_as(&server, &connect);
            // The server closes before it has all of it, and may reset the connection then.
            let _ = client.try_send(&all);
            while let Some(packet) = client.try_recv() {
                taken += usize::from(matches!(packet, crate::harness::packet::Packet::PubRec(_)));
            }
        }
        assert!(taken <= 20 * 2_048, "{taken} were taken of 20 times 65,535");
        println!("{taken} messages of {protocol:?} were taken of 20 times 65,535");
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
}

/// The other way: 65,535 QoS 2 messages towards a client that never says PUBREC.
#[test]
fn every_identifier_unacknowledged() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    for protocol in BOTH {
        let mut silent = Client::connect(&server, protocol, &format!("silent-{protocol:?}"));
        silent.subscribe(&[("held/t", 2)]);
        let before = server.resident_bytes();
        let mut writer = Client::connect(&server, V4, "writer");
        // Some under way at once.
        for number in 1..=usize::from(u16::MAX) + 32 {
            let id = |number: Option<usize>| number.and_then(|id| u16::try_from(id).ok()).filter(|id| *id > 0);
            if let Some(id) = id(Some(number)) {
                writer.send(Publish::new("held/t", "x".repeat(400)).encode(V4, 2, id));
            }
            if let Some(id) = id(number.checked_sub(16)) {
                writer.pubrec(id);
                writer.send(wire::ack(0x62, id));
            }
            if let Some(id) = id(number.checked_sub(32)) {
                writer.pubcomp(id);
            }
        }
        let grown = server.resident_bytes().saturating_sub(before);
        // All of them have 25 MiB. Caches, and what waits for the disk, differ from run to run.
        assert!(grown < 16 * MIB, "grew by {} MiB", grown / MIB);
        // It has its window full, and is otherwise served.
        silent.ping();
        assert_eq!(silent.peek_message().qos, 2);
    }
    bystander.check(&mut server);
}

/// Thousands of connections from one address, as fast as they can be made: those from another notice nothing.
#[test]
fn a_flood_of_connections() {
    const THREADS: usize = 4;
    let limits = "address_limits_on_loopback = true\naddress_connects_rate = \"10/s burst 200\"\n\
                  address_connections_max = 100";
    let mut server = Server::with(Setup { limits, ..Setup::default() });
    // From 127.0.0.1, which has the same quota for itself.
    let mut bystander = Bystander::new(&server);
    let files = server.open_files();
    let over = AtomicBool::new(false);
    let [attempts, taken, refused] = [const { AtomicUsize::new(0) }; 3];
    let started = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, over, attempts, taken, refused) = (&server, &over, &attempts, &taken, &refused);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) && started.elapsed() < 2 * *DEADLINE {
                    let number = attempts.fetch_add(1, Ordering::Relaxed);
                    // The kernel may be out of ports for a moment.
                    let Ok(mut client) = Client::try_open_from(server, V4, [127, 0, 0, 2]) else { continue };
                    let answer = client.ask_in(&format!("flood-{thread}-{number}"));
                    let counter = if answer == Some(0) { taken } else { refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..20 {
            bystander.update();
            Client::connect(&server, V5, "newcomer").disconnect();
        }
        // However slow the machine is, it goes on until there were more than there may be.
        eventually("some to be refused", || (refused.load(Ordering::Relaxed) > 0).then_some(()));
        over.store(true, Ordering::Relaxed);
    });
    let (attempts, taken) = (attempts.into_inner(), taken.into_inner());
    let allowed = 200 + 10 * (started.elapsed().as_secs() as usize + 1);
    assert!(taken <= allowed, "{taken} of {attempts} were taken, {allowed} may be");
    bystander.check(&mut server);
    eventually("the flood's connections to be gone", || (server.open_files() <= files + 8).then_some(()));
    println!("{taken} of {attempts} connections in {:?} were taken", started.elapsed());
}
