//! Single steps of a rollout: its rate, checks, deadlines, waves, and the login that acts.

use super::*;

/// Returns a rollout to `devices`, all of which were sent their update at the time 0, and what it asks for then.
fn sent(members: Value, devices: usize) -> (Rollout, Vec<Work>) {
    let mut rollout = Rollout::new(Arc::new(parsed(members).unwrap()), (0..devices).map(id).collect());
    for work in rollout.work(Moment::default(), devices) {
        let Work::Update(index) = work else { panic!("{work:?}") };
        let entry = Box::new(rollout.sent_entry(index, Moment::default(), Version(2), Vec::new()).unwrap());
        rollout.on_update(index, Moment::default(), UpdateOutcome::Written { entry, is_exact: true });
    }
    let work = rollout.work(Moment::default(), devices);
    (rollout, work)
}

fn at(running_ms: u64) -> Moment {
    Moment { running_ms, date: Timestamp(1) }
}

#[test]
fn changes_collect_while_a_check_is_under_way() {
    let (mut rollout, work) = sent(json!({"query": "*"}), 3);
    assert_eq!(work, [Work::Check(vec![0, 1, 2])]);
    for _ in 0..5 {
        assert!(rollout.on_change(1) && rollout.on_change(2));
        assert_eq!(rollout.work(at(1), 8), [], "one check at a time");
    }
    rollout.on_checked(&[0, 1, 2], Some(&HashSet::from([0, 2])), at(2));
    assert_eq!(rollout.work(at(3), 8), [Work::Check(vec![1])], "device 2 has succeeded");
    rollout.on_checked(&[1], None, at(4));
    assert_eq!(rollout.work(at(5), 8), [Work::Check(vec![1])], "it could not be read");
}

#[test]
fn a_success_before_the_deadline_counts_though_it_is_seen_after() {
    let (mut rollout, work) = sent(json!({"query": "*", "deadlineSeconds": 1}), 3);
    assert_eq!(work, [Work::Check(vec![0, 1, 2])]);
    // The deadline passes during a check, which may have read the devices before they succeeded.
    assert_eq!(rollout.work(at(1000), 8), []);
    rollout.on_checked(&[0, 1, 2], Some(&HashSet::from([0])), at(1001));
    assert_eq!(rollout.counts().of(DeviceState::TimedOut), 0);
    assert_eq!(rollout.work(at(1002), 8), [Work::Check(vec![1, 2])]);
    // A device that goes on changing has failed nevertheless.
    assert!(rollout.on_change(2));
    rollout.on_checked(&[1, 2], Some(&HashSet::from([1])), at(1003));
    let states: Vec<_> = rollout.devices().iter().map(|device| device.state).collect();
    assert_eq!(states, [DeviceState::Converged, DeviceState::Converged, DeviceState::TimedOut]);
    assert_eq!(rollout.state(), State::Completed);
}

/// Deadlines were lost whose check had begun while the log had not answered the report of the one before.
#[test]
fn the_end_of_a_report_does_not_end_the_next_check() {
    let (mut rollout, work) = sent(json!({"query": "*", "deadlineSeconds": 1}), 2);
    let nobody = HashSet::new();
    assert_eq!(rollout.found(&[0, 1], Some(&nobody)), (vec![], vec![]));
    assert_eq!(rollout.work(at(1000), 8), [Work::Check(vec![0, 1])], "the deadlines are over");
    work.iter().for_each(|reported| rollout.on_done(reported));
    assert_eq!(rollout.found(&[0, 1], Some(&nobody)), (vec![], vec![0, 1]));
}

#[test]
fn a_check_that_finds_many_failures_aborts_at_the_first_above_the_limit() {
    let members = json!({"query": "*", "deadlineSeconds": 1, "abort": {"failures": 1}});
    let (mut rollout, _) = sent(members, 5);
    rollout.on_checked(&[0, 1, 2, 3, 4], None, at(1000));
    assert_eq!(rollout.work(at(1000), 8), [Work::Check(vec![0, 1, 2, 3, 4])]);
    rollout.on_checked(&[0, 1, 2, 3, 4], Some(&HashSet::from([4])), at(1001));
    let count = |state| rollout.counts().of(state);
    assert_eq!((rollout.state(), count(DeviceState::TimedOut), count(DeviceState::Converged)), (State::Aborted, 2, 1));
    assert_eq!(rollout.head().reason.as_deref(), Some("2 devices failed, more than 1"));
}

#[test]
fn waves_stay_where_they_are_when_devices_join_and_the_server_starts() {
    let spec = json!({"query": "*", "waves": [10, "50%", "100%"], "laterDevices": true, "abort": {"percent": 20}});
    let (mut rollout, mut updated) = (Rollout::new(Arc::new(parsed(spec).unwrap()), (0..20).map(id).collect()), 0);
    assert_eq!(rollout.waves(), [10, 20]);
    loop {
        match rollout.work(at(1), 1).pop() {
            Some(Work::Update(index)) => {
                rollout.on_update(index, at(1), UpdateOutcome::Skipped("no shadow".into()));
                updated += 1;
            }
            Some(Work::FindLater) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(updated, 20);
    let found = unknown(&rollout, (0..40).map(id).collect());
    rollout.on_later(Some(found));
    for index in 20..28 {
        assert_eq!(rollout.work(at(1), 1), [Work::Update(index)]);
        rollout.on_update(index, at(1), UpdateOutcome::Conflict("it is another".into()));
    }
    let head = rollout.head().clone();
    let mut restored = Rollout::restored(rollout.spec().clone(), head, rollout.devices().to_vec());
    for rollout in [&mut rollout, &mut restored] {
        assert_eq!((rollout.waves(), rollout.reached(), rollout.state()), (&[10, 40][..], 40, State::Running));
        assert_eq!(rollout.work(at(1), 1), [Work::Update(28)], "8 of 40 are not more than 20 %");
        rollout.on_update(28, at(1), UpdateOutcome::Conflict("it is another".into()));
        assert_eq!(rollout.state(), State::Aborted);
    }
}

#[test]
fn a_rollback_is_not_stopped_for_the_login_before() {
    let (mut rollout, _) = sent(json!({"query": "*"}), 1);
    let before = rollout.rollbacks();
    rollout.stop("revoked");
    assert_eq!(rollout.rollbacks(), before);
    rollout.control(Control::RollBack).unwrap();
    assert_ne!(rollout.rollbacks(), before);
}

#[test]
fn the_rate_is_kept() {
    let spec = Arc::new(parsed(json!({"query": "*", "rate": 20, "success": "accepted"})).unwrap());
    let mut rollout = Rollout::new(spec, (0..500).map(id).collect());
    let mut sent = 0;
    for running_ms in (0..5_000).step_by(10) {
        let now = Moment { running_ms, date: Timestamp(1) };
        for work in rollout.work(now, 64) {
            let Work::Update(index) = work else { panic!("{work:?}") };
            sent += 1;
            let entry = rollout.sent_entry(index, now, Version(1), Vec::new()).unwrap();
            rollout.on_update(index, now, UpdateOutcome::Written { entry: Box::new(entry), is_exact: true });
        }
        assert!(
            rollout.wakes_ms(now).is_some_and(|wakes| wakes > running_ms && wakes <= running_ms + 50),
            "{running_ms}"
        );
    }
    assert!((98..=103).contains(&sent), "{sent} in 5 seconds");
}
