//! Sessions, subscriptions and messages for the benchmarks.

use std::{sync::Arc, time::Instant};

use umbrad::{
    admission::{Charge, PrincipalQuota},
    auth::{Access, Principal},
    mqtt::{
        broker::{
            outbox::{Outbox, QueueLimits, SessionId},
            router::Router,
        },
        protocol::{
            message::Message,
            packet::{QoS, RetainHandling, Subscription},
            topic::{TopicFilter, TopicName},
        },
    },
    observability::metrics::DropCounters,
};

/// Returns the outbox of a session with all rights.
pub(crate) fn session(id: u64) -> Arc<Outbox> {
    session_with(id, Access::admin(Principal::anonymous("test")))
}

/// Returns the outbox of a session with the rights of `access`.
pub(crate) fn session_with(id: u64, access: Access) -> Arc<Outbox> {
    let limits = QueueLimits { bytes: 1 << 20, offline_bytes: 1 << 20 };
    Arc::new(Outbox::new(
        SessionId(id),
        limits,
        Arc::new(DropCounters::default()),
        access,
        Charge::new(PrincipalQuota::unlimited("bench"), 0),
    ))
}

/// Subscribes a session to `filter`.
pub(crate) fn subscribe(router: &Router, outbox: &Arc<Outbox>, filter: &str) {
    router.subscribe(outbox, &subscription(filter), None).expect("the subscription is accepted");
}

/// Returns a subscription to `filter` at QoS 1.
pub(crate) fn subscription(filter: &str) -> Subscription {
    Subscription {
        filter: TopicFilter::new(filter).expect("a valid filter"),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// Returns a message of one byte on `topic` at QoS 1.
pub(crate) fn message(topic: &str) -> Arc<Message> {
    let topic = TopicName::new(topic).expect("a valid topic");
    Arc::new(Message::new(topic, "x".into(), QoS::AtLeastOnce, false, None, Instant::now()))
}
