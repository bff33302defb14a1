//! Rollouts by seed: random fleets, outcomes, commands and crashes, with the invariants checked at each step.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod steps;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    shadow::{Pointer, SectionPatch, Timestamp, Update},
    store::tests::Random,
};

fn parsed(members: Value) -> Result<Spec, String> {
    let Value::Object(mut members) = members else { panic!("an object") };
    let patch = members.remove("patch").unwrap_or_else(|| json!({"desired": {"v": 2}}));
    let section = |name: &str| match patch.get(name) {
        None => SectionPatch::Keep,
        Some(Value::Object(members)) => SectionPatch::Merge(members.clone()),
        Some(_) => SectionPatch::Clear,
    };
    let update = Update {
        desired: section("desired"),
        reported: section("reported"),
        tags: section("tags"),
        ..Update::default()
    };
    Spec::parse(&members, update).map_err(|error| error.to_string())
}

/// Returns those of `found` that are not in the rollout.
fn unknown(rollout: &Rollout, mut found: Vec<DeviceId>) -> Vec<DeviceId> {
    found.retain(|found| rollout.devices().iter().all(|device| device.id != *found));
    found
}

#[test]
fn descriptions_are_checked() {
    let with = |name: &str, value: Value| {
        let mut members = Map::from_iter([("query".to_owned(), json!("device:a*"))]);
        members.insert(name.to_owned(), value);
        parsed(Value::Object(members)).map(|_| ())
    };
    for (name, value, expected) in [
        ("shadow", json!("conf"), ""),
        ("shadow", json!("a/b"), "holds '/'"),
        ("query", json!("("), "column"),
        ("query", json!(7), "must be a string"),
        ("devices", json!(["a"]), "exclude each other"),
        ("waves", json!([10, "10%", "100%"]), ""),
        ("waves", json!([10]), "must end with \"100%\""),
        ("waves", json!([]), "1 to 100 waves"),
        ("waves", json!([0, "100%"]), "as 10 or \"10%\""),
        ("waves", json!(["0%", "100%"]), "as 10 or \"10%\""),
        ("waves", json!(["101%"]), "as 10 or \"10%\""),
        ("rate", json!(0), "from 1 to 10000"),
        ("rate", json!(20.0), ""),
        ("success", json!("done"), "must be 'converged', 'accepted'"),
        ("success", json!("query: reported.v:2 AND reported.health:ok"), ""),
        ("success", json!("query: seen:<1h"), "changes with time"),
        ("deadlineSeconds", json!(600), ""),
        ("deadlineSeconds", json!(-1), "from 1 to 2592000"),
        ("abort", json!({"failures": 0}), ""),
        ("abort", json!({"percent": 2.5}), ""),
        ("abort", json!({"percent": 101}), "from 0 to 100"),
        ("abort", json!({}), "must have 'failures' or 'percent'"),
        ("abort", json!({"failure": 1}), "has 'failure'"),
        ("laterDevices", json!(true), ""),
        ("paused", json!(1), "must be true or false"),
        ("wave", json!([1]), "unknown; known are query"),
        ("patch", json!({"reported": {"a": 1}}), "must not have 'reported'"),
        ("patch", json!({"desired": null}), "must not clear a section"),
        ("patch", json!({"desired": {}}), "must change something"),
        ("patch", json!({"tags": {"a": null}}), ""),
    ] {
        let found = with(name, value.clone());
        match expected {
            "" => assert_eq!(found, Ok(()), "{name} {value}"),
            text => assert!(found.clone().is_err_and(|error| error.contains(text)), "{name} {value}: {found:?}"),
        }
    }
    for (devices, expected) in [
        (json!(["a", "b"]), ""),
        (json!(["a", "a"]), "has 'a' more than once"),
        (json!([]), "has 0 ids"),
        (json!(["a b"]), "holds ' '"),
        (json!("a"), "must be an array"),
    ] {
        let found = parsed(json!({"devices": devices})).map(|_| ()).err().unwrap_or_default();
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{devices}: {found}");
    }
}

#[test]
fn waves_reach_devices_in_all() {
    for (waves, devices, expected) in [
        (json!([10, "10%", "100%"]), 310, vec![10, 31, 310]),
        (json!([10, "10%", "100%"]), 50, vec![10, 50]),
        (json!([10, "100%"]), 7, vec![7]),
        (json!(["1%", "100%"]), 3, vec![1, 3]),
        (json!(["0.07%", "0.29%", "100%"]), 10_000, vec![7, 29, 10_000]),
        (json!(["0.07%", "100%"]), 10_001, vec![8, 10_001]),
        (json!(["100%"]), 0, vec![]),
    ] {
        let spec = parsed(json!({"query": "*", "waves": waves})).unwrap();
        assert_eq!(spec.wave_sizes(devices), expected, "{waves} of {devices}");
    }
}

#[test]
fn overlapping_paths_are_found() {
    for (one, other, expected) in [
        (json!({"desired": {"a": 1}}), json!({"desired": {"a": 2}}), Some("/desired/a")),
        (json!({"desired": {"a": {"x": 1}}}), json!({"desired": {"a": 2}}), Some("/desired/a/x")),
        (json!({"desired": {"a": 2}}), json!({"desired": {"a": {"x": 1}}}), Some("/desired/a")),
        (json!({"desired": {"a": {"x": 1}}}), json!({"desired": {"a": {"y": 1}}}), None),
        (json!({"desired": {"a": 1}}), json!({"tags": {"a": 1}}), None),
    ] {
        let spec = |patch: &Value| parsed(json!({"query": "*", "patch": patch})).unwrap();
        let found = spec(&one).overlap(&spec(&other)).map(Pointer::to_string);
        assert_eq!(found.as_deref(), expected, "{one} {other}");
    }
}

/// A device of the fleet, and the way it behaves.
#[derive(Clone, Debug)]
struct Thing {
    value: u64,
    first: u64,
    version: u64,
    kind: Kind,
    /// The number of updates of the rollout that it was sent.
    updates: usize,
    /// True if somebody else changed it after the rollout did.
    is_foreign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Converges,
    Never,
    Conflict,
    Absent,
    Refused,
}

/// A fleet with a rollout, its store, and the jobs of its driver.
struct World {
    random: Random,
    spec: Arc<Spec>,
    rollout: Rollout,
    things: Vec<Thing>,
    now: Moment,
    /// The rows on disk, and edits that are not on disk yet, in order.
    rows: BTreeMap<String, Vec<u8>>,
    unwritten: Vec<(String, Vec<u8>)>,
    jobs: Vec<Work>,
    /// Outcomes that are on disk and not reported yet.
    reports: Vec<(usize, UpdateOutcome)>,
    /// True if the driver is killed now and then. Otherwise nothing may be forgotten, since no start mends it.
    crashes: bool,
}

const HEAD: &str = "head";
const STEP_MS: u64 = 200;

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = 1 + random.below(60) as usize;
        let mut members = json!({"query": "*", "deadlineSeconds": 1 + random.below(20)});
        if random.chance(2) {
            members["waves"] = json!([1 + random.below(5), "20%", "100%"]);
        }
        if random.chance(2) {
            members["abort"] = json!({"failures": random.below(5)});
        } else if random.chance(2) {
            members["abort"] = json!({"percent": random.below(30)});
        }
        if random.chance(3) {
            members["rate"] = json!(1 + random.below(50));
        }
        if random.chance(4) {
            members["success"] = json!("accepted");
        }
        if random.chance(4) {
            members["laterDevices"] = json!(true);
        }
        let spec = Arc::new(parsed(members).unwrap());
        let things: Vec<_> = (0..count).map(|_| Thing::random(&mut random)).collect();
        let rollout = Rollout::new(spec.clone(), (0..count).map(id).collect());
        let now = Moment { running_ms: 0, date: Timestamp(1) };
        let (rows, unwritten, jobs, reports) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        let crashes = seed.is_multiple_of(2);
        let mut world = Self { random, spec, rollout, things, now, rows, unwritten, jobs, reports, crashes };
        world.record();
        world.flush();
        world
    }

    /// Writes what changed, and checks what holds at any time.
    fn record(&mut self) {
        let edits = self.rollout.take_edits();
        if edits.added_after.is_some() {
            self.unwritten.push(("count".to_owned(), self.rollout.devices().len().to_string().into()));
        }
        for index in edits.devices {
            self.unwritten.push((format!("{index:04}"), self.rollout.devices()[index].record()));
        }
        if edits.head {
            let Head { state, reason, wave, planned, .. } = self.rollout.head().clone();
            self.unwritten.push((HEAD.to_owned(), json!([state, reason, wave, planned]).to_string().into()));
        }
        let counts = self.rollout.counts();
        for state in DeviceState::ALL {
            let found = self.rollout.devices().iter().filter(|device| device.state == state).count();
            assert_eq!(counts.of(state), found, "{state:?}");
        }
        let (head, waves) = (self.rollout.head(), self.rollout.waves());
        let done = head.wave.checked_sub(1).map_or(0, |before| waves[before]);
        let is_open = |device: &&DeviceEntry| device.state.is_open();
        if head.state == State::Running {
            assert_eq!(
                self.rollout.devices().iter().take(done).filter(is_open).count(),
                0,
                "a wave begins after the last"
            );
        }
        let reached = waves.get(head.wave).copied().unwrap_or_default();
        let is_over = self.spec.abort.reason(counts.failures(), reached).is_some();
        match head.state {
            State::Running | State::Paused => assert!(!is_over, "it aborts where it should"),
            State::Aborted => assert!(is_over, "it aborts only where it should"),
            _ => {}
        }
        let used =
            self.rollout.devices().iter().map(|device| device.id.as_str().len() + device.memory()).sum::<usize>();
        assert_eq!(self.rollout.memory(), used + ENTRY_BYTES * self.rollout.devices().len());
    }

    fn flush(&mut self) {
        self.rows.extend(self.unwritten.drain(..));
    }

    /// Kills the driver: edits that are not on disk and the reports of its jobs are lost.
    fn crash(&mut self) {
        let is_lost = |key: &str| self.unwritten.iter().any(|(lost, _)| lost == key);
        let reached =
            (!is_lost("count") && !is_lost(HEAD)).then(|| (self.rollout.waves().to_vec(), self.rollout.reached()));
        self.unwritten.clear();
        self.jobs.clear();
        self.reports.clear();
        let (state, reason, wave, planned) =
            serde_json::from_slice::<(State, Option<Arc<str>>, usize, usize)>(&self.rows[HEAD]).unwrap();
        let count: usize = std::str::from_utf8(&self.rows["count"]).unwrap().parse().unwrap();
        let device = |index: usize| match self.rows.get(&format!("{index:04}")) {
            None => DeviceEntry::queued(id(index)),
            Some(record) => DeviceEntry::read(id(index), record).unwrap(),
        };
        let devices: Vec<_> = (0..count).map(device).collect();
        for (index, device) in devices.iter().enumerate() {
            let thing = &self.things[index];
            assert!(device.written.is_some() || !device.state.is_written(), "{device:?}");
            assert!(
                device.state != DeviceState::Queued || thing.updates == 0,
                "{index} was changed, which no row says"
            );
        }
        let head = Head { state, reason, wave, planned, commands: 0, rollbacks: 0 };
        self.rollout = Rollout::restored(self.spec.clone(), head, devices);
        if let Some(reached) = reached {
            assert_eq!((self.rollout.waves().to_vec(), self.rollout.reached()), reached, "a start moves no wave");
        }
        self.record();
    }

    fn step(&mut self) {
        self.now.running_ms += self.random.below(STEP_MS);
        self.now.date.0 += 1;
        match self.random.below(40) {
            0 if self.crashes => return self.crash(),
            1 => self.command(),
            2..5 => self.flush(),
            5 => self.interfere(),
            6 => self.rollout.on_any_change(),
            _ => {}
        }
        let work = self.rollout.work(self.now, 8);
        self.jobs.extend(work);
        self.record();
        if !self.reports.is_empty() && self.random.chance(2) {
            let chosen = self.random.below(self.reports.len() as u64) as usize;
            let (index, outcome) = self.reports.swap_remove(chosen);
            self.rollout.on_update(index, self.now, outcome);
            self.record();
        }
        if !self.jobs.is_empty() && !self.random.chance(4) {
            let chosen = self.random.below(self.jobs.len() as u64) as usize;
            let job = self.jobs.swap_remove(chosen);
            self.perform(job);
            self.record();
        }
    }

    fn command(&mut self) {
        let (control, allowed): (_, &[State]) = match self.random.below(12) {
            0 => (Control::Cancel, &[State::Running, State::Paused]),
            1 => (
                Control::RollBack,
                &[State::Running, State::Paused, State::Completed, State::Aborted, State::Cancelled],
            ),
            2..6 => (Control::Pause, &[State::Running]),
            _ => (Control::Resume, &[State::Paused]),
        };
        let state = self.rollout.state();
        let expected = if allowed.contains(&state) { Ok(()) } else { Err(NotPossible(state)) };
        assert_eq!(self.rollout.control(control), expected);
    }

    /// Somebody else changes a device.
    fn interfere(&mut self) {
        let index = self.random.below(self.things.len() as u64) as usize;
        let thing = &mut self.things[index];
        if thing.updates > 0 && thing.value != 2 {
            return; // restored, or changed already
        }
        thing.value = 9;
        thing.version += 1;
        thing.is_foreign = thing.updates > 0;
        if thing.updates == 0 {
            thing.first = 9;
        }
    }

    fn perform(&mut self, job: Work) {
        match job {
            Work::Update(index) => self.update(index),
            Work::Restore(index) => self.restore(index),
            Work::Check(checked) => {
                let has = |index: &&usize| self.things[**index].kind == Kind::Converges;
                let met: HashSet<_> = checked.iter().filter(has).copied().collect();
                let read = !self.random.chance(10);
                self.rollout.on_checked(&checked, read.then_some(&met), self.now);
            }
            Work::FindLater => {
                if self.things.len() < 80 && self.random.chance(2) {
                    self.things.push(Thing::random(&mut self.random));
                }
                let found = (!self.random.chance(4)).then(|| (0..self.things.len()).map(id).collect());
                let found = found.map(|found| unknown(&self.rollout, found));
                self.rollout.on_later(found);
            }
        }
    }

    fn update(&mut self, index: usize) {
        let reached = self.rollout.waves()[self.rollout.head().wave];
        if !self.rollout.wants_update(index) {
            return self.rollout.on_update(index, self.now, UpdateOutcome::NotSent);
        }
        assert!(index < reached, "{index} is beyond the wave, which reaches {reached}");
        let thing = &mut self.things[index];
        let outcome = match thing.kind {
            Kind::Absent => UpdateOutcome::Skipped("no shadow".into()),
            Kind::Conflict => UpdateOutcome::Conflict("it is another".into()),
            Kind::Refused => UpdateOutcome::Failed("too large".into()),
            Kind::Converges | Kind::Never => {
                let path = WrittenPath {
                    path: "/desired/v".parse().unwrap(),
                    now: Some(json!(2)),
                    was: Some(json!(thing.value)),
                };
                let expected = Version(thing.version + 1);
                let entry = self.rollout.sent_entry(index, self.now, expected, vec![path]).unwrap();
                // The commit: everything that was sent before, the row, and the change.
                self.rows.extend(self.unwritten.drain(..));
                self.rows.insert(format!("{index:04}"), entry.record());
                thing.updates += 1;
                thing.first = thing.value;
                thing.value = 2;
                thing.version += 1 + self.random.below(2);
                assert_eq!(thing.updates, 1, "{index} is sent two updates");
                if self.crashes && self.random.chance(10) {
                    return self.crash();
                }
                let version = Some(Version(self.things[index].version));
                let is_exact = entry.version == version;
                UpdateOutcome::Written { entry: Box::new(DeviceEntry { version, ..entry }), is_exact }
            }
        };
        self.reports.push((index, outcome));
    }

    fn restore(&mut self, index: usize) {
        let device = self.rollout.devices()[index].clone();
        let written = device.written.clone().expect("only written devices are restored");
        let thing = &mut self.things[index];
        assert_eq!((written.len(), &written[0].now), (1, &Some(json!(2))));
        let outcome = if json!(thing.value) == json!(2) {
            // The row is committed with the change, as that of an update.
            let version = Version(thing.version + 1);
            thing.value = written[0].was.as_ref().unwrap().as_u64().unwrap();
            thing.version = version.0;
            self.rows.extend(self.unwritten.drain(..));
            let row = device.restored(self.now.date, version);
            self.rows.insert(format!("{index:04}"), row.record());
            if self.crashes && self.random.chance(10) {
                return self.crash();
            }
            RestoreOutcome::Restored(version)
        } else {
            RestoreOutcome::Kept("it is another".into())
        };
        self.rollout.on_restore(index, self.now, Some(outcome));
    }
}

impl Thing {
    fn random(random: &mut Random) -> Self {
        let kind = match random.below(30) {
            0 | 1 => Kind::Never,
            2 => Kind::Conflict,
            3 => Kind::Absent,
            4 => Kind::Refused,
            _ => Kind::Converges,
        };
        let value = 10 + random.below(3);
        Self { value, first: value, version: 1, kind, updates: 0, is_foreign: false }
    }
}

fn id(index: usize) -> DeviceId {
    DeviceId::new(&format!("d{index:04}")).unwrap()
}

#[test]
fn whatever_happens_each_device_is_changed_once_within_its_wave_and_restored_exactly() {
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..400 {
        let mut world = World::new(seed);
        let mut steps = 0;
        while !world.rollout.state().is_final() && steps < 20_000 {
            world.step();
            steps += 1;
        }
        assert!(world.rollout.state().is_final(), "seed {seed}: {:?}", world.rollout);
        *ends.entry(world.rollout.state().name()).or_default() += 1;
        if world.rollout.state() == State::Completed {
            let open = world.rollout.devices().iter().filter(|device| device.state.is_open()).count();
            assert_eq!(open, 0, "seed {seed}");
        }
        if world.random.chance(2) {
            // Updates that were under way at its end have ended meanwhile.
            world.reports.drain(..).for_each(|(index, outcome)| world.rollout.on_update(index, world.now, outcome));
            world.record();
        }
        if world.rollout.control(Control::RollBack).is_ok() {
            // The command is answered once it is on disk.
            world.record();
            world.flush();
            while world.rollout.state() == State::RollingBack {
                world.step();
            }
        }
        for (index, (thing, device)) in world.things.iter().zip(world.rollout.devices()).enumerate() {
            let expected = if thing.is_foreign { 9 } else { thing.first };
            assert_eq!(thing.value, expected, "seed {seed}, {index}: {thing:?} {device:?}");
            let is_restored = thing.updates == 1 && !thing.is_foreign;
            assert_eq!(
                device.state == DeviceState::RolledBack,
                is_restored,
                "seed {seed}, {index}: {thing:?} {device:?}"
            );
        }
    }
    assert!(["completed", "aborted", "cancelled"].iter().all(|end| ends.contains_key(end)), "{ends:?}");
}

/// Devices that are skipped from the beginning are in no wave's way, and no other may be skipped once it is under way.
#[test]
fn skipped_devices_are_left_out() {
    let spec = Arc::new(parsed(json!({"query": "*", "waves": [2, "100%"], "success": "accepted"})).unwrap());
    let mut rollout = Rollout::new(spec.clone(), (0..4).map(id).collect());
    let now = Moment { running_ms: 0, date: Timestamp(1) };
    rollout.skip([0, 1, 9], &"forbidden".into(), now);
    assert_eq!((rollout.head().wave, rollout.counts().of(DeviceState::Skipped)), (1, 2));
    assert_eq!(rollout.take_edits().devices, [0, 1].into());
    assert_eq!(rollout.work(now, 1), [Work::Update(2)]);
    rollout.skip([2, 3], &"forbidden".into(), now);
    assert_eq!(rollout.counts().of(DeviceState::Queued), 1);
    rollout.on_update(2, now, UpdateOutcome::Failed("refused".into()));
    assert_eq!(rollout.state(), State::Completed);
    let mut all = Rollout::new(spec, (0..4).map(id).collect());
    all.skip(0..4, &"forbidden".into(), now);
    assert_eq!(all.state(), State::Completed);
    assert!(all.devices().iter().all(|device| !device.state.is_claimed()));
}
