//! Benchmark of the router: the time to subscribe a fleet, and updates per second, each with three events. Measured
//! with exact filters only, and with filters with wildcards beside them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::{sync::Arc, time::Instant};

use umbrad::{
    admission::{Charge, PrincipalQuota},
    auth::{Access, Principal},
    mqtt::{
        broker::{
            outbox::{Outbox, QueueLimits, SessionId},
            router::{DeliveryKind, Router},
        },
        protocol::{
            message::Message,
            packet::{QoS, RetainHandling, Subscription},
            topic::{TopicFilter, TopicName},
        },
    },
    observability::metrics::DropCounters,
};

const SESSIONS: u64 = 15_000;
const UPDATES: u64 = 400_000;
const EVENTS: [&str; 4] = ["update/delta", "update/documents", "update/accepted", "update/rejected"];

fn main() {
    for wildcards in [false, true] {
        let router = Router::default();
        let outboxes: Vec<_> = (0..SESSIONS).map(session).collect();
        let begun = Instant::now();
        for (number, outbox) in (0..).zip(&outboxes) {
            (0..EVENTS.len()).for_each(|event| subscribe(&router, outbox, &topic(number, event)));
        }
        let subscribed = begun.elapsed();
        let watcher = session(SESSIONS);
        if wildcards {
            subscribe(&router, &watcher, "shadow/+/update/rejected");
            subscribe(&router, &watcher, "other/#");
        }
        let messages: Vec<_> =
            (0..SESSIONS).map(|number| [0, 1, 2].map(|event| message(&topic(number, event)))).collect();
        let begun = Instant::now();
        for update in 1..=UPDATES {
            let number = (update * 7_919 % SESSIONS) as usize;
            for message in &messages[number] {
                router.publish(message, DeliveryKind::Event { seq: update });
            }
            while outboxes[number].pop(u16::MAX).is_some() {}
        }
        let rate = UPDATES as f64 / begun.elapsed().as_secs_f64();
        let filters = if wildcards { "with wildcards" } else { "exact filters" };
        println!("{filters}: 60,000 subscriptions in {} ms, {rate:.0} updates/s", subscribed.as_millis());
    }
}

fn topic(number: u64, event: usize) -> String {
    format!("shadow/device-{number:05}/{}", EVENTS[event])
}

fn session(id: u64) -> Arc<Outbox> {
    let limits = QueueLimits { bytes: 1 << 20, offline_bytes: 1 << 20 };
    let access = Access::admin(Principal::anonymous("test"));
    Arc::new(Outbox::new(
        SessionId(id),
        limits,
        Arc::new(DropCounters::default()),
        access,
        Charge::new(PrincipalQuota::unlimited("bench"), 0),
    ))
}

fn subscribe(router: &Router, outbox: &Arc<Outbox>, filter: &str) {
    let subscription = Subscription {
        filter: TopicFilter::new(filter).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    router.subscribe(outbox, &subscription, None).unwrap();
}

fn message(topic: &str) -> Arc<Message> {
    let topic = TopicName::new(topic).unwrap();
    Arc::new(Message::new(topic, "x".into(), QoS::AtLeastOnce, false, None, Instant::now()))
}
