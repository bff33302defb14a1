//! One connection: the task that moves packets between a stream, its session and the broker.
//!
//! Each turn of the loop looks whether a deadline has passed, processes the input there is, moves what the outbox holds
//! to the output while little of that is unsent, and then waits for the first of: input, output sent, something queued,
//! room in the engine, a deadline, being told to end. Packets are not handled while a request waits for the engine,
//! while a 3.1.1 client has more requests undecided than the session's window, or while the client is over a rate
//! ([`super::pace`]); a full outbox never stops them. What is read meanwhile is in [`intake`].
//!
//! However serving ends, even by a panic, the session is given back: its client finds it free, or gone.
//!
//! What packets mean is the session's and [`crate::mqtt::connection::dispatch`]'s; CONNECT is [`crate::mqtt::connection::handshake`]'s.

pub(super) mod dispatch;
pub mod handler;
pub(super) mod handshake;
mod intake;
pub mod rate_limit;
pub(super) mod transport;

use std::{
    fmt, io,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::Sleep,
};

pub(super) use self::intake::Intake;
use crate::{
    admission::QuotaKind,
    config::CONNECTIONS_TARGET,
    mqtt::{
        broker::{
            Broker,
            outbox::Item,
            sessions::{ClientSession, SessionKey},
        },
        connection::{
            dispatch::{AwaitingPermit, room},
            rate_limit::ConnectionRateLimit,
            transport::{Transport, TransportEvent},
        },
        protocol::{
            message::Delivery,
            packet::{ClientPacket, Protocol, Reason, Will},
        },
        session::{Delivered, Violation},
        shadow::resync::Next,
    },
    shadow::{DeviceId, Timestamp},
};

/// A connection after its CONNECT was accepted.
pub(super) struct Connection<S> {
    pub(super) transport: Transport<S>,
    pub(super) broker: Arc<Broker>,
    pub(super) key: SessionKey,
    /// Where the client is.
    pub(super) address: IpAddr,
    /// The listener it came to, by name.
    pub(super) listener: Arc<str>,
    /// The device that the client is, if it is one.
    pub(super) device: Option<DeviceId>,
    pub(super) protocol: Protocol,
    /// True for a bridge of another broker; see [`Connect::bridge`](crate::mqtt::protocol::packet::Connect::bridge).
    pub(super) bridge: bool,
    pub(super) client: ClientSession,
    /// Published when the connection ends in any other way than by DISCONNECT.
    pub(super) will: Option<Will>,
    /// Seconds the session is kept after the connection.
    pub(super) session_expiry: u32,
    /// The longest silence of the client.
    pub(super) silence_max: Option<Duration>,
    pub(super) disconnect_signal: oneshot::Receiver<Reason>,
    /// A request that waits for room in the engine.
    pub(super) awaiting_permit: Option<AwaitingPermit>,
    pub(super) pace: ConnectionRateLimit,
    pub(super) intake: Intake,
    /// The server ends, and until then this connection answers what it has taken; nothing more is taken.
    pub(super) draining_until: Option<Instant>,
    pub(super) last_received: Instant,
    /// When the client is no longer known: the end of its token.
    pub(super) auth_expires_at: Option<Instant>,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum EndReason {
    /// The client said DISCONNECT.
    Disconnect {
        /// Whether it wants its will published.
        with_will: bool,
    },
    /// The stream ended or failed.
    Lost(Option<io::Error>),
    /// The client broke the protocol.
    Violation(Violation),
    /// The server ends it.
    Server(Reason),
    /// The client is above a quota for which the only answer is to end it.
    Quota(QuotaKind),
    /// A mistake of ours, which may have left anything in the output.
    Panic,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnect { with_will: false } => f.write_str("the client disconnected"),
            Self::Disconnect { with_will: true } => f.write_str("the client disconnected, leaving its will"),
            Self::Lost(None) => f.write_str("the client closed the connection"),
            Self::Lost(Some(error)) => write!(f, "the connection was lost: {error}"),
            Self::Violation(violation) => write!(f, "protocol violation: {violation}"),
            Self::Server(reason) => f.write_str(reason.name()),
            Self::Quota(cause) => write!(f, "too many {}", cause.what()),
            Self::Panic => f.write_str("a fault of the server"),
        }
    }
}

impl From<io::Error> for EndReason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::QuotaExceeded => Self::Quota(QuotaKind::InputBytes), // no memory to read more
            _ => Self::Lost(Some(error)),
        }
    }
}

impl From<Violation> for EndReason {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Serves the client until the connection ends, then gives the session back.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = match AssertUnwindSafe(self.serve_to_end()).catch_unwind().await {
            Ok(end) => end,
            Err(_panic) => {
                tracing::error!(client = %self.key.client_id, "a connection ends by a panic, and its session with it");
                self.session_expiry = 0; // nobody knows how it was left
                EndReason::Panic
            }
        };
        // Boxed, as all that is rarely waited for: an idle client pays for the largest of what it may wait for.
        Box::pin(self.finish(end)).await;
    }

    async fn serve_to_end(&mut self) -> EndReason {
        match self.serve().await {
            Ok(never) => match never {},
            Err(end) => Box::pin(self.handle_arrived(end)).await,
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, EndReason> {
        let outbox = self.client.outbox.clone();
        let sleep = tokio::time::sleep_until(self.next_deadline().into());
        tokio::pin!(sleep);
        loop {
            self.count_traffic();
            let now = Instant::now();
            self.check_deadlines(now)?; // in each turn: a client that never pauses starves the timer
            if sleep.deadline().into_std() <= now {
                Sleep::reset(sleep.as_mut(), self.next_deadline().into());
            }
            self.process_input().await?;
            if self.intake.ended && self.may_process() {
                return Err(EndReason::Lost(None)); // all that it sent has been handled
            }
            let more = self.fill_output().await?;
            if self.draining_until.is_some() && self.is_idle() {
                return Err(EndReason::Server(Reason::SERVER_SHUTTING_DOWN));
            }
            let paused = [self.pace.paused(), self.client.resync.paused()].into_iter().flatten().min();
            if let Some(paused) = paused.filter(|paused| *paused < sleep.deadline().into_std()) {
                Sleep::reset(sleep.as_mut(), paused.into());
            }
            let (may_read, unread) = (self.may_read(), self.transport.input.len());
            tokio::select! {
                biased;
                reason = &mut self.disconnect_signal, if self.draining_until.is_none() => match reason {
                    Ok(Reason::SERVER_SHUTTING_DOWN) | Err(_) => {
                        self.draining_until = Some(Instant::now() + LEAVE_TIMEOUT);
                        Sleep::reset(sleep.as_mut(), self.next_deadline().into());
                    }
                    Ok(reason) => return Err(EndReason::Server(reason)),
                },
                permit = room(&mut self.awaiting_permit), if self.awaiting_permit.is_some() => self.resume_awaiting(permit),
                turn = self.transport.turn(may_read) => match turn? {
                    TransportEvent::Input => self.received(self.transport.input.len() - unread),
                    TransportEvent::Flushed => {}
                    TransportEvent::End => self.intake.ended = true,
                },
                () = outbox.ready() => {} // with output unsent, only to be told that the outbox is closed
                () = &mut sleep => {}
                () = tokio::task::yield_now(), if more => {}
            }
        }
    }

    fn count_traffic(&mut self) {
        let (received, sent) = self.transport.take_traffic();
        if received > 0 {
            self.broker.counters.bytes_received.add(received);
        }
        if sent > 0 {
            self.broker.counters.bytes_sent.add(sent);
        }
    }

    fn received(&mut self, bytes: usize) {
        self.last_received = Instant::now();
        let (limits, quotas) = (&self.broker.limits.pace, self.broker.service.quotas());
        self.pace.received(bytes, limits, quotas, self.last_received);
    }

    /// Moves what is queued to the output until enough of it is unsent, and in turn with it what is to be caught up with.
    /// Returns whether there is more of that to look at, for which the connection's other business is not to wait.
    async fn fill_output(&mut self) -> Result<bool, EndReason> {
        let (now, outbox) = (Instant::now(), self.client.outbox.clone());
        // Whether catching up had nothing to send, and then whether it has to go on looking.
        let (mut looked, mut more) = (false, false);
        while self.transport.unsent() < OUTPUT_LOW_BYTES && !self.client.session.is_stuck() {
            let may_look = !looked && self.draining_until.is_none();
            let delivery = match if may_look && self.client.resync.is_due(&outbox) { None } else { self.queued() } {
                Some(Item::Ack { ack_id, verdict }) if verdict.unknown && self.protocol == Protocol::V4 => {
                    // It cannot be told, so it is not acknowledged: its resend asks again. PROTOCOL section 4.
                    if self.client.session.abandon(ack_id) {
                        return Err(EndReason::Server(Reason::IMPLEMENTATION_SPECIFIC));
                    }
                    continue;
                }
                Some(Item::Ack { ack_id, verdict }) => {
                    self.client.session.complete(ack_id, verdict, self.transport.output());
                    continue;
                }
                Some(Item::Delivery { delivery, .. }) => {
                    self.client.resync.passed();
                    looked = false;
                    delivery
                }
                None if !may_look || self.client.resync.is_idle(&outbox) => break,
                None => match Box::pin(self.look_up()).await {
                    Next::Delivery(delivery) => *delivery,
                    next => {
                        (looked, more) = (true, matches!(next, Next::Later));
                        continue; // with what is queued
                    }
                },
            };
            self.deliver(delivery, now);
        }
        match outbox.closed() {
            Some(Reason::QUOTA_EXCEEDED) => Err(EndReason::Quota(QuotaKind::UnreadReplies)),
            Some(reason) => Err(EndReason::Server(reason)),
            None if self.client.session.is_stuck() => Err(EndReason::Server(Reason::PACKET_TOO_LARGE)),
            None => Ok(more),
        }
    }

    async fn look_up(&mut self) -> Next {
        let ClientSession { session, outbox, resync, .. } = &mut self.client;
        resync.next(&self.broker, &self.key, outbox, session.window_open()).await
    }

    fn queued(&self) -> Option<Item> {
        let window = self.client.session.window();
        let item = self.client.outbox.pop(window);
        item.or_else(|| self.pop_reply_unstored()).or_else(|| self.pop_ack_early(window > 0))
    }

    /// A reply that is not kept for a resend, since what is kept already is as much as may be: the client asked for it,
    /// and the acknowledgements that would make room may come after all else that it asks for.
    fn pop_reply_unstored(&self) -> Option<Item> {
        if self.client.session.over_byte_limit() { self.client.outbox.pop_reply() } else { None }
    }

    /// An acknowledgement that does not wait for the replies before it: they wait for the client's acknowledgements,
    /// and those are not read before ours has left.
    fn pop_ack_early(&self, window_open: bool) -> Option<Item> {
        if window_open || !self.window_is_full() { None } else { self.client.outbox.pop_ack() }
    }

    fn deliver(&mut self, delivery: Delivery, now: Instant) {
        match self.client.session.deliver(delivery, now, self.transport.output()) {
            Delivered::Sent => {}
            Delivered::Expired => self.broker.counters.deliveries_expired.add(1),
            Delivered::TooLarge => self.broker.counters.deliveries_too_large.add(1),
            Delivered::NotNow(_) => {
                tracing::error!(client = %self.key.client_id, "a message was taken with no room for it")
            }
        }
    }

    /// Whether everything that was taken has been answered and sent.
    fn is_idle(&self) -> bool {
        self.awaiting_permit.is_none() && self.client.session.inbound_pending() == 0 && self.transport.unsent() == 0
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<(), EndReason> {
        self.pace.resume(now);
        self.client.resync.resume(now);
        if self.draining_until.is_some_and(|until| until <= now) {
            return Err(EndReason::Server(Reason::SERVER_SHUTTING_DOWN));
        }
        if self.auth_expires_at.is_some_and(|until| until <= now) {
            return Err(EndReason::Server(Reason::NOT_AUTHORIZED));
        }
        if self.holds_back() {
            self.last_received = now;
        }
        match self.silence_max {
            Some(max) if now.duration_since(self.last_received) >= max => {
                Err(EndReason::Server(Reason::KEEP_ALIVE_TIMEOUT))
            } // [MQTT-3.1.2-22]
            _ => Ok(()),
        }
    }

    fn next_deadline(&self) -> Instant {
        let silence = self.silence_max.map(|max| self.last_received + max);
        let far = Instant::now() + FAR;
        [silence, self.pace.paused(), self.draining_until, self.auth_expires_at]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    /// Says why, if the client can be told, and gives the session back.
    async fn finish(mut self: Box<Self>, end: EndReason) {
        let (farewell, with_will) = match &end {
            EndReason::Disconnect { with_will } => (None, *with_will),
            EndReason::Lost(_) | EndReason::Panic => (None, true),
            EndReason::Violation(violation) => {
                self.broker.counters.violations.add(1);
                (Some((violation.reason(), Some(violation.to_string()))), true)
            }
            EndReason::Server(reason) => (Some((*reason, None)), true),
            EndReason::Quota(cause) => {
                self.broker.service.quotas().count(*cause);
                (Some((Reason::QUOTA_EXCEEDED, Some(format!("too many {}", cause.what())))), true)
            }
        };
        tracing::info!(
            target: CONNECTIONS_TARGET, principal = %self.key.principal, client = %self.key.client_id,
            address = %self.address, listener = &*self.listener, protocol = self.protocol.name(), reason = %end, "disconnected"
        );
        self.count_traffic();
        if let Some((reason, text)) = farewell {
            self.client.session.disconnect(reason, text, self.transport.output());
        }
        if let Some(ack_id) = self.awaiting_permit.take().and_then(|awaiting_permit| awaiting_permit.ack_id()) {
            self.client.session.abandon(ack_id); // it was never sent to the engine: a resend is a new request
        }
        // The session first: whoever sees the stream end finds it free, and a peer that does not read holds up nobody.
        self.client.session.detach();
        self.client.outbox.detach(self.broker.events.fan_out_position());
        self.client.resync.detach();
        let will = self.will.filter(|_| with_will);
        if let Some(device) = &self.device {
            let heard = self.broker.service.now().0.saturating_sub(self.last_received.elapsed().as_secs());
            self.broker.presence.closed(device, Timestamp(heard));
        }
        let ended = self.broker.sessions.release(&self.key, self.client, self.session_expiry, will);
        self.broker.dispose(ended);
        // The end of the client's side too is answered with ours, by TLS with a close_notify.
        if !matches!(end, EndReason::Lost(Some(_)) | EndReason::Panic) {
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.transport.finish()).await;
        }
    }
}

/// Whether a packet asks for something that would have to be answered.
fn asks(packet: &ClientPacket) -> bool {
    matches!(packet, ClientPacket::Publish(_) | ClientPacket::Subscribe(_) | ClientPacket::Unsubscribe(..))
}

/// Unsent output above which nothing more is taken from the outbox.
const OUTPUT_LOW_BYTES: usize = 32 * 1024;
/// How long a client that is told why its connection ends has to read that and end it too.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an ending server waits for what a connection has taken to be answered.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A deadline for connections that have none.
const FAR: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
pub(super) mod tests;
