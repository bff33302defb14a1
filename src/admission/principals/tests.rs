//! Tests of what principals have, and of their limits.

use futures_util::FutureExt;

use super::*;

fn principals(entries_max: usize) -> Principals {
    Principals::new(0, entries_max, Budget::new(0), 1 << 30)
}

fn quota(principals: &Principals, name: &str, now: Instant) -> Arc<PrincipalQuota> {
    let limits = RoleLimits { work: 1_000, filters: 3, sessions: 2, new_shadows_per_day: 2, ..RoleLimits::UNLIMITED };
    principals.of(&name.into(), &limits, now)
}

#[test]
fn connections_of_a_principal_share_its_quota() {
    let (principals, now) = (principals(1_000), Instant::now());
    let [first, second, other] = ["a", "a", "b"].map(|name| quota(&principals, name, now));
    assert!(first.add_filter() && second.add_filter() && first.add_filter() && !second.add_filter());
    second.remove_filters(2);
    assert!(first.add_filter());
    assert_eq!(first.admit_work(10_000, now), Ok(()));
    assert_eq!(second.admit_work(1_000, now), Ok(()), "the burst is used, not exceeded");
    assert_eq!(second.admit_work(1, now), Err(Duration::from_secs(1)));
    assert_eq!(other.admit_work(1, now), Ok(()), "another has its own");
    assert!(second.charge_work(1, now).is_some(), "and what was done is charged");
    let streams = [&first, &second, &first].map(|quota| principals.stream(quota));
    assert_eq!(streams.map(|stream| stream.err()), [None, None, Some(QuotaKind::PrincipalStreams)]);
    let stream = principals.stream(&other).expect("another has its own");
    assert_eq!((principals.streams(), other.memory_used()), (1, STREAM_BYTES));
    drop(stream);
    assert_eq!((principals.streams(), other.memory_used()), (0, 0));
}

#[test]
fn new_shadows_are_counted_by_the_day() {
    let (principals, now) = (principals(1_000), Instant::now());
    let own = quota(&principals, "a", now);
    for may in [true, true, false] {
        assert_eq!(own.may_create_shadow(now), may);
        if may {
            own.count_new_shadow(now);
        }
    }
    let used = |later| own.usage(now + later).new_shadows;
    assert_eq!([Duration::ZERO, 3 * DAY / 2, 2 * DAY].map(used), [2, 1, 0]);
    assert_eq!(principals.most_new_shadows(1, now).first().map(|usage| usage.new_shadows), Some(2));
    assert!(own.may_create_shadow(now + DAY / 2));
    own.set_limits(&RoleLimits::NONE);
    assert!(!own.may_create_shadow(now + DAY), "a role without new shadows");
}

#[test]
fn known_limits_are_kept_for_what_an_absent_principal_left() {
    let (principals, now) = (principals(1_000), Instant::now());
    let own = quota(&principals, "a", now);
    let same = principals.known_or_new(&"a".into(), &RoleLimits::UNLIMITED, now);
    assert!(Arc::ptr_eq(&own, &same));
    assert_eq!(own.limits().filters, 3);
    let other = principals.known_or_new(&"b".into(), &RoleLimits::UNLIMITED, now);
    assert_eq!(other.limits(), RoleLimits::UNLIMITED);
}

#[test]
fn lists_the_largest() {
    let (principals, now) = (principals(1_000), Instant::now());
    let charges: Vec<_> = [("a", 1), ("b", 3), ("c", 0), ("d", 2)]
        .map(|(name, bytes)| Charge::new(quota(&principals, name, now), bytes))
        .into();
    let largest = |count| principals.largest(count, now).iter().map(|usage| usage.memory).collect::<Vec<_>>();
    assert_eq!((largest(2), largest(10)), (vec![3, 2], vec![3, 2, 1]));
    assert_eq!(principals.usage("b", now).map(|usage| usage.memory), Some(3));
    assert_eq!(principals.usage("x", now), None);
    drop(charges);
}

/// A hundred scans of one principal wait for each other and delay no other principal.
#[test]
fn scans_of_a_principal_wait_for_each_other() {
    let (principals, now) = (principals(1_000), Instant::now());
    let [a, b] = ["a", "b"].map(|name| quota(&principals, name, now));
    let mut permits: Vec<_> = (0..READS_MAX).map(|_| principals.reading(&a).now_or_never().expect("a turn")).collect();
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(principals.reading(&a))).collect();
    assert!(waiting.iter_mut().all(|reading| reading.now_or_never().is_none()));
    assert!(principals.reading(&b).now_or_never().is_some());
    permits.pop();
    let resumed = waiting.iter_mut().filter_map(|reading| reading.now_or_never()).collect::<Vec<_>>();
    assert_eq!(resumed.len(), 1);
}

/// Commands of one principal beyond the capacity of the engine wait for each other and delay no other principal.
#[test]
fn commands_of_a_principal_wait_for_each_other() {
    let (principals, now) = (principals(1_000), Instant::now());
    let [a, b] = ["a", "b"].map(|name| quota(&principals, name, now));
    let large = QUEUE_BYTES_MAX as usize / 4;
    let mut queued: Vec<_> = (0..4).map(|_| a.try_queue(large).expect("room")).collect();
    let mut waiting = Box::pin(a.queue(1));
    assert!(a.try_queue(1).is_none() && waiting.as_mut().now_or_never().is_none());
    let other = b.try_queue(usize::MAX).expect("as large as can be, and another's");
    assert!(b.try_queue(1).is_none());
    queued.pop();
    assert!(waiting.now_or_never().is_some());
    drop(other);
    assert!(b.try_queue(1).is_some());
}

/// An entry that a session holds stays in the table, however many other entries come and go.
#[test]
fn an_entry_in_use_is_not_evicted() {
    let (principals, start) = (principals(1 << 20), Instant::now());
    let held = quota(&principals, "held", start);
    for n in 0..20_000_u32 {
        let now = start + Duration::from_millis(n.into());
        assert_eq!(quota(&principals, &format!("p{n}"), now).admit_work(1, now), Ok(()));
    }
    assert!(principals.known.len() < 10_000, "{} known", principals.known.len());
    assert!(Arc::ptr_eq(&held, &quota(&principals, "held", start + Duration::from_secs(60))));
}
