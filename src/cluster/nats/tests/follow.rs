//! Followers, while servers and connections fail, and of a log whose beginning was trimmed.

use bytes::Bytes;
use rustix::process::Signal;

use super::{
    append_all, follow_all,
    proxy::{Fault, Proxy},
    record,
    servers::{SOUND, Servers, connected_to, leader},
    store, within,
};
use crate::cluster::nats::follow::FollowEnd;

#[tokio::test]
async fn follows_from_any_number() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    let (mut all, mut later, mut ahead) = (log.follow(0), log.follow(4), log.follow(9));
    let appended = append_all(&log, 0, 10);
    tokio::join!(appended, follow_all(&mut all, 0, 10), follow_all(&mut later, 3, 7), follow_all(&mut ahead, 8, 2));
}

/// More than flow control lets wait, so that its messages must be answered.
#[tokio::test]
async fn a_slow_follower_misses_nothing() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    let mut follower = log.follow(1);
    store(&log, 0, record(1)).await;
    follow_all(&mut follower, 0, 1).await;
    // 96 MiB, none of which is taken meanwhile.
    let large = |number: u64| Bytes::from(vec![number as u8; 1 << 20]);
    for number in 2..=97 {
        store(&log, number - 1, large(number)).await;
    }
    for number in 2..=97 {
        assert_eq!(within("a large record", follower.next()).await, Ok((number, large(number))));
    }
}

#[tokio::test]
async fn goes_on_when_its_server_is_killed() {
    let mut servers = Servers::start(SOUND).await;
    let (log, writer) = (servers.connect(1).await, servers.connect(2).await);
    let mut follower = log.follow(1);
    append_all(&writer, 0, 20).await;
    follow_all(&mut follower, 0, 10).await;
    let server = connected_to(&log);
    servers.kill(server);
    append_all(&writer, 20, 20).await;
    follow_all(&mut follower, 10, 30).await;
    servers.launch(server);
    let leader = leader(&log).await;
    servers.kill(leader);
    append_all(&writer, 40, 20).await;
    follow_all(&mut follower, 40, 20).await;
}

#[tokio::test]
async fn goes_on_when_its_server_is_stopped_or_silent() {
    let servers = Servers::start(SOUND).await;
    let writer = servers.connect(1).await;
    let mut proxies = Vec::new();
    for port in servers.ports() {
        proxies.push(Proxy::to(port).await);
    }
    let mut settings = servers.settings(2);
    settings.servers = proxies.iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port)).collect();
    let log = servers.try_connect(&settings).await.unwrap();
    let mut follower = log.follow(1);
    append_all(&writer, 0, 10).await;
    follow_all(&mut follower, 0, 10).await;
    // Each in turn: among them the one with the follower's consumer.
    for number in 0..3 {
        servers.signal(number, Signal::STOP);
        append_all(&writer, 10 + 10 * number as u64, 10).await;
        follow_all(&mut follower, 10 + 10 * number as u64, 10).await;
        servers.signal(number, Signal::CONT);
    }
    proxies[connected_to(&log)].set(Fault::NothingReceived);
    append_all(&writer, 40, 10).await;
    follow_all(&mut follower, 40, 10).await;
}

#[tokio::test]
async fn a_trimmed_beginning_is_reported() {
    let servers = Servers::start(SOUND).await;
    let log = servers.connect(1).await;
    assert_eq!(log.trim(5).await, Ok(()), "of an empty log");
    append_all(&log, 0, 10).await;
    let mut begun = log.follow(1);
    follow_all(&mut begun, 0, 10).await;
    assert_eq!(log.trim(0).await, Ok(()));
    follow_all(&mut log.follow(1), 0, 10).await;
    assert_eq!(log.trim(5).await, Ok(()));
    assert_eq!(within("the end", log.follow(1).next()).await, Err(FollowEnd::Trimmed { first: 6 }));
    assert_eq!(within("the end", log.follow(5).next()).await, Err(FollowEnd::Trimmed { first: 6 }));
    follow_all(&mut log.follow(6), 5, 5).await;
    assert_eq!((log.read(5).await, log.read(6).await), (Ok(None), Ok(Some(record(6)))));
    assert_eq!(log.trim(100).await, Ok(()), "all but the last");
    assert_eq!((log.read(9).await, log.read(10).await, log.tail().await), (Ok(None), Ok(Some(record(10))), Ok(10)));
    store(&log, 10, record(11)).await;
    follow_all(&mut begun, 10, 1).await;
    follow_all(&mut log.follow(10), 9, 2).await;
}
