//! Rollouts of a cluster: nodes that apply the same log have the same rollouts, in memory and in their rows, also after a start, and
//! whatever their drivers do meanwhile.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::json;

use super::{
    event::{Event, Message},
    *,
};
use crate::{
    auth::Policy,
    clock::Clock,
    config::{Config, RoleLimits},
    fleet::{
        Rollout,
        rollout::{Control, DeviceEntry, Work},
    },
    rollouts::{
        overlap::Compared,
        rows::{HeadRow, text_of},
        slot::Login,
    },
    shadow::{Timestamp, Version},
    store::{RowEdit, RowKey, tests::Random},
};

const NUMBER: u64 = 7 << 40;
const DRIVER: u64 = 77;

/// The rollouts of a node, with its rows on disk.
struct Node {
    rollouts: Rollouts,
    rows: BTreeMap<RowKey, Bytes>,
    quotas: Arc<Quotas>,
    authority: Arc<Authority>,
}

impl Node {
    fn new() -> Self {
        let config = Config::default();
        let authority = Arc::new(Authority::open(&config, Policy::of(&config).unwrap(), Clock::system()).unwrap());
        let quotas = Arc::new(Quotas::new(&config.limits));
        let rollouts = opened(RolloutRows::default(), &quotas, &authority);
        Self { rollouts, rows: BTreeMap::new(), quotas, authority }
    }

    fn restart(&mut self) {
        let mut rows = RolloutRows::default();
        for (key, value) in &self.rows {
            assert!(rows.take(key, value.clone()), "{key:?}");
        }
        self.rollouts = opened(rows, &self.quotas, &self.authority);
    }

    fn write(&mut self, edits: Vec<RowEdit>) {
        for edit in edits {
            match edit {
                RowEdit::Put(key, value) | RowEdit::Insert(key, value) => drop(self.rows.insert(key, value)),
                RowEdit::Remove(key) => assert!(self.rows.remove(&key).is_some(), "{key:?}"),
            }
        }
    }

    fn apply(&mut self, bytes: &Bytes) -> Option<log::Answer> {
        let message = Message::decode(bytes).unwrap();
        let senders = self.rollouts.log.as_ref().unwrap().senders_of(&message.event);
        let pending = senders.await_answer(message.request);
        let edits = self.rollouts.apply(bytes);
        self.write(edits);
        pending.wait().now_or_never().flatten()
    }

    fn apply_row(&mut self, row: &RowEdit) {
        let edits = self.rollouts.apply_row(row.clone());
        self.write(edits);
    }

    fn slot(&self, number: u64) -> Option<Arc<Slot>> {
        self.rollouts.registry.lock().numbered(number).cloned()
    }

    /// Everything that a client may see, and the devices that are staged.
    fn shown(&self) -> Vec<String> {
        let registry = self.rollouts.registry.lock();
        let slots = registry.all().map(|slot| {
            slot.read(|rollout, _| {
                format!("{} {} {:?} {:?}", slot.id, slot.number, rollout.head(), (rollout.waves(), rollout.devices()))
            })
        });
        let staged = registry.staged.iter().map(|(number, staged)| {
            format!("{number} {:?} {:?}", staged.row, (&staged.ids, &staged.records, &staged.id_rows))
        });
        slots.chain(staged).chain([format!("{} {}", registry.driver, registry.clock_ms)]).collect()
    }
}

fn opened(rows: RolloutRows, quotas: &Arc<Quotas>, authority: &Arc<Authority>) -> Rollouts {
    let running_ms = rows.running_ms;
    let registry = Mutex::new(registry_of(rows, quotas, authority, true));
    let log = Some(RolloutLog::new(authority, quotas, &Arc::default(), running_ms));
    Rollouts { registry, wake: Notify::new(), ran_ms: 0, started: Duration::ZERO, log }
}

fn head(id: &str, spec: Value, planned: usize) -> Box<HeadRow> {
    let head = json!({
        "id": id, "nonce": 5, "created_by": "a", "created_at": 1, "updated_at": 1, "spec": spec,
        "login": {"principal": "a", "listener": "test", "client": "c", "method": "anonymous"},
        "state": "running", "wave": 0, "planned": planned,
    });
    Box::new(serde_json::from_value(head).unwrap())
}

fn spec(later: bool) -> Value {
    json!({
        "query": "device:*", "patch": {"desired": {"v": 2}}, "waves": ["20%", "60%", "100%"], "laterDevices": later,
        "abort": {"percent": 80}, "deadlineSeconds": 1,
    })
}

fn id(n: usize) -> DeviceId {
    DeviceId::new(&format!("d{n:03}")).unwrap()
}

fn message(number: u64, request: u64, driver: u64, event: Event) -> Bytes {
    let moment = Moment { running_ms: 1000 * request, date: Timestamp(request) };
    Message { number, request, driver, moment, event }.encode()
}

fn part(from: usize, count: usize, forbidden: &[usize]) -> Event {
    let ids: Vec<_> = (from..from + count).map(id).collect();
    Event::Part { by: "a".into(), from, ids: text_of(ids.iter()), forbidden: forbidden.to_vec() }
}

fn driver(number: u64, replaces: u64) -> Event {
    Event::Driver { number, replaces }
}

fn controlled(control: Control, commands: u64) -> Event {
    Event::Controlled { control, commands }
}

fn rolled_back(commands: u64) -> Event {
    let login = Box::new(head("r", spec(true), 0).login);
    Event::RolledBack { login, compared: Some(Compared::default()), commands }
}

fn created(id: &str, spec: Value, count: usize, compared: Compared) -> Event {
    Event::Created { head: head(id, spec, count), count, compared }
}

/// A rollout to `count` devices that runs, of a cluster with a driver.
fn running(count: usize) -> Node {
    running_at(Node::new(), count)
}

fn running_at(mut node: Node, count: usize) -> Node {
    for (request, event) in
        [driver(DRIVER, 0), part(0, count, &[]), created("r", spec(true), count, Compared::default())]
            .into_iter()
            .enumerate()
    {
        let answer = node.apply(&message(NUMBER, request as u64, 0, event));
        assert!(matches!(answer, Some(log::Answer::Done)), "{answer:?}");
    }
    node
}

fn row_of(node: &Node, index: usize, change: impl FnOnce(&Rollout, &DeviceEntry) -> Option<DeviceEntry>) -> RowEdit {
    let slot = node.slot(NUMBER).unwrap();
    let entry = slot.read(|rollout, _| change(rollout, &rollout.devices()[index]));
    slot.row(index, &entry.unwrap())
}

fn sent(node: &Node, index: usize) -> RowEdit {
    let now = Moment { running_ms: 5, date: Timestamp(5) };
    row_of(node, index, |rollout, _| rollout.sent_entry(index, now, Version(2), Vec::new()))
}

fn restored_row(node: &Node, index: usize) -> RowEdit {
    row_of(node, index, |_, device| Some(device.restored(Timestamp(6), Version(3))))
}

#[test]
fn updates_are_permitted_in_their_wave_and_not_behind_a_command() {
    let mut node = running(10);
    let pause = message(NUMBER, 50, 0, controlled(Control::Pause, 0));
    let of_another = message(NUMBER + 1, 51, 0, controlled(Control::Pause, 0));
    let ended = |state| message(NUMBER, 52, DRIVER, Event::Ended { index: 1, state, reason: "full".into() });
    let overdue = message(NUMBER, 52, DRIVER, Event::Checked { converged: vec![], overdue: vec![1] });
    let first = sent(&node, 0);
    for (label, index, undecided, expected) in [
        ("the first wave", 0, vec![], true),
        ("its last device", 1, vec![], true),
        ("beyond the wave", 2, vec![], false),
        ("behind a pause in the same record", 0, vec![pause.clone()], false),
        ("behind a pause of another", 0, vec![of_another], true),
        ("behind an outcome", 0, vec![ended(DeviceState::Skipped)], true),
        ("behind the outcome of the device", 1, vec![ended(DeviceState::Skipped)], false),
        ("behind a failure, which may abort it", 0, vec![ended(DeviceState::Failed)], false),
        ("behind a deadline that is over", 0, vec![overdue], false),
    ] {
        assert_eq!(node.rollouts.permits(&sent(&node, index), &undecided), expected, "{label}");
    }
    assert!(!node.rollouts.permits(&restored_row(&node, 0), &[]), "it is not rolled back");
    node.apply_row(&first);
    assert!(!node.rollouts.permits(&first, &[]), "it was sent before");
    let second = sent(&node, 1);
    node.apply(&pause);
    assert!(!node.rollouts.permits(&second, &[]), "after the pause");
    node.apply(&message(NUMBER, 53, 0, controlled(Control::Resume, 1)));
    assert!(node.rollouts.permits(&second, &[]), "it goes on");
    node.apply(&message(NUMBER, 54, 0, rolled_back(2)));
    assert!(!node.rollouts.permits(&second, &[]), "it is rolled back");
    assert!(node.rollouts.permits(&restored_row(&node, 0), &[]));
    assert!(!node.rollouts.permits(&restored_row(&node, 1), &[]), "it was not changed");
    node.apply_row(&restored_row(&node, 0));
    let slot = node.slot(NUMBER).unwrap();
    assert_eq!((slot.state(), slot.read(|rollout, _| rollout.counts().written())), (State::RolledBack, 0));
}

/// A node that was stopped for a while reports, as the driver that it was, that devices have failed which have succeeded meanwhile.
#[test]
fn reports_of_a_former_driver_have_no_effect() {
    let mut node = running(10);
    node.apply_row(&sent(&node, 0));
    let failed = Event::Checked { converged: vec![], overdue: vec![0] };
    node.apply(&message(0, 60, 0, driver(DRIVER + 1, DRIVER)));
    let (before, rows) = (node.shown(), node.rows.clone());
    for (request, event) in [
        failed.clone(),
        Event::Stopped { reason: "revoked".into(), rollbacks: 0 },
        Event::Ended { index: 1, state: DeviceState::Failed, reason: "full".into() },
        Event::Clock,
    ]
    .into_iter()
    .enumerate()
    {
        let answer = node.apply(&message(NUMBER, 61 + request as u64, DRIVER, event));
        assert!(matches!(answer, Some(log::Answer::Void)), "{answer:?}");
    }
    assert_eq!((node.shown(), &node.rows), (before, &rows));
    node.apply(&message(NUMBER, 70, DRIVER + 1, failed));
    let count = |state| node.slot(NUMBER).unwrap().read(|rollout, _| rollout.counts().of(state));
    assert_eq!(count(DeviceState::TimedOut), 1);
}

#[test]
fn a_rollout_is_created_once_and_compared_with_all_others() {
    let mut node = running(10);
    let other = NUMBER + 1;
    let answer = |node: &mut Node, request, event| node.apply(&message(other, request, 0, event)).unwrap();
    assert!(matches!(answer(&mut node, 20, part(0, 3, &[1])), log::Answer::Done));
    let wrong = answer(&mut node, 21, part(5, 3, &[]));
    assert!(matches!(wrong, log::Answer::Refused(Refused::Internal)), "{wrong:?}");
    node.restart();
    let lacking = answer(&mut node, 22, created("s", spec(false), 3, Compared::default()));
    assert!(matches!(lacking, log::Answer::Lacking), "{lacking:?}");
    let compared: Compared = serde_json::from_value(json!({"own": null, "counts": {NUMBER.to_string(): 10}})).unwrap();
    let exists = answer(&mut node, 23, created("r", spec(false), 3, compared.clone()));
    assert!(matches!(exists, log::Answer::Refused(Refused::Exists(_))), "{exists:?}");
    assert!(node.rollouts.registry.lock().staged.is_empty());
    assert_eq!(node.rows.len(), running(10).rows.len(), "the rows of its devices are gone");
    answer(&mut node, 24, part(0, 3, &[1]));
    assert!(matches!(answer(&mut node, 25, created("s", spec(false), 3, compared)), log::Answer::Done));
    let skipped = node.slot(other).unwrap().read(|rollout, _| rollout.devices()[1].clone());
    assert_eq!((skipped.state, skipped.reason.as_deref()), (DeviceState::Skipped, Some(FORBIDDEN)));
    let removed = answer(&mut node, 26, Event::Removed { commands: 0 });
    assert!(matches!(removed, log::Answer::Refused(Refused::State(NotPossible(State::Running)))), "{removed:?}");
    answer(&mut node, 27, controlled(Control::Cancel, 0));
    assert!(matches!(answer(&mut node, 28, Event::Removed { commands: 1 }), log::Answer::Done));
    assert_eq!(node.rows.len(), running(10).rows.len());
    let gone = answer(&mut node, 29, controlled(Control::Pause, 1));
    assert!(matches!(gone, log::Answer::Refused(Refused::Removed)), "{gone:?}");
}

/// A node that was cut off sends a command that was answered 503 long ago, after another that an operator has given since.
#[test]
fn a_command_that_comes_late_undoes_none_since() {
    let mut node = running(10);
    assert!(matches!(node.apply(&message(NUMBER, 50, 0, controlled(Control::Pause, 0))), Some(log::Answer::Done)));
    let resume = message(NUMBER, 51, 0, controlled(Control::Resume, 1));
    for (request, control) in [(52, Control::Resume), (53, Control::Pause)] {
        let commands = node.slot(NUMBER).unwrap().commands();
        let answer = node.apply(&message(NUMBER, request, 0, controlled(control, commands)));
        assert!(matches!(answer, Some(log::Answer::Done)), "{answer:?}");
    }
    node.restart();
    for late in [resume, message(NUMBER, 54, 0, rolled_back(1)), message(NUMBER, 55, 0, controlled(Control::Cancel, 2))]
    {
        let answer = node.apply(&late);
        assert!(matches!(answer, Some(log::Answer::Lacking)), "{answer:?}");
    }
    assert_eq!(node.slot(NUMBER).unwrap().state(), State::Paused);
    // Nobody gave another, but it comes long after its client was answered.
    let resume = message(NUMBER, 60, 0, controlled(Control::Resume, 3));
    let creation = message(NUMBER + 1, 60, 0, part(0, 3, &[]));
    node.apply(&message(0, 91, DRIVER, Event::Clock));
    node.restart();
    for late in [resume, creation] {
        let answer = node.apply(&late);
        assert!(matches!(answer, Some(log::Answer::Refused(Refused::Unconfirmed))), "{answer:?}");
    }
    assert_eq!(node.slot(NUMBER).unwrap().state(), State::Paused);
    let in_time = node.apply(&message(NUMBER, 61, 0, controlled(Control::Resume, 3)));
    assert!(matches!(in_time, Some(log::Answer::Done)), "{in_time:?}");
}

/// A driver that was cut off reports that a login was revoked, which has rolled back before another one did.
#[test]
fn a_rollback_is_not_stopped_for_the_login_before() {
    let mut node = running(10);
    (0..2).for_each(|index| node.apply_row(&sent(&node, index)));
    node.apply(&message(NUMBER, 50, 0, rolled_back(0)));
    let revoked = |rollbacks| Event::Stopped { reason: "revoked".into(), rollbacks };
    node.apply(&message(NUMBER, 51, DRIVER, revoked(1)));
    assert_eq!(node.slot(NUMBER).unwrap().state(), State::Aborted);
    node.apply(&message(NUMBER, 52, 0, rolled_back(1)));
    node.restart();
    for rollbacks in [0, 1] {
        node.apply(&message(NUMBER, 53 + rollbacks, DRIVER, revoked(rollbacks)));
        assert_eq!(node.slot(NUMBER).unwrap().state(), State::RollingBack);
    }
    node.apply(&message(NUMBER, 55, DRIVER, revoked(2)));
    assert_eq!(node.slot(NUMBER).unwrap().state(), State::Aborted);
}

/// A node that decided once has sent a claim that comes into the log when another node carries out the rollouts.
#[test]
fn a_claim_that_comes_late_takes_nothing_and_sets_no_time_back() {
    let mut node = running(10);
    let late = message(0, 50, 0, driver(DRIVER + 1, DRIVER));
    node.apply(&message(0, 60, 0, driver(DRIVER + 2, DRIVER)));
    node.apply(&message(0, 3000, DRIVER + 2, Event::Clock));
    let before = (node.shown(), node.rows.clone());
    let answer = node.apply(&late);
    assert!(matches!(answer, Some(log::Answer::Void)), "{answer:?}");
    assert_eq!((node.shown(), node.rows.clone()), before);
    // The present decider had not applied the last time.
    node.apply(&message(0, 2995, 0, driver(DRIVER + 3, DRIVER + 2)));
    assert_eq!(node.rollouts.driver(), DRIVER + 3);
    node.restart();
    assert_eq!(node.rollouts.registry.lock().clock_ms, 3_000_000);
    assert!(node.rollouts.log.as_ref().unwrap().running_ms() >= 3_000_000);
}

/// While the log is away no device can succeed, so no deadline may come.
#[test]
fn the_time_stands_still_without_the_log() {
    let node = running(10);
    let log = node.rollouts.log.as_ref().unwrap();
    let at = std::time::Instant::now().checked_sub(Duration::from_secs(60));
    *log.time.lock() = (5_000, at.unwrap());
    assert_eq!(log.running_ms(), 25_000);
}

/// Somebody begins to create rollouts, and goes away before they are created.
#[test]
fn devices_of_rollouts_that_are_not_created_are_bounded_and_withdrawn() {
    let mut node = running(10);
    let rows = node.rows.len();
    let begun = |node: &mut Node, other: u64, request, by: &str| {
        let ids = id(other as usize).as_str().to_owned();
        let event = Event::Part { by: by.into(), from: 0, ids, forbidden: vec![] };
        node.apply(&message(NUMBER + other, request, 0, event)).unwrap()
    };
    let used = |node: &Node| node.quotas.principals.known("a").unwrap().memory_used();
    let before = used(&node);
    // With the one that runs.
    for other in 1..16 {
        let answer = begun(&mut node, other, 100, "a");
        assert!(matches!(answer, log::Answer::Done), "{other}: {answer:?}");
    }
    node.restart();
    let refused = begun(&mut node, 16, 101, "a");
    assert!(matches!(refused, log::Answer::Refused(Refused::TooMany(_))), "{refused:?}");
    assert!(matches!(begun(&mut node, 17, 102, "b"), log::Answer::Done), "others have places of their own");
    assert!(used(&node) > before, "their memory is charged");
    node.apply(&message(0, 500, DRIVER, Event::Clock));
    assert_eq!(node.rollouts.registry.lock().staged.len(), 16);
    node.apply(&message(0, 601, DRIVER, Event::Clock));
    assert!(node.rollouts.registry.lock().staged.is_empty());
    assert_eq!((node.rows.len(), used(&node)), (rows, before));
    let event = Event::Part { by: "a".into(), from: 1, ids: "x".to_owned(), forbidden: vec![] };
    let late = node.apply(&message(NUMBER + 1, 602, 0, event));
    assert!(matches!(late, Some(log::Answer::Refused(Refused::Unconfirmed))), "{late:?}");
}

/// The creator of a rollout is connected, with the limits of its role.
#[test]
fn a_creation_leaves_the_limits_of_its_creator() {
    let node = Node::new();
    let limits = RoleLimits { memory: 1 << 20, filters: 3, ..RoleLimits::UNLIMITED };
    let quota = node.quotas.principals.of(&"a".into(), &limits, std::time::Instant::now());
    let mut node = running_at(node, 10);
    assert_eq!(quota.limits(), limits);
    assert!(quota.memory_used() > 0, "its memory is that of the same quota");
    node.restart();
    assert_eq!(quota.limits(), limits);
}

/// A node that carries out a rollout reads its files later than the one that has accepted the login.
#[test]
fn a_login_that_is_not_known_yet_is_looked_for_again() {
    let config = Config::default();
    let opened = |config: &Config| Authority::open(config, Policy::of(config).unwrap(), Clock::system()).unwrap();
    let (later, now) = (opened(&config), opened(&Config { listeners: Vec::new(), ..Config::default() }));
    let record = json!({
        "principal": "anonymous/c", "listener": config.listeners[0].name, "client": "c", "method": "anonymous",
    });
    let mut login = Login::restored(serde_json::from_value(record).unwrap(), &now);
    assert!(login.context(&now).is_none());
    assert!(login.context(&later).is_some());
    assert!(login.context(&now).is_some(), "from then on it is reviewed as any other");
    let node = running(1);
    assert!(node.slot(NUMBER).unwrap().awaits_login(), "that no listener has its name is no revocation yet");
}

/// A single node that was killed has rows that do not have the last state. Its rollouts are those of a cluster from then on, whose rows
/// change by the log alone.
#[test]
fn a_restored_rollout_of_a_cluster_has_no_edits_of_its_own() {
    let mut node = running(4);
    for index in 0..4 {
        let ended = Event::Ended { index, state: DeviceState::Skipped, reason: "no shadow".into() };
        node.apply(&message(NUMBER, 60 + index as u64, DRIVER, ended));
    }
    let key = node.rows.keys().find(|key| key.starts_with(b"o")).unwrap().clone();
    node.rows.insert(key, serde_json::to_vec(&head("r", spec(false), 4)).unwrap().into());
    node.restart();
    let slot = node.slot(NUMBER).unwrap();
    assert_eq!(slot.state(), State::Completed);
    let ((), rows) = slot.apply(&node.quotas, Timestamp(9), |_| ());
    assert_eq!(rows, []);
}

/// Returns an event that may or may not be possible.
fn random_event(random: &mut Random, devices: usize, commands: u64) -> Event {
    let mut some = |max: u64| (0..random.below(max)).map(|_| random.below(devices as u64) as usize).collect::<Vec<_>>();
    let (converged, overdue) = (some(12), some(3));
    let index = random.below(devices as u64) as usize;
    let commands = commands.saturating_sub(u64::from(random.chance(10)));
    match random.below(26) {
        0 => controlled(Control::Pause, commands),
        1..=3 => controlled(Control::Resume, commands),
        4 if random.chance(6) => controlled(Control::Cancel, commands),
        5 if random.chance(4) => rolled_back(commands),
        6 => {
            let states = [DeviceState::Conflict, DeviceState::Skipped, DeviceState::Failed, DeviceState::Kept];
            Event::Ended { index, state: states[random.below(4) as usize], reason: "as it is".into() }
        }
        9 => Event::Corrected { index, version: 1 + random.below(9), written: None },
        10 => Event::Joined { from: devices, ids: String::new(), compared: Compared::default() },
        11 | 12 => {
            let from = devices + random.below(2) as usize;
            let ids: Vec<_> = (from..from + 3).map(id).collect();
            let own = json!({"own": NUMBER, "counts": {}});
            let compared = if random.chance(4) { json!({"own": null, "counts": {}}) } else { own };
            Event::Joined { from, ids: text_of(ids.iter()), compared: serde_json::from_value(compared).unwrap() }
        }
        13 if random.chance(8) => Event::Stopped { reason: "revoked".into(), rollbacks: random.below(2) },
        14 => Event::Clock,
        15 if random.chance(20) => Event::Removed { commands },
        _ => Event::Checked { converged, overdue },
    }
}

/// One node begins work all the time, another starts again and again: all have the same after each record.
#[test]
fn nodes_that_apply_one_log_have_the_same_rollouts() {
    let histories = std::env::var("UMBRA_TEST_ROLLOUT_HISTORIES").map_or(60, |text| text.parse().unwrap());
    let (mut ended, mut joined) = (0, 0);
    for seed in 1..=histories {
        let mut random = Random::new(seed);
        let mut nodes = [running(20), running(20), running(20)];
        for request in 100..400 {
            let Some(slot) = nodes[0].slot(NUMBER) else { break };
            let devices = slot.read(|rollout, _| rollout.devices().len());
            // The work of a driver changes nothing that the log has.
            let now = Moment { running_ms: 1000 * request, date: Timestamp(request) };
            let (work, edits) = slot.apply(&nodes[0].quotas, now.date, |rollout| rollout.work(now, 4));
            assert_eq!(edits, [], "seed {seed}");
            for work in work.iter().filter(|_| random.chance(2)) {
                _ = slot.apply(&nodes[0].quotas, now.date, |rollout| {
                    if let Work::Check(checked) = work {
                        rollout.found(checked, None);
                    }
                    rollout.on_done(work);
                });
            }
            let is_row = random.below(2) == 0;
            let queued =
                slot.read(|rollout, _| rollout.devices().iter().position(|it| it.state == DeviceState::Queued));
            let index = queued.filter(|_| random.chance(2)).unwrap_or(random.below(devices as u64) as usize);
            let row = if random.chance(4) { restored_row(&nodes[0], index) } else { sent(&nodes[0], index) };
            if is_row {
                let permitted: Vec<_> = nodes.iter().map(|node| node.rollouts.permits(&row, &[])).collect();
                assert!(permitted.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
                if permitted[0] {
                    nodes.iter_mut().for_each(|node| node.apply_row(&row));
                }
            } else {
                let event = random_event(&mut random, devices, slot.commands());
                let bytes = message(NUMBER, request, DRIVER, event);
                let answers = nodes.each_mut().map(|node| format!("{:?}", node.apply(&bytes)));
                assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {answers:?}");
            }
            if random.chance(10) {
                nodes[1].restart();
            }
            if random.chance(30) {
                nodes[2].slot(NUMBER).inspect(|slot| {
                    let quotas = &nodes[2].quotas;
                    _ = slot.apply(quotas, now.date, Rollout::begin_again);
                });
            }
            for node in &nodes[1..] {
                assert_eq!(node.shown(), nodes[0].shown(), "seed {seed}, request {request}");
                assert_eq!(node.rows, nodes[0].rows, "seed {seed}, request {request}");
            }
            slot.read(|rollout, _| {
                let reached = rollout.waves()[rollout.head().wave];
                let beyond = rollout.devices()[reached..].iter().filter(|device| device.state.is_written());
                assert_eq!(beyond.count(), 0, "seed {seed}: beyond the wave");
                joined += usize::from(rollout.devices().len() > 20);
            });
        }
        ended += usize::from(nodes[0].slot(NUMBER).is_none_or(|slot| slot.state().is_final()));
        if let Some(slot) = nodes[0].slot(NUMBER).filter(|slot| slot.is_removable()) {
            let bytes = message(slot.number, 1000, 0, Event::Removed { commands: slot.commands() });
            nodes.iter_mut().for_each(|node| _ = node.apply(&bytes));
        }
        if nodes[0].slot(NUMBER).is_none() {
            nodes.iter().for_each(|node| assert_eq!(node.rows.len(), 1, "seed {seed}: only the clock"));
        }
    }
    assert!(ended > histories as usize / 6 && joined > 0, "{ended} of {histories} have ended, {joined} joined");
}
