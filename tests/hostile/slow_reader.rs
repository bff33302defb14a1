//! Subscribers that never read while others write.
//!
//! The quotas are raised: the writers go as fast as the server reads.

use std::thread;

use serde_json::json;

use crate::{
    bystander::Bystander,
    harness::{
        client::Client,
        server::{Server, UNLIMITED},
        shadow::version,
        wire::{BOTH, Connect, Publish, V4, V5},
    },
};

const MIB: u64 = 1 << 20;

/// 320 MB of plain messages towards four clients that read nothing: the writers finish all the same.
#[test]
fn ordinary_messages_towards_clients_that_never_read() {
    const WRITERS: usize = 4;
    const MESSAGES: u16 = 800;
    const BYTES: usize = 100_000;
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let mut slow = Vec::new();
    for protocol in BOTH {
        for qos in [0, 1] {
            let mut client = Client::connect(&server, protocol, &format!("slow-{protocol:?}-{qos}"));
            client.subscribe(&[("flood/#", qos)]);
            slow.push(client);
        }
    }
    let before = server.resident_bytes();
    let mut peak = 0;
    thread::scope(|scope| {
        let server = &server;
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Client::connect(server, V5, &format!("writer-{number}"));
                    let message = Publish::new(&format!("flood/{number}"), vec![b'x'; BYTES]);
                    for id in 1..=MESSAGES {
                        client.send(message.encode(V5, 1, id));
                        // A few under way at once.
                        if id > 8 {
                            client.puback(id - 8);
                        }
                    }
                    (MESSAGES - 7..=MESSAGES).for_each(|id| drop(client.puback(id)));
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            peak = peak.max(server.resident_bytes());
            thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
    let written = WRITERS as u64 * u64::from(MESSAGES) * BYTES as u64;
    println!(
        "{} MiB written past {} clients that read nothing; grew by {} MiB",
        written / MIB,
        slow.len(),
        grown / MIB
    );
}

/// 120 MB of shadow events towards a client that reads nothing; when it reads at last it finds the newest of all.
#[test]
fn shadow_events_towards_a_client_that_never_reads() {
    const UPDATES: u64 = 6_000;
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let mut slow = Client::connect(&server, V4, "slow");
    slow.subscribe(&[
        ("shadow/busy/update/documents", 1),
        ("shadow/busy/update/accepted", 0),
        ("shadow/busy/document", 0),
    ]);
    let before = server.resident_bytes();
    let mut writer = Client::connect(&server, V5, "writer");
    let mut peak = 0;
    for number in 1..=UPDATES {
        let body = json!({"state": {"reported": {"n": number, "filler": "x".repeat(6_000)}}}).to_string();
        let id = (number % 60_000) as u16 + 1;
        writer.send(Publish::new("shadow/busy/update", body).encode(V5, 1, id));
        if number > 16 {
            assert_eq!(writer.puback(id - 16).code, 0);
        }
        if number % 100 == 0 {
            peak = peak.max(server.resident_bytes());
        }
    }
    writer.ping();
    let grown = peak.saturating_sub(before);
    assert!(grown < 192 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);

    // What was superseded is lost, the newest is not; and none goes back.
    let mut seen = [0, 0, 0];
    let mut messages = 0;
    while seen != [UPDATES; 3] {
        let message = slow.message();
        let body = message.json();
        let (place, found) = match message.topic.as_str() {
            "shadow/busy/update/documents" => (0, version(&body["current"])),
            "shadow/busy/update/accepted" => (1, version(&body)),
            _ => (2, version(&body)),
        };
        assert!(found > seen[place], "{} of {found} after {}", message.topic, seen[place]);
        seen[place] = found;
        messages += 1;
    }
    println!(
        "{UPDATES} updates; the slow reader got {messages} messages, the newest among them; grew by {} MiB",
        grown / MIB
    );
}

/// Replies to its own requests are never dropped: a client that asks and never reads is cut off, and no one else.
#[test]
fn a_client_that_asks_and_never_reads() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let mut client = Client::connect(&server, V5, "asks");
    let body = json!({"state": {"reported": {"filler": "x".repeat(6_000)}}}).to_string();
    client.publish("shadow/asked/update", body, 1);
    client.subscribe(&[("shadow/asked/get/accepted", 0)]);
    let before = server.resident_bytes();
    // Far more replies than the sockets' buffers hold; it ends with the connection.
    let request = Publish::new("shadow/asked/get", "").encode(V5, 0, 0).repeat(100);
    let mut sent = 0;
    let cut_off = loop {
        match client.try_send(&request) {
            Ok(()) if sent < 1_000_000 => sent += 100,
            Ok(()) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut_off, "{sent} requests were taken");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 192 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
    println!("cut off after at most {sent} requests; grew by {} MiB", grown / MIB);
}

/// A persistent session that was cut off while it did not read is as bounded as one that is away.
#[test]
fn a_session_that_stops_reading_and_leaves() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, "leaves"));
    client.subscribe(&[("flood/#", 2)]);
    let mut writer = Client::connect(&server, V4, "writer");
    let before = server.resident_bytes();
    for _ in 0..400 {
        writer.publish("flood/t", vec![b'x'; 100_000], 1);
    }
    client.drop_connection();
    for _ in 0..400 {
        writer.publish("flood/t", vec![b'x'; 100_000], 1);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {} MiB", grown / MIB);
    let (mut client, answer) = Client::connect_as(&server, &Connect::persistent(V5, "leaves"));
    assert!(answer.session_present);
    writer.publish("flood/t", "last", 1);
    while client.message().payload != b"last" {}
    bystander.check(&mut server);
    println!("80 MB towards a session that went; grew by {} MiB", grown / MIB);
}

/// A connection that does not read cannot keep its client id from the one that comes after it.
#[test]
fn a_client_that_never_reads_is_taken_over() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    let mut writer = Client::connect(&server, V4, "writer");
    for protocol in BOTH {
        let mut slow = Client::connect(&server, protocol, "twice");
        slow.subscribe(&[("flood/#", 1)]);
        for _ in 0..100 {
            writer.publish("flood/t", vec![b'x'; 100_000], 1);
        }
        let mut second = Client::connect(&server, protocol, "twice");
        second.ping();
        slow.discard_until_closed();
    }
    bystander.check(&mut server);
}
