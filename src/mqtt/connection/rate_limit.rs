//! Rate limits of one connection, and the number of refusals after which it is closed.
//!
//! Received packets cannot be refused any more, so they are charged. Handling is throttled until the connection is
//! within its rates again, and soon reading is too: TCP makes the client wait. The rate of work is that of the principal:
//! all its connections share it. Acknowledgements of sent messages do not count as packets: their number is up to the
//! server. A request above a quota is refused instead, and a client that ignores refusals is disconnected.
//!
//! Deliveries are work of the receiver. Above the rate, nothing is taken from the outbox either, which then drops and
//! resyncs as for a client that reads slowly.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{Gcra, PrincipalQuota, QuotaKind, Quotas, Rate, work},
    config::Limits,
    mqtt::{protocol::packet::ClientPacket, session::Session},
};

/// The rates that one connection may send at.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRateLimits {
    publishes: Rate,
    control: Rate,
    refusals: Rate,
}

/// The recent use of the rates by one connection.
#[derive(Debug)]
pub(in crate::mqtt) struct ConnectionRateLimit {
    /// The quota of its principal, which may have other connections.
    principal: Arc<PrincipalQuota>,
    publishes: Gcra,
    control: Gcra,
    refusals: Gcra,
    exceeds_refusals: bool,
    /// The time until which packets are not handled.
    throttled_until: Option<Instant>,
    /// The time until which nothing is taken from the outbox.
    unsent_until: Option<Instant>,
}

impl ConnectionRateLimits {
    /// Returns the rates of the configuration.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let quotas = &limits.quotas;
        Self { publishes: limits.publishes, control: quotas.control_packets, refusals: quotas.refusals }
    }
}

impl ConnectionRateLimit {
    /// Creates the state of a connection that has sent nothing since its CONNECT.
    pub(in crate::mqtt) fn new(principal: Arc<PrincipalQuota>, now: Instant) -> Self {
        let nothing = Gcra::new(now);
        Self {
            principal,
            publishes: nothing,
            control: nothing,
            refusals: nothing,
            exceeds_refusals: false,
            throttled_until: None,
            unsent_until: None,
        }
    }

    /// Returns the end of the throttling, if the connection is throttled.
    pub(in crate::mqtt) fn throttled_until(&self) -> Option<Instant> {
        self.throttled_until
    }

    /// Returns the time until which nothing may be taken from the outbox, if there is one.
    pub(in crate::mqtt) fn unsent_until(&self) -> Option<Instant> {
        self.unsent_until
    }

    /// Ends the throttling if its time has passed.
    pub(in crate::mqtt) fn resume(&mut self, now: Instant) {
        self.throttled_until.take_if(|until| *until <= now);
        self.unsent_until.take_if(|until| *until <= now);
    }

    /// Charges work that the client caused.
    pub(in crate::mqtt) fn charge_work(&mut self, units: u64, quotas: &Quotas, now: Instant) {
        let wait = self.principal.charge_work(units, now);
        self.throttle(wait, QuotaKind::PrincipalWork, quotas, now);
    }

    /// Charges deliveries that were taken from the outbox.
    pub(in crate::mqtt) fn charge_deliveries(&mut self, count: usize, quotas: &Quotas, now: Instant) {
        if let Some(wait) = self.principal.charge_work(work::times(count, work::DELIVERY), now) {
            quotas.count_for(QuotaKind::PrincipalWork, self.principal.name());
            self.unsent_until = Some(now + wait);
        }
    }

    /// Charges a packet that `session` is about to receive.
    pub(in crate::mqtt) fn charge_packet(
        &mut self,
        packet: &ClientPacket,
        session: &Session,
        limits: &ConnectionRateLimits,
        quotas: &Quotas,
        now: Instant,
    ) {
        let count = match packet {
            ClientPacket::Publish(_) => {
                let wait = self.publishes.charge(limits.publishes, 1, now);
                return self.throttle(wait, QuotaKind::Publishes, quotas, now);
            }
            ClientPacket::Subscribe(subscribe) => subscribe.filters.len(),
            ClientPacket::Unsubscribe(_, filters) => filters.len(),
            acknowledgement if session.awaits(acknowledgement) => return,
            _ => 1,
        };
        let wait = self.control.charge(limits.control, u64::try_from(count).unwrap_or(u64::MAX), now);
        self.throttle(wait, QuotaKind::ControlPackets, quotas, now);
    }

    /// Charges a PINGREQ that is answered ahead of its turn. Returns false if the rate of control packets is exceeded.
    pub(in crate::mqtt) fn may_answer_ping(&mut self, limits: &ConnectionRateLimits, now: Instant) -> bool {
        self.control.take(limits.control, now).is_ok()
    }

    /// Charges a refusal by a quota.
    pub(in crate::mqtt) fn refused(&mut self, limits: &ConnectionRateLimits, now: Instant) {
        self.exceeds_refusals |= self.refusals.charge(limits.refusals, 1, now).is_some();
    }

    /// Returns true if the connection has to be closed.
    pub(in crate::mqtt) fn exceeds_refusals(&self) -> bool {
        self.exceeds_refusals
    }

    fn throttle(&mut self, wait: Option<Duration>, cause: QuotaKind, quotas: &Quotas, now: Instant) {
        if let Some(wait) = wait {
            quotas.count_for(cause, self.principal.name());
            self.throttled_until = self.throttled_until.max(Some(now + wait));
        }
    }
}

/// Returns the work of a packet, apart from that of its message or command.
pub(in crate::mqtt) fn work_of(packet: &ClientPacket) -> u64 {
    let filters = match packet {
        ClientPacket::Subscribe(subscribe) => subscribe.filters.len(),
        ClientPacket::Unsubscribe(_, filters) => filters.len(),
        _ => 0,
    };
    work::PACKET + work::times(filters, work::FILTER)
}
