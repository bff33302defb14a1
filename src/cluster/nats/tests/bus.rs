//! Messages between nodes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{
    proxy::{Fault, Proxy},
    servers::{SOUND, Servers, connected_to},
    within,
};
use crate::{
    cluster::{
        LogUnavailable,
        nats::{NatsLog, bus::BusReceiver},
    },
    store::NodeId,
};

fn message(number: usize) -> Bytes {
    format!("message {number}").into()
}

async fn next(receiver: &mut BusReceiver) -> Bytes {
    within("a message", receiver.next()).await.unwrap().0
}

/// Sends messages until one arrives, and takes all of them.
async fn meet(from: &NatsLog, node: u64, receiver: &mut BusReceiver) {
    let arrives = async {
        loop {
            let _ = from.send(NodeId(node), "first".into()).await;
            if timeout(Duration::from_millis(100), receiver.next()).await.is_ok() {
                return;
            }
        }
    };
    within("a first message", arrives).await;
    from.send(NodeId(node), "last".into()).await.unwrap();
    while next(receiver).await != "last" {}
}

#[tokio::test]
async fn messages_reach_one_node_or_all() {
    let mut servers = Servers::start(SOUND).await;
    let (one, two) = (servers.connect(1).await, servers.connect(2).await);
    let (mut at_one, mut at_two) = (one.received().await.unwrap(), two.received().await.unwrap());
    meet(&two, 1, &mut at_one).await;
    meet(&one, 2, &mut at_two).await;
    for number in 0..1_000 {
        one.send(NodeId(2), message(number)).await.unwrap();
    }
    one.send_all("all".into()).await.unwrap();
    two.send(NodeId(1), "one".into()).await.unwrap();
    let mut received = Vec::new();
    for _ in 0..1_001 {
        received.push(next(&mut at_two).await);
    }
    received.retain(|message| message != "all");
    assert_eq!(received, (0..1_000).map(message).collect::<Vec<_>>());
    let mut both = [next(&mut at_one).await, next(&mut at_one).await];
    both.sort();
    assert_eq!(both, ["all", "one"]);

    let largest = Bytes::from(vec![7; one.record_bytes_max()]);
    one.send(NodeId(2), largest.clone()).await.unwrap();
    assert_eq!(next(&mut at_two).await, largest);
    let (bytes, most) = (largest.len() + 1, largest.len());
    let larger = Bytes::from(vec![7; bytes]);
    assert_eq!(one.send(NodeId(2), larger).await, Err(LogUnavailable::TooLarge { bytes, most }));

    // Messages may be lost while the server changes, and arrive again afterwards.
    servers.kill(connected_to(&two));
    meet(&one, 2, &mut at_two).await;
    (0..3).for_each(|number| servers.kill(number));
    let fails = async { while one.send(NodeId(2), "lost".into()).await.is_ok() {} };
    within("an error without a server", fails).await;
}

/// A reader that takes nothing loses messages, and the process does not grow.
#[tokio::test]
async fn a_reader_that_takes_nothing_loses_messages() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    let mut receiver = log.received().await.unwrap();
    for number in 0..48 {
        log.send(NodeId(1), vec![number; 1 << 20].into()).await.unwrap();
    }
    let dropped = async {
        while receiver.dropped() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within("a dropped message", dropped).await;
    // The oldest are kept, in order.
    for number in 0..24 {
        assert_eq!(next(&mut receiver).await.first(), Some(&number));
    }
}

/// A connection passed nothing on and still delivered. The client sends no pings while something arrives, and so never noticed.
#[tokio::test]
async fn changes_a_connection_that_passes_nothing_on() {
    let servers = Servers::start(SOUND).await;
    let mut proxies = Vec::new();
    for port in servers.ports() {
        proxies.push(Proxy::to(port).await);
    }
    let mut settings = servers.settings(1);
    settings.servers = proxies.iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port)).collect();
    let (one, two) = (servers.try_connect(&settings).await.unwrap(), servers.connect(2).await);
    let (_at_one, mut at_two) = (one.received().await.unwrap(), two.received().await.unwrap());
    let traffic = async {
        loop {
            two.send(NodeId(1), "traffic".into()).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    let arrives = async {
        proxies.iter().for_each(|proxy| proxy.set(Fault::NothingSent));
        // What passes a connection now cuts it for ever.
        one.send(NodeId(2), "lost".into()).await.unwrap();
        assert!(timeout(Duration::from_millis(500), at_two.next()).await.is_err());
        proxies.iter().for_each(|proxy| proxy.set(Fault::None));
        loop {
            let _ = one.send(NodeId(2), "again".into()).await;
            if timeout(Duration::from_millis(100), at_two.next()).await.is_ok() {
                return;
            }
        }
    };
    tokio::select! {
        () = traffic => {}
        () = one.watch() => {}
        () = within("a message over another connection", arrives) => return,
    }
    unreachable!("the connections are not closed");
}
