//! The receiving side of a connection: what is read when, and what is done with it.
//!
//! While packets may not be handled (the client is over a rate, a request waits for the engine, a 3.1.1 client has too
//! many undecided), the connection reads on into a bounded buffer and looks through the whole packets there for
//! PINGREQ, which it answers: a client library ends a connection on which PINGRESP does not come within its keep-alive,
//! connects again and sends everything once more. When that buffer is full, or memory for it is short, the socket is
//! not read until there is room; its client's silence is not counted meanwhile.
//!
//! What was received when the client ended its side is handled at the pace it would have been. What was received when
//! another connection takes the session over is handled at once, and so is what lies in the socket, within
//! [`TAKE_OVER_BYTES_MAX`] and [`TAKE_OVER_TIMEOUT`].

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, EndReason, OUTPUT_LOW_BYTES, asks};
use crate::{
    admission::{PreAuthPermit, QuotaKind},
    mqtt::{
        connection::{dispatch::room, transport::TransportEvent},
        protocol::{
            codec::{self, Frame},
            packet::{ClientPacket, Protocol, Reason},
        },
        session::Action,
    },
};

/// The state of a connection's input beside the bytes themselves.
pub(in crate::mqtt) struct Intake {
    /// Bounds what is received and not handled yet.
    memory: PreAuthPermit,
    /// Bytes of input when `memory` was told last.
    held: usize,
    /// Bytes of input of which each PINGREQ is answered.
    looked_through: usize,
    /// Packets handled since the connection gave way to others.
    handled: u32,
    /// True if the client sends no more.
    pub(super) ended: bool,
    /// True if the session is taken over: no rate applies to what is left, and nothing is sent.
    taken_over: bool,
}

impl Intake {
    /// Nothing was handled yet of a client that is known to `memory`.
    pub(in crate::mqtt) fn new(memory: PreAuthPermit) -> Self {
        Self { memory, held: 0, looked_through: 0, handled: 0, ended: false, taken_over: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Decodes and carries out what has been received, as far as it may be, and looks through the rest.
    pub(super) async fn process_input(&mut self) -> Result<(), EndReason> {
        while self.may_process() {
            let Some(frame) = codec::split_frame(&mut self.transport.input, self.broker.limits.frame)? else { break };
            self.handle(frame).await?;
            self.intake.handled += 1;
            if self.intake.handled >= PACKETS_AT_ONCE {
                self.intake.handled = 0;
                tokio::task::yield_now().await; // or the outboxes of those who get the messages run full
            }
        }
        if !self.may_process() {
            self.look_through_input();
        }
        let left = self.transport.input.len();
        if left == 0 {
            self.transport.input = BytesMut::new(); // an idle connection holds no buffer
        }
        if left != self.intake.held {
            self.intake.held = left;
            self.intake.memory.hold(left);
        }
        Ok(())
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), EndReason> {
        let was_looked_at = self.intake.looked_through > 0;
        self.intake.looked_through = self.intake.looked_through.saturating_sub(frame.len());
        let packet = codec::decode(self.protocol, frame)?;
        if self.draining_until.is_some() && asks(&packet) {
            return Ok(()); // not taken, so neither answered nor acknowledged
        }
        if was_looked_at && matches!(packet, ClientPacket::PingReq) {
            return Ok(()); // answered and counted when it came
        }
        let now = Instant::now();
        let (limits, quotas) = (&self.broker.limits.pace, self.broker.service.quotas());
        self.pace.took(&packet, &self.client.session, limits, quotas, now);
        let action = self.client.session.receive(packet, now, self.transport.output())?;
        if let Some(action) = action {
            self.act(action).await?;
        }
        if self.pace.is_refused_too_often() {
            return Err(EndReason::Quota(QuotaKind::Refusals));
        }
        if self.intake.taken_over {
            return Ok(());
        }
        if !self.transport.input.is_empty() {
            self.send_between().await?;
        }
        // Replies that only this client asked for, and does not read. PROTOCOL section 7. What a resumed session is
        // sent again, all at once, is none.
        let unsent = self.transport.unsent();
        let max = self.broker.limits.output_bytes_max;
        if unsent > max && unsent > max + self.client.session.inflight_bytes() {
            return Err(EndReason::Quota(QuotaKind::UnreadReplies));
        }
        Ok(())
    }

    /// Sends what the stream takes at once. Between requests that came together, so that their replies are too many
    /// only for a client that does not read them.
    async fn send_between(&mut self) -> Result<(), EndReason> {
        self.fill_output().await?;
        if self.transport.unsent() >= OUTPUT_LOW_BYTES {
            tokio::task::yield_now().await; // or the runtime may let the stream take nothing
            self.transport.send_some().await?;
        }
        Ok(())
    }

    async fn act(&mut self, action: Action) -> Result<(), EndReason> {
        match action {
            Action::Publish(inbound) => self.publish(inbound).await,
            Action::Subscribe(subscribe) => self.subscribe(subscribe),
            Action::Unsubscribe(id, filters) => self.unsubscribe(id, filters),
            Action::Disconnect { with_will, session_expiry } => {
                self.session_expiry =
                    session_expiry.unwrap_or(self.session_expiry).min(self.broker.limits.session_expiry_max);
                return Err(EndReason::Disconnect { with_will });
            }
        }
        Ok(())
    }

    /// Answers each PINGREQ among the whole packets that may not be handled yet. They count as control packets; those
    /// above the rate wait for their turn, as do those of a client that does not read.
    fn look_through_input(&mut self) {
        let now = Instant::now();
        while let Some(rest) = self.transport.input.get(self.intake.looked_through..) {
            let Some(len) = codec::whole_packet(rest, self.broker.limits.frame) else { break };
            if rest.starts_with(&PINGREQ) {
                let may = self.transport.unsent() < OUTPUT_LOW_BYTES && self.draining_until.is_none();
                if !may || !self.pace.may_answer(&self.broker.limits.pace, now) {
                    break;
                }
                let ping = self.client.session.receive(ClientPacket::PingReq, now, self.transport.output());
                debug_assert!(matches!(ping, Ok(None)), "PINGREQ is only answered");
            }
            self.intake.looked_through += len;
        }
    }

    /// True if the next packet may be handled.
    pub(super) fn may_process(&self) -> bool {
        self.awaiting_permit.is_none()
            && (self.intake.taken_over || self.pace.paused().is_none() && !self.window_is_full())
    }

    /// True if the socket may be read: either packets may be handled, or there is room to read ahead.
    pub(super) fn may_read(&self) -> bool {
        let ahead = || self.transport.input.len() < AHEAD_BYTES_MAX && self.intake.memory.has_spare_room();
        !self.intake.ended && (self.may_process() || self.draining_until.is_none() && ahead())
    }

    /// True if silence is not the client's: what it sends may not have been read.
    pub(super) fn holds_back(&self) -> bool {
        !self.may_process() || self.intake.memory.waits()
    }

    /// True if the client has as many requests undecided as it may. An MQTT 5 client knows how many those are; its
    /// session sees to it, and packets are handled for its acknowledgements.
    pub(super) fn window_is_full(&self) -> bool {
        let window = usize::from(self.broker.limits.session.inbound_window);
        self.protocol == Protocol::V4 && self.client.session.inbound_pending() >= window
    }

    /// Handles what had arrived when the connection ended by a take-over or an error of the stream, since its client
    /// may count on that. Returns how the connection ends.
    pub(super) async fn handle_arrived(&mut self, end: EndReason) -> EndReason {
        let takes_over = matches!(end, EndReason::Server(Reason::SESSION_TAKEN_OVER));
        if !takes_over && !matches!(end, EndReason::Lost(Some(_))) {
            return end;
        }
        self.intake.taken_over = true;
        match tokio::time::timeout(TAKE_OVER_TIMEOUT, self.drain(takes_over)).await {
            Ok(Err(goodbye @ EndReason::Disconnect { .. })) => goodbye,
            _ => end,
        }
    }

    async fn drain(&mut self, read: bool) -> Result<(), EndReason> {
        let mut left = if read { TAKE_OVER_BYTES_MAX } else { 0 };
        loop {
            self.process_input().await?;
            if self.awaiting_permit.is_some() {
                let permit = room(&mut self.awaiting_permit).await;
                self.resume_awaiting(permit);
                continue;
            }
            let before = self.transport.input.len();
            if left == 0 || self.transport.read_some().await? != Some(TransportEvent::Input) {
                return Ok(());
            }
            left = left.saturating_sub(self.transport.input.len() - before);
        }
    }
}

const PINGREQ: [u8; 2] = [0xC0, 0];
/// Packets that are handled before other tasks have a turn.
const PACKETS_AT_ONCE: u32 = 64;
/// Bytes that are read ahead of what may be handled; the largest packet as shipped.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Bytes that are read from the socket of a session that is taken over.
const TAKE_OVER_BYTES_MAX: usize = 1 << 20;
/// How long the new connection waits for what the old one had received to be handled.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);
