//! The limits of a connection, by the configuration.

use std::{num::NonZeroU16, time::Duration};

use crate::{
    config::Limits,
    mqtt::{
        broker::outbox::QueueLimits,
        connection::rate_limit::ConnectionRateLimits,
        protocol::{codec::FrameLimits, packet::ConnAckLimits},
        session::SessionLimits,
    },
    shadow::DocumentLimits,
};

/// The limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Limits of its packets.
    pub frame: FrameLimits,
    /// Limits of its session.
    pub session: SessionLimits,
    /// Limits of its outbox.
    pub queue: QueueLimits,
    /// Bytes of output buffered for a client that does not read.
    pub output_bytes_max: usize,
    /// Limits on the rates at which the client sends.
    pub rates: ConnectionRateLimits,
    /// Filters of its session.
    pub filters_max: usize,
    /// Seconds its session may outlive it.
    pub session_expiry_max: u32,
    /// Longest keep-alive in seconds; 65,535 also allows a client to have none.
    pub keep_alive_max: u16,
    /// Limits of a shadow document.
    pub document: DocumentLimits,
}

impl ConnectionLimits {
    pub(super) fn of(limits: &Limits) -> Self {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Self {
            frame: FrameLimits { packet_bytes_max: limits.packet_bytes_max, dup_on_control: false },
            session: SessionLimits {
                inbound_window: limits.receive_maximum.get(),
                outbound_window: limits.receive_maximum.get(),
                outbound_bytes: limits.outbox_bytes_max,
                topic_alias_max: limits.topic_alias_max,
                filters_per_subscribe: limits.filters_per_subscribe_max,
            },
            queue: QueueLimits { bytes: limits.outbox_bytes_max, offline_bytes: limits.session_queue_bytes_max },
            output_bytes_max: limits.outbox_bytes_max,
            rates: ConnectionRateLimits::of(limits),
            filters_max: limits.filters_per_session_max,
            session_expiry_max: seconds(limits.session_expiry_max),
            keep_alive_max: u16::try_from(seconds(limits.keep_alive_max)).unwrap_or(u16::MAX),
            document: limits.document(),
        }
    }

    /// Returns the keep-alive in seconds for a client that asks for `wanted` seconds; 0 is none.
    #[must_use]
    pub fn keep_alive(&self, wanted: u16) -> u16 {
        match wanted {
            _ if self.keep_alive_max == u16::MAX => wanted,
            0 => self.keep_alive_max,
            wanted => wanted.min(self.keep_alive_max),
        }
    }

    /// Returns the limits that CONNACK reports. Expiry and keep-alive are included only where they differ from the
    /// client's request.
    #[must_use]
    pub fn connack(&self, session_expiry: u32, keep_alive: u16) -> ConnAckLimits {
        let expiry = session_expiry.min(self.session_expiry_max);
        let server_keep_alive = self.keep_alive(keep_alive);
        ConnAckLimits {
            receive_maximum: NonZeroU16::new(self.session.inbound_window).unwrap_or(NonZeroU16::MIN),
            maximum_packet_size: u32::try_from(self.frame.packet_bytes_max).unwrap_or(u32::MAX),
            topic_alias_maximum: self.session.topic_alias_max,
            session_expiry: (expiry != session_expiry).then_some(expiry),
            server_keep_alive: (server_keep_alive != keep_alive).then_some(server_keep_alive),
        }
    }
}
