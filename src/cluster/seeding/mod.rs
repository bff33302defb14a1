//! The store of a node that has none, or one that is too old for the log, from the store of another node.
//!
//! The node asks the others, takes one offer ([`choice`]) and makes its store of the backup that this one streams ([`receiver`]). Every
//! node with a store offers it ([`source`]), to one node at a time. The backup is of one snapshot and is written on a blocking
//! thread, so the source goes on. Chunks are sent as far as the receiver has taken the former ones.
//!
//! Messages may be lost, and nodes may die. Then nothing is left of a store that was not complete, and the node begins anew, with another
//! source if there is one. Meanwhile it sends its status to all members every second, so that the log is kept that it needs.
//!
//! *Invariant:* a store takes its place only when it is complete, consistent, and the log has what follows the records that it has
//! applied, the last of which is that of the log.

mod choice;
mod failures;
mod receiver;
mod source;

#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::RandomState,
    future::Future,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::{task::JoinSet, time::sleep};

pub(crate) use self::{
    receiver::SeedReceiver,
    source::{SeedSource, offer_store},
};
use crate::{
    cluster::{
        membership::retried,
        nats::{NatsLog, bus::BusReceiver},
    },
    store::{AppliedRecord, LogPlace, NodeId, SeedMessage, SeedingStatus},
};

/// Bytes of a chunk: less than any message may have.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks that are sent and not acknowledged.
const WINDOW: usize = 64;
/// Chunks between two acknowledgements.
const ACKNOWLEDGED_EVERY: u64 = 8;
/// The longest wait of a source for an acknowledgement: the receiver writes to its disk.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait of a receiver for a chunk.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The time for offers.
const ASK_FOR: Duration = Duration::from_millis(500);
/// The pause before a source listens again whose connection was closed.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The interval at which a node sends its status while it is seeded, or applies the log.
const NOTICE_EVERY: Duration = Duration::from_secs(1);
/// Notices between two lines in the log.
const LOGGED_EVERY: u64 = 10;

/// The connection of a node to the others, for seeds, and to the log.
pub(crate) trait SeedLink: Clone + Send + Sync + 'static {
    /// Receives the messages about seeds to this node from now on.
    fn messages(&self) -> impl Future<Output = BoxStream<'static, Bytes>> + Send;

    /// Sends a message to a node, or to all. Returns false if it is lost; it may be lost otherwise.
    fn send(&self, to: Option<NodeId>, message: &SeedMessage) -> impl Future<Output = bool> + Send;

    /// Sends a status to the members of the cluster. It may be lost.
    fn notify(&self, status: SeedingStatus) -> impl Future<Output = ()> + Send;

    /// Returns the extent of the log; waits until it is known.
    fn extent(&self) -> impl Future<Output = LogExtent> + Send;

    /// Returns the record with a number, if the log has it; waits until that is known.
    fn record(&self, number: u64) -> impl Future<Output = Option<Bytes>> + Send;
}

/// The numbers of the first and of the last record of a log. If it has none, the last is the last that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogExtent {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The relation of a store to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    /// The log has lost what follows the store.
    #[error("the log begins at record {first}, and the store has applied {applied}")]
    Trimmed {
        /// The first record of the log.
        first: u64,
        /// The last record that the store has applied.
        applied: u64,
    },
    /// The store has applied more than there is.
    #[error(
        "the log ends at record {last}, and the store has applied {applied}: it is of another cluster, or the log has lost records"
    )]
    Beyond {
        /// The last record of the log.
        last: u64,
        /// The last record that the store has applied.
        applied: u64,
    },
    /// The store has applied another record.
    #[error("record {0} of the log is not the one that the store has applied: it is of another cluster")]
    Other(u64),
}

impl LogExtent {
    /// Checks that the log has what follows record `applied`.
    pub(crate) fn fits(self, applied: u64) -> Result<(), Misfit> {
        let Self { first, last } = self;
        if applied > last {
            Err(Misfit::Beyond { last, applied })
        } else if applied + 1 < first {
            Err(Misfit::Trimmed { first, applied })
        } else {
            Ok(())
        }
    }
}

/// Checks that a store which has applied `applied` can go on from the log.
pub(crate) async fn check(link: &impl SeedLink, applied: &AppliedRecord) -> Result<(), Misfit> {
    link.extent().await.fits(applied.number)?;
    // A log that was restored from a store begins after its last record. What follows names the digest of that.
    match link.record(applied.number).await {
        Some(record) if !applied.is(&record) => Err(Misfit::Other(applied.number)),
        _ => Ok(()),
    }
}

/// Returns true if the store of `node`, which is at `place`, cannot go on from the log, although this has lost nothing that the store has.
pub(crate) async fn must_reseed(link: &impl SeedLink, node: NodeId, place: &LogPlace) -> bool {
    match place {
        LogPlace::After(applied) => {
            let misfit = check(link, applied).await.err();
            matches!(misfit, Some(Misfit::Trimmed { .. } | Misfit::Other(_)))
        }
        LogPlace::Before(store) => match link.extent().await {
            LogExtent { last: 0, .. } => false,
            LogExtent { first: 0 | 1, .. } => {
                link.record(1).await.is_none_or(|first| !store.is_where_log_began(node, &first))
            }
            LogExtent { .. } => true,
        },
    }
}

/// A random number for one attempt.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The notices of a node that is seeded, or has to apply the log: they are sent, and logged now and then, until this is dropped.
pub(crate) struct Notices {
    bytes: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Notices {
    /// Starts the notices of `node`, which has a store that needs the log from the record `needed` on.
    pub(super) fn of_log(link: impl SeedLink, node: NodeId, needed: u64) -> Self {
        Self::start(link, SeedingStatus { node, source: node, needed, bytes: 0 })
    }

    fn start(link: impl SeedLink, status: SeedingStatus) -> Self {
        let bytes = Arc::<AtomicU64>::default();
        let received = Arc::clone(&bytes);
        let mut task = JoinSet::new();
        task.spawn(async move {
            for number in 0_u64.. {
                let status = SeedingStatus { bytes: received.load(Ordering::Relaxed), ..status };
                let SeedingStatus { node, source, needed, bytes } = status;
                match number % LOGGED_EVERY == LOGGED_EVERY - 1 {
                    true if source == node => tracing::info!(from = needed, "applying the records of the log"),
                    true => tracing::info!(source = source.0, bytes, "receiving the store of another node"),
                    false => {}
                }
                link.notify(status).await;
                sleep(NOTICE_EVERY).await;
            }
        });
        Self { bytes, _task: task }
    }
}

/// The connections to NATS of a node, for seeds.
#[derive(Clone)]
pub(crate) struct NatsSeeds {
    pub(crate) log: NatsLog,
    /// A bus of its own, so that a store which is streamed delays nothing else.
    pub(crate) seeds: NatsLog,
}

impl SeedLink for NatsSeeds {
    async fn messages(&self) -> BoxStream<'static, Bytes> {
        let received = retried(|| self.seeds.received()).await;
        let next = async |mut received: BusReceiver| {
            let (message, _permit) = received.next().await?;
            Some((message, received))
        };
        stream::unfold(received, next).boxed()
    }

    async fn send(&self, to: Option<NodeId>, message: &SeedMessage) -> bool {
        let message = message.encode();
        let sent = match to {
            Some(node) => self.seeds.send(node, message).await,
            None => self.seeds.send_all(message).await,
        };
        sent.inspect_err(|error| tracing::debug!(%error, "a message about a seed is lost")).is_ok()
    }

    async fn notify(&self, status: SeedingStatus) {
        if let Err(error) = self.log.send_all(status.message()).await {
            tracing::debug!(%error, "the status of a seed is lost");
        }
    }

    async fn extent(&self) -> LogExtent {
        retried(|| self.log.extent()).await
    }

    async fn record(&self, number: u64) -> Option<Bytes> {
        retried(|| self.log.read(number)).await
    }
}
