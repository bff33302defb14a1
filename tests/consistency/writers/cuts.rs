//! A client whose connection is cut never knows whether its update got in. With a key it sends it again, and it is in
//! once.

use serde_json::json;

use crate::harness::{
    Seed,
    client::Client,
    server::{Server, UNLIMITED},
    shadow::{Requester, version},
    wire::{self, Publish, V5},
};

const CUTS: u64 = 1_000;
const DEVICE: &str = "shadow/cut";

/// Between the cut and the second attempt somebody else sets the same field: an update that was done twice would show
/// as one version more, and one that was lost as one less.
#[test]
fn a_keyed_update_is_applied_once_across_reconnects() {
    let seed = std::env::var("UMBRA_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    println!("UMBRA_TEST_SEED={seed}");
    let server = Server::with(UNLIMITED);
    let mut seed = Seed(seed);
    let mut spoiler = Requester::private(&server, "spoiler", DEVICE);
    let (mut replayed, mut by_point) = (0, [0; POINTS]);
    for n in 0..CUTS {
        let body = json!({"state": {"reported": {"n": n}}, "idempotencyKey": format!("cut-{n}")});
        let point = cut(&server, &body.to_string(), &mut seed);
        spoiler.update(json!({"state": {"reported": {"n": format!("spoiled {n}")}}}));
        let mut client = Requester::private(&server, "writer", DEVICE);
        let reply = client.update(body);
        let again = reply.get("replayed").is_some();
        assert!(version(&reply) > 2 * n && version(&reply) <= 2 * n + 2, "cut {n} at {point}: {reply}");
        assert!(again || point < LAST_POINT, "cut {n}: it was acknowledged, and then done again: {reply}");
        assert!(!again || point > 1, "cut {n}: it was never sent whole, and is said to have been done: {reply}");
        replayed += u64::from(again);
        by_point[point] += 1;
    }
    let end = version(&spoiler.get());
    println!("{CUTS} cuts, {replayed} had got in and were replayed; by point {by_point:?}; version {end}");
    assert_eq!(end, 2 * CUTS);
    assert!(replayed > 0 && replayed < CUTS);
}

const POINTS: usize = 5;
const LAST_POINT: usize = POINTS - 1;

/// Sends `body` as an update and cuts the connection: before anything, within the packet, right after it, after the
/// server has read it, after its PUBACK.
fn cut(server: &Server, body: &str, seed: &mut Seed) -> usize {
    let mut client = Client::connect(server, V5, "writer");
    let packet = Publish::new(&format!("{DEVICE}/update"), body).encode(V5, 1, 1);
    let point = seed.below(POINTS as u64) as usize;
    match point {
        0 => {}
        1 => client.send(&packet[..1 + seed.below(packet.len() as u64 - 1) as usize]),
        2 => client.send(&packet),
        3 => {
            client.send([packet.as_slice(), &wire::PINGREQ].concat());
            client.wait("PINGRESP", |packet| (*packet == crate::harness::packet::Packet::PingResp).then_some(()));
        }
        _ => {
            client.send(&packet);
            client.puback(1);
        }
    }
    client.drop_connection();
    point
}
