//! The duty of carrying out the rollouts of a cluster, which one node at a time has.
//!
//! It is the node that decides, or decided last. When it begins to decide, it claims the duty in the log by a random number; from that record
//! on, what another driver reports has no effect, and a claim of the duty that did not know of it. So a former driver that was stopped, or is cut off, changes nothing any more:
//! its updates are accepted only as the rollouts allow at that time, as those of any driver ([`crate::fleet::Rollout::permits`]).

use std::time::{Duration, Instant};

use crate::{
    engine::nonce,
    rollouts::{RolloutController, Rollouts, event::Event},
};

/// The interval at which a node looks whether it decides.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// The time after which it claims again.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// The duty, as a node knows it.
pub(super) struct Duty {
    /// The number with which this node has claimed it last.
    pub(super) number: u64,
    pub(super) is_driving: bool,
    /// The time of the claim, and the number of the driver that it replaces.
    claimed: Option<(Instant, u64)>,
    looked: Option<Instant>,
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
        rollouts.is_replicated().then(|| Self { number: nonce(), is_driving, claimed: None, looked: None })
    }

    /// Looks whether this node has the duty, and claims it if it decides.
    pub(super) fn review(&mut self, controller: &RolloutController) -> Option<Change> {
        let is_driver = controller.rollouts.driver() == self.number;
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
            if !is_driver {
                self.claim(controller, now);
            }
        }
        None
    }

    fn claim(&mut self, controller: &RolloutController, now: Instant) {
        let (member, replaces) =
            (controller.service().health().member.unwrap_or_default(), controller.rollouts.driver());
        // One that came after the claim of another has no effect.
        let is_under_way =
            |(at, replaced): (Instant, u64)| replaced == replaces && now.duration_since(at) < CLAIM_TIMEOUT;
        if member.is_deciding && member.latched.is_none() && !self.claimed.is_some_and(is_under_way) {
            self.number = nonce();
            let claim = Event::Driver { number: self.number, replaces };
            let sent = controller.send_now(0, 0, claim);
            self.claimed = sent.map(|_nobody_waits| (now, replaces));
        }
    }
}
