//! No lost update: many clients race read-modify-write increments on one shadow.
//!
//! Under expected versions every increment counts. Without them increments are lost, which shows that the race is
//! real and that the first test can fail. The quotas are raised: 64 clients on one shadow are no usual load.

use std::thread;

use crate::harness::{
    Meeting,
    server::{Server, UNLIMITED},
    shadow::Requester,
    wire::{V4, V5},
};
use serde_json::{Value, json};

const CLIENTS: usize = 64;
const INCREMENTS: usize = 2_000;
const SHADOW: &str = "shadow/counter";

#[test]
fn no_increment_is_lost_with_expected_versions() {
    let server = Server::with(UNLIMITED);
    prepare(&server);
    let conflicts: usize = race(&server, |client| {
        let mut conflicts = 0;
        let mut current = client.get();
        loop {
            let answer = client.request("update", increment(&current, true));
            if answer.accepted {
                return conflicts;
            }
            assert_eq!(answer.body["error"], "version-conflict", "{answer:?}");
            conflicts += 1;
            current = client.get();
        }
    });
    let end = Requester::new(&server, V5, "reader", SHADOW).get();
    assert_eq!(counter(&end), INCREMENTS as u64, "{end}");
    assert_eq!(end["version"], json!(INCREMENTS + 1), "one version for each increment, and the first write");
    println!("{INCREMENTS} increments by {CLIENTS} clients: the counter is {INCREMENTS}, {conflicts} conflicts");
}

#[test]
fn increments_are_lost_without_expected_versions() {
    let server = Server::with(UNLIMITED);
    prepare(&server);
    // All read before any writes, every time, so that the loss does not depend on who is how fast.
    let read = Meeting::of(CLIENTS);
    let rounds = INCREMENTS / CLIENTS;
    let accepted: usize = race_rounds(
        &server,
        |_| rounds,
        |client| {
            let current = client.get();
            read.wait();
            let answer = client.request("update", increment(&current, false));
            assert!(answer.accepted, "{answer:?}");
            read.wait();
            1
        },
    );
    let end = Requester::new(&server, V5, "reader", SHADOW).get();
    assert_eq!(counter(&end), rounds as u64, "each round of {CLIENTS} increments leaves one: {end}");
    println!("{accepted} increments without a version: the counter is {}", counter(&end));
}

fn prepare(server: &Server) {
    Requester::new(server, V5, "first", SHADOW).update(json!({"state": {"reported": {"counter": 0}}, "version": 0}));
}

fn counter(document: &Value) -> u64 {
    document["state"]["reported"]["counter"].as_u64().unwrap()
}

fn increment(current: &Value, expect_version: bool) -> Value {
    let mut update = json!({"state": {"reported": {"counter": counter(current) + 1}}});
    if expect_version {
        update["version"] = current["version"].clone();
    }
    update
}

/// Each client makes its share of the increments; the sum of what they return.
fn race(server: &Server, increment: impl Fn(&mut Requester) -> usize + Sync) -> usize {
    race_rounds(server, |index| INCREMENTS / CLIENTS + usize::from(index < INCREMENTS % CLIENTS), increment)
}

fn race_rounds(
    server: &Server,
    rounds: impl Fn(usize) -> usize + Sync,
    increment: impl Fn(&mut Requester) -> usize + Sync,
) -> usize {
    let start = Meeting::of(CLIENTS);
    let (start, rounds, increment) = (&start, &rounds, &increment);
    thread::scope(|scope| {
        let racers: Vec<_> = (0..CLIENTS)
            .map(|index| {
                scope.spawn(move || {
                    let name = format!("racer-{index}");
                    // Most hear their own answers alone; a few hear everybody's, as 3.1.1 clients must.
                    let mut client = match index % 16 {
                        0 => Requester::new(server, V4, &name, SHADOW),
                        _ => Requester::private(server, &name, SHADOW),
                    };
                    start.wait();
                    (0..rounds(index)).map(|_| increment(&mut client)).sum::<usize>()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    })
}
