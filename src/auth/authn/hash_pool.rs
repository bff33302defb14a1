//! The hashing threads for passwords: few, at the lowest priority, behind a bounded queue.
//!
//! A hash takes tens of milliseconds and as many MiB. So it must not run on the threads that serve connections, and a
//! flood of logins must not slow connected clients. Networks take turns in the queue ([`FairQueue`]), so a login waits for
//! about one hash of each network that guesses. Equal checks from one network share one place and its verdict. A check
//! leaves the queue when its last client has gone.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::admission::Network;
use crate::auth::{
    PasswordHash, Principal,
    authn::{fair_queue::FairQueue, password::Memory, password_cache::CacheTag},
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

/// An error: the queue has no place for the check, or the check panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) struct HashQueueError;

/// The hashing threads and their queue. The threads end when this is dropped.
pub(in crate::auth) struct PasswordHashPool {
    queue: Arc<HashQueue>,
    threads: Vec<JoinHandle<()>>,
}

/// The checks without a verdict.
struct HashQueue {
    checks: Mutex<Checks>,
    /// Notified when a check is queued, and at the end.
    changed: Condvar,
}

struct Checks {
    /// The channels for the verdicts of all checks that wait or run.
    pending: HashMap<Key, PasswordVerdicts>,
    waiting: FairQueue<Network, PasswordCheck>,
    is_closed: bool,
}

type PasswordVerdicts = watch::Sender<Option<PasswordVerdict>>;
/// The identity of a check.
type Key = (Network, CacheTag);

/// The verdict for one client. Dropping it abandons the check, if no other client waits for it.
struct PendingVerdict<'a> {
    queue: &'a HashQueue,
    key: Key,
    /// The end of the channel; `None` only during the drop.
    reply: Option<watch::Receiver<Option<PasswordVerdict>>>,
}

impl PasswordHashPool {
    /// Starts `threads` hashing threads, at least 1, that run `examine`; at most `waiting_max` checks queue.
    pub(in crate::auth) fn start<E>(threads: usize, waiting_max: usize, examine: E) -> io::Result<Self>
    where
        E: Fn(&PasswordCheck, &mut Memory) -> PasswordVerdict + Clone + Send + 'static,
    {
        let checks = Checks { pending: HashMap::new(), waiting: FairQueue::new(waiting_max), is_closed: false };
        let queue = Arc::new(HashQueue { checks: Mutex::new(checks), changed: Condvar::new() });
        let mut pool = Self { queue, threads: Vec::new() };
        for _ in 0..threads {
            let (queue, examine) = (pool.queue.clone(), examine.clone());
            let thread = thread::Builder::new().name("passwords".to_owned());
            pool.threads.push(thread.spawn(move || work(&queue, &examine))?);
        }
        Ok(pool)
    }

    /// Runs `check` and returns its verdict, unless the queue has no place for it. Dropping the future abandons the check.
    pub(in crate::auth) async fn verdict(&self, check: PasswordCheck) -> Result<PasswordVerdict, HashQueueError> {
        self.queue.submit(check)?.wait().await
    }
}

impl Drop for PasswordHashPool {
    fn drop(&mut self) {
        // The remaining checks are skipped, since nobody waits for them.
        self.queue.checks.lock().is_closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl HashQueue {
    fn submit(&self, check: PasswordCheck) -> Result<PendingVerdict<'_>, HashQueueError> {
        let key = check.key();
        let mut checks = self.checks.lock();
        let reply = match checks.pending.get(&key) {
            Some(verdicts) => verdicts.subscribe(),
            None => {
                let (verdicts, reply) = watch::channel(None);
                checks.pending.insert(key, verdicts);
                if let Some(displaced) = checks.waiting.push(&key.0, check) {
                    checks.pending.remove(&displaced.key()); // its clients receive an error
                    if displaced.key() == key {
                        return Err(HashQueueError);
                    }
                }
                self.changed.notify_one();
                reply
            }
        };
        Ok(PendingVerdict { queue: self, key, reply: Some(reply) })
    }

    /// Waits for the next check. Returns `None` at the end.
    fn next(&self) -> Option<PasswordCheck> {
        let mut checks = self.checks.lock();
        while !checks.is_closed {
            match checks.waiting.pop() {
                Some(check) => return Some(check),
                None => self.changed.wait(&mut checks),
            }
        }
        None
    }

    /// Removes the check of `key`, so that later logins start a new one. Returns the channel for its verdict.
    fn complete(&self, key: &Key) -> Option<PasswordVerdicts> {
        self.checks.lock().pending.remove(key)
    }
}

impl PasswordCheck {
    fn key(&self) -> Key {
        (self.from, self.tag)
    }
}

impl PendingVerdict<'_> {
    async fn wait(&mut self) -> Result<PasswordVerdict, HashQueueError> {
        let reply = self.reply.as_mut().ok_or(HashQueueError)?;
        // The channel closes without a verdict if another check took the place of this one, and after a panic.
        let verdict = reply.wait_for(Option::is_some).await.map_err(|_| HashQueueError)?;
        verdict.ok_or(HashQueueError)
    }
}

impl Drop for PendingVerdict<'_> {
    fn drop(&mut self) {
        let checks = &mut *self.queue.checks.lock();
        self.reply = None;
        let is_wanted = checks.pending.get(&self.key).is_none_or(|verdicts| verdicts.receiver_count() > 0);
        // A check that runs is not queued any more, and a later client may still join it.
        if !is_wanted && checks.waiting.remove(&self.key.0, |check| check.tag == self.key.1).is_some() {
            checks.pending.remove(&self.key);
        }
    }
}

/// Runs checks until the queue is closed.
fn work(queue: &HashQueue, examine: &impl Fn(&PasswordCheck, &mut Memory) -> PasswordVerdict) {
    lower_priority();
    let mut memory = Memory::default();
    while let Some(check) = queue.next() {
        let verdict = catch_unwind(AssertUnwindSafe(|| examine(&check, &mut memory)));
        let verdicts = queue.complete(&check.key());
        match (verdict, verdicts) {
            (Ok(verdict), verdicts) => drop(verdicts.map(|verdicts| verdicts.send_replace(Some(verdict)))),
            (Err(_), _) => {
                tracing::error!("a password check panicked; its login is refused");
                memory = Memory::default(); // its state is unknown
            }
        }
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
        net::IpAddr,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use super::*;
    use crate::auth::authn::password::tests::cheap;

    fn check(password: u8) -> PasswordCheck {
        check_from(1, password)
    }

    fn check_from(network: u8, password: u8) -> PasswordCheck {
        PasswordCheck {
            from: IpAddr::from([192, 0, 2, network]).into(),
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

    fn pending(pool: &PasswordHashPool) -> usize {
        pool.queue.checks.lock().pending.len()
    }

    #[tokio::test]
    async fn equal_checks_run_once() {
        let (pool, hand, seen) = by_hand(4);
        let mut all = (0..10_000).map(|_| pool.queue.submit(check(1)).unwrap()).collect::<Vec<_>>();
        let mut other = pool.queue.submit(check(2)).unwrap();
        hand.send(PasswordVerdict::Right).unwrap();
        hand.send(PasswordVerdict::Wrong).unwrap();
        for reply in &mut all {
            assert_eq!(reply.wait().await, Ok(PasswordVerdict::Right));
        }
        assert_eq!(other.wait().await, Ok(PasswordVerdict::Wrong));
        drop((all, other));
        drop(pool);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_checks() {
        let (pool, hand, seen) = by_hand(4);
        let mut first = pool.queue.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1), "in the hands of the thread");
        let waiting = [pool.queue.submit(check(2)).unwrap(), pool.queue.submit(check(3)).unwrap()];
        assert!(pool.queue.submit(check(4)).is_err() && pool.queue.submit(check(4)).is_err());
        assert_eq!(pending(&pool), 3, "what is refused leaves nothing");
        for _ in 0..3 {
            hand.send(PasswordVerdict::Wrong).unwrap();
        }
        assert_eq!(first.wait().await, Ok(PasswordVerdict::Wrong));
        for mut reply in waiting {
            assert_eq!(reply.wait().await, Ok(PasswordVerdict::Wrong));
        }
        assert_eq!(pending(&pool), 0);
        hand.send(PasswordVerdict::Right).unwrap();
        assert_eq!(pool.verdict(check(4)).await, Ok(PasswordVerdict::Right));
    }

    /// Guesses from many networks kept out a login whose password was not cached: it waited for all of them, or the queue
    /// was full.
    #[tokio::test]
    async fn a_login_waits_for_one_check_of_each_other_network() {
        let (pool, hand, seen) = by_hand(8);
        let mut first = pool.queue.submit(check_from(1, 10)).unwrap();
        assert_eq!(seen.recv(), Ok(10));
        let guesses = [(1, 11), (1, 12), (1, 13), (1, 14), (2, 21), (2, 22), (2, 23), (2, 24)];
        let guesses = guesses.map(|(network, n)| pool.queue.submit(check_from(network, n)).unwrap());
        let mut login = pool.queue.submit(check_from(3, 31)).expect("there is a place in the full queue");
        for _ in 0..9 {
            hand.send(PasswordVerdict::Wrong).unwrap();
        }
        assert_eq!(first.wait().await, Ok(PasswordVerdict::Wrong));
        assert_eq!(login.wait().await, Ok(PasswordVerdict::Wrong));
        let mut displaced = 0;
        for mut guess in guesses {
            displaced += usize::from(guess.wait().await.is_err());
        }
        assert_eq!(displaced, 1);
        assert_eq!([(); 3].map(|()| seen.recv().unwrap()), [11, 21, 31]);
    }

    /// Checks of clients that had gone kept their places, and were hashed.
    #[tokio::test]
    async fn an_abandoned_check_leaves_the_queue() {
        let (pool, hand, seen) = by_hand(4);
        let mut first = pool.queue.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1));
        let abandoned = [(); 2].map(|()| pool.queue.submit(check(2)).unwrap());
        let mut last = pool.queue.submit(check(3)).unwrap();
        assert!(pool.queue.submit(check(4)).is_err(), "the queue is full");
        let [one, other] = abandoned;
        drop(one);
        assert!(pool.queue.submit(check(4)).is_err(), "a client still waits");
        drop(other);
        assert_eq!(pending(&pool), 2);
        let mut next = pool.queue.submit(check(4)).unwrap();
        for _ in 0..3 {
            hand.send(PasswordVerdict::Right).unwrap();
        }
        for reply in [&mut first, &mut last, &mut next] {
            assert_eq!(reply.wait().await, Ok(PasswordVerdict::Right));
        }
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [3, 4]);
    }

    #[tokio::test]
    async fn a_check_that_runs_can_be_joined_after_its_client_has_gone() {
        let (pool, hand, seen) = by_hand(4);
        let first = pool.queue.submit(check(1)).unwrap();
        assert_eq!(seen.recv(), Ok(1));
        drop(first);
        let mut again = pool.queue.submit(check(1)).unwrap();
        hand.send(PasswordVerdict::Right).unwrap();
        assert_eq!(again.wait().await, Ok(PasswordVerdict::Right));
        assert_eq!(seen.try_iter().count(), 0, "it runs once");
    }

    /// The thread was gone then, and after the last of them every login was refused as long as the server ran.
    #[tokio::test]
    async fn a_check_that_panics_is_the_only_one_refused() {
        let examine = |check: &PasswordCheck, _: &mut Memory| {
            assert_ne!(*check.password, [1], "for the test");
            PasswordVerdict::Right
        };
        let pool = PasswordHashPool::start(1, 8, examine).unwrap();
        assert_eq!(pool.verdict(check(1)).await, Err(HashQueueError));
        assert_eq!(pending(&pool), 0);
        assert_eq!(pool.verdict(check(2)).await, Ok(PasswordVerdict::Right));
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
        let pool = PasswordHashPool::start(1, 2, examine).unwrap();
        pool.verdict(check(1)).await.unwrap();
        assert_eq!(nice.recv(), Ok(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before, "this thread's is as it was");
    }
}
