//! Everything at once, again and again: what an attack leaves behind is not left behind by each.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    bystander::Bystander,
    harness::{
        DEADLINE, Seed,
        client::Client,
        server::{Server, Setup, UNLIMITED},
        wire::{self, BOTH, Connect, Properties, Protocol, Publish, V5, Value, prop},
    },
};

/// Strikes of one attack; `UMBRA_TEST_STRIKES` sets another number. 12,000 take about 8 s.
const STRIKES: u64 = 12_000;
/// The kind of strike that sends a damaged packet.
const DAMAGED: u64 = 11;
/// Beside MQTT there is HTTP. The times that an attack waits for are short.
const LISTENERS: &str = "connect_timeout = \"2s\"\n\
    [[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nconnect_timeout = \"2s\"";

/// One step of the attack; what it does is in `seed` alone, so that the second time is the same as the first.
fn strike(server: &Server, web: SocketAddr, seed: &mut Seed) {
    if seed.below(3) == 0 {
        return strike_http(web, seed);
    }
    let protocol = BOTH[seed.below(2) as usize];
    let kind = seed.below(DAMAGED + 1);
    let id = format!("attacker-{}", seed.below(300));
    let mut client = Client::open(server, protocol);
    if kind < 2 {
        // Nothing, or half a CONNECT, or none.
        let connect = Connect::new(protocol, &id).encode();
        let _ = client.try_send(&connect[..seed.below(connect.len() as u64) as usize]);
        let _ = client.try_send(if kind == 0 { &b"GET / HTTP/1.1\r\n\r\n"[..] } else { &[] });
        return;
    }
    let connect = if seed.below(2) == 0 { Connect::new(protocol, &id) } else { Connect::persistent(protocol, &id) };
    let connect =
        if kind == 2 { connect.will(Publish::new("shadow/attacked/update", "{}").retain(), 1) } else { connect };
    // It may be taken over by one of the same id, and closed, at any point.
    if client.try_send(connect.encode()).is_err() || client.try_send(blow(kind, protocol, seed)).is_err() {
        return;
    }
    // Half of them stay until they have been answered; the others leave at once. What is damaged may swallow the
    // DISCONNECT.
    if seed.below(2) == 0 && kind != DAMAGED && client.try_send(wire::DISCONNECT).is_ok() {
        client.discard_until_closed();
    }
}

/// Returns the bytes that a connected client sends.
fn blow(kind: u64, protocol: Protocol, seed: &mut Seed) -> Vec<u8> {
    let number = seed.below(500);
    let update = |body: String| Publish::new(&format!("shadow/attacked-{}/update", number % 50), body);
    let state = |value: &str| format!(r#"{{"state":{{"desired":{{"a":{value}}}}}}}"#);
    match kind {
        0..=2 => Vec::new(),
        3 => {
            let filters: Vec<String> = (0..64).map(|at| format!("f/{}/{at}/+/#", number % 10)).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 2)).collect();
            wire::subscribe(protocol, 1, &filters, &Properties::none())
        }
        4 => wire::subscribe(protocol, 1, &[("#", 2), ("$share/g/#", 1)], &Properties::none()),
        5 => Publish::new(&format!("retained/{number}"), vec![b'x'; 2_000]).retain().encode(protocol, 1, 1),
        6 => (1..=60).flat_map(|id| Publish::new("held", "x").encode(protocol, 2, id)).collect(),
        7 if protocol == V5 => (1..=16_u16)
            .flat_map(|alias| {
                let topic = format!("{alias:0>500}");
                Publish::new(&topic, "").property(prop::TOPIC_ALIAS, Value::Two(alias)).encode(V5, 0, 0)
            })
            .collect(),
        7 => vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        8 => update(state(&format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000)))).encode(protocol, 1, 1),
        9 => update(state(&format!("\"{}\"", "x".repeat(6_000)))).encode(protocol, 1, 1),
        10 => {
            let name = format!("shadow/attacked/name/n{number}");
            let made = Publish::new(&format!("{name}/update"), state("1")).encode(protocol, 1, 1);
            [made, Publish::new(&format!("{name}/delete"), "").encode(protocol, 1, 2)].concat()
        }
        DAMAGED.. => {
            let mut packet = Publish::new("flood/t", vec![b'x'; 20_000]).encode(protocol, 1, 9);
            let at = seed.below(40) as usize;
            packet[at] = seed.next() as u8;
            packet
        }
    }
}

fn strike_http(web: SocketAddr, seed: &mut Seed) {
    let mut stream = TcpStream::connect(web).expect("the server listens");
    stream.set_read_timeout(Some(*DEADLINE)).expect("a socket");
    let kind = seed.below(12);
    // Half of them stay to the end of the answer, where there is one to come.
    let stays = kind > UNANSWERED && seed.below(2) == 0;
    // It may be answered, and closed, before all of it is sent.
    let _ = stream.write_all(&request(kind, web, stays, seed));
    if stays {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// The last of the kinds that HTTP has no answer to, or none that ends, until its time has passed.
const UNANSWERED: u64 = 3;

/// Returns a request to the listener for HTTP; the answer ends the connection if `ends`.
fn request(kind: u64, web: SocketAddr, ends: bool, seed: &mut Seed) -> Vec<u8> {
    let number = seed.below(500);
    let shadow = format!("/v1/devices/attacked-{}/shadow", number % 50);
    let head = |line: &str, fields: &str| {
        let close = if ends { "Connection: close\r\n" } else { "" };
        format!("{line} HTTP/1.1\r\nHost: {web}\r\n{close}{fields}\r\n").into_bytes()
    };
    let sent = |line: &str, fields: &str, body: &str| {
        [&head(line, &format!("{fields}Content-Length: {}\r\n", body.len()))[..], body.as_bytes()].concat()
    };
    let patch = |form: &str| format!("If-Match: *\r\nContent-Type: application/{form}\r\n");
    match kind {
        0 => {
            let whole = head(&format!("GET {shadow}"), "");
            whole[..seed.below(whole.len() as u64) as usize].to_vec()
        }
        1 => {
            let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n";
            let noise = (0..seed.below(200)).map(|_| seed.next() as u8).collect();
            [head("GET /mqtt", upgrade), noise].concat()
        }
        2 => {
            let fields = "Transfer-Encoding: chunked\r\nContent-Type: application/merge-patch+json\r\nIf-Match: *\r\n";
            [head(&format!("PATCH {shadow}"), fields), b"FFFFFFFFFFFFFFFF\r\n".repeat(20)].concat()
        }
        UNANSWERED => head("GET /v1/events", ""),
        4 => head("GET /v1/events", "Last-Event-ID: 18446744073709551615\r\n"),
        5 => head(&format!("GET {shadow}"), &format!("X-Long: {}\r\n", "x".repeat(30_000))),
        6 => head(&format!("GET {shadow}?fields={}", "/desired/a,".repeat(500)), ""),
        7 => head("GET /v1/devices?limit=1000000&cursor=!", ""),
        8 => sent("POST /session", "Content-Type: application/json\r\n", r#"{"user":"attacker","password":"guess"}"#),
        9 => sent(&format!("PATCH {shadow}"), &patch("json-patch+json"), &"[".repeat(20_000)),
        10 => {
            let body = format!(r#"{{"desired":{{"a":"{}"}}}}"#, "x".repeat(6_000));
            let key = format!("Idempotency-Key: \"k{number}\"\r\n");
            sent(&format!("PATCH {shadow}"), &(patch("merge-patch+json") + &key), &body)
        }
        _ => {
            let target = format!("PUT /v1/devices/attacked/shadows/h{number}");
            sent(&target, "If-Match: *\r\nContent-Type: application/json\r\n", r#"{"desired":{"a":1}}"#)
        }
    }
}

fn attack(server: &mut Server, bystander: &mut Bystander, strikes: u64) {
    let web = server.address_of("web");
    let mut seed = Seed(0xBAD_C0DE);
    for number in 0..strikes {
        strike(server, web, &mut seed);
        if number % 500 == 499 {
            bystander.check(server);
        }
    }
}

/// Memory ceases to grow: there is an attack that leaves at most 5 % more than the equal one before it.
///
/// The first ones fill what has a limit: caches, sessions that wait for their clients, retained messages, changes that
/// are not flushed yet, pages that the allocator keeps. How many that takes differs from run to run. A leak grows by as
/// much with each.
#[test]
fn equal_attacks_cease_to_take_memory() {
    const ATTACKS_MAX: usize = 8;
    // So small caches are full after the first.
    let store = "memory = \"48 MiB\"";
    let mut server = Server::with(Setup { listener: LISTENERS, store, ..UNLIMITED });
    let mut bystander = Bystander::new(&server);
    let strikes = std::env::var("UMBRA_TEST_STRIKES").map_or(STRIKES, |text| text.parse().expect("a number"));
    let mut after = vec![server.resident_bytes()];
    for _ in 0..ATTACKS_MAX {
        attack(&mut server, &mut bystander, strikes);
        bystander.check(&mut server);
        let [before, now] = [after[after.len() - 1], server.resident_bytes()];
        after.push(now);
        if now * 20 <= before * 21 {
            break;
        }
    }
    let mib: Vec<_> = after.iter().map(|bytes| bytes >> 20).collect();
    println!("{strikes} strikes each time: {mib:?} MiB before and after each attack");
    assert!(after.len() <= ATTACKS_MAX, "memory grew with each of {ATTACKS_MAX} equal attacks: {mib:?} MiB");
}
