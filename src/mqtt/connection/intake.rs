//! The receiving side of a connection: reads and handles input within the rates.
//!
//! While packets may not be handled (the client is throttled, a request waits for the engine, a 3.1.1 client has too
//! many undecided), the connection reads on into a bounded buffer. It scans the whole packets there for PINGREQ and
//! answers them. Otherwise a client library would miss PINGRESP within its keep-alive, close the connection, reconnect
//! and send everything again. When the buffer is full, or memory for it is short, the socket is not read until there is
//! space; the client's silence is not counted meanwhile.
//!
//! Input that arrived before the client closed its side is handled at the usual rate. Input that arrived before another
//! connection of this node takes over the session is handled at once. So is the input still in the socket, within
//! [`TAKE_OVER_BYTES_MAX`] and [`TAKE_OVER_TIMEOUT`].

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, EndReason, OUTPUT_LOW_BYTES, needs_answer};
use crate::{
    admission::{PreAuthPermit, QuotaKind},
    mqtt::{
        connection::{
            dispatch::{UnfinishedAction, awaited_permit},
            rate_limit::work_of,
            transport::TransportEvent,
        },
        protocol::{
            codec::{self, Frame},
            packet::{ClientPacket, Protocol, Reason},
        },
        session::Action,
    },
};

/// The state of a connection's input beside the bytes themselves.
pub(in crate::mqtt) struct Intake {
    /// Bounds the input that was received and not handled yet.
    memory: PreAuthPermit,
    /// Bytes of input last reported to `memory`; `None` since more were received, which `memory` has counted.
    held: Option<usize>,
    /// Bytes of input in which every PINGREQ has been answered.
    scanned: usize,
    /// Packets handled since the connection last yielded to other tasks.
    handled: u32,
    /// True if the client sends no more.
    pub(super) ended: bool,
    /// True if the session is being taken over: no rate applies to the remaining input, and nothing is sent.
    taken_over: bool,
}

impl Intake {
    /// Creates the state of a client that `memory` accounts for and that has no input yet.
    pub(in crate::mqtt) fn new(memory: PreAuthPermit) -> Self {
        Self { memory, held: None, scanned: 0, handled: 0, ended: false, taken_over: false }
    }

    /// Notes that input was received. All of it may be handled at once, and then has to be reported although none is left, as before.
    pub(super) fn received(&mut self) {
        self.held = None;
    }
}

/// A packet that was decoded and whose handling has begun.
struct BegunPacket {
    /// The work that it costs.
    units: u64,
    unfinished: Option<UnfinishedAction>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Decodes and handles the input as far as the rates allow, and scans the rest for PINGREQ.
    pub(super) async fn process_input(&mut self) -> Result<(), EndReason> {
        while self.may_process() {
            let Some(frame) = codec::split_frame(&mut self.transport.input, self.frame)? else { break };
            self.handle(frame).await?;
            self.intake.handled += 1;
            if self.intake.handled >= PACKETS_AT_ONCE {
                self.intake.handled = 0;
                tokio::task::yield_now().await; // or the outboxes of the receivers would fill up
            }
        }
        if !self.may_process() {
            self.scan_input_for_pings();
        }
        let left = self.transport.input.len();
        if left == 0 {
            self.transport.input = BytesMut::new(); // an idle connection holds no buffer
        }
        if self.intake.held != Some(left) {
            self.intake.held = Some(left);
            self.intake.memory.hold(left);
        }
        Ok(())
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), EndReason> {
        let Some(BegunPacket { units, unfinished }) = self.begin(frame)? else { return Ok(()) };
        if let Some(unfinished) = unfinished {
            // Boxed, since it is rare and the task of a connection is kept small.
            Box::pin(self.complete_action(unfinished)).await?;
        }
        // After it, since it has charged its own work by now.
        self.rate_limit.charge_work(units, self.broker.service.quotas(), Instant::now());
        if self.rate_limit.exceeds_refusals() {
            return Err(EndReason::Quota(QuotaKind::Refusals));
        }
        if self.intake.taken_over {
            return Ok(());
        }
        if !self.transport.input.is_empty() {
            self.send_between_requests().await?;
        }
        // Unread replies that only this client asked for. PROTOCOL section 7. Messages that a resumed session receives
        // again, all at once, do not count.
        let unsent = self.transport.unsent();
        let max = self.broker.limits.output_bytes_max;
        if unsent > max && unsent > max + self.client.session.inflight_bytes() {
            return Err(EndReason::Quota(QuotaKind::UnreadReplies));
        }
        Ok(())
    }

    /// Decodes a packet and begins to handle it. Returns `None` if it is ignored or was answered on arrival.
    fn begin(&mut self, frame: Frame) -> Result<Option<BegunPacket>, EndReason> {
        let was_scanned = self.intake.scanned > 0;
        self.intake.scanned = self.intake.scanned.saturating_sub(frame.len());
        let packet = codec::decode(self.protocol, frame)?;
        if self.draining_until.is_some() && needs_answer(&packet) {
            return Ok(None); // not accepted, so neither answered nor acknowledged
        }
        if was_scanned && matches!(packet, ClientPacket::PingReq) {
            return Ok(None); // answered and counted on arrival
        }
        let now = Instant::now();
        let (limits, quotas) = (&self.broker.limits.rates, self.broker.service.quotas());
        let units = work_of(&packet);
        self.rate_limit.charge_packet(&packet, &self.client.session, limits, quotas, now);
        let unfinished = match self.client.session.receive(packet, now, self.transport.output())? {
            Some(action) => self.act(action)?,
            None => None,
        };
        Ok(Some(BegunPacket { units, unfinished }))
    }

    /// Sends what the stream takes at once, between requests that came together. Thus their replies exceed the limit
    /// only if the client does not read them.
    async fn send_between_requests(&mut self) -> Result<(), EndReason> {
        self.fill_output().await?;
        if self.transport.unsent() >= OUTPUT_LOW_BYTES {
            tokio::task::yield_now().await; // or the runtime's budget may stop the stream from sending
            self.transport.send_some().await?;
        }
        Ok(())
    }

    /// Performs `action` as far as it need not wait.
    fn act(&mut self, action: Action) -> Result<Option<UnfinishedAction>, EndReason> {
        let unfinished = match action {
            Action::Publish(inbound) => self.publish(inbound),
            Action::Subscribe(subscribe) => Some(self.subscribe(subscribe)),
            Action::Unsubscribe(id, filters) => Some(UnfinishedAction::Unsubscribe(id, filters)),
            Action::Save(unsaved) => {
                self.save(unsaved);
                None
            }
            Action::Release(ticket) => {
                self.save_release(ticket);
                None
            }
            Action::Disconnect { with_will, session_expiry } => {
                self.session_expiry =
                    session_expiry.unwrap_or(self.session_expiry).min(self.broker.limits.session_expiry_max);
                return Err(EndReason::Disconnect { with_will });
            }
        };
        Ok(unfinished.and_then(|unfinished| self.complete_at_once(unfinished)))
    }

    /// Answers each PINGREQ among the whole packets that may not be handled yet. They count as control packets. Those
    /// above the rate wait for their turn, as do those of a client that does not read.
    fn scan_input_for_pings(&mut self) {
        let now = Instant::now();
        while let Some(rest) = self.transport.input.get(self.intake.scanned..) {
            let Some(len) = codec::whole_packet(rest, self.frame) else { break };
            if rest.starts_with(&PINGREQ) {
                let may = self.transport.unsent() < OUTPUT_LOW_BYTES && self.draining_until.is_none();
                if !may || !self.rate_limit.may_answer_ping(&self.broker.limits.rates, now) {
                    break;
                }
                let ping = self.client.session.receive(ClientPacket::PingReq, now, self.transport.output());
                debug_assert!(matches!(ping, Ok(None)), "PINGREQ is only answered");
            }
            self.intake.scanned += len;
        }
    }

    /// Returns true if the next packet may be handled.
    pub(super) fn may_process(&self) -> bool {
        self.awaiting_permit.is_none()
            && (self.intake.taken_over || self.rate_limit.throttled_until().is_none() && !self.window_is_full())
    }

    /// Returns true if the socket may be read: packets may be handled, or there is space to read ahead.
    pub(super) fn may_read(&self) -> bool {
        let ahead = || self.transport.input.len() < AHEAD_BYTES_MAX && self.intake.memory.has_spare_room();
        !self.intake.ended && (self.may_process() || self.draining_until.is_none() && ahead())
    }

    /// Returns true if the client may not be blamed for silence, because its input may be unread.
    pub(super) fn is_held_back(&self) -> bool {
        !self.may_process() || self.intake.memory.waits()
    }

    /// Returns true if the client has as many undecided requests as it may. An MQTT 5 client knows its limit, which the
    /// session enforces, and its packets are handled for their acknowledgements.
    pub(super) fn window_is_full(&self) -> bool {
        let window = usize::from(self.broker.limits.session.inbound_window);
        self.protocol == Protocol::V4 && self.client.session.inbound_pending() >= window
    }

    /// Handles the input that arrived before a take-over or a stream error, since the client may rely on it, unless its
    /// login is revoked: a revoked certificate ends in a stream error. Returns the reason for which the connection ends.
    pub(super) async fn handle_arrived(&mut self, end: EndReason) -> EndReason {
        let is_take_over = matches!(end, EndReason::Server(Reason::SESSION_TAKEN_OVER));
        if !is_take_over && !matches!(end, EndReason::Lost(Some(_))) {
            return end;
        }
        // The client sends to another node what was not acknowledged.
        if self.client.outbox.is_void() || self.broker.sessions.is_revoked(&self.key, &self.broker.authority) {
            return end;
        }
        self.intake.taken_over = true;
        match tokio::time::timeout(TAKE_OVER_TIMEOUT, self.drain(is_take_over)).await {
            Ok(Err(disconnect @ EndReason::Disconnect { .. })) => disconnect,
            _ => end,
        }
    }

    async fn drain(&mut self, read: bool) -> Result<(), EndReason> {
        let mut left = if read { TAKE_OVER_BYTES_MAX } else { 0 };
        loop {
            self.process_input().await?;
            if self.awaiting_permit.is_some() {
                let permit = awaited_permit(&mut self.awaiting_permit).await;
                self.resume_awaiting(permit);
                continue;
            }
            let before = self.transport.input.len();
            if left == 0 || self.transport.read_some().await? != Some(TransportEvent::Input) {
                return Ok(());
            }
            self.intake.received();
            left = left.saturating_sub(self.transport.input.len() - before);
        }
    }
}

const PINGREQ: [u8; 2] = [0xC0, 0];
/// Packets handled before other tasks have a turn.
const PACKETS_AT_ONCE: u32 = 64;
/// Bytes read ahead of what may be handled; the largest packet in the default configuration.
const AHEAD_BYTES_MAX: usize = 1 << 20;
/// Bytes read from the socket of a session that is taken over.
const TAKE_OVER_BYTES_MAX: usize = 1 << 20;
/// Time that the new connection waits for the old one's input to be handled.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(2);
