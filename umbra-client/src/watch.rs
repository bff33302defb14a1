//! What a watch hands out: news of shadows, in order, from a bounded queue.
//!
//! A reader that does not keep up loses what is superseded first: of each shadow and kind of news, the newest always
//! arrives. Only where more shadows have news than the queue has room for does the oldest of all go.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    document::{Accepted, Change, Delta, Document},
    names::ShadowId,
};

/// What to hear of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// What the device has to make up for, whenever there is something, with who wished for it.
    Delta,
    /// The difference alone: at once if there is one, and whenever it changes, as fast as one reads. For devices.
    Difference,
    /// Each change, with the document before and after it.
    Changes,
    /// The document as it is now: at once, and after every change, as fast as one reads. For dashboards.
    Document,
    /// That updates were accepted, without their contents.
    Accepted,
}

/// Whose news to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One shadow's.
    Shadow(ShadowId),
    /// Those of all shadows one may see, classic and named.
    All,
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// See [`Topic::Delta`].
    Delta(ShadowId, Delta),
    /// See [`Topic::Difference`]; `None` once nothing is left to make up for.
    Difference(ShadowId, Option<Delta>),
    /// See [`Topic::Changes`].
    Changed(ShadowId, Box<Change>),
    /// See [`Topic::Document`]; `None` once the shadow is deleted.
    Document(ShadowId, Option<Box<Document>>),
    /// See [`Topic::Accepted`].
    Accepted(ShadowId, Accepted),
    /// The connection was made anew: deltas and changes may have been missed, so what matters should be read again.
    Resumed,
}

impl Topic {
    /// The end of the MQTT topics.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Delta => "update/delta",
            Self::Difference => "delta",
            Self::Changes => "update/documents",
            Self::Document => "document",
            Self::Accepted => "update/accepted",
        }
    }

    /// What such a message says.
    pub(crate) fn parse(self, shadow: ShadowId, payload: &[u8]) -> serde_json::Result<News> {
        Ok(match self {
            Self::Delta => News::Delta(shadow, serde_json::from_slice(payload)?),
            Self::Difference if payload.is_empty() => News::Difference(shadow, None),
            Self::Difference => News::Difference(shadow, Some(serde_json::from_slice(payload)?)),
            Self::Changes => News::Changed(shadow, serde_json::from_slice(payload)?),
            Self::Document if payload.is_empty() => News::Document(shadow, None),
            Self::Document => News::Document(shadow, Some(serde_json::from_slice(payload)?)),
            Self::Accepted => News::Accepted(shadow, serde_json::from_slice(payload)?),
        })
    }
}

impl News {
    /// Which shadow and kind it is of; newer news of the same supersedes it.
    fn subject(&self) -> (Option<&ShadowId>, Option<Topic>) {
        match self {
            Self::Delta(shadow, _) => (Some(shadow), Some(Topic::Delta)),
            Self::Difference(shadow, _) => (Some(shadow), Some(Topic::Difference)),
            Self::Changed(shadow, _) => (Some(shadow), Some(Topic::Changes)),
            Self::Document(shadow, _) => (Some(shadow), Some(Topic::Document)),
            Self::Accepted(shadow, _) => (Some(shadow), Some(Topic::Accepted)),
            Self::Resumed => (None, None),
        }
    }
}

/// A subscription to news; it ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
    /// Held so that the client's task learns that nobody listens any more.
    ended: Arc<Notify>,
}

impl Watch {
    pub(crate) fn new(queue: Arc<Queue>, ended: Arc<Notify>) -> Self {
        Self { queue, ended }
    }

    /// The next piece of news, or `None` once the client is closed. May be dropped at any time: nothing is lost.
    pub async fn recv(&mut self) -> Option<News> {
        loop {
            let pushed = self.queue.pushed.notified();
            {
                let mut held = self.queue.lock();
                if let Some(news) = held.news.pop_front() {
                    return Some(news);
                }
                if held.closed {
                    return None;
                }
            }
            pushed.await;
        }
    }

    /// What is there already, without waiting.
    pub fn try_recv(&mut self) -> Option<News> {
        self.queue.lock().news.pop_front()
    }

    /// How much was passed over so far because the queue was full.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.queue.lock().missed
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
    room: usize,
    held: Mutex<WatchedShadow>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct WatchedShadow {
    news: VecDeque<News>,
    missed: u64,
    closed: bool,
}

impl Queue {
    /// A queue of at most `room` pieces of news, at least one.
    pub(crate) fn new(room: usize) -> Self {
        Self { room: room.max(1), held: Mutex::default(), pushed: Notify::new() }
    }

    /// Adds the newest.
    pub(crate) fn push(&self, news: News) {
        let mut held = self.lock();
        if held.closed {
            return;
        }
        if held.news.len() >= self.room {
            let superseded = held.news.iter().position(|old| old.subject() == news.subject());
            held.news.remove(superseded.unwrap_or(0));
            held.missed += 1;
        }
        held.news.push_back(news);
        self.pushed.notify_one();
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.pushed.notify_one();
    }

    /// Whether nobody reads it any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WatchedShadow> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceId, Version};

    fn delta(device: &str, version: u64) -> News {
        let shadow = DeviceId::new(device).expect("a device id").into();
        News::Delta(shadow, Delta { version: Version(version), ..Delta::default() })
    }

    fn watch(room: usize) -> (Arc<Queue>, Watch) {
        let queue = Arc::new(Queue::new(room));
        (queue.clone(), Watch::new(queue, Arc::default()))
    }

    #[test]
    fn a_full_queue_passes_over_what_is_superseded() {
        for (label, room, pushed, expected, missed) in [
            ("room for all", 3, vec![("a", 1), ("a", 2), ("b", 1)], vec![("a", 1), ("a", 2), ("b", 1)], 0),
            ("the older of the same", 2, vec![("b", 1), ("a", 1), ("a", 2)], vec![("b", 1), ("a", 2)], 1),
            ("the oldest of all", 2, vec![("a", 1), ("b", 1), ("c", 1)], vec![("b", 1), ("c", 1)], 1),
            ("no room is room for one", 0, vec![("a", 1), ("a", 2)], vec![("a", 2)], 1),
        ] {
            let (queue, mut watch) = watch(room);
            pushed.into_iter().for_each(|(device, version)| queue.push(delta(device, version)));
            let expected: Vec<_> = expected.into_iter().map(|(device, version)| delta(device, version)).collect();
            assert_eq!(watch.missed(), missed, "{label}");
            assert_eq!(std::iter::from_fn(|| watch.try_recv()).collect::<Vec<_>>(), expected, "{label}");
        }
    }

    #[tokio::test]
    async fn a_reader_is_woken_and_told_the_end() {
        let (queue, mut watch) = watch(4);
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            while let Some(news) = watch.recv().await {
                read.push(news);
            }
            read
        });
        for version in 1..=3 {
            queue.push(delta("a", version));
            tokio::task::yield_now().await;
        }
        queue.close();
        let read = reader.await.expect("the reader ends");
        assert_eq!(read.last(), Some(&delta("a", 3)));
    }

    #[test]
    fn a_dropped_watch_takes_no_more() {
        let (queue, watch) = watch(4);
        drop(watch);
        queue.push(delta("a", 1));
        assert!(queue.is_closed() && queue.lock().news.is_empty());
    }
}
