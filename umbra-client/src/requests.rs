//! Requests and messages whose outcome is still open, by their number and their packet id.
//!
//! A request is numbered here; the number is its Correlation Data. The MQTT library assigns the packet ids later, in the
//! same order.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::{PubAck, PubAckReason, PubRec, PubRecReason};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::error::Error;

/// Requests and messages that wait for their outcome: at most as many as there are permits.
#[derive(Default)]
pub(crate) struct Requests {
    count: u64,
    waiting: HashMap<u64, Waiter>,
    /// Numbers without a packet id yet, in order.
    unnumbered: VecDeque<u64>,
    by_packet_id: HashMap<u16, u64>,
    /// Requests acknowledged with an error: their reply, which says more, may follow until the given time.
    refused: VecDeque<(Instant, u64, String)>,
}

/// The receiver of the outcome of a PUBLISH.
pub(crate) enum Waiter {
    /// Waits for the reply to a request.
    Reply(oneshot::Sender<Result<Bytes, Error>>),
    /// Waits for the acknowledgement of a message.
    Acknowledgement(oneshot::Sender<Result<(), Error>>),
}

impl Requests {
    /// Returns the number of the next request.
    pub(crate) fn next_number(&self) -> u64 {
        self.count
    }

    /// Adds the request that was just passed to the MQTT library.
    pub(crate) fn sent(&mut self, waiter: Waiter) {
        // Dropped requests are removed with the next one.
        self.waiting.retain(|_, waiter| !waiter.is_closed());
        self.waiting.insert(self.count, waiter);
        self.unnumbered.push_back(self.count);
        self.count += 1;
    }

    /// Assigns a packet id to the oldest request without one.
    pub(crate) fn numbered(&mut self, packet_id: u16) {
        let Some(number) = self.unnumbered.pop_front() else { return };
        if packet_id == 0 {
            // QoS 0: no acknowledgement follows.
            self.finish(number, Ok(()));
        } else {
            self.by_packet_id.insert(packet_id, number);
        }
    }

    /// Delivers a reply to its request.
    pub(crate) fn replied(&mut self, correlation: &[u8], payload: &Bytes) {
        let number = correlation.try_into().map(u64::from_be_bytes).ok();
        if let Some(Waiter::Reply(reply)) = number.and_then(|number| self.waiting.remove(&number)) {
            let _ = reply.send(Ok(payload.clone()));
        }
    }

    /// Handles a PUBACK.
    pub(crate) fn acknowledged(&mut self, ack: PubAck) {
        let Some(number) = self.by_packet_id.remove(&ack.pkid) else { return };
        let refused = !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        let reason = ack.properties.and_then(|properties| properties.reason_string);
        let reason = reason.unwrap_or_else(|| format!("{:?}", ack.reason));
        match self.waiting.get(&number) {
            Some(Waiter::Reply(_)) if refused => self.refused.push_back((Instant::now() + REPLY_GRACE, number, reason)),
            Some(Waiter::Acknowledgement(_)) => self.finish(number, if refused { Err(reason) } else { Ok(()) }),
            _ => {}
        }
    }

    /// Handles a PUBREC, the first acknowledgement of QoS 2; with an error it is the last one.
    pub(crate) fn received(&mut self, ack: PubRec) {
        if !matches!(ack.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers)
            && let Some(number) = self.by_packet_id.remove(&ack.pkid)
        {
            let reason = ack.properties.and_then(|properties| properties.reason_string);
            self.finish(number, Err(reason.unwrap_or_else(|| format!("{:?}", ack.reason))));
        }
    }

    /// Handles a PUBCOMP.
    pub(crate) fn completed(&mut self, packet_id: u16) {
        if let Some(number) = self.by_packet_id.remove(&packet_id) {
            self.finish(number, Ok(()));
        }
    }

    fn finish(&mut self, number: u64, outcome: Result<(), String>) {
        if let Some(Waiter::Acknowledgement(waiter)) = self.waiting.remove(&number) {
            let _ = waiter.send(outcome.map_err(Error::Refused));
        }
    }

    /// Waits until the oldest refused request has waited long enough for its reply.
    pub(crate) async fn next_refusal(&self) {
        match self.refused.front() {
            Some((deadline, ..)) => sleep_until(*deadline).await,
            None => std::future::pending().await,
        }
    }

    /// Fails the refused requests whose reply did not follow in time.
    pub(crate) fn fail_refused(&mut self, now: Instant) {
        while let Some((_, number, reason)) = self.refused.pop_front_if(|(deadline, ..)| *deadline <= now) {
            if let Some(waiter) = self.waiting.remove(&number) {
                waiter.fail(Error::Refused(reason));
            }
        }
    }

    /// Fails all requests with `error`.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        self.waiting.drain().for_each(|(_, waiter)| waiter.fail(error.clone()));
        self.unnumbered.clear();
        self.by_packet_id.clear();
        self.refused.clear();
    }
}

impl Waiter {
    fn is_closed(&self) -> bool {
        match self {
            Self::Reply(reply) => reply.is_closed(),
            Self::Acknowledgement(waiter) => waiter.is_closed(),
        }
    }

    fn fail(self, error: Error) {
        match self {
            Self::Reply(reply) => drop(reply.send(Err(error))),
            Self::Acknowledgement(waiter) => drop(waiter.send(Err(error))),
        }
    }
}

/// The time that a reply may take after the PUBACK that refuses its request.
const REPLY_GRACE: Duration = Duration::from_millis(500);
