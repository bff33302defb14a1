//! The outcomes of the driver's work, reported through the log of a cluster.
//!
//! An accepted update needs no report: its row is in the record of the update.

use std::sync::Arc;

use crate::{
    fleet::rollout::{DeviceState, RestoreOutcome, State, UpdateOutcome, Work},
    http::{
        api::Api,
        rollouts::{
            driver::{Outcome, REVOKED},
            event::Event,
            slot::{Revoked, Slot},
        },
    },
};

/// Reports the outcome of `work`, and waits until this node has applied it.
pub(super) async fn report(
    api: &Arc<Api>,
    slot: &Arc<Slot>,
    driver: u64,
    work: &Work,
    outcome: Result<Outcome, Revoked>,
) {
    let event = match (work, outcome) {
        (_, Err(Revoked)) => return stop(api, slot, driver, REVOKED).await,
        (Work::Update(index), Ok(Outcome::Update(outcome))) => updated(*index, outcome),
        (Work::Restore(index), Ok(Outcome::Restore(Some(outcome)))) => restored(slot, *index, outcome),
        (Work::Check(checked), Ok(Outcome::Checked(succeeded))) => {
            let (converged, overdue) = slot.update(api, |rollout| rollout.found(checked, succeeded.as_ref()));
            let is_empty = converged.is_empty() && overdue.is_empty();
            (!is_empty).then_some(Event::Checked { converged, overdue })
        }
        _ => None,
    };
    if let Some(event) = event {
        let _void_if_another_drives = api.rollouts.report(api, slot.number, driver, event).await;
    }
}

/// Ends a rollout for `reason`, unless another login acts since.
pub(super) async fn stop(api: &Arc<Api>, slot: &Arc<Slot>, driver: u64, reason: &str) {
    let is_rolling_back = slot.state() == State::RollingBack;
    let event = Event::Stopped { reason: reason.into(), is_rolling_back };
    let _void_if_another_drives = api.rollouts.report(api, slot.number, driver, event).await;
}

fn updated(index: usize, outcome: UpdateOutcome) -> Option<Event> {
    let (state, reason) = match outcome {
        UpdateOutcome::Written { is_exact: true, .. } | UpdateOutcome::NotSent => return None,
        UpdateOutcome::Written { entry, is_exact: false } => {
            let version = entry.version?.0;
            return Some(Event::Corrected { index, version, written: entry.written });
        }
        UpdateOutcome::Conflict(reason) => (DeviceState::Conflict, reason),
        UpdateOutcome::Skipped(reason) => (DeviceState::Skipped, reason),
        UpdateOutcome::Failed(reason) => (DeviceState::Failed, reason),
    };
    Some(Event::Ended { index, state, reason })
}

fn restored(slot: &Slot, index: usize, outcome: RestoreOutcome) -> Option<Event> {
    match outcome {
        RestoreOutcome::Kept(reason) => Some(Event::Ended { index, state: DeviceState::Kept, reason }),
        RestoreOutcome::Restored(version) => {
            let known = slot.read(|rollout, _| rollout.devices().get(index)?.version);
            (known != Some(version)).then_some(Event::Corrected { index, version: version.0, written: None })
        }
    }
}
