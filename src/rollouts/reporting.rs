//! The outcomes of the driver's work, reported through the log of a cluster.
//!
//! An accepted update needs no report: its row is in the record of the update.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    fleet::rollout::{DeviceState, RestoreOutcome, UpdateOutcome, Work},
    rollouts::{
        RolloutController,
        driver::{Outcome, REVOKED},
        event::Event,
        log::Answer,
        slot::{Revoked, Slot},
    },
};

/// The pause before something is tried again with a login that this node does not know yet.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// Reports the outcome of `work`, which began after `rollbacks`, and waits until this node has applied it.
pub(super) async fn report(
    controller: &RolloutController,
    slot: &Arc<Slot>,
    (driver, rollbacks): (u64, u64),
    work: &Work,
    outcome: Result<Outcome, Revoked>,
) {
    let event = match (work, outcome) {
        (work, Err(Revoked)) => {
            match slot.awaits_login() {
                true => sleep(LOGIN_PAUSE).await,
                false => stop(controller, slot, (driver, rollbacks), REVOKED).await,
            }
            if let Work::Check(checked) = work {
                slot.update(controller, |rollout| rollout.found(checked, None));
            }
            return;
        }
        (Work::Update(index), Ok(Outcome::Update(outcome))) => updated(slot, *index, outcome),
        (Work::Restore(index), Ok(Outcome::Restore(Some(outcome)))) => restored(slot, *index, outcome),
        (Work::Check(checked), Ok(Outcome::Checked(succeeded))) => {
            let (converged, overdue) = slot.update(controller, |rollout| rollout.found(checked, succeeded.as_ref()));
            let is_empty = converged.is_empty() && overdue.is_empty();
            (!is_empty).then_some(Event::Checked { converged, overdue })
        }
        _ => None,
    };
    let Some(event) = event else { return };
    let answer = controller.report(slot.number, driver, event).await;
    if let (Work::Check(checked), false) = (work, matches!(answer, Answer::Done)) {
        // Another drives, or the log did not take it.
        slot.update(controller, |rollout| checked.iter().for_each(|index| _ = rollout.on_change(*index)));
    }
}

/// Ends a rollout for `reason`, unless it was rolled back after `rollbacks`.
pub(super) async fn stop(
    controller: &RolloutController,
    slot: &Arc<Slot>,
    (driver, rollbacks): (u64, u64),
    reason: &str,
) {
    let event = Event::Stopped { reason: reason.into(), rollbacks };
    let _void_if_another_drives = controller.report(slot.number, driver, event).await;
}

fn updated(slot: &Slot, index: usize, outcome: UpdateOutcome) -> Option<Event> {
    let (state, reason) = match outcome {
        UpdateOutcome::Written { is_exact: true, .. } | UpdateOutcome::NotSent => return None,
        UpdateOutcome::Written { entry, is_exact: false } => {
            let (version, known) =
                (entry.version?.0, slot.read(|rollout, _| rollout.devices().get(index)?.written.clone()));
            let written = entry.written.filter(|written| known.as_ref() != Some(written));
            return Some(Event::Corrected { index, version, written });
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
