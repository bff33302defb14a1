//! A node that makes its store of the one of another node.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{self, Read},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    cluster::seeding::{
        ACKNOWLEDGED_EVERY, ASK_FOR, LogExtent, Notices, SILENCE_MAX, SeedLink, check,
        choice::{Choice, Situation, choose},
        failures::Failures,
        random,
    },
    store::{
        self, NodeId, SeedError, SeedMessage, SeedOffer, SeedTarget, Seeded, SeedingStatus, StoreError, StoreOptions,
    },
};

/// The time after which a node without a store begins with an empty one, if nobody offers another and the log has everything. Nodes that
/// start at the same time are heard of by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two questions to the others, after [`PATIENCE`]. It doubles with each.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The longest pause.
const ASK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);
/// The interval at which the reason of a wait is logged.
const LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Chunks that are received and not taken by the thread that makes the store.
const CHUNKS_QUEUED: usize = 4;

/// A node that has no store, or one that is too old; see the module.
pub(crate) struct SeedReceiver<L> {
    link: L,
    node: NodeId,
    options: StoreOptions,
    has_store: bool,
    /// A sentence about what the node does, for `/readyz`.
    state: watch::Sender<String>,
    messages: BoxStream<'static, Bytes>,
    failures: Failures,
}

/// A reason why an attempt failed.
enum Failure {
    /// This node cannot make a store.
    Own(StoreError),
    /// The source, its store or this node's disk is of no use now.
    Again(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            // It may have room later. A process that starts anew would receive all of it again at once.
            StoreError::Io { error: cause, .. }
                if matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::Again(format!("this node cannot write it: {error}"))
            }
            _ => Self::Own(error),
        }
    }
}

impl<L: SeedLink> SeedReceiver<L> {
    /// Returns the receiver of the store of `options` for `node`, which `has_store` that is too old, or none.
    pub(crate) async fn new(
        link: L,
        node: NodeId,
        options: StoreOptions,
        has_store: bool,
        state: watch::Sender<String>,
    ) -> Self {
        let messages = link.messages().await;
        Self { link, node, options, has_store, state, messages, failures: Failures::default() }
    }

    /// Makes the store, and returns the notices that go on until they are dropped. Returns `None` if the node may begin with an empty
    /// store. May be cancelled; nothing is left then.
    ///
    /// # Errors
    ///
    /// The store cannot be written, or another process makes it. Whatever else fails is tried again.
    pub(crate) async fn run(mut self) -> Result<Option<Notices>, StoreError> {
        let target = Arc::new(SeedTarget::lock(self.options.clone(), self.has_store)?);
        let begun = Instant::now();
        let mut logged: Option<Instant> = None;
        let mut pause = ASK_AGAIN_AFTER;
        loop {
            let seed = random();
            let offers = self.ask(seed).await;
            let extent = self.link.extent().await;
            let begins_empty = offers.is_empty() && self.begins_empty(extent).await;
            let has_waited = begun.elapsed() >= PATIENCE;
            let situation = Situation { has_store: self.has_store, extent, begins_empty, has_waited };
            match choose(&situation, &offers, &self.failures, Instant::now()) {
                Choice::Empty => return Ok(None),
                Choice::Take(offer) => match self.fetch(seed, offer, &target).await {
                    Ok(notices) => return Ok(Some(notices)),
                    Err(Failure::Own(error)) => return Err(error),
                    Err(Failure::Again(reason)) => {
                        tracing::warn!(source = offer.source.0, reason, "the store of another node was not received");
                        self.failures.add(offer.source, reason, Instant::now());
                        pause = ASK_AGAIN_AFTER;
                    }
                },
                Choice::Wait(reason) => {
                    if logged.is_none_or(|logged| logged.elapsed() >= LOGGED_EVERY) {
                        logged = Some(Instant::now());
                        tracing::warn!(reason, "this node needs the store of another one, and waits");
                    }
                    self.state.send_replace(format!("This node needs the store of another one, and waits: {reason}"));
                    if has_waited {
                        sleep(pause).await;
                        pause = (pause * 2).min(ASK_AGAIN_AFTER_MAX);
                    }
                }
            }
        }
    }

    /// Asks all nodes, and returns their offers.
    async fn ask(&mut self, seed: u64) -> Vec<SeedOffer> {
        let until = Instant::now() + ASK_FOR;
        self.link.send(None, &SeedMessage::Wanted { node: self.node, seed }).await;
        let mut offers = BTreeMap::new();
        while let Ok(message) = timeout_at(until, self.messages.next()).await {
            let Some(message) = message else {
                // The connection was closed. It is the same for the next question.
                sleep_until(until).await;
                self.messages = self.link.messages().await;
                break;
            };
            match SeedMessage::decode(&message) {
                Ok(SeedMessage::Offered { seed: answered, offer }) if answered == seed => {
                    offers.insert(offer.source, offer);
                }
                _ => {}
            }
        }
        offers.into_values().collect()
    }

    async fn begins_empty(&self, extent: LogExtent) -> bool {
        extent.first <= 1 && self.link.record(1).await.is_some_and(|record| store::begins_empty(&record))
    }

    /// Receives the store that `offer` offers.
    async fn fetch(&mut self, seed: u64, offer: SeedOffer, target: &Arc<SeedTarget>) -> Result<Notices, Failure> {
        let SeedOffer { source, applied, file_bytes, .. } = offer;
        tracing::info!(source = source.0, applied, file_bytes, "receiving the store of another node");
        let status = SeedingStatus { node: self.node, source, needed: applied, bytes: 0 };
        // Before the source reads its store: the log is kept from here on.
        self.link.notify(status).await;
        let notices = Notices::start(self.link.clone(), status);
        self.link.send(Some(source), &SeedMessage::Begin { node: self.node, seed }).await;
        let (chunks, queue) = mpsc::channel(CHUNKS_QUEUED);
        // It ends with this future, so that a server which ends does not wait for the log.
        let (_running, cancelled) = oneshot::channel::<Infallible>();
        let (link, target, runtime) = (self.link.clone(), Arc::clone(target), Handle::current());
        let mut making = spawn_blocking(move || {
            let accept = |applied: &_| {
                runtime.block_on(async {
                    tokio::select! {
                        checked = check(&link, applied) => checked.map_err(|misfit| misfit.to_string()),
                        _ = cancelled => Err("it is not wanted any more".to_owned()),
                    }
                })
            };
            target.seed(ChunkReader { queue, chunk: Bytes::new() }, accept)
        });
        let received = self.receive(seed, offer, &notices, chunks, &mut making).await;
        if !matches!(received, Ok(None)) {
            // The source would wait for this node, and be busy for others.
            self.link.send(Some(source), &SeedMessage::Stop { seed }).await;
        }
        let (made, reason) = match received {
            Ok(Some(made)) => (made, None),
            Ok(None) => (making.await, None),
            // It has no more to read, and removes what it has made, unless only the end is lost.
            Err(reason) => (making.await, Some(reason)),
        };
        match made {
            Ok(Ok(seeded)) => {
                let Seeded { shadows, applied, former } = seeded;
                let former = former.map(|path| path.display().to_string());
                tracing::info!(
                    source = source.0,
                    shadows,
                    applied = applied.number,
                    former,
                    "received the store of another node"
                );
                // It has its store, and is to apply what follows.
                drop(notices);
                Ok(Notices::of_log(self.link.clone(), self.node, applied.number + 1))
            }
            Ok(Err(SeedError::Store(error))) => Err(error.into()),
            Ok(Err(error)) => Err(Failure::Again(reason.unwrap_or_else(|| error.to_string()))),
            Err(error) => Err(Failure::Again(reason.unwrap_or_else(|| error.to_string()))),
        }
    }

    /// Passes the chunks on until the end. Returns the result of `making` if that came before.
    async fn receive<T>(
        &mut self,
        seed: u64,
        offer: SeedOffer,
        notices: &Notices,
        chunks: mpsc::Sender<Bytes>,
        making: &mut JoinHandle<T>,
    ) -> Result<Option<Result<T, tokio::task::JoinError>>, String> {
        // Messages of others say nothing about the source.
        let (source, mut received, mut last_heard) = (offer.source, 0, Instant::now());
        let node = source.0;
        loop {
            let message = tokio::select! {
                message = timeout_at(last_heard + SILENCE_MAX, self.messages.next()) => message,
                made = &mut *making => return Ok(Some(made)),
            };
            let Ok(message) = message else {
                return Err(format!("nothing came from node {node} for {} seconds", SILENCE_MAX.as_secs()));
            };
            let message = message.ok_or("the connection to NATS was closed")?;
            match SeedMessage::decode(&message) {
                Ok(SeedMessage::Chunk { seed: of, index, bytes }) if of == seed => {
                    if index != received {
                        return Err(format!("chunk {received} is lost"));
                    }
                    received += 1;
                    let all = notices.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
                    if chunks.send(bytes).await.is_err() {
                        return Ok(Some(making.await));
                    }
                    if received % ACKNOWLEDGED_EVERY == 0 {
                        self.link.send(Some(source), &SeedMessage::Taken { seed, chunks: received }).await;
                        self.report(offer, all);
                    }
                    last_heard = Instant::now();
                }
                Ok(SeedMessage::End { seed: of, chunks }) if of == seed => {
                    return if chunks == received { Ok(None) } else { Err(format!("chunk {received} is lost")) };
                }
                Ok(SeedMessage::Failed { seed: of, reason }) if of == seed => return Err(reason),
                // One that is damaged, or of another program, may be of others. A chunk that is lost is found by its number.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn report(&self, offer: SeedOffer, bytes: u64) {
        let SeedOffer { source, file_bytes, .. } = offer;
        let node = source.0;
        self.state.send_replace(format!(
            "This node receives the store of node {node}: {bytes} bytes so far, of a file of {file_bytes}"
        ));
    }
}

/// The reader of the chunks. It ends with their sender.
struct ChunkReader {
    queue: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let Some(chunk) = self.queue.blocking_recv() else { return Ok(0) };
            self.chunk = chunk;
        }
        let count = out.len().min(self.chunk.len());
        let (filled, _) = out.split_at_mut(count);
        self.chunk.copy_to_slice(filled);
        Ok(count)
    }
}
