//! Rollouts of a cluster: nodes that apply the same log have the same rollouts, in memory and in their rows, also after a start, and
//! whatever their drivers do meanwhile.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;

use super::{event::Message, *};
use crate::{
    auth::Policy,
    clock::Clock,
    config::Config,
    fleet::{Rollout, rollout::DeviceEntry},
    http::rollouts::rows::{HeadRow, text_of},
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
        let request = Message::decode(bytes).unwrap().request;
        let (answered, mut answer) = oneshot::channel();
        self.rollouts.log.as_ref().unwrap().waiting.lock().insert(request, answered);
        let edits = self.rollouts.apply(bytes);
        self.write(edits);
        answer.try_recv().ok()
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
        slots.chain([format!("{:?} {}", registry.staged, registry.driver)]).collect()
    }
}

fn opened(rows: RolloutRows, quotas: &Arc<Quotas>, authority: &Arc<Authority>) -> Rollouts {
    let running_ms = rows.running_ms;
    let registry = Mutex::new(registry_of(rows, quotas, authority, true));
    let log = Some(RolloutLog::new(authority, quotas, running_ms));
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
    Event::Part { from, ids: text_of(ids.iter()), forbidden: forbidden.to_vec() }
}

fn created(id: &str, spec: Value, count: usize, compared: Compared) -> Event {
    Event::Created { head: head(id, spec, count), count, compared }
}

/// A rollout to `count` devices that runs, of a cluster with a driver.
fn running(count: usize) -> Node {
    let mut node = Node::new();
    for (request, event) in
        [Event::Driver(DRIVER), part(0, count, &[]), created("r", spec(true), count, Compared::default())]
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
    let pause = message(NUMBER, 50, 0, Event::Controlled(Control::Pause));
    let of_another = message(NUMBER + 1, 51, 0, Event::Controlled(Control::Pause));
    let ended =
        message(NUMBER, 52, DRIVER, Event::Ended { index: 1, state: DeviceState::Failed, reason: "full".into() });
    let first = sent(&node, 0);
    for (label, index, undecided, expected) in [
        ("the first wave", 0, vec![], true),
        ("its last device", 1, vec![], true),
        ("beyond the wave", 2, vec![], false),
        ("behind a pause in the same record", 0, vec![pause.clone()], false),
        ("behind a pause of another", 0, vec![of_another], true),
        ("behind an outcome", 0, vec![ended], true),
    ] {
        assert_eq!(node.rollouts.permits(&sent(&node, index), &undecided), expected, "{label}");
    }
    assert!(!node.rollouts.permits(&restored_row(&node, 0), &[]), "it is not rolled back");
    node.apply_row(&first);
    assert!(!node.rollouts.permits(&first, &[]), "it was sent before");
    let second = sent(&node, 1);
    node.apply(&pause);
    assert!(!node.rollouts.permits(&second, &[]), "after the pause");
    node.apply(&message(NUMBER, 53, 0, Event::Controlled(Control::Resume)));
    assert!(node.rollouts.permits(&second, &[]), "it goes on");
    let login = head("r", spec(true), 0).login;
    node.apply(&message(NUMBER, 54, 0, Event::RolledBack { login: Box::new(login), compared: None }));
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
    node.apply(&message(0, 60, 0, Event::Driver(DRIVER + 1)));
    let (before, rows) = (node.shown(), node.rows.clone());
    for (request, event) in [
        failed.clone(),
        Event::Stopped { reason: "revoked".into(), is_rolling_back: false },
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
    let removed = answer(&mut node, 26, Event::Removed);
    assert!(matches!(removed, log::Answer::Refused(Refused::State(NotPossible(State::Running)))), "{removed:?}");
    answer(&mut node, 27, Event::Controlled(Control::Cancel));
    assert!(matches!(answer(&mut node, 28, Event::Removed), log::Answer::Done));
    assert_eq!(node.rows.len(), running(10).rows.len());
    let gone = answer(&mut node, 29, Event::Controlled(Control::Pause));
    assert!(matches!(gone, log::Answer::Refused(Refused::Removed)), "{gone:?}");
}

/// Returns an event that may or may not be possible.
fn random_event(random: &mut Random, devices: usize) -> Event {
    let mut some = |max: u64| (0..random.below(max)).map(|_| random.below(devices as u64) as usize).collect::<Vec<_>>();
    let (converged, overdue) = (some(12), some(3));
    let index = random.below(devices as u64) as usize;
    let login = || Box::new(head("r", spec(true), 0).login);
    match random.below(26) {
        0 => Event::Controlled(Control::Pause),
        1..=3 => Event::Controlled(Control::Resume),
        4 if random.chance(6) => Event::Controlled(Control::Cancel),
        5 if random.chance(4) => Event::RolledBack { login: login(), compared: Some(Compared::default()) },
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
        13 if random.chance(8) => Event::Stopped { reason: "revoked".into(), is_rolling_back: random.chance(2) },
        14 => Event::Clock,
        15 if random.chance(20) => Event::Removed,
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
                _ = slot.apply(&nodes[0].quotas, now.date, |rollout| rollout.on_done(work));
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
                let event = random_event(&mut random, devices);
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
            let bytes = message(slot.number, 1000, 0, Event::Removed);
            nodes.iter_mut().for_each(|node| _ = node.apply(&bytes));
        }
        if nodes[0].slot(NUMBER).is_none() {
            nodes.iter().for_each(|node| assert_eq!(node.rows.len(), 1, "seed {seed}: only the clock"));
        }
    }
    assert!(ended > histories as usize / 4 && joined > 0, "{ended} of {histories} have ended, {joined} joined");
}
