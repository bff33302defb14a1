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
    time::{sleep, timeout},
};

use super::{CHUNK_BYTES, LogExtent, Notices, SeedLink, SeedReceiver, SeedSource, WINDOW, must_reseed, offer_store};
use crate::store::{
    self, LogPlace, NodeId, SeedMessage, SeedOffer, SeedingStatus, StoreError, StoreOptions,
    tests::seeds::{backup_of_member, unapplied},
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
    /// The node whose stream ends without a word before a chunk.
    silent_from: Option<(NodeId, u64)>,
    /// True if messages of others, and unreadable ones, come with each chunk.
    is_noisy: bool,
    /// The subscriptions that end at once, by nodes.
    broken_subscriptions: Mutex<BTreeMap<u64, u32>>,
    /// The streams that were begun.
    begun: Mutex<u64>,
    notices: Mutex<Vec<SeedingStatus>>,
    /// The most chunks that were under way.
    sent_and_taken: Mutex<(u64, u64, u64)>,
}

impl Net {
    /// Returns the sources of the notices of nodes that were without a store, in order.
    fn sources(&self) -> Vec<u64> {
        let notices = self.notices.lock();
        notices.iter().filter(|status| status.source != status.node).map(|status| status.source.0).collect()
    }

    fn deliver(&self, to: Option<NodeId>, message: &Bytes) {
        let mut inboxes = self.inboxes.lock();
        let to = inboxes.iter_mut().filter(|(node, _)| to.is_none_or(|to| to.0 == **node));
        to.for_each(|(_, inboxes)| inboxes.retain(|inbox| inbox.send(message.clone()).is_ok()));
    }
}

#[derive(Clone)]
struct MemoryLink {
    net: Arc<Net>,
    node: NodeId,
}

impl SeedLink for MemoryLink {
    async fn messages(&self) -> BoxStream<'static, Bytes> {
        if let Some(left) = self.net.broken_subscriptions.lock().get_mut(&self.node.0).filter(|left| **left > 0) {
            *left -= 1;
            return stream::empty().boxed();
        }
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
        if let Some((_, from)) = self.net.silent_from.filter(|(node, _)| *node == self.node) {
            match message {
                SeedMessage::Chunk { index, .. } if *index < from => {}
                SeedMessage::Chunk { .. } | SeedMessage::End { .. } | SeedMessage::Failed { .. } => return true,
                _ => {}
            }
        }
        if let (true, Some(to), SeedMessage::Chunk { .. }) = (self.net.is_noisy, to, message) {
            let of_other = SeedMessage::Wanted { node: NodeId(9), seed: 1 }.encode();
            for noise in [of_other, Bytes::from_static(b"a message of a later program")] {
                self.net.deliver(Some(to), &noise);
            }
        }
        {
            let (sent, taken, most) = &mut *self.net.sent_and_taken.lock();
            match message {
                SeedMessage::Begin { .. } => {
                    *self.net.begun.lock() += 1;
                    (*sent, *taken) = (0, 0);
                }
                SeedMessage::Chunk { .. } => *sent += 1,
                SeedMessage::Taken { chunks, .. } => *taken = *chunks,
                _ => {}
            }
            *most = (*most).max(sent.saturating_sub(*taken));
        }
        self.net.deliver(to, &message.encode());
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
        let offer = SeedOffer { source, applied, file_bytes, is_deciding: false, is_busy: false, can_stream: true };
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
    let has_its_store = SeedingStatus { node: RECEIVER, source: RECEIVER, needed: needed + 1, bytes: 0 };
    while net.notices.lock().last() != Some(&has_its_store) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_is_taken_if_one_fails() {
    let (net, directory) = (Arc::new(net()), tempfile::tempdir().unwrap());
    let broken = Source { fails_after: Some(CHUNK_BYTES * 20), ..Source::new(2, &MEMBER) };
    // It has applied no less, and its number is the higher one: it is asked first.
    let _sources = start(&net, [Source::new(1, &MEMBER), broken]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
    let sources = net.sources();
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
    // A thread may still remove what it has made.
    while fs::read_dir(&directory).unwrap().count() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
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

/// A third node asks twice a second. The receiver took its messages for signs of life, and waited for a dead source for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_source_is_noticed_while_other_nodes_ask() {
    let (net, directory) =
        (Arc::new(Net { silent_from: Some((NodeId(2), 20)), ..net() }), tempfile::tempdir().unwrap());
    let _sources = start(&net, [Source::new(1, &MEMBER), Source::new(2, &MEMBER)]).await;
    let mut third = JoinSet::new();
    let link = MemoryLink { net: Arc::clone(&net), node: NodeId(4) };
    third.spawn(async move {
        loop {
            link.send(None, &SeedMessage::Wanted { node: NodeId(4), seed: 1 }).await;
            sleep(Duration::from_millis(500)).await;
        }
    });
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
    let sources = net.sources();
    assert!(sources.first() == Some(&2) && sources.last() == Some(&1), "{sources:?}");
}

/// A newer node that waits for a store made the seeds of all others fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_others_do_not_end_a_stream() {
    let (net, directory) = (Arc::new(Net { is_noisy: true, ..net() }), tempfile::tempdir().unwrap());
    let _sources = start(&net, [Source::new(1, &MEMBER)]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
    assert_eq!(*net.begun.lock(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_is_made_again() {
    let broken_subscriptions = Mutex::new(BTreeMap::from([(1, 2), (RECEIVER.0, 2)]));
    let (net, directory) = (Arc::new(Net { broken_subscriptions, first: 2, ..net() }), tempfile::tempdir().unwrap());
    let _sources = start(&net, [Source::new(1, &MEMBER)]).await;
    seeded(&net, directory.path()).await.unwrap();
    check(directory.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_does_not_make_the_same_store() {
    let (net, directory) = (Arc::new(Net { first: 2, ..net() }), tempfile::tempdir().unwrap());
    let (first, _state) = receiver(&net, directory.path()).await;
    let second = async {
        while fs::read_dir(&directory).unwrap().count() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        seeded(&net, directory.path()).await
    };
    let second = tokio::select! {
        _ = first.run() => unreachable!("nobody has a store"),
        second = second => second,
    };
    assert!(matches!(second, Err(StoreError::Locked { .. })));
}

/// With `--reseed` in the command line all nodes of a new cluster waited for each other after a power cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_replaced_only_if_it_cannot_go_on_from_the_log() {
    let place = |net: Net, place: LogPlace| async move {
        let link = MemoryLink { net: Arc::new(net), node: RECEIVER };
        must_reseed(&link, RECEIVER, &place).await
    };
    let (empty, with_data) = (unapplied(0, false, true), unapplied(5, false, true));
    assert!(!place(net(), empty).await, "the log began with an empty store");
    assert!(place(net(), with_data).await, "a node that was alone");
    assert!(place(net(), unapplied(0, true, false)).await, "a node that was alone, with sessions only");
    assert!(place(Net { first: 2, ..net() }, empty).await, "the beginning is gone");
    assert!(!place(Net { first: 1, ..Net::default() }, with_data).await, "it will begin the log");
}
