//! The events of a watch, in order, from a bounded queue.
//!
//! A reader that falls behind loses superseded events first: of each shadow and topic, the newest event always arrives.
//! Only if more shadows have events than the queue has capacity for, the oldest event is dropped.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use tokio::sync::Notify;

use crate::{
    document::{Accepted, Change, Delta, Document, Presence},
    names::{DeviceId, ShadowId},
};

/// A kind of event that a watch subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// `update/delta`: after each change that leaves a difference, with metadata.
    Delta,
    /// `delta`: the difference alone, at once and whenever it changes, as fast as it is read. For devices.
    LeanDelta,
    /// `update/documents`: each change, with the document before and after it.
    Changes,
    /// `document`: the document, at once and after every change, as fast as it is read. For dashboards.
    Document,
    /// `update/accepted`: each accepted update, without its contents.
    Accepted,
    /// `presence`: connected or not, at once and whenever it changes, of the device of the shadow.
    Presence,
}

/// The shadows that a watch covers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// One shadow.
    Shadow(ShadowId),
    /// All shadows that the client may read, classic and named.
    All,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// See [`Topic::Delta`].
    Delta(ShadowId, Delta),
    /// See [`Topic::LeanDelta`]; `None` once there is no difference.
    LeanDelta(ShadowId, Option<Delta>),
    /// See [`Topic::Changes`].
    Changed(ShadowId, Box<Change>),
    /// See [`Topic::Document`]; `None` once the shadow is deleted.
    Document(ShadowId, Option<Box<Document>>),
    /// See [`Topic::Accepted`].
    Accepted(ShadowId, Accepted),
    /// See [`Topic::Presence`].
    Presence(DeviceId, Presence),
    /// The client reconnected: deltas and changes may be missing, so the shadow should be read again.
    Resumed,
}

impl Topic {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Delta, Self::LeanDelta, Self::Changes, Self::Document, Self::Accepted, Self::Presence];

    /// Returns the end of the MQTT topics.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Delta => "update/delta",
            Self::LeanDelta => "delta",
            Self::Changes => "update/documents",
            Self::Document => "document",
            Self::Accepted => "update/accepted",
            Self::Presence => "presence",
        }
    }

    /// Returns the event that a message on such a topic is.
    pub(crate) fn parse(self, shadow: ShadowId, payload: &[u8]) -> serde_json::Result<Event> {
        Ok(match self {
            Self::Delta => Event::Delta(shadow, serde_json::from_slice(payload)?),
            Self::LeanDelta if payload.is_empty() => Event::LeanDelta(shadow, None),
            Self::LeanDelta => Event::LeanDelta(shadow, Some(serde_json::from_slice(payload)?)),
            Self::Changes => Event::Changed(shadow, serde_json::from_slice(payload)?),
            Self::Document if payload.is_empty() => Event::Document(shadow, None),
            Self::Document => Event::Document(shadow, Some(serde_json::from_slice(payload)?)),
            Self::Accepted => Event::Accepted(shadow, serde_json::from_slice(payload)?),
            Self::Presence if payload.is_empty() => Event::Presence(shadow.device().clone(), Presence::default()),
            Self::Presence => Event::Presence(shadow.device().clone(), serde_json::from_slice(payload)?),
        })
    }
}

impl Event {
    /// Returns the device that the event is about; `None` for [`Event::Resumed`].
    ///
    /// ```
    /// assert_eq!(umbra_client::Event::Resumed.device(), None);
    /// ```
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Presence(device, _) => Some(device),
            event => event.shadow().map(ShadowId::device),
        }
    }

    /// Returns the shadow that the event is about; `None` for [`Event::Presence`] and [`Event::Resumed`].
    ///
    /// ```
    /// assert_eq!(umbra_client::Event::Resumed.shadow(), None);
    /// ```
    #[must_use]
    pub fn shadow(&self) -> Option<&ShadowId> {
        match self {
            Self::Delta(shadow, _)
            | Self::LeanDelta(shadow, _)
            | Self::Changed(shadow, _)
            | Self::Document(shadow, _)
            | Self::Accepted(shadow, _) => Some(shadow),
            Self::Presence(..) | Self::Resumed => None,
        }
    }

    /// Returns true if this event supersedes `old`.
    fn supersedes(&self, old: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(old)
            && self.device() == old.device()
            && self.shadow() == old.shadow()
    }
}

/// A subscription to the events of shadows, which ends when this is dropped.
///
/// It is a [`Stream`] of events that ends once the client is closed.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use umbra_client::{Client, Event, Options, Scope, Topic};
///
/// # async fn example() -> Result<(), umbra_client::Error> {
/// let client = Client::connect(Options::new("127.0.0.1:1883", "dashboard-1")?).await?;
/// let mut watch = client.watch(Scope::All, &[Topic::Document], 64).await?;
/// while let Some(event) = watch.next().await {
///     if let Event::Document(shadow, document) = event {
///         println!("{shadow}: {document:?}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
    /// Wakes the client's task when this watch ends.
    ended: Arc<Notify>,
}

impl Watch {
    pub(crate) fn new(queue: Arc<Queue>, ended: Arc<Notify>) -> Self {
        Self { queue, ended }
    }

    /// Returns the next event; `None` once the client is closed. Cancel-safe: no event is lost.
    ///
    /// ```no_run
    /// # async fn example(mut watch: umbra_client::Watch) {
    /// while let Some(event) = watch.recv().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<Event> {
        poll_fn(|context| self.queue.poll_pop(context)).await
    }

    /// Returns the next event if there is one already.
    ///
    /// ```no_run
    /// # fn example(mut watch: umbra_client::Watch) {
    /// while let Some(event) = watch.try_recv() {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub fn try_recv(&mut self) -> Option<Event> {
        self.queue.lock().events.pop_front()
    }

    /// Returns the number of events dropped because the queue was full.
    ///
    /// ```no_run
    /// # fn example(watch: umbra_client::Watch) {
    /// println!("{} events dropped", watch.missed());
    /// # }
    /// ```
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.queue.lock().missed
    }
}

impl Stream for Watch {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.queue.poll_pop(context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.ended.notify_one();
    }
}

/// The queue between the client's task and a [`Watch`].
#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    events: VecDeque<Event>,
    missed: u64,
    closed: bool,
    /// The reader that waits for an event.
    reader: Option<Waker>,
}

impl Queue {
    /// Returns a queue of at most `capacity` events, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), state: Mutex::default() }
    }

    /// Appends `event`; drops a superseded event, or the oldest, if the queue is full.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if state.events.len() >= self.capacity {
            let superseded = state.events.iter().position(|old| event.supersedes(old));
            state.events.remove(superseded.unwrap_or(0));
            state.missed += 1;
        }
        state.events.push_back(event);
        wake(state);
    }

    /// Ends the queue: the reader gets the events that are left, then `None`.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    /// Returns true once either end closed the queue.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn poll_pop(&self, context: &Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.lock();
        match state.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the reader after the lock is released.
fn wake(mut state: std::sync::MutexGuard<'_, QueueState>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::Version;

    fn id(device: &str) -> DeviceId {
        DeviceId::new(device).expect("a device id")
    }

    fn delta(device: &str, version: u64) -> Event {
        Event::Delta(id(device).into(), Delta { version: Version(version), ..Delta::default() })
    }

    fn watch(capacity: usize) -> (Arc<Queue>, Watch) {
        let queue = Arc::new(Queue::new(capacity));
        (queue.clone(), Watch::new(queue, Arc::default()))
    }

    #[test]
    fn a_full_queue_drops_superseded_events_first() {
        for (label, capacity, pushed, expected, missed) in [
            ("capacity for all", 3, vec![("a", 1), ("a", 2), ("b", 1)], vec![("a", 1), ("a", 2), ("b", 1)], 0),
            ("the superseded one", 2, vec![("b", 1), ("a", 1), ("a", 2)], vec![("b", 1), ("a", 2)], 1),
            ("the oldest", 2, vec![("a", 1), ("b", 1), ("c", 1)], vec![("b", 1), ("c", 1)], 1),
            ("capacity 0 is 1", 0, vec![("a", 1), ("a", 2)], vec![("a", 2)], 1),
        ] {
            let (queue, mut watch) = watch(capacity);
            pushed.into_iter().for_each(|(device, version)| queue.push(delta(device, version)));
            let expected: Vec<_> = expected.into_iter().map(|(device, version)| delta(device, version)).collect();
            assert_eq!(watch.missed(), missed, "{label}");
            assert_eq!(std::iter::from_fn(|| watch.try_recv()).collect::<Vec<_>>(), expected, "{label}");
        }
    }

    #[test]
    fn an_event_supersedes_older_ones_of_the_same_topic_and_subject() {
        let presence = |device, connected| Event::Presence(id(device), Presence { connected, last_seen: 1 });
        for (label, old, new, expected) in [
            ("the same shadow", delta("a", 1), delta("a", 2), true),
            ("another shadow", delta("a", 1), delta("b", 2), false),
            ("another topic", delta("a", 1), Event::LeanDelta(id("a").into(), None), false),
            ("the same device", presence("a", true), presence("a", false), true),
            ("another device", presence("a", true), presence("b", true), false),
            ("reconnects", Event::Resumed, Event::Resumed, true),
        ] {
            assert_eq!(new.supersedes(&old), expected, "{label}");
        }
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_events_and_by_the_end() {
        let (queue, watch) = watch(4);
        let reader = tokio::spawn(watch.collect::<Vec<_>>());
        for version in 1..=3 {
            queue.push(delta("a", version));
            tokio::task::yield_now().await;
        }
        queue.close();
        let read = reader.await.expect("the reader ends");
        assert_eq!(read, [1, 2, 3].map(|version| delta("a", version)));
    }

    #[test]
    fn a_dropped_watch_accepts_no_events() {
        let (queue, watch) = watch(4);
        drop(watch);
        queue.push(delta("a", 1));
        assert!(queue.is_closed() && queue.lock().events.is_empty());
    }
}
