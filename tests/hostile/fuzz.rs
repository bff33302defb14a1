//! Packets of random bytes and random damage; a failure names the seed.

use crate::{
    bystander::Bystander,
    harness::{
        Seed,
        client::Client,
        server::{Server, UNLIMITED},
        wire::{self, BOTH, Connect, Properties, Protocol, Publish, Value, prop},
    },
};

const CONNECTIONS: u64 = 2_000;

/// One sound packet of each kind a client sends.
fn sound(protocol: Protocol) -> Vec<Vec<u8>> {
    let will = Publish::new("will", "gone").retain();
    let rich = Publish::new("fuzz/t", "payload")
        .property(prop::MESSAGE_EXPIRY, Value::Four(9))
        .property(prop::TOPIC_ALIAS, Value::Two(1))
        .property(prop::USER, Value::Pair("a".into(), "b".into()))
        .property(prop::CORRELATION_DATA, Value::Binary(vec![1, 2]));
    vec![
        Connect::new(protocol, "fuzz").will(will, 1).property(prop::RECEIVE_MAXIMUM, Value::Two(9)).encode(),
        Publish::new("fuzz/t", "x").encode(protocol, 0, 0),
        rich.encode(protocol, 1, 7),
        rich.encode(protocol, 2, 8),
        Publish::new("shadow/fuzz/update", r#"{"state":{"desired":{"a":1}}}"#).encode(protocol, 1, 9),
        wire::ack(0x40, 7),
        wire::ack(0x50, 7),
        wire::ack(0x62, 7),
        wire::ack(0x70, 7),
        wire::subscribe(protocol, 10, &[("fuzz/+", 1), ("$share/g/fuzz/#", 0)], &Properties::none()),
        wire::unsubscribe(protocol, 11, &["fuzz/+"]),
        wire::PINGREQ.to_vec(),
        wire::DISCONNECT.to_vec(),
    ]
}

fn damage(bytes: &mut Vec<u8>, seed: &mut Seed) {
    for _ in 0..=seed.below(3) {
        let at = seed.below(bytes.len() as u64) as usize;
        match seed.below(5) {
            0 => bytes[at] = seed.next() as u8,
            1 => bytes[at] ^= 1 << seed.below(8),
            2 => bytes.insert(at, seed.next() as u8),
            3 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes.truncate(at.max(1)),
        }
    }
}

#[test]
fn damaged_packets() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    for number in 0..CONNECTIONS {
        let mut seed = Seed(0xC0FF_EE00 + number);
        let protocol = BOTH[seed.below(2) as usize];
        let kinds = sound(protocol);
        let mut client = Client::open(&server, protocol);
        // Sometimes the damage is in the CONNECT itself.
        if seed.below(8) > 0 {
            client.send(Connect::new(protocol, &format!("fuzz-{}", seed.below(4))).encode());
        }
        for _ in 0..=seed.below(6) {
            let mut bytes = kinds[seed.below(kinds.len() as u64) as usize].clone();
            if seed.below(3) > 0 {
                damage(&mut bytes, &mut seed);
            }
            if client.try_send(bytes).is_err() {
                break;
            }
        }
        client.drop_connection();
        if number % 250 == 249 {
            println!("after seed {number}");
            bystander.check(&mut server);
        }
    }
    println!("{CONNECTIONS} connections with damaged packets");
}
