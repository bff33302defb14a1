//! How fast the packets of one connection are handled, and when it has been refused often enough.
//!
//! What has been received cannot be refused any more, so it is charged, and handling rests until it is within the rates
//! again, and soon reading does: TCP tells the client to wait. Only acknowledgements of what was sent are free: there are as many as the
//! server wants. A request above a quota is refused instead, and a client that takes no notice of refusals is sent
//! away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{Gcra, PrincipalQuota, QuotaKind, Quotas, Rate},
    config::Limits,
    mqtt::{protocol::packet::ClientPacket, session::Session},
};

/// How much one connection may send.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRateLimits {
    publishes: Rate,
    control: Rate,
    bytes: Rate,
    refusals: Rate,
}

/// How much one connection has sent lately.
#[derive(Debug)]
pub(in crate::mqtt) struct ConnectionRateLimit {
    /// Of its principal, which may have others.
    allowance: Arc<PrincipalQuota>,
    publishes: Gcra,
    control: Gcra,
    bytes: Gcra,
    refusals: Gcra,
    refused_too_often: bool,
    /// Reading rests until then.
    paused: Option<Instant>,
}

impl ConnectionRateLimits {
    /// As the configuration says.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let quotas = &limits.quotas;
        Self {
            publishes: Rate::new(limits.publishes_per_second, limits.publishes_burst),
            control: Rate::new(quotas.control_packets_per_second, quotas.control_packets_burst),
            bytes: Rate::per_second(quotas.connection_bytes_per_second),
            refusals: Rate::per_minute(quotas.refusals_per_minute_max.into()),
        }
    }
}

impl ConnectionRateLimit {
    /// Of a connection that has sent nothing since its CONNECT.
    pub(in crate::mqtt) fn new(allowance: Arc<PrincipalQuota>, now: Instant) -> Self {
        let nothing = Gcra::new(now);
        Self {
            allowance,
            publishes: nothing,
            control: nothing,
            bytes: nothing,
            refusals: nothing,
            refused_too_often: false,
            paused: None,
        }
    }

    /// Until when reading rests.
    pub(in crate::mqtt) fn paused(&self) -> Option<Instant> {
        self.paused
    }

    /// Ends the rest, if it is over.
    pub(in crate::mqtt) fn resume(&mut self, now: Instant) {
        self.paused.take_if(|until| *until <= now);
    }

    /// Counts what was read.
    pub(in crate::mqtt) fn received(
        &mut self,
        bytes: usize,
        limits: &ConnectionRateLimits,
        quotas: &Quotas,
        now: Instant,
    ) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let own = self.bytes.charge(limits.bytes, bytes, now);
        let shared = self.allowance.received(bytes, now);
        self.rest([(own, QuotaKind::Bytes), (shared, QuotaKind::PrincipalBytes)], quotas, now);
    }

    /// Counts a packet that `session` is about to take.
    pub(in crate::mqtt) fn took(
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
                return self.rest([(wait, QuotaKind::Publishes)], quotas, now);
            }
            ClientPacket::Subscribe(subscribe) => subscribe.filters.len(),
            ClientPacket::Unsubscribe(_, filters) => filters.len(),
            acknowledgement if session.awaits(acknowledgement) => return,
            _ => 1,
        };
        let wait = self.control.charge(limits.control, u64::try_from(count).unwrap_or(u64::MAX), now);
        self.rest([(wait, QuotaKind::ControlPackets)], quotas, now);
    }

    /// Counts a PINGREQ that is answered before its turn, unless there were too many control packets.
    pub(in crate::mqtt) fn may_answer(&mut self, limits: &ConnectionRateLimits, now: Instant) -> bool {
        self.control.take(limits.control, now).is_ok()
    }

    /// Counts a refusal for want of quota.
    pub(in crate::mqtt) fn refused(&mut self, limits: &ConnectionRateLimits, now: Instant) {
        self.refused_too_often |= self.refusals.charge(limits.refusals, 1, now).is_some();
    }

    /// Whether the connection is to be ended.
    pub(in crate::mqtt) fn is_refused_too_often(&self) -> bool {
        self.refused_too_often
    }

    fn rest<const N: usize>(&mut self, waits: [(Option<Duration>, QuotaKind); N], quotas: &Quotas, now: Instant) {
        for (wait, cause) in waits {
            if let Some(wait) = wait {
                quotas.count(cause);
                self.paused = self.paused.max(Some(now + wait));
            }
        }
    }
}
