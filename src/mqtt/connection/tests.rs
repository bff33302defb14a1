//! Tests: what becomes of a request when its connection ends before the engine has room for it.

#![allow(clippy::unwrap_used)]

use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::{
    auth::{Authority, certificate::Proof},
    clock::Clock,
    config::Config,
    mqtt::{
        events::Events,
        handshake,
        router::{RetainedLimits, Router},
    },
    net::Peer,
    quota::Rate,
    service::{Service, ServiceLimits},
    store::StoreOptions,
};

const QUEUE_BYTES: usize = 4096;

fn broker(directory: &std::path::Path) -> Arc<Broker> {
    let path = directory.join("store");
    let options = StoreOptions { queue_bytes_max: QUEUE_BYTES, free_disk_min: 0, ..StoreOptions::new(path) };
    let limits = ServiceLimits { requests: Rate::new(100, 100), requests_in_flight_max: 64 };
    let (service, decided) = Service::open(options, limits, Clock::system()).unwrap();
    let config = Config::default();
    let authority = Authority::open(&config, Clock::system()).unwrap();
    let router = Arc::new(Router::new(RetainedLimits { messages: 1, bytes: 1 }));
    let events = Arc::new(Events::new(router.clone(), service.head()));
    let announcer = events.clone();
    thread::spawn(move || decided.announce(announcer));
    Arc::new(Broker::new(Arc::new(service), events, router, Arc::new(authority), &config.limits))
}

/// A connection of one persistent 3.1.1 session; its CONNACK must say whether the session was there.
async fn connect(broker: &Arc<Broker>, present: u8) -> DuplexStream {
    let (mut near, far) = tokio::io::duplex(4096);
    let peer =
        Peer { address: ([127, 0, 0, 1], 1).into(), proof: Proof::None, listener: "local".into(), signed_in: None };
    tokio::spawn(handshake::serve(far, peer, broker.clone(), Instant::now() + Duration::from_secs(60)));
    near.write_all(b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c").await.unwrap();
    assert_eq!(read(&mut near).await, [0x20, 2, present, 0]);
    near
}

async fn read(stream: &mut DuplexStream) -> [u8; 4] {
    let mut packet = [0; 4];
    let read = stream.read_exact(&mut packet);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("a packet").unwrap();
    packet
}

/// The update, at QoS 1 or 2, with packet identifier 1.
fn update(first: u8) -> Vec<u8> {
    let body = [&b"\x00\x0fshadow/d/update\x00\x01"[..], br#"{"state":{"reported":{"n":1}}}"#].concat();
    [&[first, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

/// A session was taken over while its request waited for the engine. The request was gone, but its resend was taken for
/// one that is being decided: it, and all after it, waited for ever.
#[tokio::test]
async fn a_request_that_waited_for_the_engine_is_taken_again() {
    for (sent, resent, answer) in [(0x32, 0x3a, 0x40), (0x34, 0x3c, 0x50)] {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker(directory.path());
        let full = broker.service.try_reserve(QUEUE_BYTES).expect("nothing is queued");
        let mut first = connect(&broker, 0).await;
        first.write_all(&update(sent)).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await; // the one thread there is has taken the request then
        }
        let mut second = connect(&broker, 1).await;
        second.write_all(&update(resent)).await.unwrap();
        drop(full);
        assert_eq!(read(&mut second).await, [answer, 2, 0, 1]);
    }
}
