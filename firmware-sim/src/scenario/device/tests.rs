//! A device takes events and returns actions: no sockets, no time.

#![allow(clippy::indexing_slicing, reason = "tests")]

use rand::SeedableRng;

use super::*;
use crate::{
    firmware::{self, DeviceKind},
    scenario::file::FirmwareUpdate,
};

const PROFILE: Profile = Profile {
    every: Duration::from_secs(60),
    awake: None,
    writes: Writes::Conditional,
    duplicates: 0.0,
    clock: None,
    speed: 1.0,
    run: 7,
};

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn device(kind: DeviceKind, profile: Profile) -> Device {
    let mut rng = SmallRng::seed_from_u64(3);
    let firmware = firmware::new(kind, 1, FirmwareUpdate::default().updater(), &mut rng);
    Device::new(DeviceId::new("d1").expect("a device id"), firmware, profile, at(0), rng)
}

/// A device that is on and connected, and has read a shadow.
fn online(kind: DeviceKind, profile: Profile, shadow: Value) -> (Device, Vec<Action>) {
    let mut device = device(kind, profile);
    assert_eq!(device.step(Event::Tick, at(0)), []);
    assert_eq!(device.step(Event::Online { resumed: false }, at(0)), [Action::Get]);
    let actions = device.step(Event::Read(document(shadow)), at(1));
    (device, actions)
}

fn document(value: Value) -> Document {
    serde_json::from_value(value).expect("a document")
}

/// The updates among actions, of every cause.
fn updates(actions: &[Action]) -> Vec<Value> {
    let body = |action: &Action| match action {
        Action::Update(body) | Action::Again(body) | Action::Duplicate(body) => serde_json::from_str(body).ok(),
        _ => None,
    };
    actions.iter().filter_map(body).collect()
}

fn update(actions: &[Action]) -> Value {
    let mut updates = updates(actions);
    assert_eq!(updates.len(), 1, "{actions:?}");
    updates.remove(0)
}

fn key(update: &Value) -> Option<String> {
    update["idempotencyKey"].as_str().map(str::to_owned)
}

fn accepted(update: &Value, version: u64) -> Event {
    Event::Accepted(key(update), serde_json::from_value(json!({"version": version})).expect("a reply"))
}

fn rejected(update: &Value, rejection: Value) -> Event {
    Event::Rejected(key(update), Rejection::from_reply(&rejection).expect("a rejection"))
}

fn delta(version: u64, state: Value) -> Event {
    Event::Delta(serde_json::from_value(json!({"version": version, "state": state})).expect("a delta"))
}

fn effects(actions: &[Action]) -> Vec<&str> {
    actions.iter().filter_map(|action| if let Action::Effect(id) = action { Some(id.as_str()) } else { None }).collect()
}

#[test]
fn the_first_report_has_everything_under_the_version_read() {
    for (writes, version, expected) in [
        (Writes::Conditional, 0, [json!(0), Value::Null]),
        (Writes::Conditional, 4, [json!(4), Value::Null]),
        (Writes::Rebase, 4, [json!(4), json!("rebase")]),
        (Writes::Rebase, 0, [json!(0), Value::Null]),
        (Writes::Unconditional, 4, [Value::Null, Value::Null]),
    ] {
        let (_, actions) = online(DeviceKind::Pump, Profile { writes, ..PROFILE }, json!({"version": version}));
        let update = update(&actions);
        assert_eq!([&update["version"], &update["onConflict"]], [&expected[0], &expected[1]], "{writes:?}");
        assert_eq!(update["state"]["reported"]["state"], "idle");
        assert_eq!(update["clientToken"], update["idempotencyKey"]);
    }
}

#[test]
fn a_report_without_a_reply_is_sent_again_under_its_key() {
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, json!({"version": 4}));
    let first = update(&actions);
    let due = device.due();
    assert_eq!(due, at(1) + REPLY_DEADLINE);
    assert_eq!(device.step(Event::Tick, due), [Action::Again(first.to_string())]);
    // A resumed session sends it again by itself, a new one does not.
    device.step(Event::Offline, at(20));
    assert_eq!(device.step(Event::Online { resumed: true }, at(21)), [Action::Get]);
    device.step(Event::Offline, at(22));
    let again = device.step(Event::Online { resumed: false }, at(23));
    assert_eq!(again, [Action::Get, Action::Again(first.to_string())]);
    let actions = device.step(accepted(&first, 5), at(24));
    let [Action::Accepted(recorded, took)] = &actions[..] else { unreachable!("{actions:?}") };
    assert_eq!((recorded.expected, recorded.version, *took), (Some(Version(4)), Version(5), at(23)));
}

#[test]
fn after_a_conflict_the_report_is_a_new_request_under_the_current_version() {
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, json!({"version": 4}));
    let first = update(&actions);
    let actions = device.step(rejected(&first, json!({"code": 409, "version": 9})), at(2));
    assert_eq!(actions.first(), Some(&Action::Conflict));
    let second = update(&actions);
    assert_eq!((&second["version"], &second["state"]), (&json!(9), &first["state"]));
    assert_ne!(key(&second), key(&first));
    assert_eq!(device.step(accepted(&first, 10), at(3)), [], "the first one is of no interest any more");
}

#[test]
fn a_report_put_off_is_sent_again_later_and_a_refused_one_never() {
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, json!({"version": 4}));
    let first = update(&actions);
    let later = json!({"code": 429, "error": "too-many-requests", "retryAfterMs": 3000});
    assert_eq!(device.step(rejected(&first, later), at(2)), [Action::Deferred]);
    assert_eq!(device.due(), at(5));
    assert_eq!(device.step(Event::Tick, at(5)), [Action::Again(first.to_string())]);
    let actions = device.step(rejected(&first, json!({"code": 413, "error": "too-large"})), at(6));
    assert!(matches!(&actions[..], [Action::Refused(_)]), "{actions:?}");
}

#[test]
fn a_duplicate_is_the_same_request_and_its_reply_is_recorded_under_the_same_key() {
    let (mut device, actions) = online(DeviceKind::Pump, Profile { duplicates: 1.0, ..PROFILE }, json!({"version": 4}));
    let both = updates(&actions);
    assert_eq!(both.len(), 2);
    assert_eq!(both[0], both[1]);
    device.step(accepted(&both[0], 5), at(2));
    let replay = json!({"version": 5, "replayed": true});
    let event = Event::Accepted(key(&both[0]), serde_json::from_value(replay).expect("a reply"));
    let actions = device.step(event, at(3));
    let [Action::Accepted(recorded, _)] = &actions[..] else { unreachable!("{actions:?}") };
    assert!(recorded.replayed && recorded.key == key(&both[0]));
    let actions = device.step(rejected(&both[0], json!({"code": 409, "version": 5})), at(4));
    assert!(matches!(&actions[..], [Action::DuplicateRejected(..)]), "the key was forgotten: {actions:?}");
}

#[test]
fn a_power_cut_loses_the_report_and_keeps_what_is_in_flash() {
    let command = json!({"id": "c1", "litres": 5});
    let (mut device, actions) =
        online(DeviceKind::Pump, PROFILE, json!({"version": 4, "state": {"desired": {"command": command}}}));
    device.step(accepted(&update(&actions), 5), at(2));
    let actions = device.step(Event::Tick, at(32));
    assert_eq!(effects(&actions), ["c1"]);
    assert_eq!(update(&actions)["state"]["reported"]["command"], command);
    assert_eq!(device.step(Event::PowerCut(at(60)), at(33)), [Action::Unknown]);
    assert!(!device.is_awake() && !device.is_online() && device.due() == at(93));
    device.step(Event::Tick, at(93));
    device.step(Event::Online { resumed: false }, at(94));
    // The report was lost on its way, so the command is delivered again.
    let lost = json!({"version": 5, "state": {"desired": {"command": command}, "reported": {"runs": 0}}});
    let actions = device.step(Event::Read(document(lost)), at(95));
    assert_eq!(update(&actions)["state"]["reported"]["runs"], 1);
    assert_eq!(effects(&device.step(Event::Tick, at(200))), [""; 0], "it has run already");
}

#[test]
fn a_delta_of_a_part_of_a_command_is_completed_and_obeyed_once() {
    let done = json!({"id": "c1", "litres": 5});
    let shadow = json!({"version": 4, "state": {"desired": {"command": done}, "reported": {"command": done}}});
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, shadow);
    device.step(accepted(&update(&actions), 5), at(2));
    // The firmware of a new device has run c1 as well, as its flash was empty.
    device.step(Event::Tick, at(40));
    let actions = device.step(delta(6, json!({"command": {"id": "c2"}})), at(41));
    assert!(actions.contains(&Action::Obeyed(json!({"command": {"id": "c2"}}))), "{actions:?}");
    assert_eq!(device.step(delta(7, json!({"command": {"id": "c2"}})), at(42)), [], "it is known");
    assert_eq!(effects(&device.step(Event::Tick, at(72))), ["c2"]);
}

#[test]
fn a_meter_wakes_reports_and_sleeps() {
    let profile = Profile { every: at(900), awake: Some(at(30)), ..PROFILE };
    let (mut device, actions) = online(DeviceKind::Meter, profile, json!({"version": 4}));
    let report = update(&actions);
    assert_eq!(device.due(), at(1) + REPLY_DEADLINE, "it waits for the reply");
    device.step(Event::Tick, at(31));
    assert!(device.is_awake(), "a report is under way");
    device.step(accepted(&report, 5), at(32));
    assert!(device.due() <= at(32));
    device.step(Event::Tick, at(32));
    assert!(!device.is_awake());
    device.step(Event::Offline, at(32));
    let wakes = device.due();
    assert!((at(720)..at(1_080)).contains(&wakes), "{wakes:?}");
    assert_eq!(device.step(Event::Tick, wakes), [], "it is not online yet");
    assert!(device.is_awake());
    device.step(Event::Online { resumed: true }, wakes);
    let read = device.step(Event::Read(document(json!({"version": 5, "state": {"reported": {}}}))), wakes);
    assert!(update(&read)["state"]["reported"]["energy"].is_number());
}

#[test]
fn a_lock_turned_by_hand_writes_both_sections() {
    let (mut device, actions) = online(DeviceKind::Lock, PROFILE, json!({"version": 4}));
    device.step(accepted(&update(&actions), 5), at(2));
    let mut version = 5;
    for second in (60..).step_by(60).take(10_000) {
        let actions = device.step(Event::Tick, at(second));
        for update in updates(&actions) {
            version += 1;
            if let Some(locked) = update["state"]["desired"]["locked"].as_bool() {
                assert_eq!(update["state"]["reported"]["locked"], locked);
                return;
            }
            device.step(accepted(&update, version), at(second));
        }
    }
    unreachable!("nobody has turned it");
}

#[test]
fn a_clock_that_is_wrong_is_reported_as_it_is() {
    let profile = Profile { clock: Some(1_000.0), speed: 10.0, ..PROFILE };
    let (_, actions) = online(DeviceKind::Pump, profile, json!({"version": 4}));
    assert_eq!(update(&actions)["state"]["reported"]["measured"], json!(1_010.0));
}

/// The oracle learns of firmware when the device sees it, and before the report that says that it runs.
#[test]
fn firmware_is_recorded_when_it_is_seen_and_before_it_is_reported() {
    let shadow = json!({"version": 4, "state": {"desired": {"firmware": "9"}}});
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, shadow);
    let seen = actions.iter().position(|action| *action == Action::FirmwareAsked("9".into()));
    let reported = actions.iter().position(|action| matches!(action, Action::Update(_)));
    assert!(seen.is_some() && seen < reported, "{actions:?}");
    let mut actions = device.step(accepted(&update(&actions), 5), at(2));
    let running = |actions: &[Action]| actions.iter().position(|action| *action == Action::Running("9".into()));
    let mut now = 3;
    while running(&actions).is_none() {
        assert!(now < 1_000, "it never ran");
        if actions.iter().any(|action| matches!(action, Action::Update(_))) {
            let report = update(&actions);
            assert_ne!(report["state"]["reported"]["firmware"], "9", "not recorded before: {report}");
            actions = device.step(accepted(&report, now), at(now));
        } else {
            actions = device.step(Event::Tick, at(now));
        }
        now += 1;
    }
    let report = actions.iter().position(|action| matches!(action, Action::Update(_)));
    assert!(running(&actions) < report, "{actions:?}");
    assert_eq!(update(&actions)["state"]["reported"]["firmware"], "9");
}

#[test]
fn at_the_end_it_converges_and_gives_the_last_shadow() {
    let shadow = json!({"version": 4, "state": {"desired": {"firmware": "9"}}});
    let (mut device, actions) = online(DeviceKind::Pump, PROFILE, shadow.clone());
    device.step(accepted(&update(&actions), 5), at(2));
    assert_eq!(device.step(Event::Finish, at(3)), [Action::Get]);
    let actions = device.step(Event::Read(document(shadow)), at(4));
    let report = update(&actions);
    assert_eq!(report["state"]["reported"]["firmware"], "9", "installed at once");
    assert_eq!(device.step(accepted(&report, 6), at(5)).last(), Some(&Action::Get));
    let reported = report["state"]["reported"].clone();
    let last = document(json!({"version": 6, "state": {"desired": {"firmware": "9"}, "reported": reported}}));
    assert_eq!(device.step(Event::Read(last.clone()), at(6)), [Action::Final(last)]);
}
