//! What all connections share: the router, the sessions, the way to the shadows, the limits.

use std::{
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    auth::{Access, Principal},
    config::Limits,
    metrics::Counters,
    mqtt::{
        events::Events,
        message::Message,
        limits::BrokerLimits,
        packet::Will,
        request::{self, Request},
        router::Router,
        sessions::{Ended, SessionKey, Sessions},
        shadow_topic::Destination,
    },
    service::{Service, Submission},
};

/// The broker.
pub struct Broker {
    /// Who subscribed to what.
    pub router: Arc<Router>,
    /// How shadow events reach subscribers.
    pub events: Arc<Events>,
    /// The way to the shadows.
    pub service: Arc<Service>,
    /// Every session.
    pub sessions: Sessions,
    /// What a connection may take.
    pub limits: BrokerLimits,
    /// What happened so far.
    pub counters: Arc<Counters>,
    client_ids: AtomicU64,
    client_id_seed: u64,
}
