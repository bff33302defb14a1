//! A node that offers its store to others, and streams a backup of it to one of them at a time.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    cluster::seeding::{CHUNK_BYTES, LISTEN_AGAIN_AFTER, STALL_TIMEOUT, SeedLink, WINDOW},
    store::{NodeId, SeedMessage, SeedOffer},
};

/// A store that may be streamed. Its methods block.
pub(crate) trait SeedSource: Send + Sync + 'static {
    /// Returns the offer of the store; `None` if it has no data.
    fn offer(&self) -> Option<SeedOffer>;

    /// Writes a backup to `out`.
    ///
    /// # Errors
    ///
    /// The reason, as a sentence.
    fn back_up(&self, out: &mut dyn Write) -> Result<(), String>;
}

/// A backup that is being streamed. It ends when this is dropped.
struct Streaming {
    to: NodeId,
    seed: u64,
    /// Chunks that the receiver has taken.
    taken: u64,
    window: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.window.close();
    }
}

/// Offers the store of `source` to the nodes that want one, and streams it, for ever.
pub(crate) async fn offer_store(link: impl SeedLink, source: Arc<dyn SeedSource>) {
    let mut streaming: Option<Streaming> = None;
    let mut messages = link.messages().await;
    loop {
        let Some(message) = messages.next().await else {
            sleep(LISTEN_AGAIN_AFTER).await;
            messages = link.messages().await;
            continue;
        };
        streaming = streaming.filter(|streaming| !streaming.task.is_finished());
        match SeedMessage::decode(&message) {
            Ok(SeedMessage::Wanted { node, seed }) => {
                let asked = Arc::clone(&source);
                let offer = spawn_blocking(move || asked.offer()).await.ok().flatten();
                if let Some(offer) = offer.filter(|offer| offer.source != node) {
                    let is_busy = streaming.as_ref().is_some_and(|streaming| streaming.to != node);
                    let offer = SeedOffer { is_busy, ..offer };
                    link.send(Some(node), &SeedMessage::Offered { seed, offer }).await;
                }
            }
            Ok(SeedMessage::Begin { node, seed }) => match &streaming {
                Some(other) if other.to != node => {
                    let reason = format!("it seeds node {}", other.to.0);
                    link.send(Some(node), &SeedMessage::Failed { seed, reason }).await;
                }
                // What the node has received before is lost with its process.
                _ => streaming = Some(Streaming::start(link.clone(), Arc::clone(&source), node, seed)),
            },
            Ok(SeedMessage::Taken { seed, chunks }) => {
                if let Some(streaming) = streaming.as_mut().filter(|streaming| streaming.seed == seed) {
                    streaming.take(chunks);
                }
            }
            Ok(SeedMessage::Stop { seed }) => streaming = streaming.filter(|streaming| streaming.seed != seed),
            // This node was seeded before.
            Ok(
                SeedMessage::Offered { .. }
                | SeedMessage::Chunk { .. }
                | SeedMessage::End { .. }
                | SeedMessage::Failed { .. },
            ) => {}
            Err(error) => tracing::warn!(error, "a message about a seed cannot be read"),
        }
    }
}

impl Streaming {
    fn start(link: impl SeedLink, source: Arc<dyn SeedSource>, to: NodeId, seed: u64) -> Self {
        let window = Arc::new(Semaphore::new(WINDOW));
        let buffer = Vec::with_capacity(CHUNK_BYTES);
        let mut out =
            ChunkWriter { link, to, seed, window: Arc::clone(&window), runtime: Handle::current(), chunks: 0, buffer };
        tracing::info!(node = to.0, "streaming this node's store to another node");
        let task = spawn_blocking(move || {
            let written = source.back_up(&mut out);
            match written.and_then(|()| out.end().map_err(|error| error.to_string())) {
                Ok(()) => {
                    tracing::info!(node = to.0, chunks = out.chunks, "this node's store was streamed to another node")
                }
                Err(reason) => {
                    tracing::warn!(node = to.0, reason, "this node's store was not streamed to its end");
                    out.send_now(&SeedMessage::Failed { seed, reason });
                }
            }
        });
        Self { to, seed, taken: 0, window, task }
    }

    /// Notes that the receiver has taken the first `chunks` chunks.
    fn take(&mut self, chunks: u64) {
        let taken = usize::try_from(chunks.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        self.taken = self.taken.max(chunks);
        let sent = WINDOW.saturating_sub(self.window.available_permits());
        self.window.add_permits(taken.min(sent));
    }
}

/// The writer of a backup, which sends it in chunks.
struct ChunkWriter<L> {
    link: L,
    to: NodeId,
    seed: u64,
    window: Arc<Semaphore>,
    runtime: Handle,
    chunks: u64,
    buffer: Vec<u8>,
}

impl<L: SeedLink> ChunkWriter<L> {
    fn send_now(&self, message: &SeedMessage) -> bool {
        self.runtime.block_on(self.link.send(Some(self.to), message))
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let permit = self.runtime.block_on(timeout(STALL_TIMEOUT, self.window.acquire()));
        match permit {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) => return Err(io::Error::other("it is not wanted any more")),
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the other node takes nothing")),
        }
        let bytes = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        let (seed, index) = (self.seed, self.chunks);
        self.chunks += 1;
        match self.send_now(&SeedMessage::Chunk { seed, index, bytes }) {
            true => Ok(()),
            false => Err(io::Error::other("there is no connection to NATS")),
        }
    }

    /// Sends the rest, and the end.
    fn end(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.send_chunk()?;
        }
        match self.send_now(&SeedMessage::End { seed: self.seed, chunks: self.chunks }) {
            true => Ok(()),
            false => Err(io::Error::other("there is no connection to NATS")),
        }
    }
}

impl<L: SeedLink> Write for ChunkWriter<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        let (now, _) = bytes.split_at(taken);
        self.buffer.extend_from_slice(now);
        if self.buffer.len() == CHUNK_BYTES {
            self.send_chunk()?;
        }
        Ok(taken)
    }

    /// Keeps a chunk that is not full: [`ChunkWriter::end`] sends it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
