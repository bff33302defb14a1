//! Clients over WebSocket that do not read, or write more than they may.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
};

use crate::{
    bystander::Bystander,
    exchange::server_with,
    harness::{
        client::Client,
        server::{Server, UNLIMITED},
        wire::{BOTH, Connect, Publish, V4, V5},
    },
    socket::{BINARY, FIN, PING, Socket, frame},
};

const MIB: u64 = 1 << 20;

/// Writes `bytes` again and again until `max` of them are taken, the connection has ended, or the server takes none
/// while it answers somebody else [`ANSWERS`] times. Returns how many it has taken.
fn write_until_it_halts(server: &Server, stream: &mut TcpStream, bytes: &[u8], max: usize) -> usize {
    const ANSWERS: u32 = 500;
    let mut other = Client::connect(server, V5, "other");
    stream.set_nonblocking(true).unwrap();
    let (mut written, mut answers) = (0, 0);
    while written < max && answers < ANSWERS {
        match stream.write(&bytes[written % bytes.len()..]) {
            Ok(count) => (written, answers) = (written + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                other.ping();
                answers += 1;
            }
            Err(_) => break,
        }
    }
    written
}

/// 40 MB towards each of two clients that read nothing.
#[test]
fn a_client_that_never_reads() {
    let mut server = server_with("", "", UNLIMITED.limits);
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let slow = BOTH.map(|protocol| {
        let mut socket = Socket::connect(address, protocol, &format!("slow-{protocol:?}"));
        socket.subscribe("flood/#", 1);
        socket
    });
    let before = server.resident_bytes();
    let mut writer = Client::connect(&server, V5, "writer");
    for _ in 0..400 {
        writer.publish("flood/t", vec![b'x'; 100_000], 1);
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
    println!("40 MB past {} clients that read nothing; grew by {} MiB", slow.len(), grown / MIB);
    // One that reads at last goes on with what was kept for it.
    let [mut late, _] = slow;
    writer.publish("flood/t", "last", 1);
    loop {
        let crate::harness::packet::Packet::Publish(message) = late.recv() else { panic!("no message") };
        if message.payload == b"last" {
            break;
        }
        if message.qos > 0 {
            late.send(crate::harness::wire::ack(0x40, message.id));
        }
    }
}

/// A client above its rate is not read from: TCP slows it down, and nothing is buffered here.
#[test]
fn a_client_that_writes_more_than_it_may() {
    // 128 KB a second, and ten times as much at once.
    let mut server = server_with("", "", "[[role]]\nrole = \"admin\"\nwork = 1000");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let mut socket = Socket::connect(address, V4, "fast");
    let before = server.resident_bytes();
    let message = frame(FIN | BINARY, &Publish::new("t", vec![0; 100_000]).encode(V4, 0, 0));
    // It is never read as fast as this, so writing comes to a halt well before the end.
    let max = 400 * MIB as usize;
    let written = write_until_it_halts(&server, &mut socket.stream, &message, max);
    assert!(written < max, "{written} bytes were taken");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
    println!("writing came to a halt after {} MiB; grew by {} MiB", written as u64 / MIB, grown / MIB);
}

/// Pings whose answers are not read.
#[test]
fn a_client_that_pings_and_never_reads() {
    let mut server = server_with("", "", "publishes_rate = \"2000000/s burst 5000\"");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let mut socket = Socket::open(address, V5);
    socket.send(Connect::new(V5, "pings").encode());
    let before = server.resident_bytes();
    let pings = frame(FIN | PING, &[0; 125]).repeat(1_000);
    // It may be cut off, or not be read from; what it must not do is make the server grow.
    write_until_it_halts(&server, &mut socket.stream, &pings, 1_000 * pings.len());
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "grew by {} MiB", grown / MIB);
    bystander.check(&mut server);
}
