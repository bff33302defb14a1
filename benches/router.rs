//! Benchmark of the router: the time to subscribe a fleet, and updates per second, each with three events. Measured
//! with exact filters only, and with filters with wildcards beside them. Also the cost of a filter beside that of a
//! message, which the constants of `admission/work.rs` follow, and a publication to many sessions.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

mod sessions;

use std::{sync::Arc, time::Instant};

use umbrad::{
    admission::PrincipalQuota,
    auth::{Access, Method, Policy, Principal},
    config::RuleConfig,
    mqtt::broker::{
        filters::Filters,
        router::{DeliveryKind, Router},
    },
};

use sessions::{message, session, session_with, subscribe, subscription};

const SESSIONS: u64 = 15_000;
const UPDATES: u64 = 400_000;
const EVENTS: [&str; 4] = ["update/delta", "update/documents", "update/accepted", "update/rejected"];

fn main() {
    filters("exact", |number| format!("shadow/device/name/n{number}/document"));
    filters("with wildcards", |number| format!("shadow/device/+/n{number}/#"));
    filters("narrowed", |number| format!("+/device/+/n{number}/#"));
    [1, 100, 10_000].into_iter().for_each(fan_out);
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

/// Prints the time of a filter that is added, marked as that of a session without a connection and back, and removed, of
/// a session that has all of them at once, and of a message to one receiver.
fn filters(what: &str, filter: impl Fn(u64) -> String) {
    const FILTERS: u64 = 4_000;
    let (router, outbox) = (Router::default(), session_with(1, device()));
    let mut own = Filters::new(PrincipalQuota::unlimited("bench"));
    let all: Vec<_> = (0..FILTERS).map(|number| subscription(&filter(number))).collect();
    let each = |begun: Instant| begun.elapsed().as_nanos() as u64 / FILTERS;
    let begun = Instant::now();
    for subscription in &all {
        assert!(!own.contains(&subscription.filter));
        own.add(&subscription.filter, usize::MAX).unwrap();
        router.subscribe(&outbox, subscription, None).unwrap();
    }
    let added = each(begun);
    let begun = Instant::now();
    [false, true].into_iter().for_each(|connected| router.set_connected(outbox.id(), own.iter(), connected));
    let marked = each(begun);
    let message = message("news/x");
    subscribe(&router, &outbox, "news/x");
    let begun = Instant::now();
    for _ in 0..FILTERS {
        assert_eq!(router.publish(&message, DeliveryKind::Ordinary { from: None }), 1);
        assert!(outbox.pop(u16::MAX).is_some());
    }
    let published = each(begun);
    let begun = Instant::now();
    for subscription in &all {
        own.remove(&subscription.filter);
        assert!(router.unsubscribe(outbox.id(), &subscription.filter));
    }
    println!(
        "{what}: added in {added} ns, marked away and back in {marked} ns, removed in {} ns; a message in {published} ns",
        each(begun)
    );
}

/// Prints the time of a publication for each of many sessions.
fn fan_out(sessions: u64) {
    const TIMES: u64 = 20;
    let router = Router::default();
    let outboxes: Vec<_> = (0..sessions).map(session).collect();
    outboxes.iter().for_each(|outbox| subscribe(&router, outbox, "shadow/device/update/accepted"));
    let message = message("shadow/device/update/accepted");
    let begun = Instant::now();
    (1..=TIMES).for_each(|seq| _ = router.publish(&message, DeliveryKind::Event { seq }));
    let each = begun.elapsed().as_nanos() as u64 / TIMES / sessions;
    println!("a message to {sessions} sessions: {each} ns for each");
}

/// Returns the rights of a device to its own shadows and topics.
fn device() -> Access {
    let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let rule = RuleConfig {
        role: "r".into(),
        devices: all(&["{principal}"]),
        names: all(&["*"]),
        operations: Some(all(&["subscribe"])),
        read: all(&["/reported"]),
        subscribe: all(&["chat/{principal}/#", "news/+"]),
        ..RuleConfig::default()
    };
    let policy = Policy::read(&[rule], &[]).unwrap();
    policy.access(&Principal::named("device").unwrap(), Method::Certificate, Some("r"), &Arc::from("c"))
}

fn topic(number: u64, event: usize) -> String {
    format!("shadow/device-{number:05}/{}", EVENTS[event])
}
