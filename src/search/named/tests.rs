//! Named queries of a cluster: nodes that apply the same log have the same queries, in memory and in their rows, also after a start.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{
    log::{Answer, Change, Message},
    *,
};
use crate::store::{RowEdit, RowKey, tests::Random};

/// The queries of a node, with its rows on disk.
struct Node {
    queries: NamedQueries,
    rows: BTreeMap<RowKey, Bytes>,
    quotas: Arc<Quotas>,
}

impl Node {
    fn new() -> Self {
        Self::with(BTreeMap::new())
    }

    /// A node whose store has these rows.
    fn with(rows: BTreeMap<RowKey, Bytes>) -> Self {
        let quotas = Arc::new(Quotas::new(&Config::default().limits));
        let mut node = Self { queries: NamedQueries::empty(), rows, quotas };
        node.restart();
        node
    }

    fn restart(&mut self) {
        let mut rows = QueryRows::default();
        for (key, value) in &self.rows {
            assert!(rows.take(key, value), "{key:?}");
        }
        // Whatever is charged to the former ones is released first.
        self.queries = NamedQueries::empty();
        self.queries.restore_rows(rows, &self.quotas);
        self.queries.join(QueryLog::new(&self.quotas, &Arc::default()));
    }

    /// Applies broadcast `number`, as the node whose client asked for it.
    fn apply(&mut self, number: u64, bytes: &Bytes) -> Option<Answer> {
        let request = Message::decode(bytes).unwrap().request;
        let pending = self.queries.log.get().unwrap().requests().await_answer(request);
        for edit in self.queries.apply(number, bytes) {
            match edit {
                RowEdit::Put(key, value) | RowEdit::Insert(key, value) => drop(self.rows.insert(key, value)),
                RowEdit::Remove(key) => assert!(self.rows.remove(&key).is_some(), "{key:?}"),
            }
        }
        pending.wait().now_or_never().flatten()
    }

    fn revision(&self, query: &QueryName) -> Option<Revision> {
        self.queries.registry.lock().stored(query).map(|query| query.revision())
    }

    /// A message of a client of this node.
    fn message(&self, number: u64, by: &QueryRights, query: &str, change: Change) -> Message {
        let name = name(query);
        Message { request: number, date: Timestamp(number), known: self.revision(&name), name, by: by.clone(), change }
    }

    /// Sends a change as a client of this node, and applies it as broadcast `number`.
    fn ask(&mut self, number: u64, by: &QueryRights, query: &str, change: Change) -> Answer {
        let bytes = self.message(number, by, query, change).encode();
        self.apply(number, &bytes).unwrap()
    }

    /// Everything that a client may see, and the changes.
    fn shown(&self) -> Vec<String> {
        let all = self.queries.registry.lock().all();
        let shown = |query: &Arc<NamedQuery>| {
            let QueryDefinition { text, description, .. } = &query.definition;
            format!("{} {text} {description:?} {:?}", query.name, query.origin)
        };
        all.values().map(shown).collect()
    }

    fn used(&self, principal: &str) -> usize {
        self.quotas.principals.known(principal).map_or(0, |quota| quota.memory_used())
    }
}

fn name(text: &str) -> QueryName {
    QueryName::new(text).unwrap()
}

/// A client that may read every device.
fn client(principal: &str) -> QueryRights {
    QueryRights { principal: principal.into(), is_everything: false, reads_every_device: true }
}

/// A client that may read some devices.
fn part(principal: &str) -> QueryRights {
    QueryRights { reads_every_device: false, ..client(principal) }
}

fn operator() -> QueryRights {
    QueryRights { is_everything: true, ..client("operator") }
}

fn stored(q: &str) -> Change {
    Change::Stored { definition: QueryDefinition::read(q, Some("about it")).unwrap(), is_new_only: false }
}

fn created(q: &str) -> Change {
    Change::Stored { definition: QueryDefinition::read(q, None).unwrap(), is_new_only: true }
}

/// Returns the part of an answer that is the same at all nodes.
fn text(answer: &Answer) -> String {
    match answer {
        Answer::Done((query, is_new)) => format!("done {} {:?} {is_new}", query.name, query.origin),
        other => format!("{other:?}"),
    }
}

#[test]
fn messages_come_back() {
    let node = Node::new();
    let messages = [stored("reported.n:\"\u{fc}\""), created("a"), Change::Deleted].map(|change| {
        let known = [Some(u64::MAX), Some(0), None];
        known.map(|known| Message { known, ..node.message(1 << 60, &operator(), "a:b", change.clone()) })
    });
    for message in messages.iter().flatten() {
        let bytes = message.encode();
        assert!(NamedQueries::is_message(&bytes));
        assert_eq!(format!("{:?}", Message::decode(&bytes).unwrap()), format!("{message:?}"));
        assert!(Message::decode(&bytes.slice(..bytes.len() - 1)).is_none());
        assert!(Message::decode(&bytes.slice(1..)).is_none());
    }
    assert!(node.queries.apply(1, &Bytes::from_static(b"\x01{}")).is_empty(), "one of a later version changes nothing");
}

/// The answers of a single node, by what the log has.
#[test]
fn changes_are_refused_as_on_a_single_node() {
    let mut node = Node::new();
    let (a, b, partial) = (client("a"), client("b"), part("c"));
    for (number, by, query, change, expected) in [
        (1, &a, "q", created("x"), "done"),
        (2, &a, "q", created("x"), "Exists"),
        (3, &b, "q", stored("y"), "Exists"),
        (4, &b, "q", Change::Deleted, "Exists"),
        (5, &partial, "q", Change::Deleted, "NotFound"),
        (6, &partial, "q", stored("y"), "Exists"),
        (7, &a, "q", stored("y"), "done"),
        (8, &operator(), "q", stored("z"), "done"),
        (9, &a, "none", Change::Deleted, "NotFound"),
        (10, &operator(), "q", Change::Deleted, "done"),
        (11, &b, "q", stored("y"), "done"),
    ] {
        let answer = text(&node.ask(number, by, query, change));
        assert!(answer.contains(expected), "{number}: {answer}");
        match node.queries.get(&name("q")).map(|query| query.origin.clone()) {
            Some(QueryOrigin::Stored { created_by, created_at, updated_at, .. }) if number < 10 => {
                let changed = [1, 7, 8].into_iter().rfind(|changed| *changed <= number).unwrap();
                assert_eq!((&*created_by, created_at.0, updated_at.0), ("a", 1, changed), "{number}");
            }
            Some(origin) => assert!(matches!(origin, QueryOrigin::Stored { created_by, .. } if *created_by == *"b")),
            None => assert_eq!((number, node.rows.len()), (10, 0)),
        }
        node.restart();
    }
    // The same again writes nothing.
    let rows = node.rows.clone();
    let again = text(&node.ask(12, &b, "q", stored("y")));
    assert!(again.starts_with("done") && again.ends_with("false"), "{again}");
    assert_eq!(node.rows, rows);
}

/// A node that was cut off sends changes that were answered 503 long ago, after others have changed the queries.
#[test]
fn a_change_that_comes_late_undoes_none_since() {
    let mut node = Node::new();
    let a = client("a");
    node.ask(1, &a, "q", stored("x"));
    let late = [stored("late"), Change::Deleted].map(|change| node.message(9, &a, "q", change).encode());
    let creation = node.message(9, &a, "new", created("late")).encode();
    node.ask(2, &a, "q", stored("y"));
    node.ask(3, &a, "new", stored("y"));
    let before = (node.shown(), node.rows.clone());
    for (number, bytes) in (4..).zip(late.iter().chain([&creation])) {
        let answer = node.apply(number, bytes);
        assert!(matches!(answer, Some(Answer::Lacking)), "{answer:?}");
        assert_eq!((node.shown(), node.rows.clone()), before);
        node.restart();
    }
    // It is not the query any more that the client has changed.
    node.ask(7, &a, "q", Change::Deleted);
    for (number, bytes) in (8..).zip(&late) {
        let answer = node.apply(number, bytes);
        assert!(matches!(answer, Some(Answer::Lacking)), "{answer:?}");
    }
    node.ask(10, &a, "q", stored("x"));
    for (number, bytes) in (11..).zip(&late) {
        let answer = node.apply(number, bytes);
        assert!(matches!(answer, Some(Answer::Lacking)), "{answer:?}");
    }
    assert_eq!(node.queries.get(&name("q")).unwrap().definition.text, "x");
}

#[test]
fn queries_are_bounded_and_charged_to_their_creator_at_each_node() {
    let (mut node, mut other) = (Node::new(), Node::new());
    let a = client("a");
    for number in 1..=100 {
        let bytes = node.message(number, &a, &format!("q{number}"), stored("x")).encode();
        let answers = [&mut node, &mut other].map(|node| text(&node.apply(number, &bytes).unwrap()));
        assert!(answers[0] == answers[1] && answers[0].starts_with("done"), "{number}: {answers:?}");
    }
    let most = node.ask(101, &a, "q101", stored("x"));
    let expected = "'a' has 100, the most for one principal";
    assert!(matches!(&most, Answer::Refused(NotStored::TooMany(text)) if text == expected), "{most:?}");
    let replaced = node.ask(102, &operator(), "q7", stored("device:of-a-and-longer"));
    assert!(matches!(replaced, Answer::Done(_)), "{replaced:?}");
    drop(replaced); // it has the query, with its charge
    assert!(matches!(node.ask(103, &client("b"), "q101", stored("x")), Answer::Done(_)), "others have their own");
    let used = (node.used("a"), other.used("a"));
    assert!(used.1 >= 100 * QUERY_BYTES && used.0 > used.1, "{used:?}");
    assert_eq!(node.used("operator"), 0);
    node.restart();
    assert_eq!(node.used("a"), used.0);
    for number in 1..=100 {
        let deleted = node.ask(200 + number, &a, &format!("q{number}"), Change::Deleted);
        assert!(matches!(deleted, Answer::Done(_)), "{deleted:?}");
    }
    assert_eq!((node.used("a"), node.rows.len()), (0, 1));
}

/// The file of a node that was alone has queries without the number of a change.
#[test]
fn queries_of_a_single_node_go_on_in_its_cluster() {
    let row = r#"{"q":"drift:true","description":"text","created_by":"a","created_at":5,"updated_at":7}"#;
    let rows = BTreeMap::from([(b"nq".as_slice().into(), Bytes::from_static(row.as_bytes()))]);
    let (mut node, a) = (Node::with(rows.clone()), client("a"));
    assert_eq!((node.rows.clone(), node.revision(&name("q"))), (rows, Some(0)));
    let [of_this, of_another] = [stored("x"), stored("y")].map(|change| node.message(8, &a, "q", change).encode());
    assert!(matches!(node.apply(8, &of_this), Some(Answer::Done(_))));
    assert!(matches!(node.apply(9, &of_another), Some(Answer::Lacking)), "it did not know the first");
    assert_eq!(node.revision(&name("q")), Some(8));
}

/// A follower of queries wakes at a change, whichever node it is made at, and not at what changes nothing.
#[test]
fn followers_wake_at_each_change_of_the_log() {
    let (node, mut of_client, a) = (Node::new(), Node::new(), client("a"));
    let mut changes = node.queries.changes();
    for (number, change, is_woken) in
        [(1, stored("x"), true), (2, stored("x"), false), (3, stored("y"), true), (4, Change::Deleted, true)]
    {
        let bytes = of_client.message(number, &a, "q", change).encode();
        of_client.apply(number, &bytes);
        assert_eq!(node.queries.apply(number, &bytes).is_empty(), !is_woken);
        assert_eq!(changes.has_changed().unwrap(), is_woken, "{number}");
        changes.mark_unchanged();
    }
}

/// Clients of all nodes change a few queries, some with what their node knew long ago, and one node starts again and again: all have the
/// same after each record.
#[test]
fn nodes_that_apply_one_log_have_the_same_queries() {
    let by = [client("a"), client("b"), part("c"), operator()];
    let (mut done, mut lacking, mut refused) = (0, 0, 0);
    for seed in 1..=40 {
        let mut random = Random::new(seed);
        let mut nodes = [Node::new(), Node::new(), Node::new()];
        let mut waiting = Vec::new();
        for number in 1..200 {
            let query = format!("q{}", random.below(6));
            let change = match random.below(5) {
                0 => Change::Deleted,
                1 => created(&format!("reported.n:{number}")),
                same => stored(&format!("reported.n:{}", if same == 2 { 1 } else { number })),
            };
            waiting.push(nodes[0].message(number, &by[random.below(4) as usize], &query, change).encode());
            if random.chance(3) {
                continue; // it comes late
            }
            let bytes = waiting.swap_remove(random.below(waiting.len() as u64) as usize);
            let answers = nodes.each_mut().map(|node| text(&node.apply(number, &bytes).unwrap()));
            assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}, {number}: {answers:?}");
            match &*answers[0] {
                "Lacking" => lacking += 1,
                answer if answer.starts_with("done") => done += 1,
                _ => refused += 1,
            }
            if random.chance(10) {
                nodes[1].restart();
            }
            for node in &nodes[1..] {
                assert_eq!(node.shown(), nodes[0].shown(), "seed {seed}, {number}");
                assert_eq!(node.rows, nodes[0].rows, "seed {seed}, {number}");
            }
        }
    }
    assert!(done > 1_000 && lacking > 100 && refused > 100, "{done} done, {lacking} lacking, {refused} refused");
}
