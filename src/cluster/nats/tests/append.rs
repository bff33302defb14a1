//! Appends, reads and the end of the log, while servers and connections fail.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    append_all, check_all, follow_all,
    proxy::{Fault, Proxy},
    record, refuse,
    servers::{SOUND, Servers, leader},
    store, within,
};
use crate::store::Appended;

#[tokio::test]
async fn appends_only_at_the_end() {
    let servers = Servers::start(SOUND).await;
    let (one, two) = (servers.connect(1).await, servers.connect(2).await);
    assert_eq!(one.tail().await, Ok(0));
    assert_eq!(one.read(0).await, Ok(None));
    assert_eq!(one.read(1).await, Ok(None));
    refuse(&one, 1, record(2)).await; // a gap
    store(&one, 0, record(1)).await;
    refuse(&two, 0, record(1)).await; // the same again
    refuse(&two, 0, record(7)).await; // the same again, after a pause
    assert_eq!(two.tail().await, Ok(1));
    store(&two, 1, record(2)).await;
    refuse(&one, 1, record(7)).await;
    refuse(&one, 7, record(8)).await;
    assert_eq!((one.read(2).await, one.read(3).await), (Ok(Some(record(2))), Ok(None)));

    let largest = Bytes::from(vec![0x5a; one.record_bytes_max()]);
    store(&one, 2, largest.clone()).await;
    assert_eq!(two.read(3).await, Ok(Some(largest.clone())));
    let mut follower = two.follow(3);
    assert_eq!(within("the largest record", follower.next()).await, Ok((3, largest.clone())));
    let larger = Bytes::from([&largest[..], &[0]].concat());
    assert_eq!(one.append(3, larger).await, Appended::Unknown);
    store(&one, 3, Bytes::new()).await;
    assert_eq!((one.read(4).await, one.tail().await), (Ok(Some(Bytes::new())), Ok(4)));
}

/// Two nodes append at the same place, and one is right.
#[tokio::test]
async fn one_of_two_deciders_appends() {
    let servers = Servers::start(SOUND).await;
    let (one, two) = (servers.connect(1).await, servers.connect(2).await);
    for number in 1..=50 {
        let (mine, other) = (Bytes::from(format!("one {number}")), Bytes::from(format!("two {number}")));
        let outcomes = tokio::join!(one.append(number - 1, mine.clone()), two.append(number - 1, other.clone()));
        let stored = match outcomes {
            (Appended::Stored, Appended::Refused) => mine,
            (Appended::Refused, Appended::Stored) => other,
            outcomes => unreachable!("record {number}: {outcomes:?}"),
        };
        assert_eq!(one.read(number).await, Ok(Some(stored)));
    }
}

#[tokio::test]
async fn goes_on_when_the_leader_is_killed() {
    let mut servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    let mut follower = log.follow(1);
    append_all(&log, 0, 50).await;
    for round in 1..=2 {
        let leader = leader(&log).await;
        servers.kill(leader);
        let pause = append_all(&log, round * 50, 50).await;
        println!("kill -9 of the leader: the longest append took {pause:?}");
        servers.launch(leader);
    }
    follow_all(&mut follower, 0, 150).await;
    check_all(&log, 150).await;
}

/// A leader that was stopped does not know that it was deposed. It must store nothing, and nothing that it acknowledged is lost.
#[tokio::test]
async fn goes_on_when_the_leader_is_stopped_for_some_time() {
    let servers = Servers::start(SOUND).await;
    let (log, other) = (servers.connect(1).await, servers.connect(2).await);
    append_all(&log, 0, 20).await;
    let leader = leader(&log).await;
    servers.signal(leader, Signal::STOP);
    let pause = append_all(&log, 20, 20).await;
    println!("SIGSTOP of the leader: the longest append took {pause:?}");
    servers.signal(leader, Signal::CONT);
    append_all(&other, 40, 20).await;
    follow_all(&mut log.follow(1), 0, 60).await;
    check_all(&other, 60).await;
}

#[tokio::test]
async fn goes_on_after_a_restart_of_all_servers() {
    let mut servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    let mut follower = log.follow(1);
    append_all(&log, 0, 30).await;
    follow_all(&mut follower, 0, 20).await;
    (0..3).for_each(|number| servers.kill(number));
    assert_eq!(log.append(30, record(31)).await, Appended::Unknown);
    assert!(log.tail().await.is_err() && log.read(1).await.is_err() && log.trim(5).await.is_err());
    (0..3).for_each(|number| servers.launch(number));
    append_all(&log, 30, 20).await;
    follow_all(&mut follower, 20, 30).await;
    check_all(&log, 50).await;
}

/// With two of three servers away nothing is stored, and nothing is lost once they are back.
#[tokio::test]
async fn stores_nothing_without_a_majority() {
    let mut servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    append_all(&log, 0, 5).await;
    servers.kill(0);
    servers.kill(1);
    for _ in 0..3 {
        assert_ne!(log.append(5, record(6)).await, Appended::Stored);
    }
    servers.launch(0);
    append_all(&log, 5, 5).await;
    servers.launch(1);
    check_all(&log, 10).await;
}

/// The record is stored and its acknowledgement lost; the same bytes are refused, and found.
#[tokio::test]
async fn finds_an_append_whose_acknowledgement_was_lost() {
    let servers = Servers::start(SOUND).await;
    let direct = servers.connect(1).await;
    let proxy = Proxy::to(servers.ports().next().unwrap()).await;
    let mut settings = servers.settings(2);
    settings.servers = vec![format!("nats://127.0.0.1:{}", proxy.port)];
    let log = servers.try_connect(&settings).await.unwrap();
    store(&log, 0, record(1)).await;

    proxy.set(Fault::NothingReceived);
    assert_eq!(log.append(1, record(2)).await, Appended::Unknown);
    let arrived = async { while direct.read(2).await != Ok(Some(record(2))) {} };
    within("the record", arrived).await;
    proxy.set(Fault::None);
    refuse(&log, 1, record(2)).await;
    assert_eq!(log.read(2).await, Ok(Some(record(2))));

    // The record never arrives, so it may be appended by another.
    proxy.set(Fault::NothingSent);
    assert_eq!(log.append(2, record(3)).await, Appended::Unknown);
    assert_eq!(direct.tail().await, Ok(2));
    proxy.set(Fault::None);
    append_all(&log, 2, 1).await;
    assert_eq!(direct.tail().await, Ok(3));

    proxy.set(Fault::Delay(Duration::from_millis(300)));
    store(&log, 3, record(4)).await;
    proxy.set(Fault::Refused);
    assert_eq!(log.append(4, record(5)).await, Appended::Unknown);
    proxy.set(Fault::None);
    append_all(&log, 4, 3).await;
    check_all(&direct, 7).await;
}

/// Connections fail in turn while two nodes append; every record is stored once, in order.
#[tokio::test]
async fn loses_nothing_while_connections_fail() {
    let servers = Servers::start(SOUND).await;
    let direct = servers.connect(1).await;
    let mut proxies = Vec::new();
    for port in servers.ports() {
        proxies.push(Proxy::to(port).await);
    }
    let mut settings = servers.settings(2);
    settings.servers = proxies.iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port)).collect();
    let log = servers.try_connect(&settings).await.unwrap();
    let mut follower = log.follow(1);
    let faults = async {
        let all = [Fault::NothingReceived, Fault::Refused, Fault::Delay(Duration::from_millis(50)), Fault::NothingSent];
        for fault in all {
            proxies.iter().for_each(|proxy| proxy.set(fault));
            sleep(Duration::from_millis(700)).await;
            proxies.iter().for_each(|proxy| proxy.set(Fault::None));
            sleep(Duration::from_millis(700)).await;
        }
    };
    tokio::join!(append_all(&log, 0, 1_000), faults, follow_all(&mut follower, 0, 1_000));
    check_all(&direct, 1_000).await;
}
