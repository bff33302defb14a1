//! The way of what clients ask for to the log of a cluster, and of the answers back.
//!
//! A request is broadcast, and every node applies it in the order of the log. The node that sent it knows it again by a random
//! number, and answers it when it has applied it. Requests that wait for the log have some megabytes of memory, of which each
//! principal has a share.
//!
//! *Not here:* the meaning of a request and its encoding, which are those of the module that applies it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{sleep, timeout},
};

use crate::{
    engine::Service,
    store::{BROADCAST_BYTES_MAX, OnDurable},
};

/// The pause before a request is sent for which there was no room.
const ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of requests in a room, and those of one principal.
const ROOM_BYTES: usize = BROADCAST_BYTES_MAX / 16;
const SHARE_BYTES: usize = ROOM_BYTES / 8;
/// The longest wait for the log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory for requests that wait for the log, of which each principal has a share.
#[derive(Debug)]
pub struct RequestRoom {
    bytes: Arc<Semaphore>,
    shares: Shares,
}

/// The bytes of each principal that wait for the log.
type Shares = Arc<Mutex<HashMap<Arc<str>, usize>>>;

/// Bytes of a principal that wait for the log. Dropping it releases them.
#[derive(Debug)]
struct Share {
    principal: Arc<str>,
    bytes: usize,
    all: Shares,
}

impl Default for RequestRoom {
    fn default() -> Self {
        Self { bytes: Arc::new(Semaphore::new(ROOM_BYTES)), shares: Shares::default() }
    }
}

impl RequestRoom {
    /// Returns memory for `bytes`, of the share of the principal `by`; `None` if too many wait. One request alone may have any size.
    fn take(&self, bytes: usize, by: Option<&Arc<str>>) -> Option<(OwnedSemaphorePermit, Option<Share>)> {
        let share = match by {
            Some(by) => Some(Share::of(by, bytes, &self.shares)?),
            None => None,
        };
        let room = Arc::clone(&self.bytes).try_acquire_many_owned(u32::try_from(bytes.min(ROOM_BYTES)).ok()?);
        Some((room.ok()?, share))
    }
}

impl Share {
    /// Returns the share of a request; `None` if too many of the principal wait.
    fn of(principal: &Arc<str>, bytes: usize, all: &Shares) -> Option<Self> {
        let mut shares = all.lock();
        let used = shares.entry(principal.clone()).or_default();
        if *used > 0 && *used + bytes > SHARE_BYTES {
            return None;
        }
        *used += bytes;
        Some(Self { principal: principal.clone(), bytes, all: all.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.all.lock();
        let used = shares.remove(&self.principal).unwrap_or_default().saturating_sub(self.bytes);
        if used > 0 {
            shares.insert(self.principal.clone(), used);
        }
    }
}

/// An encoded request.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRequest<'a> {
    /// The random number by which this node knows it again.
    pub number: u64,
    /// The bytes that all nodes receive.
    pub bytes: &'a Bytes,
    /// The principal that asks for it; `None` if it is of this node.
    pub by: Option<&'a Arc<str>>,
    /// True if it is withdrawn when the log is away for long.
    pub may_expire: bool,
}

/// The requests of one kind that this node has sent to the log and not applied yet.
#[derive(Debug)]
pub struct LogRequests<A> {
    room: Arc<RequestRoom>,
    waiting: WaitingSenders<A>,
}

type WaitingSenders<A> = Arc<Mutex<HashMap<u64, oneshot::Sender<A>>>>;

/// The place of a sender among those that wait. Dropping it ends the wait.
#[derive(Debug)]
struct Waiting<A> {
    request: u64,
    senders: WaitingSenders<A>,
}

impl<A> Drop for Waiting<A> {
    fn drop(&mut self) {
        // The sender is dropped without the lock.
        let _ended = self.senders.lock().remove(&self.request);
    }
}

/// The answer to a request that was sent.
#[derive(Debug)]
pub struct PendingAnswer<A> {
    answer: oneshot::Receiver<A>,
    _waiting: Waiting<A>,
}

impl<A> PendingAnswer<A> {
    /// Waits for the answer; `None` if the server ends, or the request was withdrawn.
    pub async fn wait(mut self) -> Option<A> {
        (&mut self.answer).await.ok()
    }

    /// Returns true if it is there, or will not come.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

impl<A: Send + 'static> LogRequests<A> {
    /// Returns no requests, whose memory will be that of `room`.
    #[must_use]
    pub fn new(room: Arc<RequestRoom>) -> Self {
        Self { room, waiting: Arc::default() }
    }

    /// Sends a request of a client when there is room for it, and waits for the answer; `None` if the log does not have it in time.
    pub async fn ask(&self, service: &Service, request: EncodedRequest<'_>) -> Option<A> {
        // What is sent while nothing is heard of the log would wait, and come when nobody expects it.
        if service.health().member.is_some_and(|member| member.obstacle().is_some()) {
            return None;
        }
        answered_in_time(async { self.send(service, request).await.wait().await }).await
    }

    /// Sends a request when there is room for it.
    pub async fn send(&self, service: &Service, request: EncodedRequest<'_>) -> PendingAnswer<A> {
        loop {
            if let Some(pending) = self.try_send(service, request) {
                return pending;
            }
            sleep(ROOM_PAUSE).await;
        }
    }

    /// Sends a request if there is room for it.
    pub fn try_send(&self, service: &Service, request: EncodedRequest<'_>) -> Option<PendingAnswer<A>> {
        let EncodedRequest { number, bytes, by, may_expire } = request;
        let room = self.room.take(bytes.len(), by)?;
        let permit = service.reserve_broadcast(bytes.len())?;
        let pending = self.await_answer(number);
        // Dropped without a call if it is withdrawn, which ends the wait.
        let held = (self.waiting(number), room);
        let on_applied: OnDurable = Box::new(move || drop(held));
        match may_expire {
            true => service.broadcast_in_time(bytes.clone(), Some(on_applied), permit),
            false => service.broadcast(bytes.clone(), Some(on_applied), permit),
        }
        Some(pending)
    }

    /// Returns the answer that [`LogRequests::answer`] will give to the request with this number.
    #[must_use]
    pub fn await_answer(&self, number: u64) -> PendingAnswer<A> {
        let (answered, answer) = oneshot::channel();
        self.waiting.lock().insert(number, answered);
        PendingAnswer { answer, _waiting: self.waiting(number) }
    }

    /// Answers the request with this number. Returns false if nobody waits for it at this node.
    pub fn answer(&self, number: u64, answer: A) -> bool {
        let waiting = self.waiting.lock().remove(&number);
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    /// Ends all waits, when the server ends.
    pub fn close(&self) {
        let _ended = std::mem::take(&mut *self.waiting.lock());
    }

    fn waiting(&self, request: u64) -> Waiting<A> {
        Waiting { request, senders: self.waiting.clone() }
    }
}

/// Returns what `asked` comes to within the longest wait for the log.
pub async fn answered_in_time<T>(asked: impl Future<Output = Option<T>>) -> Option<T> {
    timeout(ANSWER_TIMEOUT, asked).await.ok().flatten()
}

/// Returns a random number.
#[must_use]
pub fn nonce() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("an operating system that has started a process has random bytes");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A principal that sends all the time leaves room for others.
    #[test]
    fn a_principal_has_a_share_of_the_room() {
        let room = RequestRoom::default();
        let (one, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let large = room.take(2 * SHARE_BYTES, Some(&one));
        assert!(large.is_some(), "one alone may have any size");
        assert!(room.take(1, Some(&one)).is_none());
        assert!(room.take(SHARE_BYTES, Some(&other)).is_some());
        drop(large);
        let most: Vec<_> = std::iter::from_fn(|| room.take(SHARE_BYTES / 4, Some(&one))).collect();
        assert_eq!(most.len(), 4);
        drop(most);
        assert!(room.shares.lock().is_empty());
        let own: Vec<_> = std::iter::from_fn(|| room.take(SHARE_BYTES, None)).collect();
        assert_eq!(own.len(), ROOM_BYTES / SHARE_BYTES, "those of the node have all of it");
    }

    #[tokio::test]
    async fn a_wait_ends_with_an_answer_or_without_one() {
        let requests = LogRequests::new(Arc::default());
        let (first, mut second, third) = (requests.await_answer(1), requests.await_answer(2), requests.await_answer(3));
        let last = requests.await_answer(4);
        assert!(requests.answer(1, "done"));
        assert_eq!(first.wait().await, Some("done"));
        assert!(!requests.answer(1, "again") && !requests.answer(9, "of another node"));
        drop(third);
        assert!(!requests.answer(3, "its client has gone away"));
        assert!(!second.is_over());
        requests.close();
        assert!(second.is_over());
        assert_eq!(last.wait().await, None);
    }
}
