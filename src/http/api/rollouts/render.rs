//! The JSON of a rollout and of its devices.

use serde_json::{Map, Value, json};

use crate::{
    fleet::rollout::{DeviceEntry, DeviceState, Rollout, Spec, State, spec::Selection},
    rollouts::Slot,
};

/// The part of a rollout to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything.
    All,
    /// Everything but the devices of the description.
    WithoutDevices,
    /// Everything but the description.
    Progress,
}

/// Renders a rollout. With many devices, all of it takes milliseconds.
pub(super) fn rollout(slot: &Slot, part: Part) -> Value {
    let (mut members, spec) = slot.read(|rollout, updated_at| {
        let head = rollout.head();
        let mut members = json!({
            "id": &*slot.id,
            "state": head.state.name(),
            "createdBy": &*slot.created_by,
            "createdAt": slot.created_at.0,
            "updatedAt": updated_at.0,
            "wave": head.wave,
            "waves": waves(rollout),
            "devices": rollout.devices().len(),
            "counts": counts(rollout),
        });
        if let Value::Object(members) = &mut members {
            members.extend(head.reason.as_ref().map(|reason| ("reason".to_owned(), Value::from(&**reason))));
            if part != Part::Progress {
                members.insert("spec".to_owned(), Value::Object(slot.description.clone()));
            }
        }
        (members, rollout.spec().clone())
    });
    if part == Part::All {
        // Without the lock of the rollout, for which its driver would wait.
        add_devices(&mut members, &spec);
    }
    members
}

/// Renders a device of a rollout.
pub(super) fn device(device: &DeviceEntry, wave: usize) -> Value {
    let mut members = Map::new();
    members.insert("device".to_owned(), device.id.as_str().into());
    members.insert("state".to_owned(), device.state.name().into());
    members.insert("wave".to_owned(), wave.into());
    members.extend(device.version.map(|version| ("version".to_owned(), version.0.into())));
    members.extend(device.updated.map(|updated| ("updatedAt".to_owned(), updated.0.into())));
    members.extend(device.reason.as_ref().map(|reason| ("reason".to_owned(), Value::from(&**reason))));
    Value::Object(members)
}

/// Adds the devices to the description, as they were sent.
fn add_devices(members: &mut Value, spec: &Spec) {
    let Selection::Devices(devices) = &spec.selection else { return };
    if let Some(Value::Object(description)) = members.get_mut("spec") {
        let devices = devices.iter().map(|device| device.as_str().into()).collect();
        description.insert("devices".to_owned(), Value::Array(devices));
    }
}

fn waves(rollout: &Rollout) -> Vec<Value> {
    let head = rollout.head();
    let state = |index: usize| match head.state {
        State::Completed => "done",
        _ if index < head.wave => "done",
        State::Running | State::Paused if index == head.wave => "running",
        _ if index == head.wave => "stopped",
        _ => "waiting",
    };
    let wave = |(index, size): (usize, &usize)| json!({ "size": size, "state": state(index) });
    rollout.waves().iter().enumerate().map(wave).collect()
}

fn counts(rollout: &Rollout) -> Map<String, Value> {
    let count = |state: DeviceState| (state.count_name().to_owned(), rollout.counts().of(state).into());
    DeviceState::ALL.map(count).into_iter().collect()
}
