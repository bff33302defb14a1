//! Seeds between nodes in one process, whose messages may be lost.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{CHUNK_BYTES, LogExtent, Notices, SeedLink, SeedReceiver, SeedSource, WINDOW, offer_store};
use crate::store::{
    self, NodeId, SeedMessage, SeedOffer, SeedingStatus, StoreError, StoreOptions, tests::seeds::backup_of_member,
};

/// The time for something that must happen, on a machine with much else to do.
const LIMIT: Duration = Duration::from_secs(90);
const SHADOWS: u64 = 1200;
const RECEIVER: NodeId = NodeId(3);

/// A backup of more chunks than may be under way, and its log.
static MEMBER: LazyLock<(Vec<u8>, Vec<Bytes>)> = LazyLock::new(|| {
    let member = of_member(1, SHADOWS);
    assert!(member.0.len() > CHUNK_BYTES * (WINDOW + 8), "{} bytes", member.0.len());
    member
});

/// Makes a member and its backup, on a thread that may block.
fn of_member(incarnation: u64, shadows: u64) -> (Vec<u8>, Vec<Bytes>) {
    std::thread::spawn(move || backup_of_member(incarnation, shadows)).join().unwrap()
}

/// The connections of some nodes.
#[derive(Default)]
struct Net {
    inboxes: Mutex<BTreeMap<u64, Vec<mpsc::UnboundedSender<Bytes>>>>,
    log: Vec<Bytes>,
    /// The first record of the log.
    first: u64,
    /// The chunk that is lost once.
    lost_chunk: Mutex<Option<u64>>,
    notices: Mutex<Vec<SeedingStatus>>,
    /// The most chunks that were under way.
    sent_and_taken: Mutex<(u64, u64, u64)>,
}

#[derive(Clone)]
struct MemoryLink {
    net: Arc<Net>,
    node: NodeId,
}

impl SeedLink for MemoryLink {
    async fn messages(&self) -> BoxStream<'static, Bytes> {
        let (sender, inbox) = mpsc::unbounded_channel();
        self.net.inboxes.lock().entry(self.node.0).or_default().push(sender);
        stream::unfold(inbox, async |mut inbox: mpsc::UnboundedReceiver<Bytes>| {
            let message = inbox.recv().await?;
            Some((message, inbox))
        })
        .boxed()
    }

    async fn send(&self, to: Option<NodeId>, message: &SeedMessage) -> bool {
        if let SeedMessage::Chunk { index, .. } = message
            && self.net.lost_chunk.lock().take_if(|lost| lost == index).is_some()
        {
            return true;
        }
        {
            let (sent, taken, most) = &mut *self.net.sent_and_taken.lock();
            match message {
                SeedMessage::Begin { .. } => (*sent, *taken) = (0, 0),
                SeedMessage::Chunk { .. } => *sent += 1,
                SeedMessage::Taken { chunks, .. } => *taken = *chunks,
                _ => {}
            }
            *most = (*most).max(sent.saturating_sub(*taken));
        }
        let mut inboxes = self.net.inboxes.lock();
        let to = inboxes.iter_mut().filter(|(node, _)| to.is_none_or(|to| to.0 == **node));
        to.for_each(|(_, inboxes)| inboxes.retain(|inbox| inbox.send(message.encode()).is_ok()));
        true
    }

    async fn notify(&self, status: SeedingStatus) {
        self.net.notices.lock().push(status);
    }

    async fn extent(&self) -> LogExtent {
        LogExtent { first: self.net.first, last: self.net.log.len() as u64 }
    }

    async fn record(&self, number: u64) -> Option<Bytes> {
        self.net.log.get(usize::try_from(number.checked_sub(1)?).unwrap()).cloned().filter(|_| number >= self.net.first)
    }
}

/// A store that can be streamed up to some bytes.
struct Source {
    offer: SeedOffer,
    backup: &'static [u8],
    fails_after: Option<usize>,
}

impl Source {
    fn new(node: u64, (backup, log): &'static (Vec<u8>, Vec<Bytes>)) -> Self {
        let (source, applied) = (NodeId(node), log.len() as u64);
        let file_bytes = backup.len() as u64;
        let offer = SeedOffer { source, applied, file_bytes, is_deciding: false, is_busy: false };
        Self { offer, backup, fails_after: None }
    }
}

impl SeedSource for Source {
    fn offer(&self) -> Option<SeedOffer> {
        Some(self.offer)
    }

    fn back_up(&self, out: &mut dyn Write) -> Result<(), String> {
        let end = self.fails_after.unwrap_or(self.backup.len());
        out.write_all(&self.backup[..end]).map_err(|error| error.to_string())?;
        if self.fails_after.is_some() { Err("the disk is gone".to_owned()) } else { Ok(()) }
    }
}

fn net() -> Net {
    Net { log: MEMBER.1.clone(), first: 1, ..Net::default() }
}

/// Starts nodes with these stores.
async fn start(net: &Arc<Net>, sources: impl IntoIterator<Item = Source>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for source in sources {
        let link = MemoryLink { net: Arc::clone(net), node: source.offer.source };
        tasks.spawn(offer_store(link, Arc::new(source)));
    }
    while net.inboxes.lock().len() < tasks.len() {
        tokio::task::yield_now().await;
    }
    tasks
}

fn options(directory: &Path) -> StoreOptions {
    StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.join("umbra.redb")) }
}

async fn receiver(net: &Arc<Net>, directory: &Path) -> (SeedReceiver<MemoryLink>, watch::Receiver<String>) {
    let link = MemoryLink { net: Arc::clone(net), node: RECEIVER };
    let (state, shown) = watch::channel(String::new());
    (SeedReceiver::new(link, RECEIVER, options(directory), false, state).await, shown)
}

async fn seeded(net: &Arc<Net>, directory: &Path) -> Result<Option<Notices>, StoreError> {
    let (receiver, _state) = receiver(net, directory).await;
    timeout(LIMIT, receiver.run()).await.expect("the node is seeded")
}

/// Checks that the store is that of the member, and that nothing else is left.
fn check(directory: &Path) {
    let options = options(directory);
    let report = store::check(&options).unwrap();
    assert!(report.is_sound() && report.shadows == SHADOWS, "{report:?}");
    assert_eq!(store::applied_record(&options).unwrap().map(|applied| applied.number), Some(MEMBER.1.len() as u64));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_receives_a_store_in_a_bounded_window() {
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    let _sources = start(&net, [Source::new(1, &MEMBER)]).await;
    let notices = seeded(&net, directory.path()).await.unwrap();
    assert!(notices.is_some());
    check(directory.path());
    let (_, _, most) = *net.sent_and_taken.lock();
    assert!(most as usize <= WINDOW, "{most} chunks were under way");
    let first = net.notices.lock()[0];
    let needed = MEMBER.1.len() as u64;
    assert_eq!(
        first,
        SeedingStatus { node: RECEIVER, source: NodeId(1), needed, bytes: 0 },
        "before the stream begins"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_is_taken_if_one_fails() {
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    let broken = Source { fails_after: Some(CHUNK_BYTES * 20), ..Source::new(2, &MEMBER) };
    // It has applied no less, and its number is the higher one: it is asked first.
    let _sources = start(&net, [Source::new(1, &MEMBER), broken]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
    let sources: Vec<_> = net.notices.lock().iter().map(|status| status.source.0).collect();
    assert!(sources.contains(&2) && sources.last() == Some(&1), "{sources:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_begins_anew_if_a_chunk_is_lost() {
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    *net.lost_chunk.lock() = Some(30);
    let _sources = start(&net, [Source::new(1, &MEMBER)]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
    assert_eq!(*net.lost_chunk.lock(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_of_another_cluster_is_refused() {
    static OTHER: LazyLock<(Vec<u8>, Vec<Bytes>)> = LazyLock::new(|| of_member(2, 5));
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    let other = Source::new(2, &OTHER);
    let _sources = start(&net, [other]).await;
    let (receiver, state) = receiver(&net, directory.path()).await;
    assert!(timeout(Duration::from_secs(3), receiver.run()).await.is_err(), "it asks again and again");
    assert!(net.notices.lock().len() > 1);
    assert!(!directory.path().join("umbra.redb").exists(), "{}", *state.borrow());
    // Nodes with a store of this cluster come later.
    let _more = start(&net, [Source::new(1, &MEMBER)]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_seeds_one_other_at_a_time_and_both_have_a_store_at_last() {
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    let _sources = start(&net, [Source::new(1, &MEMBER)]).await;
    let other = tempfile::tempdir().unwrap();
    let link = MemoryLink { net: Arc::clone(&net), node: NodeId(4) };
    let (state, _shown) = watch::channel(String::new());
    let second = SeedReceiver::new(link, NodeId(4), options(other.path()), false, state).await;
    let (one, two) = tokio::join!(seeded(&net, directory.path()), timeout(LIMIT, second.run()));
    assert!(one.unwrap().is_some() && two.unwrap().unwrap().is_some());
    check(directory.path());
    check(other.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_begins_empty_only_if_the_log_has_everything() {
    let directory = tempfile::tempdir().unwrap();
    let new = Arc::new(Net { first: 1, ..Net::default() });
    assert!(seeded(&new, directory.path()).await.unwrap().is_none(), "a new cluster");
    let whole = Arc::new(net());
    assert!(seeded(&whole, directory.path()).await.unwrap().is_none(), "all records are there");
    let trimmed = Arc::new(Net { first: 2, ..net() });
    let (receiver, state) = receiver(&trimmed, directory.path()).await;
    assert!(timeout(Duration::from_secs(8), receiver.run()).await.is_err(), "it waits");
    let last = MEMBER.1.len();
    let reason = format!("no other node offers its store, and the log has only the records from 2 to {last}");
    assert_eq!(*state.borrow(), format!("This node needs the store of another one, and waits: {reason}"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}
