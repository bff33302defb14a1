//! Accepted means on disk: the server is killed under load, again and again, and no promise it made is broken.
//!
//! A promise is an `accepted` message, or a PUBACK with reason 0x00 on a native topic of MQTT 5. After each restart
//! every promised sequence number is in its shadow, no version went back, and the next accepted write is the next one.
//! The quotas are raised: the writers go as fast as they can.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    DEADLINE, Seed,
    client::Client,
    eventually,
    packet::Packet,
    server::{Server, Setup, UNLIMITED},
    shadow::{Requester, version},
    wire::{Protocol, Publish, V4, V5},
};
use serde_json::json;

const ROUNDS: u64 = 24;
const DEVICES: usize = 4;
/// Two writers a device, one of each version of MQTT.
const WRITERS: usize = 2 * DEVICES;
/// How many requests of its own a writer sends ahead.
const WINDOW: u64 = 8;

/// The writes of one writer that were confirmed; they are numbered 1, 2, 3, …
#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    sent: u64,
    promised: u64,
    /// The version of its device in the last `accepted`.
    version: u64,
}

#[test]
fn accepted_writes_survive_sigkill() {
    let mut server = Server::with(UNLIMITED);
    let mut writers = [Writer::default(); WRITERS];
    let mut seed = Seed(0x0B5E_55ED);
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        // The crash comes after a number of promises that differs from round to round, not after a time.
        let promises = 1 + seed.below(400);
        let made = load_until_killed(&mut server, &mut writers, promises);
        let started = Instant::now();
        server.restart();
        slowest = slowest.max(started.elapsed());
        check(&server, &mut writers, round);
        println!("round {round}: killed after {made} promises (wanted {promises})");
    }
    let promised: u64 = writers.iter().map(|writer| writer.promised).sum();
    println!("{ROUNDS} crashes, {promised} promises kept, slowest restart {slowest:?}");
    server.stop();
}

fn device(writer: usize) -> String {
    format!("shadow/crash-{}", writer / 2)
}

fn protocol(writer: usize) -> Protocol {
    if writer.is_multiple_of(2) { V4 } else { V5 }
}

/// Writes with all writers until `promises` were made, and kills the server while they go on.
fn load_until_killed(server: &mut Server, writers: &mut [Writer], promises: u64) -> u64 {
    let made = AtomicU64::new(0);
    let clients: Vec<Client> = (0..WRITERS)
        .map(|index| {
            let mut client = Client::connect(server, protocol(index), &format!("writer-{index}"));
            client.subscribe(&[(&format!("{}/update/accepted", device(index)), 0)]);
            client
        })
        .collect();
    thread::scope(|scope| {
        for (index, (client, writer)) in clients.into_iter().zip(writers).enumerate() {
            let made = &made;
            scope.spawn(move || write_until_closed(index, client, writer, made));
        }
        eventually("the promises of this round", || (made.load(Ordering::Relaxed) >= promises).then_some(()));
        server.kill();
    });
    made.load(Ordering::Relaxed)
}

/// Keeps a window of numbered writes going until the connection ends, and notes every promise.
fn write_until_closed(index: usize, mut client: Client, writer: &mut Writer, made: &AtomicU64) {
    let topic = format!("{}/update", device(index));
    // Identifiers are this connection's: the first write of this round has 1.
    let before = writer.sent;
    // What was under way when the server died was not promised, so the numbers go on from there.
    let mut answered = before;
    let deadline = Instant::now() + *DEADLINE;
    while Instant::now() < deadline {
        while writer.sent < answered + WINDOW {
            writer.sent += 1;
            let body =
                json!({"state": {"reported": {format!("w{index}"): writer.sent}}, "clientToken": index.to_string()});
            let id = u16::try_from(writer.sent - before).unwrap();
            let publish = Publish::new(&topic, body.to_string()).encode(client.protocol, 1, id);
            if client.try_send(publish).is_err() {
                break;
            }
        }
        match client.try_recv() {
            None => return,
            Some(Packet::PubAck(ack)) => {
                assert_eq!(ack.code, 0, "writer {index}: {ack:?}");
                assert_eq!(before + u64::from(ack.id), answered + 1, "writer {index}: PUBACKs out of order");
                answered += 1;
                if client.protocol == V5 {
                    promise(writer, answered, made);
                }
            }
            Some(Packet::Publish(message)) => {
                let body = message.json();
                assert_eq!(version(&body), writer.version + 1, "writer {index}: {message:?}");
                writer.version += 1;
                if body["clientToken"] == json!(index.to_string()) {
                    let number = body["state"]["reported"][format!("w{index}")].as_u64().unwrap();
                    promise(writer, number, made);
                }
            }
            Some(other) => panic!("writer {index} got {other:?}"),
        }
    }
    panic!("writer {index} was never cut off");
}

fn promise(writer: &mut Writer, number: u64, made: &AtomicU64) {
    if number > writer.promised {
        writer.promised = number;
        made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every promise is kept, and versions go on by one.
fn check(server: &Server, writers: &mut [Writer], round: u64) {
    for (number, pair) in writers.chunks_mut(2).enumerate() {
        let prefix = device(2 * number);
        let mut reader = Requester::new(server, V5, "reader", &prefix);
        let document = reader.get();
        let seen = pair.iter().map(|writer| writer.version).max().unwrap();
        assert!(version(&document) >= seen, "round {round}: {prefix} went back from {seen}: {document}");
        for (offset, writer) in pair.iter_mut().enumerate() {
            let index = 2 * number + offset;
            let kept = document["state"]["reported"][format!("w{index}")].as_u64().unwrap_or(0);
            assert!(kept >= writer.promised, "round {round}: writer {index} lost a promise: {writer:?}, {document}");
            assert!(kept <= writer.sent, "round {round}: writer {index} never sent {kept}");
        }
        let next = reader.update(json!({"state": {"reported": {"round": round + 1}}, "version": version(&document)}));
        assert_eq!(version(&next), version(&document) + 1, "round {round}: {prefix}");
        pair.iter_mut().for_each(|writer| writer.version = version(&next));
    }
}

const SMALL_CACHES: &str = "memory = \"3 MiB\"";

/// Many shadows at once: the table of states lags behind the journal, and a start brings what is missing from there.
#[test]
fn journal_entries_not_yet_flushed_survive_sigkill() {
    const SHADOWS: usize = 3_000;
    // Few documents stay in memory, so that most are read again to be changed.
    let mut server = Server::with(Setup { store: SMALL_CACHES, ..UNLIMITED });
    let mut replays = 0;
    for round in 1..=6 {
        let mut client = Client::connect(&server, V5, "writer");
        let body = json!({"state": {"reported": {"round": round}}, "version": round - 1}).to_string();
        // As many at once as the server takes, so that its batches are large.
        for first in (0..SHADOWS).step_by(60) {
            let batch = first..first + 60;
            let frames: Vec<u8> = batch
                .clone()
                .flat_map(|n| Publish::new(&format!("shadow/many-{n}/update"), &body).encode(V5, 1, n as u16 + 1))
                .collect();
            client.send(frames);
            for number in batch {
                assert_eq!(client.puback(number as u16 + 1).code, 0, "round {round}: shadow {number}");
            }
        }
        server.kill();
        server.restart();
        replays += u32::from(!server.log().contains("nothing to replay"));
    }
    let mut client = Client::connect(&server, V5, "reader");
    client.subscribe(&[("shadow/+/get/accepted", 0)]);
    for number in 0..SHADOWS {
        client.publish(&format!("shadow/many-{number}/get"), "", 0);
        let document = client.message().json();
        assert_eq!((version(&document), &document["state"]["reported"]["round"]), (6, &json!(6)), "{document}");
    }
    println!("6 crashes, {SHADOWS} shadows, {replays} starts read the journal again");
    assert!(replays > 0, "no crash came while the table of states lagged behind");
}
