//! The threads that check passwords: few, of the lowest priority, in front of a bounded queue.
//!
//! A hash takes tens of milliseconds and as many MiB, so it has no place on the threads that serve connections, and
//! those who are connected must not feel a flood of logins. A check that is being made, or waits, is not made a second
//! time: whoever asks the same from the same address gets the same answer. One that nobody waits for any more, because
//! its clients have gone, is not made at all.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{PasswordHash, Principal, password::Memory, verified::Tag};
use crate::quota::Network;

/// A password to check.
pub(super) struct Check {
    /// Where it came from.
    pub(super) from: Network,
    /// Whose it is said to be.
    pub(super) user: Principal,
    /// As it was sent.
    pub(super) password: Zeroizing<Vec<u8>>,
    /// The hash of that user, or one that nothing matches.
    pub(super) hash: Arc<PasswordHash>,
    /// Of the three above.
    pub(super) tag: Tag,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the user's password.
    Right,
    /// It is not.
    Wrong,
    /// It was not compared: too much had failed when its turn came.
    TooMany(Duration),
}

/// As much waits as may, or the check panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The threads and their queue. Dropped, they end.
pub(super) struct Checks {
    /// `None` only while being dropped.
    queue: Option<SyncSender<Job>>,
    pending: Pending,
    threads: Vec<JoinHandle<()>>,
}

/// Where the verdict of a check is told, as long as there is none.
type Pending = Arc<Mutex<HashMap<Key, Arc<Verdicts>>>>;
type Verdicts = watch::Sender<Option<Verdict>>;
/// What makes two checks the same.
type Key = (Network, Tag);

/// A check in the queue or in the hands of a thread. Dropped, it is no longer pending, whether there is a verdict or
/// not.
struct Job {
    check: Check,
    verdicts: Arc<Verdicts>,
    pending: Pending,
}

impl Checks {
    /// Starts `threads` of them, at least 1, which leave the checking to `examine`; at most `waiting_max` wait.
    pub(super) fn start<E>(threads: usize, waiting_max: usize, examine: E) -> io::Result<Self>
    where
        E: Fn(&Check, &mut Memory) -> Verdict + Clone + Send + 'static,
    {
        let (sender, receiver) = sync_channel(waiting_max);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut checks = Self { queue: Some(sender), pending: Pending::default(), threads: Vec::new() };
        for _ in 0..threads {
            let (receiver, examine) = (receiver.clone(), examine.clone());
            let thread = thread::Builder::new().name("passwords".to_owned());
            checks.threads.push(thread.spawn(move || work(&receiver, &examine))?);
        }
        Ok(checks)
    }

    /// Has `check` made, unless as many wait as may.
    pub(super) async fn verdict(&self, check: Check) -> Result<Verdict, Busy> {
        let mut told = self.submit(check)?;
        // It ends without a verdict only by a panic.
        let verdict = told.wait_for(Option::is_some).await.map_err(|_| Busy)?;
        verdict.ok_or(Busy)
    }

    fn submit(&self, check: Check) -> Result<watch::Receiver<Option<Verdict>>, Busy> {
        let key = (check.from, check.tag);
        let mut pending = self.pending.lock();
        if let Some(verdicts) = pending.get(&key) {
            return Ok(verdicts.subscribe());
        }
        let (verdicts, told) = watch::channel(None);
        let verdicts = Arc::new(verdicts);
        let job = Job { check, verdicts: verdicts.clone(), pending: self.pending.clone() };
        pending.insert(key, verdicts);
        drop(pending); // a job that is not taken is dropped, which takes this lock
        self.queue.as_ref().ok_or(Busy)?.try_send(job).map_err(|_| Busy)?;
        Ok(told)
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.queue = None;
        // Nobody waits any more, so what is left in the queue is not checked.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Job {
    /// Whether somebody waits for it. If not, nobody will any more.
    fn is_wanted(&self) -> bool {
        let mut pending = self.pending.lock();
        let wanted = self.verdicts.receiver_count() > 0;
        if !wanted {
            self.forget(&mut pending);
        }
        wanted
    }

    fn forget(&self, pending: &mut HashMap<Key, Arc<Verdicts>>) {
        let key = (self.check.from, self.check.tag);
        if pending.get(&key).is_some_and(|verdicts| Arc::ptr_eq(verdicts, &self.verdicts)) {
            pending.remove(&key);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.forget(&mut self.pending.lock());
    }
}

/// Makes one check after the other until there is no queue any more.
fn work(queue: &Mutex<Receiver<Job>>, examine: &impl Fn(&Check, &mut Memory) -> Verdict) {
    lower_priority();
    let mut memory = Memory::default();
    loop {
        let next = queue.lock().recv();
        let Ok(job) = next else { return };
        if !job.is_wanted() {
            continue;
        }
        let Ok(verdict) = catch_unwind(AssertUnwindSafe(|| examine(&job.check, &mut memory))) else {
            tracing::error!("the check of a password panicked, and its login is refused");
            memory = Memory::default(); // nobody knows how it was left
            continue;
        };
        // Those who ask from now on ask anew.
        job.forget(&mut job.pending.lock());
        job.verdicts.send_replace(Some(verdict));
    }
}

/// On Linux each thread has a priority of its own; elsewhere this would be the whole server's.
#[cfg(target_os = "linux")]
fn lower_priority() {
    const LOWEST: i32 = 19;
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST) {
        tracing::warn!(%error, "passwords are checked at the priority of everything else");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::mpsc::{Sender, channel},
    };

    use super::{super::password::tests::cheap, *};

    fn check(password: u8) -> Check {
        Check {
            from: IpAddr::from(Ipv4Addr::LOCALHOST).into(),
            user: Principal::named("lamp").unwrap(),
            password: Zeroizing::new(vec![password]),
            hash: Arc::new(cheap("x")),
            tag: [password; 32],
        }
    }

    /// One thread, which waits for a verdict to be handed to it, and tells which passwords it has begun with.
    fn by_hand(waiting_max: usize) -> (Checks, Sender<Verdict>, Receiver<u8>) {
        let (hand, verdicts) = channel();
        let (begun, seen) = channel();
        let hands = Arc::new(Mutex::new((verdicts, begun)));
        let examine = move |check: &Check, _: &mut Memory| {
            let (verdicts, begun) = &*hands.lock();
            begun.send(*check.password.first().unwrap()).unwrap();
            verdicts.recv().unwrap()
        };
        (Checks::start(1, waiting_max, examine).unwrap(), hand, seen)
    }

    async fn verdict(told: &mut watch::Receiver<Option<Verdict>>) -> Option<Verdict> {
        told.wait_for(Option::is_some).await.ok().and_then(|verdict| *verdict)
    }

    #[tokio::test]
    async fn the_same_check_is_made_once_for_all_who_ask() {
        let (checks, hand, seen) = by_hand(2);
        let mut all = (0..10_000).map(|_| checks.submit(check(1)).unwrap()).collect::<Vec<_>>();
        let mut other = checks.submit(check(2)).unwrap();
        hand.send(Verdict::Right).unwrap();
        hand.send(Verdict::Wrong).unwrap();
        for told in &mut all {
            assert_eq!(verdict(told).await, Some(Verdict::Right));
        }
        assert_eq!(verdict(&mut other).await, Some(Verdict::Wrong));
        drop(checks);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_refused() {
        let (checks, hand, seen) = by_hand(2);
        let mut first = checks.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1), "in the hands of the thread");
        let waiting = [checks.submit(check(2)).unwrap(), checks.submit(check(3)).unwrap()];
        assert!(checks.submit(check(4)).is_err() && checks.submit(check(4)).is_err());
        assert_eq!(checks.pending.lock().len(), 3, "what is refused leaves nothing");
        for _ in 0..3 {
            hand.send(Verdict::Wrong).unwrap();
        }
        assert_eq!(verdict(&mut first).await, Some(Verdict::Wrong));
        for mut told in waiting {
            assert_eq!(verdict(&mut told).await, Some(Verdict::Wrong));
        }
        assert!(checks.pending.lock().is_empty());
        hand.send(Verdict::Right).unwrap();
        assert_eq!(checks.verdict(check(4)).await, Ok(Verdict::Right));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_checked() {
        let (checks, hand, seen) = by_hand(8);
        let mut first = checks.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1));
        drop(checks.submit(check(2)).unwrap());
        let mut last = checks.submit(check(3)).unwrap();
        hand.send(Verdict::Right).unwrap();
        hand.send(Verdict::Right).unwrap();
        verdict(&mut first).await;
        assert_eq!(verdict(&mut last).await, Some(Verdict::Right));
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [3]);
    }

    /// The thread was gone then, and after the last of them every login was refused as long as the server ran.
    #[tokio::test]
    async fn a_check_that_panics_is_the_only_one_refused() {
        let examine = |check: &Check, _: &mut Memory| {
            assert_ne!(*check.password, [1], "for the test");
            Verdict::Right
        };
        let checks = Checks::start(1, 8, examine).unwrap();
        assert_eq!(checks.verdict(check(1)).await, Err(Busy));
        assert!(checks.pending.lock().is_empty());
        assert_eq!(checks.verdict(check(2)).await, Ok(Verdict::Right));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn checks_give_way_to_everything_else() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let (report, nice) = channel();
        let report = Arc::new(Mutex::new(report));
        let examine = move |_: &Check, _: &mut Memory| {
            report.lock().send(rustix::process::getpriority_process(None).unwrap()).unwrap();
            Verdict::Right
        };
        let checks = Checks::start(1, 1, examine).unwrap();
        checks.verdict(check(1)).await.unwrap();
        assert_eq!(nice.recv(), Ok(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before, "this thread's is as it was");
    }
}
