//! The duty of carrying out the rollouts of a cluster, which one node at a time has.
//!
//! It is the node that decides, or decided last. When it begins to decide, it claims the duty in the log by a random number; from that record
//! on, what another driver reports has no effect. So a former driver that was stopped, or is cut off, changes nothing any more:
//! its updates are accepted only as the rollouts allow at that time, as those of any driver ([`crate::fleet::Rollout::permits`]).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::http::{
    api::Api,
    rollouts::{Rollouts, event::Event, nonce},
};

/// The interval at which a node looks whether it decides.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// The time after which it claims again.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which the devices of a rollout that was not created are withdrawn.
const STAGED_MAX: Duration = Duration::from_secs(600);

/// The duty, as a node knows it.
pub(super) struct Duty {
    /// The number with which this node has claimed it last.
    pub(super) number: u64,
    pub(super) is_driving: bool,
    claimed: Option<Instant>,
    looked: Option<Instant>,
    /// The rollouts that are being created, each with the time at which it was noticed.
    staged: BTreeMap<u64, Instant>,
}

/// A change of the duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Begins,
    Ends,
}

impl Duty {
    /// Returns the duty of a node of a cluster; `None` for a single node, which has all.
    pub(super) fn of(rollouts: &Rollouts) -> Option<Self> {
        let is_driving = false;
        rollouts.is_replicated().then(|| Self {
            number: nonce(),
            is_driving,
            claimed: None,
            looked: None,
            staged: BTreeMap::new(),
        })
    }

    /// Looks whether this node has the duty, and claims it if it decides.
    pub(super) fn review(&mut self, api: &Api) -> Option<Change> {
        let is_driver = api.rollouts.driver() == self.number;
        if std::mem::replace(&mut self.is_driving, is_driver) != is_driver {
            self.claimed = None;
            return Some(match is_driver {
                true => {
                    tracing::info!("this node carries out the rollouts of the cluster from here on");
                    Change::Begins
                }
                false => {
                    tracing::info!("another node carries out the rollouts of the cluster from here on");
                    Change::Ends
                }
            });
        }
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= INTERVAL) {
            self.looked = Some(now);
            match is_driver {
                true => self.withdraw(api, now),
                false => self.claim(api, now),
            }
        }
        None
    }

    fn claim(&mut self, api: &Api, now: Instant) {
        let member = api.service.health().member.unwrap_or_default();
        let is_under_way = self.claimed.is_some_and(|claimed| now.duration_since(claimed) < CLAIM_TIMEOUT);
        if member.is_deciding && member.latched.is_none() && !is_under_way {
            self.number = nonce();
            let is_sent = api.rollouts.send_now(api, 0, 0, Event::Driver(self.number));
            self.claimed = is_sent.then_some(now);
        }
    }

    /// Withdraws rollouts that are being created for too long: their creator has gone away, or its node.
    fn withdraw(&mut self, api: &Api, now: Instant) {
        let staged = api.rollouts.staged();
        self.staged.retain(|number, _| staged.contains(number));
        for number in staged {
            let noticed = self.staged.entry(number).or_insert(now);
            if now.duration_since(*noticed) > STAGED_MAX && api.rollouts.send_now(api, number, 0, Event::Withdrawn) {
                *noticed = now;
            }
        }
    }
}
