//! The description of a rollout, as its creator sends it: the devices, the change, the waves, and what success is.

use std::{collections::HashSet, num::NonZeroU32};

use serde_json::{Map, Value};

use crate::{
    fleet::query::Query,
    shadow::{DeviceId, Pointer, SectionPatch, ShadowName, Update, excerpt, pointer::SectionName},
};

/// Most devices of a rollout.
pub const DEVICES_MAX: usize = 100_000;
/// Most waves of a rollout.
pub const WAVES_MAX: usize = 100;
/// Most devices a second.
pub const RATE_MAX: u32 = 10_000;
/// The longest deadline of a device, in seconds: 30 days.
pub const DEADLINE_MAX: u64 = 30 * 24 * 3600;
/// The deadline of a device by default, in seconds.
pub const DEADLINE_DEFAULT: u64 = 3600;

/// The members of a description.
const KNOWN: [&str; 12] = [
    "query",
    "devices",
    "shadow",
    "patch",
    "expect",
    "waves",
    "rate",
    "success",
    "deadlineSeconds",
    "abort",
    "laterDevices",
    "paused",
];
/// The members of the description of a bulk change, which is one wave.
const KNOWN_BULK: [&str; 6] = ["query", "devices", "shadow", "patch", "expect", "rate"];

/// A parsed description.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The devices.
    pub selection: Selection,
    /// The name of the shadow; `None` for the classic one.
    pub shadow: Option<ShadowName>,
    /// The change, with the expectations about each document.
    pub patch: Update,
    /// The leaves and removals of the change.
    pub touched: Vec<Pointer>,
    /// The devices reached in all by the end of each wave.
    pub waves: Vec<WaveSize>,
    /// Most devices a second.
    pub rate: Option<NonZeroU32>,
    /// The condition under which a device has succeeded.
    pub success: Success,
    /// The time from the update of a device after which it has failed, in milliseconds.
    pub deadline_ms: u64,
    /// The limits of failures.
    pub abort: Abort,
    /// True to include devices that begin to match while the rollout runs.
    pub later: bool,
    /// True to begin paused.
    pub paused: bool,
}

/// The devices of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// The devices for which this is true when the rollout is created.
    Query(Box<Query>),
    /// These devices.
    Devices(Vec<DeviceId>),
}

/// The devices reached in all by the end of a wave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WaveSize {
    /// A number.
    Count(usize),
    /// A part of all, in percent.
    Percent(f64),
}

/// The condition under which a device has succeeded.
#[derive(Clone, Debug, PartialEq)]
pub enum Success {
    /// The update is accepted.
    Accepted,
    /// No touched path is in the delta.
    Converged,
    /// The query is true.
    Query(Box<Query>),
}

/// The limits of failures. More than one of them aborts the rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Abort {
    /// A number of devices.
    pub failures: Option<usize>,
    /// A part of the devices that the waves so far reach, in percent.
    pub percent: Option<f64>,
}

/// An invalid member of a description. The reason follows the name in a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid field '{field}': {reason}")]
pub struct SpecError {
    /// The name of the member.
    pub field: String,
    /// The reason, with what would be right.
    pub reason: String,
}

impl Spec {
    /// Parses the description of a rollout. `patch` is its member `patch`, with its member `expect`.
    ///
    /// # Errors
    ///
    /// The first invalid member.
    pub fn parse(members: &Map<String, Value>, patch: Update) -> Result<Self, SpecError> {
        check_names(members, &KNOWN)?;
        let spec = Self {
            waves: waves(members.get("waves"))?,
            success: success(members.get("success"))?,
            deadline_ms: 1000 * integer(members, "deadlineSeconds", DEADLINE_MAX)?.unwrap_or(DEADLINE_DEFAULT),
            abort: members.get("abort").map(abort).transpose()?.unwrap_or_default(),
            later: flag(members, "laterDevices")?,
            paused: flag(members, "paused")?,
            ..Self::of_change(members, patch)?
        };
        match (&spec.selection, spec.later) {
            (Selection::Devices(_), true) => Err(invalid("laterDevices", "needs 'query'")),
            _ => Ok(spec),
        }
    }

    /// Parses the description of a bulk change: one wave, whose success is an accepted update.
    ///
    /// # Errors
    ///
    /// As [`Spec::parse`].
    pub fn parse_bulk(members: &Map<String, Value>, patch: Update) -> Result<Self, SpecError> {
        check_names(members, &KNOWN_BULK)?;
        Self::of_change(members, patch)
    }

    fn of_change(members: &Map<String, Value>, patch: Update) -> Result<Self, SpecError> {
        if patch.reported != SectionPatch::Keep {
            return Err(invalid("patch", "must not have 'reported', which is what a device reports"));
        }
        if [&patch.desired, &patch.tags].contains(&&SectionPatch::Clear) {
            return Err(invalid("patch", "must not clear a section; set single members to null"));
        }
        let touched = patch.touched_paths();
        if touched.is_empty() {
            return Err(invalid("patch", "must change something in 'desired' or 'tags'"));
        }
        let rate = integer(members, "rate", RATE_MAX.into())?.and_then(|rate| u32::try_from(rate).ok());
        Ok(Self {
            selection: selection(members)?,
            shadow: shadow(members.get("shadow"))?,
            patch,
            touched,
            waves: vec![WaveSize::Percent(100.0)],
            rate: rate.and_then(NonZeroU32::new),
            success: Success::Accepted,
            deadline_ms: 1000 * DEADLINE_DEFAULT,
            abort: Abort::default(),
            later: false,
            paused: false,
        })
    }

    /// Returns the touched paths of `desired`, which a device converges on.
    pub fn desired_paths(&self) -> impl Iterator<Item = &Pointer> {
        self.touched.iter().filter(|path| path.section == SectionName::Desired)
    }

    /// Returns a path that both change, if both may change the same shadow.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<&Pointer> {
        if self.shadow != other.shadow {
            return None;
        }
        let meets = |path: &&Pointer| other.touched.iter().any(|o| o.is_within(path) || path.is_within(o));
        self.touched.iter().find(meets)
    }

    /// Returns the number of devices that each wave reaches in all, of `devices`. A wave that reaches no more than the one
    /// before is left out.
    #[must_use]
    pub fn wave_sizes(&self, devices: usize) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.waves.iter().map(|wave| wave.of(devices)).collect();
        let mut reached = 0;
        sizes.retain(|size| {
            let goes_on = *size > reached;
            reached = reached.max(*size);
            goes_on
        });
        sizes
    }
}

impl WaveSize {
    /// Returns the number of devices, of `devices` in all.
    fn of(self, devices: usize) -> usize {
        match self {
            Self::Count(count) => count.min(devices),
            Self::Percent(percent) => {
                let parts = devices as u128 * u128::from(millionths(percent));
                usize::try_from(parts.div_ceil(100_000_000)).unwrap_or(devices).min(devices)
            }
        }
    }
}

impl Abort {
    /// Returns the reason to abort, if `failures` are too many for waves that reach `reached` devices.
    #[must_use]
    pub fn reason(&self, failures: usize, reached: usize) -> Option<String> {
        if let Some(max) = self.failures.filter(|max| failures > *max) {
            return Some(format!("{failures} devices failed, more than {max}"));
        }
        let parts = failures as u128 * 100_000_000;
        let is_above = |percent: &f64| parts > u128::from(millionths(*percent)) * reached as u128;
        let percent = self.percent.filter(is_above)?;
        Some(format!("{failures} of {reached} devices failed, more than {percent} %"))
    }
}

/// Stretches the last wave to all devices, some of which may have joined it later.
pub(super) fn stretch(waves: &mut Vec<usize>, devices: usize) {
    match waves.last_mut() {
        Some(last) => *last = devices,
        None if devices > 0 => waves.push(devices),
        None => {}
    }
}

fn check_names(members: &Map<String, Value>, known: &[&str]) -> Result<(), SpecError> {
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(invalid(name, &format!("unknown; known are {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn selection(members: &Map<String, Value>) -> Result<Selection, SpecError> {
    match (members.get("query"), members.get("devices")) {
        (Some(Value::String(text)), None) => {
            let query = text.parse::<Query>().map_err(|error| invalid("query", &error.to_string()))?;
            Ok(Selection::Query(Box::new(query)))
        }
        (Some(_), None) => Err(invalid("query", "must be a string")),
        (None, Some(Value::Array(devices))) => devices_of(devices).map(Selection::Devices),
        (None, Some(_)) => Err(invalid("devices", "must be an array of device ids")),
        (None, None) => Err(invalid("query", "is needed, or 'devices'")),
        (Some(_), Some(_)) => Err(invalid("devices", "and 'query' exclude each other")),
    }
}

fn devices_of(values: &[Value]) -> Result<Vec<DeviceId>, SpecError> {
    if values.is_empty() || values.len() > DEVICES_MAX {
        return Err(invalid("devices", &format!("has {} ids, allowed are 1 to {DEVICES_MAX}", values.len())));
    }
    let mut known = HashSet::with_capacity(values.len());
    let device = |value: &Value| {
        let text = value.as_str().ok_or_else(|| invalid("devices", "must be an array of device ids"))?;
        let device = DeviceId::new(text).map_err(|error| invalid("devices", &error.to_string()))?;
        match known.insert(device.clone()) {
            true => Ok(device),
            false => Err(invalid("devices", &format!("has '{}' more than once", device.as_str()))),
        }
    };
    values.iter().map(device).collect()
}

fn shadow(value: Option<&Value>) -> Result<Option<ShadowName>, SpecError> {
    match value {
        None => Ok(None),
        Some(Value::String(name)) if name.is_empty() => Ok(None),
        Some(Value::String(name)) => {
            ShadowName::new(name).map(Some).map_err(|error| invalid("shadow", &error.to_string()))
        }
        Some(_) => Err(invalid("shadow", "must be a string")),
    }
}

fn waves(value: Option<&Value>) -> Result<Vec<WaveSize>, SpecError> {
    let wrong = |reason: &str| invalid("waves", reason);
    let waves = match value {
        None => return Ok(vec![WaveSize::Percent(100.0)]),
        Some(Value::Array(waves)) if (1..=WAVES_MAX).contains(&waves.len()) => waves,
        Some(_) => return Err(wrong(&format!("must be an array of 1 to {WAVES_MAX} waves"))),
    };
    let wave = |value: &Value| match value {
        Value::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
            percent.filter(|percent| *percent <= 100.0 && millionths(*percent) > 0).map(WaveSize::Percent)
        }
        value => whole(value).filter(|count| *count > 0).map(|count| WaveSize::Count(to_usize(count))),
    };
    let invalid = || wrong("must have the numbers of devices reached in all, as 10 or \"10%\"");
    let waves: Vec<_> = waves.iter().map(|value| wave(value).ok_or_else(invalid)).collect::<Result<_, _>>()?;
    match waves.last() {
        Some(WaveSize::Percent(100.0)) => Ok(waves),
        _ => Err(wrong("must end with \"100%\", so that it is clear which devices are reached in all")),
    }
}

fn success(value: Option<&Value>) -> Result<Success, SpecError> {
    let wrong = |reason: &str| invalid("success", reason);
    match value.map(Value::as_str) {
        None | Some(Some("converged")) => Ok(Success::Converged),
        Some(Some("accepted")) => Ok(Success::Accepted),
        Some(Some(text)) => {
            let unknown = || wrong("must be 'converged', 'accepted', or 'query: ' and a query");
            let query = text.strip_prefix("query:").ok_or_else(unknown)?.trim();
            let query = query.parse::<Query>().map_err(|error| wrong(&error.to_string()))?;
            match query.changes_by_time() {
                Some(field) => Err(wrong(&format!("'{field}' changes with time, which a rollout does not follow"))),
                None => Ok(Success::Query(Box::new(query))),
            }
        }
        Some(None) => Err(wrong("must be a string")),
    }
}

fn abort(value: &Value) -> Result<Abort, SpecError> {
    let wrong = |reason: &str| invalid("abort", reason);
    let members = value.as_object().ok_or_else(|| wrong("must be an object"))?;
    if let Some(name) = members.keys().find(|name| !["failures", "percent"].contains(&name.as_str())) {
        return Err(wrong(&format!("has '{}', known are failures and percent", excerpt(name, 64))));
    }
    let failures =
        members.get("failures").map(|value| whole(value).ok_or_else(|| wrong("'failures' must be an integer")));
    let in_range = |value: &Value| value.as_f64().filter(|percent| (0.0..=100.0).contains(percent));
    let percent = members
        .get("percent")
        .map(|value| in_range(value).ok_or_else(|| wrong("'percent' must be a number from 0 to 100")));
    let abort = Abort { failures: failures.transpose()?.map(to_usize), percent: percent.transpose()? };
    if abort == Abort::default() { Err(wrong("must have 'failures' or 'percent'")) } else { Ok(abort) }
}

/// Returns the integer of a member, from 1 to `max`.
fn integer(members: &Map<String, Value>, field: &str, max: u64) -> Result<Option<u64>, SpecError> {
    let Some(value) = members.get(field) else { return Ok(None) };
    let number = whole(value).filter(|number| (1..=max).contains(number));
    number.map(Some).ok_or_else(|| invalid(field, &format!("must be an integer from 1 to {max}")))
}

fn flag(members: &Map<String, Value>, field: &str) -> Result<bool, SpecError> {
    match members.get(field) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(invalid(field, "must be true or false")),
    }
}

/// Returns the integer in `value`, from 0 on; `7.0` is one.
fn whole(value: &Value) -> Option<u64> {
    let is_whole = |double: &f64| (0.0..=9_007_199_254_740_992.0).contains(double) && double.fract() == 0.0;
    value.as_u64().or_else(|| value.as_f64().filter(is_whole).map(|double| double as u64))
}

/// Returns `percent` in millionths, so that parts of a set are exact: as doubles, 0.07 % of 10,000 are more than 7.
fn millionths(percent: f64) -> u64 {
    (percent * 1e6).round() as u64
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn invalid(field: &str, reason: &str) -> SpecError {
    SpecError { field: excerpt(field, 64).to_owned(), reason: reason.to_owned() }
}
