//! Questions of operators to the brokers of all nodes, over the bus.
//!
//! A question goes to all nodes, and each of them answers it. The node that asks waits for those that it hears of, not for longer than a
//! limit: the bus may lose messages, and a node may die meanwhile. So an answer may be missing, and whoever asked learns from which
//! nodes. An answer comes in parts that fit into messages of the bus.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    time::timeout,
};

use crate::mqtt::broker::{
    Broker,
    peers::{
        Peers, message,
        operators::{Answer, Question},
    },
};

/// Most bytes of a part of an answer; each message of the bus has room for it.
const PART_BYTES: usize = 32 << 10;
/// Most questions of other nodes that are answered at one time. Whoever asks more learns that this node has not answered.
const ANSWERED_AT_ONCE: usize = 64;
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The questions of this node that wait for answers.
pub(super) struct Questions {
    waiting: Mutex<HashMap<u64, PendingQuestion>>,
    /// The number of the next one. Those of an earlier start have other numbers.
    next: AtomicU64,
    answering: Arc<Semaphore>,
}

struct PendingQuestion {
    /// The parts of the answer of each node so far.
    parts: HashMap<u64, Vec<u8>>,
    /// Receives each answer when it is complete, with its node.
    answers: UnboundedSender<(u64, Vec<u8>)>,
}

/// A part of an answer of a node.
#[derive(Debug)]
pub(in crate::mqtt::broker) struct AnswerPart {
    pub(in crate::mqtt::broker) node: u64,
    /// The node that asked.
    pub(in crate::mqtt::broker) asker: u64,
    /// The number of its question.
    pub(in crate::mqtt::broker) question: u64,
    /// The bytes of the answer before this part.
    pub(in crate::mqtt::broker) offset: u32,
    pub(in crate::mqtt::broker) is_last: bool,
    pub(in crate::mqtt::broker) bytes: Bytes,
}

/// The answers of nodes to a question.
pub(super) struct Answers {
    /// Each with its node; `None` for a single one.
    pub(super) answers: Vec<(Option<u64>, Answer)>,
    /// The nodes that have sessions and have not answered.
    pub(super) silent: Vec<u64>,
}

/// Removes a question when nobody waits for answers any more.
struct AskedQuestion<'a> {
    questions: &'a Questions,
    number: u64,
}

impl Questions {
    /// Returns no questions. The numbers begin with `first`.
    pub(super) fn new(first: u64) -> Self {
        let answering = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
        Self { waiting: Mutex::default(), next: AtomicU64::new(first), answering }
    }

    fn begin(&self) -> (AskedQuestion<'_>, UnboundedReceiver<(u64, Vec<u8>)>) {
        let (answers, received) = mpsc::unbounded_channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, PendingQuestion { parts: HashMap::new(), answers });
        (AskedQuestion { questions: self, number }, received)
    }

    /// Takes a part of an answer to this node. Parts come in their order; after a lost one the answer is not completed.
    pub(super) fn take(&self, part: &AnswerPart) {
        let mut waiting = self.waiting.lock();
        let Some(pending) = waiting.get_mut(&part.question) else { return };
        let answer = pending.parts.entry(part.node).or_default();
        if answer.len() != part.offset as usize || answer.len() + part.bytes.len() > ANSWER_BYTES_MAX {
            return;
        }
        answer.extend_from_slice(&part.bytes);
        if part.is_last
            && let Some(answer) = pending.parts.remove(&part.node)
        {
            let _nobody_waits_any_more = pending.answers.send((part.node, answer));
        }
    }
}

impl Drop for AskedQuestion<'_> {
    fn drop(&mut self) {
        self.questions.waiting.lock().remove(&self.number);
    }
}

impl Broker {
    /// Asks this node, and then all others. Waits for their answers not longer than `wait`, and not after one that `is_enough`.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        wait: Duration,
        is_enough: impl Fn(&Answer) -> bool,
    ) -> Answers {
        let own = self.answer(question.clone()).await;
        let node = self.peers.get().map(|peers| peers.node);
        let Some(peers) = self.peers.get().filter(|_| !is_enough(&own)) else {
            return Answers { answers: vec![(node, own)], silent: Vec::new() };
        };
        let alive = self.alive_nodes();
        let (asked, mut received) = peers.questions.begin();
        let encoded = serde_json::to_vec(question).unwrap_or_default();
        let is_sent = alive.is_empty() || (peers.send)(message::asked(peers.node, asked.number, &encoded));
        let (mut silent, mut answers) = (alive, vec![(node, own)]);
        let others = async {
            while is_sent
                && !silent.is_empty()
                && let Some((node, answer)) = received.recv().await
            {
                // One of a later program is as good as none.
                let Ok(answer) = serde_json::from_slice(&answer) else { continue };
                if silent.remove(&node) {
                    let is_last = is_enough(&answer);
                    answers.push((Some(node), answer));
                    if is_last {
                        return;
                    }
                }
            }
        };
        let _in_time = timeout(wait, others).await;
        Answers { answers, silent: self.with_absent_nodes(peers, silent) }
    }

    /// Returns the other nodes that this one hears of.
    fn alive_nodes(&self) -> BTreeSet<u64> {
        let others = self.service.health().member.unwrap_or_default().others.into_iter();
        others.filter(|other| other.takes_part()).map(|other| other.node).collect()
    }

    /// Adds to `silent` the nodes that have sessions and that this one does not hear of.
    fn with_absent_nodes(&self, peers: &Peers, mut silent: BTreeSet<u64>) -> Vec<u64> {
        let alive = self.alive_nodes();
        let absent = peers.replicated.nodes().into_iter().filter(|node| *node != 0 && *node != peers.node);
        silent.extend(absent.filter(|node| !alive.contains(node)));
        silent.into_iter().collect()
    }

    /// Answers a question of another node, in a task of its own.
    pub(super) fn answer_node(self: &Arc<Self>, peers: &Peers, asker: u64, question: u64, encoded: &[u8]) {
        let Ok(asked) = serde_json::from_slice::<Question>(encoded) else {
            return tracing::debug!(asker, "a question of another node cannot be read");
        };
        let Ok(permit) = Arc::clone(&peers.questions.answering).try_acquire_owned() else {
            return tracing::debug!(asker, "too many questions of other nodes are being answered");
        };
        let broker = Arc::clone(self);
        peers.runtime.spawn(async move {
            let _permit = permit;
            let answer = serde_json::to_vec(&broker.answer(asked).await).unwrap_or_default();
            let Some(peers) = broker.peers.get() else { return };
            let parts = answer.len().div_ceil(PART_BYTES);
            for (at, bytes) in answer.chunks(PART_BYTES).enumerate() {
                let offset = u32::try_from(at * PART_BYTES).unwrap_or(u32::MAX);
                let (bytes, is_last) = (Bytes::copy_from_slice(bytes), at + 1 == parts);
                let part = AnswerPart { node: peers.node, asker, question, offset, is_last, bytes };
                if !(peers.send)(part.encode()) {
                    return; // the node that asked waits in vain, and says so
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_answer_is_complete_with_all_its_parts_in_their_order() {
        let questions = Questions::new(7);
        let (asked, mut received) = questions.begin();
        assert_eq!(asked.number, 7);
        let part = |node, question, offset, is_last, bytes: &'static [u8]| {
            let bytes = Bytes::from_static(bytes);
            questions.take(&AnswerPart { node, asker: 1, question, offset, is_last, bytes });
        };
        part(2, 7, 0, false, b"ab");
        part(3, 7, 0, false, b"x");
        part(3, 7, 2, true, b"z"); // one between was lost
        part(2, 6, 2, true, b"of an earlier question");
        part(2, 7, 2, true, b"c");
        assert_eq!(received.try_recv().unwrap(), (2, b"abc".to_vec()));
        assert!(received.try_recv().is_err());
        drop(asked);
        part(3, 7, 1, true, b"y");
        assert!(questions.waiting.lock().is_empty() && received.try_recv().is_err());
    }
}
