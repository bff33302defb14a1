//! Frames that no client may send, each of which ends its own connection with the code that says why; and too many of
//! those that bring nothing, which wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    bystander::Bystander,
    exchange::{ended, server_with},
    harness::{
        Seed,
        wire::{self, BOTH, Connect, Publish, V5},
    },
    socket::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Socket, TEXT, frame, unmasked},
};

const PROTOCOL: u16 = 1002;
const UNSUPPORTED: u16 = 1003;
const INVALID: u16 = 1007;
const TOO_BIG: u16 = 1009;

#[test]
fn invalid_frames_close_the_websocket() {
    let mut server = server_with("", "", "packet_bytes_max = \"64 KiB\"");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    // The heads of frames that are never sent whole.
    let announced = |length: u64| [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
    let fragments = [frame(BINARY, &[0xC0; 40_000]), frame(CONTINUATION, &[0; 40_000])].concat();
    let reserved = |bit: u8| frame(FIN | bit | BINARY, b"");
    for (what, bytes, code) in [
        ("text", frame(FIN | TEXT, b"CONNECT"), UNSUPPORTED),
        ("no text", frame(FIN | TEXT, b""), UNSUPPORTED),
        ("text in fragments", [frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"b")].concat(), UNSUPPORTED),
        ("text that is no UTF-8", frame(FIN | TEXT, b"\xFF"), INVALID),
        ("no mask", unmasked(FIN | BINARY, b"\xC0\0"), PROTOCOL),
        ("reserved bit 1, as of compression", reserved(0x40), PROTOCOL),
        ("reserved bit 3", reserved(0x10), PROTOCOL),
        ("reserved data frame", frame(FIN | 0x3, b""), PROTOCOL),
        ("reserved control frame", frame(FIN | 0xB, b""), PROTOCOL),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b""), PROTOCOL),
        ("a message in a message", [frame(BINARY, b""), frame(FIN | BINARY, b"")].concat(), PROTOCOL),
        ("a ping in fragments", frame(PING, b""), PROTOCOL),
        ("a ping of 126 bytes", frame(FIN | PING, &[0; 126]), PROTOCOL),
        ("a close of one byte", frame(FIN | CLOSE, &[3]), PROTOCOL),
        ("a frame of 64 KiB and one byte", announced(65_537), TOO_BIG),
        ("a frame of 2^63 - 1 bytes", announced(u64::MAX >> 1), TOO_BIG),
        ("a frame of 2^64 - 1 bytes", announced(u64::MAX), TOO_BIG),
        ("fragments of 80,000 bytes", fragments, TOO_BIG),
    ] {
        for protocol in BOTH {
            for connected in [false, true] {
                let mut socket = Socket::open(address, protocol);
                if connected {
                    socket.send(Connect::new(protocol, "client").encode());
                    assert_eq!(socket.connack(), 0);
                }
                socket.send_raw(&bytes);
                assert_eq!(socket.closed(), code, "{what}, connected: {connected}");
            }
        }
        bystander.check_connection(&mut server);
    }
    bystander.check(&mut server);
}

/// A client could have the server read and answer frames as fast as both could: they are no packets, and were free.
#[test]
fn frames_without_a_packet_count_against_the_packet_rate() {
    const RATE: usize = 100;
    let server = server_with("", "", "publishes_rate = \"20/s burst 5000\"");
    let address = server.address_of("web");
    thread::scope(|scope| {
        for (what, empty) in [
            ("pings", frame(FIN | PING, b"")),
            ("pongs", frame(FIN | PONG, b"x")),
            ("empty messages", frame(FIN | BINARY, b"")),
            ("empty messages in fragments", [frame(BINARY, b""), frame(FIN | CONTINUATION, b"")].concat()),
        ] {
            scope.spawn(move || {
                let mut socket = Socket::connect(address, V5, what);
                let start = Instant::now();
                socket.send_raw([empty.repeat(3 * RATE), frame(FIN | BINARY, &wire::PINGREQ)].concat());
                let answered = (FIN | BINARY, vec![0xD0, 0]);
                while socket.frame().expect("it goes on") != answered {}
                // One rate at once, and two seconds for the others; the clocks are two.
                assert!(start.elapsed() >= Duration::from_millis(1_900), "{what}: {:?}", start.elapsed());
            });
        }
    });
}

/// The client receives the close frame although it keeps sending: its last bytes are read for a while and dropped.
#[test]
fn a_client_that_keeps_sending_receives_the_close_frame() {
    let server = server_with("", "", "");
    let mut socket = Socket::connect(server.address_of("web"), V5, "client");
    let flood = frame(FIN | BINARY, &Publish::new("t", vec![0; 1_000]).encode(V5, 0, 0)).repeat(20);
    socket.send_raw([frame(FIN | TEXT, b"x"), flood].concat());
    assert_eq!(socket.closed(), UNSUPPORTED);
}

/// Random bytes, and sound frames with a few bytes changed, right after the handshake; the seed is printed.
#[test]
fn random_frames_close_the_websocket() {
    let mut server = server_with("", "", "packet_bytes_max = \"20 KiB\"");
    let address = server.address_of("web");
    let mut bystander = Bystander::new(&server);
    let seed = std::env::var("UMBRA_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut random = Seed(seed);
    println!("seed {seed}");
    for round in 0..300 {
        let mut bytes = frame(FIN | BINARY, &Connect::new(V5, "noise").encode());
        bytes.extend(frame(FIN | PING, b"x"));
        bytes.extend(frame(FIN | BINARY, &Publish::new("t", "x").encode(V5, 1, 1)));
        if round % 3 == 0 {
            bytes = (0..random.below(300)).map(|_| random.next() as u8).collect();
        }
        for _ in 0..random.below(4) {
            let place = random.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(place) {
                *byte = random.next() as u8;
            }
        }
        let mut stream = Socket::open(address, V5).stream;
        let _ = std::io::Write::write_all(&mut stream, &bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        ended(&mut stream);
    }
    bystander.check(&mut server);
}
