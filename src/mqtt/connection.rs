//! One connection: the task that moves packets between a stream, its session and the broker.
//!
//! Each turn of the loop checks the deadlines, processes the input, moves queued deliveries to the output while little
//! of it is unsent, and then waits. It waits for the first of: input, sent output, a queued item, a permit from the
//! engine, a deadline, the disconnect signal. Packets are not handled while a request waits for the engine, while a
//! 3.1.1 client has more undecided requests than the session's window, or while the client is throttled
//! ([`rate_limit`]). A full outbox never stops them. [`intake`] describes the input read meanwhile.
//!
//! However the connection ends, even by a panic, the session is released: it is free for its client, or removed.
//!
//! The session interprets packets, [`dispatch`] carries out those for the broker, and [`handshake`] handles CONNECT.

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
    admission::{QuotaKind, work},
    config::CONNECTIONS_TARGET,
    mqtt::{
        broker::{
            Broker,
            outbox::Item,
            sessions::{CONNECTION_BYTES, ClientSession, SessionKey},
        },
        connection::{
            dispatch::{AwaitingPermit, awaited_permit},
            rate_limit::ConnectionRateLimit,
            transport::{Transport, TransportEvent},
        },
        protocol::{
            codec::FrameLimits,
            message::Delivery,
            packet::{ClientPacket, Protocol, Reason, Will},
        },
        session::{Delivered, Ticket, Unsaved, Violation},
        shadow::resync::Next,
    },
    observability::logging::limited,
    shadow::{DeviceId, Timestamp},
};

/// A connection after its CONNECT was accepted.
pub(super) struct Connection<S> {
    pub(super) transport: Transport<S>,
    pub(super) broker: Arc<Broker>,
    pub(super) key: SessionKey,
    /// The client's address.
    pub(super) address: IpAddr,
    /// The name of the listener that accepted the connection.
    pub(super) listener: Arc<str>,
    /// The device that the client acts as, if any.
    pub(super) device: Option<DeviceId>,
    pub(super) protocol: Protocol,
    /// True for a bridge of another broker; see [`Connect::bridge`](crate::mqtt::protocol::packet::Connect::bridge).
    pub(super) bridge: bool,
    /// The limits of the client's packets.
    pub(super) frame: FrameLimits,
    pub(super) client: ClientSession,
    /// The will, published unless the connection ends by DISCONNECT.
    pub(super) will: Option<Will>,
    /// Seconds that the session is kept after the connection.
    pub(super) session_expiry: u32,
    /// The time after which a silent client is disconnected.
    pub(super) silence_max: Option<Duration>,
    pub(super) disconnect_signal: oneshot::Receiver<Reason>,
    /// A request that waits for space in the engine queue.
    pub(super) awaiting_permit: Option<AwaitingPermit>,
    pub(super) rate_limit: ConnectionRateLimit,
    pub(super) intake: Intake,
    /// True while the client may not have all messages of shadows that were sent to it.
    pub(super) is_delivering: bool,
    /// The deadline for answering accepted requests while the server shuts down; no new packets are accepted.
    pub(super) draining_until: Option<Instant>,
    pub(super) last_received: Instant,
    /// The time at which the client's token expires.
    pub(super) auth_expires_at: Option<Instant>,
}

/// The reason for which a connection ends.
#[derive(Debug)]
pub(super) enum EndReason {
    /// The client sent DISCONNECT.
    Disconnect {
        /// True if the client wants its will published.
        with_will: bool,
    },
    /// The stream ended or failed.
    Lost(Option<io::Error>),
    /// The client violated the protocol.
    Violation(Violation),
    /// The server closes the connection.
    Server(Reason),
    /// The client exceeded a quota whose only remedy is to close the connection.
    Quota(QuotaKind),
    /// A panic, after which the output may hold anything.
    Panic,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnect { with_will: false } => f.write_str("the client disconnected"),
            Self::Disconnect { with_will: true } => f.write_str("the client disconnected with its will"),
            Self::Lost(None) => f.write_str("the client closed the connection"),
            Self::Lost(Some(error)) => write!(f, "the connection was lost: {error}"),
            Self::Violation(violation) => write!(f, "protocol violation: {violation}"),
            Self::Server(reason) => f.write_str(reason.name()),
            Self::Quota(cause) => write!(f, "too many {}", cause.what()),
            Self::Panic => f.write_str("internal error"),
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
    /// Serves the client until the connection ends, then releases the session.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = match AssertUnwindSafe(self.serve_to_end()).catch_unwind().await {
            Ok(end) => end,
            Err(_panic) => {
                tracing::error!(client = %self.key.client_id, "connection task panicked; its session is discarded");
                self.session_expiry = 0; // its state is unknown
                EndReason::Panic
            }
        };
        // Boxed, as every future that is rarely awaited: an idle client pays for the largest future it may await.
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
            if self.is_silent(now) {
                Box::pin(self.look_for_input()).await?;
            }
            if sleep.deadline().into_std() <= now {
                Sleep::reset(sleep.as_mut(), self.next_deadline().into());
            }
            self.process_input().await?;
            if self.intake.ended && self.may_process() {
                return Err(EndReason::Lost(None)); // all its input has been handled
            }
            let more = self.fill_output().await?;
            self.charge_memory();
            self.complete_delivery();
            if self.draining_until.is_some() && self.is_idle() {
                return Err(EndReason::Server(Reason::SERVER_SHUTTING_DOWN));
            }
            let waits =
                [self.rate_limit.throttled_until(), self.rate_limit.unsent_until(), self.client.resync.paused()];
            let paused_until = waits.into_iter().flatten().min();
            if let Some(paused_until) = paused_until.filter(|until| *until < sleep.deadline().into_std()) {
                Sleep::reset(sleep.as_mut(), paused_until.into());
            }
            let (may_read, unread) = (self.may_read(), self.transport.input.len());
            tokio::select! {
                biased;
                reason = &mut self.disconnect_signal, if self.draining_until.is_none() => match reason {
                    Ok(Reason::SERVER_SHUTTING_DOWN) | Err(_) => {
                        self.draining_until = Some(Instant::now() + DRAIN_TIMEOUT);
                        Sleep::reset(sleep.as_mut(), self.next_deadline().into());
                    }
                    Ok(reason) => return Err(EndReason::Server(reason)),
                },
                permit = awaited_permit(&mut self.awaiting_permit), if self.awaiting_permit.is_some() => self.resume_awaiting(permit),
                turn = self.transport.turn(may_read) => self.note(turn?, unread),
                () = outbox.ready() => {} // with unsent output, only to notice that the outbox is closed
                () = &mut sleep => {}
                () = tokio::task::yield_now(), if more => {}
            }
        }
    }

    /// Charges the memory of the session and the connection to the principal.
    fn charge_memory(&mut self) {
        let will = self.will.as_ref().map_or(0, Will::bytes);
        self.client.charge(CONNECTION_BYTES + will + self.transport.unsent());
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

    /// Notes the event of a turn, before which `unread` bytes of input were there.
    fn note(&mut self, event: TransportEvent, unread: usize) {
        match event {
            TransportEvent::Input => self.received(self.transport.input.len() - unread),
            TransportEvent::Flushed => {}
            TransportEvent::End => self.intake.ended = true,
        }
    }

    fn received(&mut self, bytes: usize) {
        self.last_received = Instant::now();
        self.intake.received();
        self.rate_limit.charge_work(work::bytes(bytes), self.broker.service.quotas(), self.last_received);
    }

    /// Moves queued deliveries and resync messages, in turn, to the output until enough of it is unsent. Returns true
    /// if the resync has more to read, which must not delay the connection's other work.
    async fn fill_output(&mut self) -> Result<bool, EndReason> {
        let (now, outbox) = (Instant::now(), self.client.outbox.clone());
        // `looked`: the resync had nothing to send; `more`: it has to continue reading.
        let (mut looked, mut more, mut delivered) = (false, false, 0);
        while self.transport.unsent() < OUTPUT_LOW_BYTES
            && !self.client.session.is_stuck()
            && self.rate_limit.unsent_until().is_none()
        {
            let may_look = !looked && self.draining_until.is_none();
            let delivery = match if may_look && self.client.resync.is_due(&outbox) { None } else { self.queued() } {
                Some(Item::Ack { ack_id, result }) if result.unknown && self.protocol == Protocol::V4 => {
                    // 3.1.1 cannot express an unknown outcome, so there is no ack: the resend asks again. PROTOCOL
                    // section 4.
                    if self.client.session.abandon(ack_id) {
                        return Err(EndReason::Server(Reason::IMPLEMENTATION_SPECIFIC));
                    }
                    continue;
                }
                Some(Item::Ack { ack_id, result }) => {
                    self.client.session.complete(ack_id, result, self.transport.output());
                    continue;
                }
                Some(Item::Saved(tickets)) => {
                    let (session, output) = (&mut self.client.session, self.transport.output());
                    tickets.into_iter().for_each(|ticket| session.saved(ticket, now, output));
                    continue;
                }
                Some(Item::Delivery { delivery, seq }) => {
                    self.is_delivering |= seq.is_some();
                    self.client.resync.delivered();
                    looked = false;
                    delivery
                }
                None if !may_look || self.client.resync.is_idle(&outbox) => break,
                None => match Box::pin(self.next_resync()).await {
                    Next::Delivery(delivery) => {
                        self.is_delivering = true;
                        outbox.begin_delivery();
                        *delivery
                    }
                    next => {
                        (looked, more) = (true, matches!(next, Next::Later));
                        continue; // with queued deliveries
                    }
                },
            };
            self.deliver(delivery, now);
            delivered += 1;
        }
        if delivered > 0 || looked {
            self.rate_limit.charge_deliveries(delivered, self.broker.service.quotas(), Instant::now());
        }
        match outbox.closed() {
            Some(Reason::QUOTA_EXCEEDED) => Err(EndReason::Quota(QuotaKind::UnreadReplies)),
            Some(reason) => Err(EndReason::Server(reason)),
            None if self.client.session.is_stuck() => Err(EndReason::Server(Reason::PACKET_TOO_LARGE)),
            None => Ok(more),
        }
    }

    /// Notes when the client has all messages of shadows that were sent: a restart need not send their news again.
    fn complete_delivery(&mut self) {
        if self.is_delivering && self.transport.unsent() == 0 && !self.client.session.has_unkept() {
            self.is_delivering = false;
            self.client.outbox.complete_delivery();
        }
    }

    async fn next_resync(&mut self) -> Next {
        let ClientSession { session, outbox, filters, resync, .. } = &mut self.client;
        resync.next(&self.broker, &self.key, filters, outbox, session.window_open()).await
    }

    fn queued(&self) -> Option<Item> {
        let window = self.client.session.window();
        let item = self.client.outbox.pop(window);
        item.or_else(|| self.pop_unstored_reply()).or_else(|| self.pop_early_ack(window > 0))
    }

    /// Returns a reply that is not kept for a resend, because the kept ones have reached the byte limit. The client
    /// asked for it, and the acknowledgements that free memory may follow all its other requests.
    fn pop_unstored_reply(&self) -> Option<Item> {
        if self.client.session.over_byte_limit() { self.client.outbox.pop_reply() } else { None }
    }

    /// Returns an acknowledgement ahead of the replies before it. Those wait for the client's acknowledgements, which
    /// are not read before ours is sent.
    fn pop_early_ack(&self, window_open: bool) -> Option<Item> {
        if window_open || !self.window_is_full() { None } else { self.client.outbox.pop_ack() }
    }

    fn deliver(&mut self, delivery: Delivery, now: Instant) {
        match self.client.session.deliver(delivery, now, self.transport.output()) {
            Delivered::Sent => {}
            Delivered::Unsaved(unsaved) => self.save(unsaved),
            Delivered::Expired => self.broker.counters.deliveries_expired.add(1),
            Delivered::TooLarge => self.broker.counters.deliveries_too_large.add(1),
            Delivered::NotNow(_) => {
                tracing::error!(client = %self.key.client_id, "dequeued a message without space in the session")
            }
        }
    }

    /// Has the session continue when a row is on disk.
    fn save(&self, Unsaved { ticket, row }: Unsaved) {
        let outbox = self.client.outbox.clone();
        row.after_commit(Box::new(move || outbox.push_saved(ticket)));
    }

    /// Has the session continue when the removal of a row is on disk.
    fn save_release(&self, ticket: Ticket) {
        let outbox = self.client.outbox.clone();
        self.broker.recorder.after_commit(move || outbox.push_saved(ticket));
    }

    /// Returns true if every accepted request has been answered and sent.
    fn is_idle(&self) -> bool {
        self.awaiting_permit.is_none() && self.client.session.inbound_pending() == 0 && self.transport.unsent() == 0
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<(), EndReason> {
        self.rate_limit.resume(now);
        self.client.resync.resume(now);
        if self.draining_until.is_some_and(|until| until <= now) {
            return Err(EndReason::Server(Reason::SERVER_SHUTTING_DOWN));
        }
        if self.auth_expires_at.is_some_and(|until| until <= now) {
            return Err(EndReason::Server(Reason::NOT_AUTHORIZED));
        }
        if self.is_held_back() {
            self.last_received = now;
        }
        Ok(())
    }

    /// Returns true if nothing was received for so long that the connection ends.
    fn is_silent(&self, now: Instant) -> bool {
        self.silence_max.is_some_and(|max| now.duration_since(self.last_received) >= max)
    }

    /// Reads what a client has sent that seems to be silent: this task may have waited itself, for the disk or for its turn.
    ///
    /// # Errors
    ///
    /// There is nothing. [MQTT-3.1.2-22]
    async fn look_for_input(&mut self) -> Result<(), EndReason> {
        let unread = self.transport.input.len();
        let event = self.transport.read_some().await?.ok_or(EndReason::Server(Reason::KEEP_ALIVE_TIMEOUT))?;
        self.note(event, unread);
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let silence = self.silence_max.map(|max| self.last_received + max);
        let far = Instant::now() + FAR;
        [
            silence,
            self.rate_limit.throttled_until(),
            self.rate_limit.unsent_until(),
            self.draining_until,
            self.auth_expires_at,
        ]
        .into_iter()
        .flatten()
        .fold(far, Instant::min)
    }

    /// Sends a DISCONNECT with the reason, if the protocol allows it, and releases the session.
    async fn finish(mut self: Box<Self>, end: EndReason) {
        let (disconnect, with_will) = match &end {
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
        limited!(
            info, self.client.filters.quota().connection_lines(),
            target: CONNECTIONS_TARGET, principal = %self.key.principal, client = %self.key.client_id,
            address = %self.address, listener = &*self.listener, protocol = self.protocol.name(), reason = %end, "disconnected"
        );
        self.count_traffic();
        self.complete_delivery();
        if let Some((reason, text)) = disconnect {
            self.client.session.disconnect(reason, text, self.transport.output());
        }
        if let Some(ack_id) = self.awaiting_permit.take().and_then(|waiting| waiting.request().request.ack_id()) {
            self.client.session.withdraw(ack_id); // it was never sent to the engine: a resend is a new request
        }
        // The session first: a client that sees the stream end finds it free, and a peer that does not read delays
        // nobody.
        self.client.session.detach();
        self.client.outbox.detach(self.broker.events.fan_out_position());
        if self.session_expiry > 0 {
            self.client.outbox.cover_presence_after(self.broker.presence.newest());
            self.broker.router.set_connected(self.client.outbox.id(), self.client.filters.iter(), false);
        }
        self.client.resync.detach();
        let will = self.will.filter(|_| with_will);
        if let Some(device) = &self.device {
            let last_received = self.broker.service.now().0.saturating_sub(self.last_received.elapsed().as_secs());
            self.broker.presence.closed(device, Timestamp(last_received));
        }
        let (sessions, authority) = (&self.broker.sessions, &self.broker.authority);
        let closed = sessions.release(&self.key, self.client, self.session_expiry, will, authority);
        self.broker.dispose(closed);
        // If the client closed its side, ours is closed too, with a close_notify under TLS.
        if !matches!(end, EndReason::Lost(Some(_)) | EndReason::Panic) {
            let _ = tokio::time::timeout(GRACEFUL_CLOSE_TIMEOUT, self.transport.finish()).await;
        }
    }
}

/// Returns true if a packet requests something that would need an answer.
fn needs_answer(packet: &ClientPacket) -> bool {
    matches!(packet, ClientPacket::Publish(_) | ClientPacket::Subscribe(_) | ClientPacket::Unsubscribe(..))
}

/// Unsent output in bytes above which nothing more is taken from the outbox.
const OUTPUT_LOW_BYTES: usize = 32 * 1024;
/// Time for a client to read the reason of its disconnect and to close its side.
pub(super) const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a server that shuts down to answer the accepted requests of a connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A deadline for connections without one.
const FAR: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
pub(super) mod tests;
