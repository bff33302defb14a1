//! Messages between nodes, over core NATS: fast, and lost when a connection is, or a receiver is too slow.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{NatsLog, REQUEST_TIMEOUT};
use crate::{cluster::LogUnavailable, store::NodeId};

/// The bytes of messages that are received and not taken yet, so that neither a slow reader nor a fast sender grows the process.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// The memory of a message besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The messages to this node: in the order of each sender, but those to all may overtake the others.
pub(crate) struct BusReceiver {
    messages: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    #[cfg(test)]
    dropped: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl NatsLog {
    /// Sends a message to one node, at most once: `Ok` says that it was queued.
    pub(crate) async fn send(&self, to: NodeId, message: Bytes) -> Result<(), LogUnavailable> {
        self.publish(self.bus_of(to), message).await
    }

    /// Sends a message to all nodes, this one too, at most once.
    pub(crate) async fn send_all(&self, message: Bytes) -> Result<(), LogUnavailable> {
        self.publish(self.bus_of_all(), message).await
    }

    /// Receives messages to this node from now on. Those of nodes at other servers are lost until these know of it, in milliseconds.
    pub(crate) async fn received(&self) -> Result<BusReceiver, LogUnavailable> {
        let client = &self.shared.client;
        let failed = |error: async_nats::SubscribeError| LogUnavailable::Failed(error.to_string());
        let own = client.subscribe(self.bus_of(self.shared.node)).await.map_err(failed)?;
        let all = client.subscribe(self.bus_of_all()).await.map_err(failed)?;
        // When it is answered, the server has both subscriptions.
        timeout(REQUEST_TIMEOUT, client.flush())
            .await
            .map_err(|_| LogUnavailable::TimedOut)?
            .map_err(|error| LogUnavailable::Failed(error.to_string()))?;
        let (sender, messages) = mpsc::unbounded_channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(forward(stream::select(own, all), sender, Arc::clone(&dropped)));
        Ok(BusReceiver {
            messages,
            #[cfg(test)]
            dropped,
            task,
        })
    }

    async fn publish(&self, subject: String, message: Bytes) -> Result<(), LogUnavailable> {
        let (bytes, most) = (message.len(), self.shared.record_bytes_max);
        if bytes > most {
            return Err(LogUnavailable::TooLarge { bytes, most });
        }
        if self.shared.client.connection_state() != async_nats::connection::State::Connected {
            return Err(LogUnavailable::Failed("there is no connection".into()));
        }
        match timeout(REQUEST_TIMEOUT, self.shared.client.publish(subject, message)).await {
            Ok(sent) => sent.map_err(|error| LogUnavailable::Failed(error.to_string())),
            Err(_) => Err(LogUnavailable::TimedOut),
        }
    }

    fn bus_of(&self, NodeId(node): NodeId) -> String {
        format!("{}.{node}", self.shared.names.bus)
    }

    fn bus_of_all(&self) -> String {
        format!("{}.all", self.shared.names.bus)
    }
}

impl BusReceiver {
    /// Waits for the next message, and returns it with its memory; `None` once the connection is closed for ever.
    pub(crate) async fn next(&mut self) -> Option<(Bytes, OwnedSemaphorePermit)> {
        self.messages.recv().await
    }

    /// Returns the number of messages that were dropped since this reader was too slow.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for BusReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Moves messages from the subscriptions, whose queues are bounded only by number, into the queue of the reader.
async fn forward(
    mut messages: impl Stream<Item = async_nats::Message> + Unpin,
    sender: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    dropped: Arc<AtomicU64>,
) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
    while let Some(message) = messages.next().await {
        let bytes = u32::try_from(message.payload.len() + MESSAGE_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        match Arc::clone(&room).try_acquire_many_owned(bytes) {
            Ok(permit) => {
                if sender.send((message.payload, permit)).is_err() {
                    return;
                }
            }
            Err(_) => {
                if dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(1_000) {
                    tracing::warn!("messages between nodes are dropped: this node is too slow");
                }
            }
        }
    }
}
