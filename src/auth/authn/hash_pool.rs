//! The hashing threads for passwords: few, at the lowest priority, behind a bounded queue.
//!
//! A hash takes tens of milliseconds and as many MiB. So it must not run on the threads that serve connections, and a
//! flood of logins must not slow connected clients. Equal checks from one address share one job and its verdict. A job
//! whose clients have all gone is skipped.

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

use crate::admission::Network;
use crate::auth::{
    PasswordHash, Principal,
    authn::{password::Memory, password_cache::CacheTag},
};

/// A password to verify.
pub(in crate::auth) struct PasswordCheck {
    /// The source network of the login.
    pub(in crate::auth) from: Network,
    /// The claimed user.
    pub(in crate::auth) user: Principal,
    /// The password as sent.
    pub(in crate::auth) password: Zeroizing<Vec<u8>>,
    /// The hash of the user, or one that nothing matches.
    pub(in crate::auth) hash: Arc<PasswordHash>,
    /// The tag of the three fields above.
    pub(in crate::auth) tag: CacheTag,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) enum PasswordVerdict {
    /// The password is right.
    Right,
    /// The password is wrong.
    Wrong,
    /// The password was not checked: too many failures; retry after this time.
    TooMany(Duration),
}

/// An error: the queue is full, or the check panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) struct HashQueueError;

/// The hashing threads and their queue. The threads end when this is dropped.
pub(in crate::auth) struct PasswordHashPool {
    /// The queue; `None` only during the drop.
    queue: Option<SyncSender<HashJob>>,
    pending: Pending,
    threads: Vec<JoinHandle<()>>,
}

/// The checks without a verdict, with the channels for it.
type Pending = Arc<Mutex<HashMap<Key, Arc<PasswordVerdicts>>>>;
type PasswordVerdicts = watch::Sender<Option<PasswordVerdict>>;
/// The identity of a check.
type Key = (Network, CacheTag);

/// A check that is queued or running. Dropping it removes it from the pending checks.
struct HashJob {
    check: PasswordCheck,
    verdicts: Arc<PasswordVerdicts>,
    pending: Pending,
}

impl PasswordHashPool {
    /// Starts `threads` hashing threads, at least 1, that run `examine`; at most `waiting_max` checks queue.
    pub(in crate::auth) fn start<E>(threads: usize, waiting_max: usize, examine: E) -> io::Result<Self>
    where
        E: Fn(&PasswordCheck, &mut Memory) -> PasswordVerdict + Clone + Send + 'static,
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

    /// Runs `check` and returns its verdict, unless the queue is full.
    pub(in crate::auth) async fn verdict(&self, check: PasswordCheck) -> Result<PasswordVerdict, HashQueueError> {
        let mut reply = self.submit(check)?;
        // The channel closes without a verdict only after a panic.
        let verdict = reply.wait_for(Option::is_some).await.map_err(|_| HashQueueError)?;
        verdict.ok_or(HashQueueError)
    }

    fn submit(&self, check: PasswordCheck) -> Result<watch::Receiver<Option<PasswordVerdict>>, HashQueueError> {
        let key = (check.from, check.tag);
        let mut pending = self.pending.lock();
        if let Some(verdicts) = pending.get(&key) {
            return Ok(verdicts.subscribe());
        }
        let (verdicts, reply) = watch::channel(None);
        let verdicts = Arc::new(verdicts);
        let job = HashJob { check, verdicts: verdicts.clone(), pending: self.pending.clone() };
        pending.insert(key, verdicts);
        drop(pending); // dropping a refused job takes this lock
        self.queue.as_ref().ok_or(HashQueueError)?.try_send(job).map_err(|_| HashQueueError)?;
        Ok(reply)
    }
}

impl Drop for PasswordHashPool {
    fn drop(&mut self) {
        self.queue = None;
        // The remaining checks are skipped, since nobody waits for them.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl HashJob {
    /// Returns true if a client waits for the verdict. If not, removes the check, so that no client can join it.
    fn is_wanted(&self) -> bool {
        let mut pending = self.pending.lock();
        let wanted = self.verdicts.receiver_count() > 0;
        if !wanted {
            self.forget(&mut pending);
        }
        wanted
    }

    fn forget(&self, pending: &mut HashMap<Key, Arc<PasswordVerdicts>>) {
        let key = (self.check.from, self.check.tag);
        if pending.get(&key).is_some_and(|verdicts| Arc::ptr_eq(verdicts, &self.verdicts)) {
            pending.remove(&key);
        }
    }
}

impl Drop for HashJob {
    fn drop(&mut self) {
        self.forget(&mut self.pending.lock());
    }
}

/// Runs checks until the queue is closed.
fn work(queue: &Mutex<Receiver<HashJob>>, examine: &impl Fn(&PasswordCheck, &mut Memory) -> PasswordVerdict) {
    lower_priority();
    let mut memory = Memory::default();
    loop {
        let next = queue.lock().recv();
        let Ok(job) = next else { return };
        if !job.is_wanted() {
            continue;
        }
        let Ok(verdict) = catch_unwind(AssertUnwindSafe(|| examine(&job.check, &mut memory))) else {
            tracing::error!("a password check panicked; its login is refused");
            memory = Memory::default(); // its state is unknown
            continue;
        };
        // Removed before the verdict is sent, so that later logins start a new check.
        job.forget(&mut job.pending.lock());
        job.verdicts.send_replace(Some(verdict));
    }
}

/// Lowers the priority of the thread. Only Linux has priorities per thread; elsewhere it would affect the whole server.
#[cfg(target_os = "linux")]
fn lower_priority() {
    const LOWEST: i32 = 19;
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST) {
        tracing::warn!(%error, "cannot lower the priority of the hashing threads");
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

    use super::*;
    use crate::auth::authn::password::tests::cheap;

    fn check(password: u8) -> PasswordCheck {
        PasswordCheck {
            from: IpAddr::from(Ipv4Addr::LOCALHOST).into(),
            user: Principal::named("lamp").unwrap(),
            password: Zeroizing::new(vec![password]),
            hash: Arc::new(cheap("x")),
            tag: [password; 32],
        }
    }

    /// Starts one hashing thread that waits for verdicts from the test, and reports the passwords it has begun.
    fn by_hand(waiting_max: usize) -> (PasswordHashPool, Sender<PasswordVerdict>, Receiver<u8>) {
        let (hand, verdicts) = channel();
        let (begun, seen) = channel();
        let hands = Arc::new(Mutex::new((verdicts, begun)));
        let examine = move |check: &PasswordCheck, _: &mut Memory| {
            let (verdicts, begun) = &*hands.lock();
            begun.send(*check.password.first().unwrap()).unwrap();
            verdicts.recv().unwrap()
        };
        (PasswordHashPool::start(1, waiting_max, examine).unwrap(), hand, seen)
    }

    async fn verdict(reply: &mut watch::Receiver<Option<PasswordVerdict>>) -> Option<PasswordVerdict> {
        reply.wait_for(Option::is_some).await.ok().and_then(|verdict| *verdict)
    }

    #[tokio::test]
    async fn equal_checks_run_once() {
        let (checks, hand, seen) = by_hand(2);
        let mut all = (0..10_000).map(|_| checks.submit(check(1)).unwrap()).collect::<Vec<_>>();
        let mut other = checks.submit(check(2)).unwrap();
        hand.send(PasswordVerdict::Right).unwrap();
        hand.send(PasswordVerdict::Wrong).unwrap();
        for reply in &mut all {
            assert_eq!(verdict(reply).await, Some(PasswordVerdict::Right));
        }
        assert_eq!(verdict(&mut other).await, Some(PasswordVerdict::Wrong));
        drop(checks);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_checks() {
        let (checks, hand, seen) = by_hand(2);
        let mut first = checks.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1), "in the hands of the thread");
        let waiting = [checks.submit(check(2)).unwrap(), checks.submit(check(3)).unwrap()];
        assert!(checks.submit(check(4)).is_err() && checks.submit(check(4)).is_err());
        assert_eq!(checks.pending.lock().len(), 3, "what is refused leaves nothing");
        for _ in 0..3 {
            hand.send(PasswordVerdict::Wrong).unwrap();
        }
        assert_eq!(verdict(&mut first).await, Some(PasswordVerdict::Wrong));
        for mut reply in waiting {
            assert_eq!(verdict(&mut reply).await, Some(PasswordVerdict::Wrong));
        }
        assert!(checks.pending.lock().is_empty());
        hand.send(PasswordVerdict::Right).unwrap();
        assert_eq!(checks.verdict(check(4)).await, Ok(PasswordVerdict::Right));
    }

    #[tokio::test]
    async fn an_abandoned_check_is_skipped() {
        let (checks, hand, seen) = by_hand(8);
        let mut first = checks.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1));
        drop(checks.submit(check(2)).unwrap());
        let mut last = checks.submit(check(3)).unwrap();
        hand.send(PasswordVerdict::Right).unwrap();
        hand.send(PasswordVerdict::Right).unwrap();
        verdict(&mut first).await;
        assert_eq!(verdict(&mut last).await, Some(PasswordVerdict::Right));
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [3]);
    }

    /// The thread was gone then, and after the last of them every login was refused as long as the server ran.
    #[tokio::test]
    async fn a_check_that_panics_is_the_only_one_refused() {
        let examine = |check: &PasswordCheck, _: &mut Memory| {
            assert_ne!(*check.password, [1], "for the test");
            PasswordVerdict::Right
        };
        let checks = PasswordHashPool::start(1, 8, examine).unwrap();
        assert_eq!(checks.verdict(check(1)).await, Err(HashQueueError));
        assert!(checks.pending.lock().is_empty());
        assert_eq!(checks.verdict(check(2)).await, Ok(PasswordVerdict::Right));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hashing_threads_have_the_lowest_priority() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let (report, nice) = channel();
        let report = Arc::new(Mutex::new(report));
        let examine = move |_: &PasswordCheck, _: &mut Memory| {
            report.lock().send(rustix::process::getpriority_process(None).unwrap()).unwrap();
            PasswordVerdict::Right
        };
        let checks = PasswordHashPool::start(1, 1, examine).unwrap();
        checks.verdict(check(1)).await.unwrap();
        assert_eq!(nice.recv(), Ok(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before, "this thread's is as it was");
    }
}
