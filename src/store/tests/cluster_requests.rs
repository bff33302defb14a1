//! Requests of nodes whose messages were lost, and of nodes whose decider ends, in the cluster in memory of [`super::clusters`].

use std::{iter, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{
    cluster_node::{CLOSE, OPEN, Sent},
    clusters::{Cluster, NODES},
    count, delete, key, named,
    sim_disk::{Repaired, Stop},
};
use crate::{
    shadow::{Rejection, SizeLimit},
    store::{
        Appended, LogAction, LogEvent, RowEdit, Seq, State,
        codec::put_u64,
        frame,
        replication::{
            record::LOG,
            requests::{BUS, BUS_FORMAT},
        },
    },
};

/// The file of a node that has left said that it has the record that could not be applied, and lacked its changes.
#[test]
fn a_node_that_has_left_goes_on_where_it_was_after_a_start() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let (left, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
    let rest = [decider, other];
    cluster.apply(&[0, 1, 2], decider, &key("d1"), count(1));
    cluster.read_records(left);
    cluster.apply(&rest, decider, &key("d1"), count(2));
    // As if its program were wrong: it takes another entry for the next.
    cluster.nodes[left].stepped.writer.progress.head.seq.0 += 1;
    let read = |cluster: &mut Cluster| {
        cluster.read_some(left, usize::MAX);
        cluster.nodes[left].stepped.step();
    };
    read(&mut cluster);
    assert!(cluster.nodes[left].latched().is_some());
    cluster.nodes[left].stepped.writer.progress.head.seq.0 -= 1;
    // What follows has no entries, and what it commits of its own has the position.
    cluster.open_session(0, decider);
    cluster.apply(&rest, decider, &key("d2"), delete());
    read(&mut cluster);
    cluster.nodes[left].stepped.idle();
    let image = cluster.nodes[left].disk.durable();
    cluster.nodes[left].restart(left, image);
    cluster.finish("after the start");
    cluster.compare("after the start");
}

/// A node whose log was trimmed while it was cut off asked for its next record and for the end of the log in turn, without
/// a pause, until somebody started it again.
#[test]
fn a_node_that_has_left_asks_nothing_more_of_the_log() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    cluster.now += Duration::from_secs(1);
    let now = cluster.now;
    cluster.event(decider, LogEvent::Tick(now));
    let append = iter::from_fn(|| cluster.nodes[decider].take_sent(true)).find_map(|sent| match sent {
        Sent::Action(LogAction::Append { expected, .. }) => Some(expected + 1),
        _ => None,
    });
    let number = append.expect("a decider shows that it is there");
    let node = &mut cluster.nodes[decider];
    (node.events)(LogEvent::Trimmed { first: number + 1000 });
    node.stepped.step();
    assert!(node.latched().is_some());
    while node.take_sent(true).is_some() {}
    (node.events)(LogEvent::Appended { number, outcome: Appended::Refused });
    node.stepped.step();
    let asked = iter::from_fn(|| node.take_sent(true)).any(|sent| matches!(sent, Sent::Action(_)));
    assert!(!asked);
}

/// A node whose disk takes no writes read on, until it no longer kept the records that it had to apply again.
#[test]
fn the_memory_of_the_reader_is_held_until_records_are_in_the_file() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.read_records(node);
    // Its rows are synced when it is applied.
    cluster.opened_session(0, decider, Some(node));
    let (_, writes) = cluster.nodes[node].disk.operations();
    cluster.nodes[node].disk.repair(Repaired::Pending, Stop::AtWrite(writes + 1));
    let room = Arc::new(Semaphore::new(10));
    let last = cluster.log.log.lock().last();
    for number in cluster.nodes[node].next_record..=last {
        let record = cluster.log.log.lock().get(number).cloned().unwrap();
        let permit = Some(Arc::clone(&room).try_acquire_owned().unwrap());
        (cluster.nodes[node].events)(LogEvent::Record { number, record, permit });
        cluster.nodes[node].next_record = number + 1;
    }
    cluster.run(node);
    assert!(cluster.nodes[node].disk.has_stopped() && room.available_permits() < 10);
    cluster.nodes[node].disk.repair(Repaired::Lost, Stop::Never);
    while cluster.nodes[node].stepped.store.health().state != State::Writable {
        cluster.read_at(node);
    }
    assert_eq!(room.available_permits(), 10);
    cluster.finish("after the disk came back");
    cluster.compare("after the disk came back");
}

/// A node's requests were withdrawn after its messages had been lost for some time. The decider waited for those requests, and took
/// none of that node any more.
#[test]
fn requests_are_decided_after_earlier_ones_were_lost() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.turn();
    // The decider has taken a request of this node before.
    cluster.submit(node);
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    cluster.cut = Some(node);
    (0..3).for_each(|_| cluster.submit(node));
    let lost: Vec<u64> = cluster.nodes[node].waiting.iter().copied().collect();
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    for id in &lost {
        assert_eq!(cluster.requests[id].answer, Some(Err(Rejection::OutcomeUnknown)));
    }
    cluster.cut = None;
    cluster.submit(node);
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    let last = cluster.requests.values().next_back().unwrap();
    assert_ne!(last.answer, Some(Err(Rejection::OutcomeUnknown)));
    assert_eq!(cluster.decider(), decider, "no claim was necessary");
}

/// A message of a node that was cut off waited on the way. Its request was applied minutes after the client had received an unknown
/// outcome, over changes that came later.
#[test]
fn a_request_that_waited_on_the_way_is_not_applied_when_its_client_waits_no_more() {
    for (seconds, is_applied) in [(20, true), (40, false)] {
        let mut cluster = Cluster::open(1);
        cluster.has_faults = false;
        let decider = cluster.decider();
        let node = (decider + 1) % NODES;
        (0..20).for_each(|_| cluster.turn());
        let id = cluster.requests.len() as u64;
        let mut queued = cluster.request(id);
        (queued.envelope.key, queued.envelope.command) = (key("d1"), count(1));
        cluster.submit_queued(node, queued);
        let mut waiting = Vec::new();
        while let Some(sent) = cluster.nodes[node].take_sent(true) {
            waiting.extend(match sent {
                Sent::Message(to, message) if to.0 as usize == decider => Some(message),
                _ => None,
            });
        }
        let until = cluster.now + Duration::from_secs(seconds);
        while cluster.now < until {
            // The node reads and sends nothing.
            let others = (0..NODES).filter(|other| *other != node);
            others.clone().for_each(|other| cluster.pass_all(other));
            others.for_each(|other| cluster.read_at(other));
        }
        for message in waiting {
            cluster.event(decider, LogEvent::Received(message, None));
        }
        cluster.pass_all(decider);
        (0..20).for_each(|_| cluster.turn());
        assert_eq!(cluster.requests[&id].made.is_some(), is_applied, "after {seconds} s");
    }
}

/// A node decides a refused request again, to see the reason. It did not count the names that the records before it had created,
/// so it saw none.
#[test]
fn any_node_sees_that_a_device_has_too_many_names() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    for name in ["a", "b", "c"] {
        let id = cluster.requests.len() as u64;
        let mut queued = cluster.request(id);
        (queued.envelope.key, queued.envelope.command) = (named("d1", name), count(1));
        cluster.submit_queued(node, queued);
    }
    cluster.pass_all(node);
    cluster.pass_all(decider);
    cluster.read_records(node);
    while !cluster.nodes[node].waiting.is_empty() {
        cluster.turn();
    }
    let answers: Vec<_> = cluster.requests.values().map(|request| &request.answer).collect();
    assert!(
        matches!(answers[..], [Some(Ok(_)), Some(Ok(_)), Some(Err(Rejection::TooManyRequests { .. }))]),
        "{answers:?}"
    );
}

/// While a node's requests find no answer, it refuses more of them instead of keeping ever more.
#[test]
fn refuses_requests_while_the_decider_does_not_answer() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.cut = Some(node);
    cluster.submit(node);
    let until = cluster.now + Duration::from_secs(11);
    while cluster.now < until {
        cluster.turn();
    }
    cluster.submit(node);
    let refused = cluster.requests.values().next_back().unwrap();
    assert!(matches!(&refused.answer, Some(Err(Rejection::Unavailable(text))) if text.contains("has not answered")));
    assert_eq!(cluster.nodes[node].waiting.len(), 1, "the first waits on");
}

/// The decider decided requests of other nodes for as long as they came, and so ended late, with an append under way.
#[test]
fn hands_over_at_once_under_load() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let others = [(decider + 1) % NODES, (decider + 2) % NODES];
    cluster.nodes[decider].stepped.writer.member.as_mut().unwrap().close();
    let ended = cluster.now;
    while !others.iter().any(|node| cluster.nodes[*node].is_deciding()) {
        // Requests come while the append of those before is under way.
        for node in others {
            cluster.submit(node);
            cluster.pass_all(node);
        }
        cluster.pass(decider);
        cluster.read_all();
        assert!(cluster.now - ended < Duration::from_secs(1), "nobody decides after {:?}", cluster.now - ended);
    }
    while others.iter().any(|node| !cluster.nodes[*node].waiting.is_empty()) {
        cluster.turn();
    }
}

/// A decider kept the requests of others when another node began to decide. The next time that it decided, it applied them again.
#[test]
fn requests_received_by_a_former_decider_are_decided_once() {
    let mut cluster = Cluster::open(1);
    let former = cluster.decider();
    cluster.turn();
    let (asks, next) = ((former + 1) % NODES, (former + 2) % NODES);
    // While its append is under way, it can decide nothing.
    cluster.nodes[former].log_cut_until = usize::MAX;
    count_at(&mut cluster, former);
    let asked: Vec<_> = (0..3).map(|_| count_at(&mut cluster, asks)).collect();
    cluster.pass_all(asks);
    // The other does not claim: it reads the log, and its time does not pass.
    while !cluster.nodes[next].is_deciding() || asked.iter().any(|id| cluster.requests[id].answer.is_none()) {
        cluster.pass_all(next);
        cluster.read_at(next);
        cluster.pass_all(asks);
        cluster.read_records(asks);
    }
    cluster.nodes[former].log_cut_until = 0;
    while !cluster.nodes[former].waiting.is_empty() {
        cluster.turn();
    }
    // The former one is the first to notice that the next is cut off.
    cluster.nodes[next].log_cut_until = usize::MAX;
    while !cluster.nodes[former].is_deciding() {
        cluster.pass_all(former);
        cluster.read_at(former);
        cluster.pass_all(asks);
        cluster.read_records(asks);
    }
    cluster.nodes[next].log_cut_until = 0;
    let last = count_at(&mut cluster, asks);
    while cluster.requests[&last].answer.is_none() {
        cluster.turn();
    }
    let made: Vec<_> = asked.iter().chain([&last]).map(|id| cluster.requests[id].made.unwrap().0).collect();
    assert!(made.is_sorted());
    let entries = cluster.nodes[asks].stepped.store.journal(Seq(made[0] - 1), 100).unwrap().entries;
    for id in asked {
        let client = format!("c-{id}");
        assert_eq!(entries.iter().filter(|entry| *entry.client == *client).count(), 1, "request {id}");
    }
}

/// Lets `node` take an update that changes something. Returns its number.
/// Lets `node` take an update that changes something. Returns its number.
pub(super) fn count_at(cluster: &mut Cluster, node: usize) -> u64 {
    let mut queued = cluster.request(cluster.requests.len() as u64);
    let id = queued.context;
    queued.envelope.key = key("d1");
    queued.envelope.command = count(1000 + id);
    cluster.submit_queued(node, queued);
    id
}

/// Starts `node` again, with all that it has applied. Returns the last record of that.
fn start_synced(cluster: &mut Cluster, node: usize) -> u64 {
    let writer = &mut cluster.nodes[node].stepped.writer;
    writer.unsynced.hurry();
    writer.commit_rows();
    let image = cluster.nodes[node].disk.durable();
    cluster.nodes[node].restart(node, image);
    cluster.nodes[node].next_record - 1
}

fn obstacle(cluster: &Cluster, node: usize) -> Option<String> {
    cluster.nodes[node].stepped.store.health().member.unwrap().obstacle()
}

fn is_short(cluster: &Cluster, node: usize) -> bool {
    obstacle(cluster, node).is_some_and(|text| text.contains("waits for a node that keeps"))
}

/// A node that started while the log lacked records which others append again left the cluster.
#[test]
fn a_node_that_starts_while_the_log_is_refilled_waits() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    for _ in 0..4 {
        let id = count_at(&mut cluster, node);
        while cluster.requests[&id].answer.is_none() {
            cluster.turn();
        }
    }
    let applied = start_synced(&mut cluster, node);
    cluster.log.log.lock().lose_after(applied - 2);
    while !is_short(&cluster, node) {
        cluster.pass_all(node);
        cluster.read_at(node);
    }
    let refused = count_at(&mut cluster, node);
    assert!(matches!(&cluster.requests[&refused].answer, Some(Err(Rejection::Unavailable(_)))));
    // It does not claim, however long nobody does.
    let until = cluster.now + Duration::from_secs(20);
    while cluster.now < until {
        cluster.pass_all(node);
        cluster.read_at(node);
        assert!(!cluster.nodes[node].is_deciding());
    }
    while obstacle(&cluster, node).is_some() {
        cluster.turn();
    }
    assert!(cluster.log.log.lock().get(applied).is_some(), "the decider has appended what was lost");
    let id = count_at(&mut cluster, node);
    while cluster.requests[&id].answer.is_none() {
        cluster.turn();
    }
    assert!(cluster.requests[&id].made.is_some());
}

/// The log lost records that the node which decides did not keep, since it had started after them. It gave up its batch, and yet applied
/// that with the claim that it made later under the same number.
#[test]
fn a_batch_that_was_given_up_is_not_applied_with_a_later_claim() {
    for seed in 0..10 {
        let mut cluster = Cluster::open(seed);
        let node = cluster.decider();
        let others = [(node + 1) % NODES, (node + 2) % NODES];
        let id = count_at(&mut cluster, node);
        while cluster.requests[&id].answer.is_none() {
            cluster.turn();
        }
        cluster.turn();
        let kept = start_synced(&mut cluster, node);
        while !cluster.nodes[node].is_deciding() {
            cluster.pass_all(node);
            cluster.read_at(node);
        }
        others.iter().for_each(|other| cluster.read_records(*other));
        let last = cluster.log.log.lock().last();
        cluster.log.late.clear();
        cluster.log.log.lock().lose_after(kept - 1);
        let id = count_at(&mut cluster, node);
        while !is_short(&cluster, node) {
            cluster.pass_all(node);
            cluster.read_at(node);
        }
        // The other appends what is missing. Its claim, which follows that, comes too late.
        while cluster.log.log.lock().last() < last {
            if !cluster.pass(others[0]) {
                cluster.read_at(others[0]);
            }
        }
        cluster.log.late.clear();
        while !cluster.nodes[node].is_deciding() {
            cluster.pass_all(node);
            cluster.read_at(node);
        }
        while cluster.requests[&id].answer.is_none() {
            cluster.turn();
        }
        (0..5).for_each(|_| cluster.turn());
        let heads: Vec<_> = cluster.nodes.iter().map(|node| node.stepped.store.head()).collect();
        assert!(heads.iter().all(|head| *head == heads[0]), "seed {seed}: {heads:?}");
    }
}

/// A request that fits into no message was sent without its content, for the decider to refuse it.
#[test]
fn a_request_that_is_too_large_is_refused_at_its_node() {
    let mut cluster = Cluster::open(3);
    let decider = cluster.decider();
    cluster.turn();
    let node = (decider + 1) % NODES;
    let small = count_at(&mut cluster, node);
    let mut queued = cluster.request(cluster.requests.len() as u64);
    queued.envelope.command = super::update(&serde_json::json!({"desired": {"text": "x".repeat(2000)}}), None);
    let large = queued.context;
    cluster.submit_queued(node, queued);
    let answer = cluster.requests[&large].answer.clone();
    let is_too_large = |answer: &Rejection| matches!(answer, Rejection::TooLarge { what: SizeLimit::Record, .. });
    assert!(answer.as_ref().is_some_and(|answer| answer.as_ref().is_err_and(is_too_large)), "{answer:?}");
    let last = count_at(&mut cluster, node);
    while cluster.requests[&last].answer.is_none() {
        cluster.turn();
    }
    assert!(cluster.requests[&small].made.is_some() && cluster.requests[&last].made.is_some());
}

/// Lets `node` take an update with a row, and so with the condition of the gate. Returns its number.
fn gated_at(cluster: &mut Cluster, node: usize) -> u64 {
    let mut queued = cluster.request(cluster.requests.len() as u64);
    let id = queued.context;
    queued.envelope.key = key("d1");
    queued.envelope.command = count(1000 + id);
    queued.envelope.shared_row = Some(RowEdit::Put(b"row".as_slice().into(), Bytes::new()));
    cluster.submit_queued(node, queued);
    id
}

fn broadcast(cluster: &mut Cluster, node: usize, bytes: &'static [u8]) {
    let store = &cluster.nodes[node].stepped.store;
    let permit = store.reserve_broadcast(bytes.len()).unwrap();
    store.broadcast(Bytes::from_static(bytes), None, permit);
    cluster.nodes[node].stepped.step();
    while cluster.pass(node) {}
}

/// An update was sent, as of a rollout that is paused while it is on its way: before the decider has the pause, in the record of the pause,
/// and after it.
#[test]
fn a_command_that_its_row_does_not_permit_any_more_changes_nothing() {
    for is_in_one_record in [true, false] {
        let mut cluster = Cluster::open(1);
        let decider = cluster.decider();
        let (slow, other) = ((decider + 1) % NODES, (decider + 2) % NODES);
        let before = gated_at(&mut cluster, slow);
        assert!(matches!(cluster.answer_of(before, None), Ok(Some(_))));
        let late = gated_at(&mut cluster, slow);
        if is_in_one_record {
            // Its append is under way while the others' messages come.
            cluster.submit(decider);
        }
        broadcast(&mut cluster, other, CLOSE);
        if !is_in_one_record {
            let last = count_at(&mut cluster, other);
            assert!(matches!(cluster.answer_of(last, Some(slow)), Ok(Some(_))));
        }
        while cluster.pass(slow) {}
        let answer = cluster.answer_of(late, None);
        let is_refused = |text: &str| text.contains("does not permit the update any more");
        assert!(matches!(&answer, Err(Rejection::Unavailable(text)) if is_refused(text)), "{answer:?}");
        assert_eq!(cluster.requests[&late].made, None);
        let without_row = count_at(&mut cluster, slow);
        assert!(matches!(cluster.answer_of(without_row, None), Ok(Some(_))));
        broadcast(&mut cluster, other, OPEN);
        let last = count_at(&mut cluster, other);
        assert!(matches!(cluster.answer_of(last, None), Ok(Some(_))));
        let again = gated_at(&mut cluster, slow);
        assert!(matches!(cluster.answer_of(again, None), Ok(Some(_))));
    }
}

/// Turns in which more than the time passes for which a request may wait.
const TURNS_MAX: usize = 20_000;

/// A command of a rollout, whose client was answered that it is not confirmed. Nobody expects it any more once the log is back.
#[test]
fn a_broadcast_that_waited_for_too_long_is_withdrawn() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = (decider + 1) % NODES;
    cluster.turn();
    cluster.cut = Some(node);
    let kept = Arc::new(());
    let (of_broadcast, store) = (kept.clone(), &cluster.nodes[node].stepped.store);
    let permit = store.reserve_broadcast(CLOSE.len()).unwrap();
    store.broadcast_in_time(Bytes::from_static(CLOSE), Some(Box::new(move || drop(of_broadcast))), permit);
    cluster.nodes[node].stepped.step();
    let turns = (0..TURNS_MAX).take_while(|_| {
        cluster.turn();
        Arc::strong_count(&kept) > 1
    });
    assert!(turns.count() < TURNS_MAX, "it waits still");
    cluster.cut = None;
    let gated = gated_at(&mut cluster, node);
    assert!(matches!(cluster.answer_of(gated, None), Ok(Some(_))), "the gate was closed");
}

/// Returns a value of a later format.
fn of_later_format(kind: &str, key: &[u8], format: u64) -> Vec<u8> {
    let mut out = Vec::new();
    frame::begin(&mut out);
    put_u64(&mut out, format);
    out.extend_from_slice(b"nobody here knows this");
    frame::finish(&mut out, kind, key);
    out
}

#[test]
fn a_node_leaves_at_a_record_of_a_later_format_and_takes_no_such_message() {
    let mut cluster = Cluster::open(1);
    let decider = cluster.decider();
    let node = &mut cluster.nodes[(decider + 1) % NODES];
    let number = node.next_record;
    (node.events)(LogEvent::Received(of_later_format(BUS, &[], BUS_FORMAT + 1).into(), None));
    node.stepped.step();
    assert_eq!(node.latched(), None);
    let record = of_later_format(LOG, &number.to_le_bytes(), 2).into();
    (node.events)(LogEvent::Record { number, record, permit: None });
    node.stepped.step();
    let obstacle = node.stepped.store.health().member.and_then(|member| member.obstacle()).unwrap();
    let expected = format!("record {number} of the log cannot be read: format 2, this program knows 1");
    assert!(obstacle.contains("left its cluster") && obstacle.contains(&expected), "{obstacle}");
}
