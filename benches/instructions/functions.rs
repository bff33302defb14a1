//! Functions without state: parsing, decisions, rendering, the codec; and the router.

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use umbrad::{
    mqtt::{
        broker::router::{DeliveryKind, Router},
        protocol::{
            codec::{FrameLimits, decode, split_frame},
            message::{Delivery, Message},
            packet::{PacketId, Protocol, QoS},
            topic::TopicName,
        },
    },
    shadow::{Command, Decision, Document, DocumentLimits, OnConflict, Projection, Update, Version},
    wire::{Dialect, get_accepted, parse_update, update_accepted, update_delta, update_documents},
};

use crate::{
    Case, Pass,
    documents::{after, created, decided, thermostat, update},
    sessions::{message, session, subscribe},
};

pub(crate) const CASES: &[Case] = &[
    Case { name: "parse-update", operations: 100, prepare: parse },
    Case { name: "decide", operations: 200, prepare: decide },
    Case { name: "decide-rebase", operations: 200, prepare: decide_rebase },
    Case { name: "merge-equal", operations: 200, prepare: merge_equal },
    Case { name: "render-accepted", operations: 100, prepare: render_accepted },
    Case { name: "render-delta", operations: 100, prepare: render_delta },
    Case { name: "render-documents", operations: 100, prepare: render_documents },
    Case { name: "render-get", operations: 100, prepare: render_get },
    Case { name: "publish-decode", operations: 200, prepare: publish_decode },
    Case { name: "publish-encode", operations: 200, prepare: publish_encode },
    Case { name: "publish-encode-again", operations: 200, prepare: publish_encode_again },
    Case { name: "route-to-1", operations: 200, prepare: route_to_one },
    Case { name: "route-to-100", operations: 20, prepare: route_to_many },
];

const ALL: Projection = Projection::ALL;

/// Returns the state of an update that reports five values.
pub(crate) fn measurement(n: usize) -> Value {
    json!({"reported": {
        "temperature": 20.0 + (n % 64) as f64 / 16.0, "humidity": 40 + n % 7, "rssi": -60 - (n % 5) as i64,
        "uptime": 864_000 + n, "battery": 87 - n % 2,
    }})
}

/// Returns a pass that calls `operation` `operations` times.
fn repeated<T: 'static>(operations: usize, operation: impl Fn() -> T + 'static) -> Pass {
    Box::new(move || (0..operations).for_each(|_| drop(black_box(operation()))))
}

fn payload() -> Bytes {
    json!({"state": measurement(1), "version": 7, "clientToken": "client-1-000017"}).to_string().into()
}

fn parse(operations: usize) -> Pass {
    let payload = payload();
    repeated(operations, move || {
        let parsed = parse_update(&payload[..], Dialect::Native, &DocumentLimits::default());
        assert!(parsed.is_ok());
        parsed
    })
}

/// Returns a pass that applies the next `operations` of `updates` to `document`.
fn decisions(operations: usize, mut document: Document, updates: impl IntoIterator<Item = Update>) -> Pass {
    let mut commands = updates.into_iter().map(Command::Update).collect::<Vec<_>>().into_iter();
    let limits = DocumentLimits::default();
    Box::new(move || {
        for command in commands.by_ref().take(operations) {
            match decided(&document, &command, &limits) {
                Ok(Decision::Changed { document: next, .. }) => document = next,
                other => unreachable!("{other:?}"),
            }
        }
    })
}

fn decide(operations: usize) -> Pass {
    decisions(operations, created(thermostat()), (0..2 * operations).map(|n| update(measurement(n))))
}

/// Prepares updates that each expect the version before the current one. Two sections in turn: none collides.
fn decide_rebase(operations: usize) -> Pass {
    let document = after(&created(thermostat()), update(json!({"tags": {"a": 0}})));
    let current = document.version.0;
    let updates = (0..2 * operations).map(move |n| {
        let section = if n % 2 == 0 { "desired" } else { "tags" };
        let mut update = update(json!({section: {"a": n, "b": n + 1, "c": n, "d": n, "e": n}}));
        update.preconditions.version = Some(Version(current + n as u64 - 1));
        update.preconditions.on_conflict = OnConflict::Rebase;
        update
    });
    decisions(operations, document, updates)
}

/// Prepares an update that sends all members as they are: all are compared, and nothing changes.
fn merge_equal(operations: usize) -> Pass {
    let (document, command) = (created(thermostat()), Command::Update(update(thermostat())));
    repeated(operations, move || {
        let decision = decided(&document, &command, &DocumentLimits::default());
        assert!(matches!(decision, Ok(Decision::Unchanged)));
    })
}

fn render_accepted(operations: usize) -> Pass {
    let (document, sent) = (after(&created(thermostat()), update(measurement(1))), update(measurement(1)));
    repeated(operations, move || update_accepted(&sent, true, &document, &ALL, None))
}

fn render_delta(operations: usize) -> Pass {
    let document = created(thermostat());
    repeated(operations, move || update_delta(&document, &ALL, None).expect("the sections differ"))
}

fn render_documents(operations: usize) -> Pass {
    let before = created(thermostat());
    let after = after(&before, update(measurement(1)));
    repeated(operations, move || update_documents(&before, &after, &ALL, None))
}

fn render_get(operations: usize) -> Pass {
    let document = created(thermostat());
    repeated(operations, move || get_accepted(&document, &ALL, None))
}

fn publication(now: Instant) -> Message {
    let topic = TopicName::new("shadow/device-00017/update").expect("a valid topic");
    Message::new(topic, payload(), QoS::AtLeastOnce, false, None, now)
}

fn write(delivery: &Delivery, now: Instant, out: &mut Vec<u8>) {
    assert!(delivery.write(Protocol::V5, PacketId::new(7), false, now, usize::MAX, out));
}

fn publish_decode(operations: usize) -> Pass {
    let (now, mut packets) = (Instant::now(), Vec::new());
    let delivery = Delivery::new(Arc::new(publication(now)), QoS::AtLeastOnce);
    (0..operations).for_each(|_| write(&delivery, now, &mut packets));
    let mut passes = vec![BytesMut::from(&packets[..]), BytesMut::from(&packets[..])];
    Box::new(move || {
        let limits = FrameLimits { packet_bytes_max: 1 << 20, dup_on_control: false };
        let mut stream = passes.pop().expect("two passes");
        while let Some(frame) = split_frame(&mut stream, limits).expect("a valid header") {
            assert!(black_box(decode(Protocol::V5, frame)).is_ok());
        }
        assert!(stream.is_empty());
    })
}

fn publish_encode(operations: usize) -> Pass {
    let now = Instant::now();
    let messages = |_| (0..operations).map(|_| Arc::new(publication(now))).collect::<Vec<_>>();
    let mut passes = [0, 1].map(messages).into_iter();
    let mut out = Vec::new();
    Box::new(move || {
        for message in passes.next().expect("two passes") {
            out.clear();
            write(&Delivery::new(message, QoS::AtLeastOnce), now, &mut out);
        }
    })
}

/// Prepares a message to many subscribers, whose head is encoded once.
fn publish_encode_again(operations: usize) -> Pass {
    let now = Instant::now();
    let delivery = Delivery::new(Arc::new(publication(now)), QoS::AtLeastOnce);
    let mut out = Vec::new();
    Box::new(move || {
        for _ in 0..operations {
            out.clear();
            write(&delivery, now, &mut out);
        }
    })
}

/// Prepares a fleet whose sessions each have the events of their device, beside filters with wildcards.
fn route_to_one(operations: usize) -> Pass {
    let (router, topic) = (Router::default(), |n: usize| format!("shadow/device-{n:05}/update/delta"));
    let outboxes: Vec<_> = (0..operations as u64).map(session).collect();
    for (n, outbox) in outboxes.iter().enumerate() {
        subscribe(&router, outbox, &topic(n));
        subscribe(&router, outbox, &format!("shadow/device-{n:05}/update/accepted"));
    }
    let watcher = session(operations as u64);
    ["shadow/+/update/rejected", "other/#"].into_iter().for_each(|filter| subscribe(&router, &watcher, filter));
    let messages: Vec<_> = (0..operations).map(|n| message(&topic(n))).collect();
    let mut seq = 0;
    Box::new(move || {
        for (message, outbox) in messages.iter().zip(&outboxes) {
            seq += 1;
            assert_eq!(router.publish(message, DeliveryKind::Event { seq }), 1);
            assert!(outbox.pop(u16::MAX).is_some());
        }
    })
}

/// Prepares 100 sessions with the same filter with a wildcard.
fn route_to_many(operations: usize) -> Pass {
    let (router, outboxes) = (Router::default(), (0..100).map(session).collect::<Vec<_>>());
    outboxes.iter().for_each(|outbox| subscribe(&router, outbox, "shadow/+/update/accepted"));
    let message = message("shadow/device-00017/update/accepted");
    let mut seq = 0;
    Box::new(move || {
        for _ in 0..operations {
            seq += 1;
            assert_eq!(router.publish(&message, DeliveryKind::Event { seq }), 100);
            outboxes.iter().for_each(|outbox| assert!(outbox.pop(u16::MAX).is_some()));
        }
    })
}
