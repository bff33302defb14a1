//! The driver: one task that carries out all rollouts.
//!
//! It begins the work of each active rollout in tasks of its own, some at a time, and reports their outcomes. It follows the
//! change feed, and the presence of devices if a success depends on it, from before the first update on. A change costs
//! one lookup of its device; the documents are read by a check of all devices that changed meanwhile. When it was too slow
//! for the feed, it checks all devices that are awaited.
//!
//! In a cluster, it does so while this node has the duty ([`super::duty`]), and reports outcomes through the log ([`super::reporting`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    engine::changes::{FeedFilter, FollowHandle, Next, QueueContent},
    fleet::rollout::{RestoreOutcome, Rollout, UpdateOutcome, Work, spec::Success},
    observability::request_id::RequestId,
    rollouts::{
        RolloutController, check,
        duty::{self, Change, Duty},
        event::Event as LogEvent,
        log::{CLOCK_INTERVAL, PendingAnswer},
        reporting, rows,
        slot::{NO_MEMORY, Revoked, Slot},
        write,
    },
    shadow::DeviceId,
};

/// Updates and restorations of a rollout that are under way at a time.
const UNDER_WAY_MAX: usize = 64;
/// Outcomes, changes of shadows and of presence that are taken at once.
const BATCH: usize = 256;
/// Most shadows that may change while the driver is busy; after more, it checks all devices that are awaited.
const CHANGED_MAX: usize = 100_000;
/// The longest rest. Logins are asked by then.
const REST_MAX: Duration = Duration::from_secs(1);

/// The driver.
struct Driver {
    controller: Arc<RolloutController>,
    /// The rollouts that have not ended, by number.
    active: BTreeMap<u64, Arc<Slot>>,
    jobs: JoinSet<Done>,
    /// The devices whose success is awaited.
    awaited: HashMap<DeviceId, Vec<(Arc<Slot>, usize)>>,
    following: Option<FollowHandle>,
    presence: Option<watch::Receiver<u64>>,
    /// The number of the last change of presence that was taken.
    presence_taken: u64,
    /// The generation of rules in which the logins were reviewed.
    generation: u64,
    clock_due: Instant,
    /// The duty of a node of a cluster.
    duty: Option<Duty>,
    /// The time of a cluster that is on its way to the log.
    clock: Option<PendingAnswer>,
    /// The rollouts of a cluster that are being stopped.
    stopping: HashSet<u64>,
}

/// A piece of work that ended.
enum Done {
    /// Its outcome is to be reported.
    Work {
        slot: Arc<Slot>,
        outcome: Result<Outcome, Revoked>,
        work: Work,
        /// The number of rollbacks when it began.
        rollbacks: u64,
    },
    /// Its outcome is in the log of the cluster.
    Reported(Arc<Slot>, Work),
    /// A rollout of the cluster was stopped, which is in its log.
    Stopped(u64),
}

/// The outcome of a piece of work.
pub(super) enum Outcome {
    Update(UpdateOutcome),
    Restore(Option<RestoreOutcome>),
    /// The devices that have succeeded; `None` if they could not be read.
    Checked(Option<HashSet<usize>>),
    /// The search for devices that match by now was reported already, together with the check that they may join.
    Joined,
}

/// Something to react to.
enum Event {
    Woken,
    Done(Option<Done>),
    Changed(Next),
    Presence,
}

/// Carries out the rollouts of `controller` until it is closed.
pub async fn run(controller: Arc<RolloutController>) {
    let mut driver = Driver {
        generation: controller.authority().generation(),
        duty: Duty::of(&controller.rollouts),
        stopping: HashSet::new(),
        controller,
        active: BTreeMap::new(),
        jobs: JoinSet::new(),
        awaited: HashMap::new(),
        following: None,
        presence: None,
        presence_taken: 0,
        clock_due: Instant::now() + CLOCK_INTERVAL,
        clock: None,
    };
    driver.begin();
    while !driver.controller.is_closed() {
        driver.review_duty();
        let rest = driver.attend();
        match driver.next(rest).await {
            Event::Woken => driver.begin(),
            Event::Done(done) => driver.take_done(done),
            Event::Changed(next) => driver.take_changes(next),
            Event::Presence => driver.take_presence(),
        }
        driver.review();
    }
    driver.write_clock();
}

impl Driver {
    /// Takes up the rollouts that have become active.
    fn begin(&mut self) {
        if self.is_driving() {
            self.active.extend(self.controller.rollouts.active().into_iter().map(|slot| (slot.number, slot)));
            self.follow();
        }
    }

    fn is_driving(&self) -> bool {
        self.duty.as_ref().is_none_or(|duty| duty.is_driving)
    }

    /// Begins or ends to carry out the rollouts of a cluster.
    fn review_duty(&mut self) {
        let change = self.duty.as_mut().and_then(|duty| duty.review(&self.controller));
        if change.is_none() {
            return;
        }
        // What was begun before is done again, as far as the log does not have it.
        self.jobs = JoinSet::new();
        self.active.clear();
        self.awaited.clear();
        self.stopping.clear();
        (self.following, self.presence, self.clock) = (None, None, None);
        if change == Some(Change::Begins) {
            self.controller
                .rollouts
                .active()
                .iter()
                .for_each(|slot| slot.update(&self.controller, Rollout::begin_again));
            self.begin();
        }
    }

    /// Returns the number of this node as the driver of a cluster's rollouts; `None` for a single node.
    fn number(&self) -> Option<u64> {
        self.duty.as_ref().map(|duty| duty.number)
    }

    /// Follows what the active rollouts depend on.
    fn follow(&mut self) {
        let any = |wanted: fn(&Rollout) -> bool| {
            self.active.values().any(|slot| slot.read(|rollout, _| rollout.awaits_success() && wanted(rollout)))
        };
        let depends = |rollout: &Rollout| match &rollout.spec().success {
            Success::Query(query) => query.reads_presence(),
            Success::Accepted | Success::Converged => false,
        };
        let (follows, follows_presence) = (any(|_| true), any(depends));
        match (follows, &self.following) {
            (true, None) => {
                let content = QueueContent::Shadows { max: CHANGED_MAX };
                self.following = Some(self.controller.search.changes.follow(FeedFilter::default(), None, content));
                self.check_all();
            }
            (false, Some(_)) => self.following = None,
            _ => {}
        }
        match (follows_presence, &self.presence) {
            (true, None) => {
                self.presence = Some(self.controller.search.presence.changes());
                self.presence_taken = self.controller.search.presence.newest_change();
                self.check_all();
            }
            (false, Some(_)) => self.presence = None,
            _ => {}
        }
    }

    /// Has all devices checked that are awaited.
    fn check_all(&self) {
        for slot in self.active.values() {
            slot.update(&self.controller, Rollout::on_any_change);
        }
    }

    /// Begins the work of all rollouts, and leaves those that have ended. Returns the time at which to do so again.
    fn attend(&mut self) -> Instant {
        let (now, mut rest) = (self.controller.moment(), Instant::now() + REST_MAX);
        if self.duty.is_some() {
            rest = rest.min(Instant::now() + duty::INTERVAL);
        }
        let mut ended = Vec::new();
        let active: Vec<_> = self.active.values().cloned().collect();
        for slot in active {
            let (work, rollbacks, wakes_ms, is_over) = slot.update(&self.controller, |rollout| {
                let work = rollout.work(now, UNDER_WAY_MAX);
                let is_over = rollout.state().is_final() && !rollout.is_under_way();
                (work, rollout.rollbacks(), rollout.wakes_ms(now), is_over)
            });
            work.into_iter().for_each(|work| self.begin_work(&slot, work, rollbacks));
            if let Some(wakes_ms) = wakes_ms {
                rest = rest.min(Instant::now() + Duration::from_millis(wakes_ms.saturating_sub(now.running_ms)));
            }
            if is_over {
                ended.push(slot.number);
            } else if slot.lacks_memory() {
                self.stop(&slot, NO_MEMORY, rollbacks);
            }
        }
        for number in ended {
            self.active.remove(&number);
            self.awaited.retain(|_, awaiting| {
                awaiting.retain(|(slot, _)| slot.number != number);
                !awaiting.is_empty()
            });
            self.follow();
        }
        // The time of a cluster bounds what may come late, also when no rollout is active.
        let is_running = if self.duty.is_some() { self.is_driving() } else { !self.active.is_empty() };
        if is_running && Instant::now() >= self.clock_due {
            self.write_clock();
        }
        rest
    }

    fn begin_work(&mut self, slot: &Arc<Slot>, work: Work, rollbacks: u64) {
        if let Work::Check(checked) = &work {
            self.await_success(slot, checked);
        }
        let (controller, slot, driver) = (self.controller.clone(), slot.clone(), self.number());
        self.jobs.spawn(RequestId::next().scope(async move {
            let outcome = perform(&controller, &slot, &work, driver.unwrap_or_default()).await;
            let Some(driver) = driver else { return Done::Work { slot, outcome, work, rollbacks } };
            reporting::report(&controller, &slot, (driver, rollbacks), &work, outcome).await;
            Done::Reported(slot, work)
        }));
    }

    /// Has changes of the devices of a check noted from now on: the check may read them before they succeed.
    fn await_success(&mut self, slot: &Arc<Slot>, checked: &[usize]) {
        let ids = slot.read(|rollout, _| {
            let id = |index: &usize| Some((*index, rollout.devices().get(*index)?.id.clone()));
            checked.iter().filter_map(id).collect::<Vec<_>>()
        });
        for (index, id) in ids {
            let awaiting = self.awaited.entry(id).or_default();
            if !awaiting.iter().any(|(known, at)| known.number == slot.number && *at == index) {
                awaiting.push((slot.clone(), index));
            }
        }
    }

    /// Ends a rollout of a cluster for `reason`, unless it was rolled back after `rollbacks`.
    fn stop(&mut self, slot: &Arc<Slot>, reason: &'static str, rollbacks: u64) {
        let Some(driver) = self.number().filter(|_| self.stopping.insert(slot.number)) else { return };
        let (controller, slot) = (self.controller.clone(), slot.clone());
        self.jobs.spawn(RequestId::next().scope(async move {
            reporting::stop(&controller, &slot, (driver, rollbacks), reason).await;
            Done::Stopped(slot.number)
        }));
    }

    /// Waits for something to react to, until `rest` if a rollout is active.
    async fn next(&mut self, rest: Instant) -> Event {
        let Self { controller, jobs, following, presence, presence_taken, active, duty, .. } = self;
        let changed = async {
            match following {
                Some(following) => following.next().await,
                None => std::future::pending().await,
            }
        };
        let presence_changed = async {
            let changed = match presence {
                Some(presence) => presence.wait_for(|newest| *newest > *presence_taken).await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = controller.rollouts.woken() => Event::Woken,
            Some(done) = jobs.join_next() => Event::Done(done_of(done)),
            next = changed => Event::Changed(next),
            () = presence_changed => Event::Presence,
            () = sleep_until(rest), if !active.is_empty() || duty.is_some() => Event::Done(None),
        }
    }

    /// Reports outcomes: `done`, and those that are there as well.
    fn take_done(&mut self, done: Option<Done>) {
        let mut next = done;
        for _ in 0..BATCH {
            if let Some(done) = next {
                self.report(done);
            }
            match self.jobs.try_join_next() {
                Some(done) => next = done_of(done),
                None => break,
            }
        }
    }

    fn report(&mut self, done: Done) {
        let (slot, outcome, work, rollbacks) = match done {
            Done::Work { slot, outcome, work, rollbacks } => (slot, outcome, work, rollbacks),
            Done::Reported(slot, work) => return slot.update(&self.controller, |rollout| rollout.on_done(&work)),
            Done::Stopped(number) => {
                self.stopping.remove(&number);
                return;
            }
        };
        let now = self.controller.moment();
        let is_revoked = outcome.is_err();
        slot.update(&self.controller, |rollout| {
            match (work, outcome.ok()) {
                (Work::Update(index), Some(Outcome::Update(outcome))) => {
                    rollout.on_update(index, now, outcome);
                }
                (Work::Update(index), _) => rollout.on_update(index, now, UpdateOutcome::NotSent),
                (Work::Restore(index), Some(Outcome::Restore(outcome))) => rollout.on_restore(index, now, outcome),
                (Work::Restore(index), _) => rollout.on_restore(index, now, None),
                (Work::Check(checked), Some(Outcome::Checked(succeeded))) => {
                    rollout.on_checked(&checked, succeeded.as_ref(), now);
                }
                (Work::Check(checked), _) => rollout.on_checked(&checked, None, now),
                (Work::FindLater, Some(Outcome::Joined)) => {}
                (Work::FindLater, _) => rollout.on_later(None),
            }
            if is_revoked {
                stop_revoked(rollout, rollbacks);
            }
        });
    }

    /// Notes the changed shadows: `first`, and those that are there as well.
    fn take_changes(&mut self, first: Next) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            match next {
                Some(Next::Shadow(key, _)) => self.note(&key.device),
                Some(Next::Cut) => {
                    self.following = None;
                    self.follow();
                    return;
                }
                // The server ends.
                Some(Next::Closed) => {
                    self.following = None;
                    return;
                }
                Some(Next::Change(_) | Next::Newest(_)) => {} // only for others
                None => return,
            }
            next = self.following.as_ref().and_then(|following| following.next().now_or_never());
        }
    }

    /// Notes the devices whose presence changed.
    fn take_presence(&mut self) {
        for (number, device) in self.controller.search.presence.changed_after(self.presence_taken, BATCH) {
            self.presence_taken = number;
            self.note(&device);
        }
    }

    /// Has a device checked wherever it is awaited.
    fn note(&mut self, device: &DeviceId) {
        let Some(awaiting) = self.awaited.get_mut(device) else { return };
        awaiting.retain(|(slot, index)| slot.update(&self.controller, |rollout| rollout.on_change(*index)));
        if awaiting.is_empty() {
            self.awaited.remove(device);
        }
    }

    /// Stops the rollouts whose login was revoked, after rules or files were read again.
    fn review(&mut self) {
        let generation = self.controller.authority().generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        let active: Vec<_> = self.active.values().cloned().collect();
        for slot in active {
            let rollbacks = slot.read(|rollout, _| rollout.rollbacks());
            match slot.actor(&self.controller) {
                Ok(_) => {}
                Err(Revoked) if slot.awaits_login() => {}
                Err(Revoked) if self.duty.is_some() => self.stop(&slot, REVOKED, rollbacks),
                Err(Revoked) => slot.update(&self.controller, |rollout| stop_revoked(rollout, rollbacks)),
            }
        }
    }

    fn write_clock(&mut self) {
        self.clock_due = Instant::now() + CLOCK_INTERVAL;
        let now = self.controller.moment();
        match &self.duty {
            None => self.controller.service().write_rows(vec![rows::put_clock(now.running_ms)], None),
            // One that is lost is as if this node had ended before. One at a time, so that none collect while the log is away.
            Some(duty) if duty.is_driving && self.clock.as_mut().is_none_or(PendingAnswer::is_over) => {
                self.clock = self.controller.send_now(0, duty.number, LogEvent::Clock);
            }
            Some(_) => {}
        }
    }
}

pub(super) const REVOKED: &str = "the login with which it acted was revoked";

/// Stops a rollout whose login after `rollbacks` was revoked, unless it acts with another one since.
fn stop_revoked(rollout: &mut Rollout, rollbacks: u64) {
    if rollout.rollbacks() == rollbacks {
        rollout.stop(REVOKED);
    }
}

/// Returns the outcome of a task. One that panicked has none, and its device stays as it is until the next start.
fn done_of(ended: Result<Done, JoinError>) -> Option<Done> {
    ended.inspect_err(|error| tracing::error!(%error, "a task of a rollout failed")).ok()
}

/// Does `work`; in a cluster as the `driver`.
async fn perform(
    controller: &RolloutController,
    slot: &Arc<Slot>,
    work: &Work,
    driver: u64,
) -> Result<Outcome, Revoked> {
    Ok(match work {
        Work::Update(index) => Outcome::Update(write::update(controller, slot, *index).await?),
        Work::Restore(index) => Outcome::Restore(write::restore(controller, slot, *index).await?),
        Work::Check(checked) => Outcome::Checked(check::succeeded(controller, slot, checked).await?),
        Work::FindLater => {
            let joined = match check::matching(controller, slot).await? {
                Some(found) => controller.join(&slot.actor(controller)?, slot, found, driver).await.is_ok(),
                None => false,
            };
            if !joined {
                slot.update(controller, |rollout| rollout.on_later(None));
            }
            Outcome::Joined
        }
    })
}
