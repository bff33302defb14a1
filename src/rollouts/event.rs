//! The events of rollouts in the log of a cluster, and their encoding.
//!
//! A message begins with its kind ([`KIND`], 1 byte), 1 if some updates are not accepted after it that were sent before ([`Event::precludes`],
//! 1 byte), and the number of its rollout (8 bytes, big-endian). The rest is JSON.
//!
//! A command of a client has the number of those that the node of the client had applied (`commands`). If there are others by then, nothing
//! is done: one that comes late undoes none that was answered since.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::{overlap::Compared, rows::HeadRow};
use crate::{
    auth::LoginRecord,
    fleet::rollout::{Control, DeviceState, Moment, WrittenPath},
    shadow::Timestamp,
};

/// The first byte of a message of rollouts. Those of the broker begin with a letter.
const KIND: u8 = 0;

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The number of the rollout; 0 if it is about all.
    pub(super) number: u64,
    /// A random number, by which the node that sent it knows it again.
    pub(super) request: u64,
    /// The driver that reports it; 0 for what clients ask for.
    pub(super) driver: u64,
    pub(super) moment: Moment,
    pub(super) event: Event,
}

#[derive(Serialize, Deserialize)]
struct Content {
    request: u64,
    driver: u64,
    running_ms: u64,
    date: u64,
    event: Event,
}

/// Something that happens to a rollout. Devices are named by their index, ids are separated by line ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// Devices of a rollout that the principal `by` is about to create, the first of which has the index `from`. Its creator may not change
    /// those that are `forbidden`.
    Part { by: Arc<str>, from: usize, ids: String, forbidden: Vec<usize> },
    /// It is created, with `count` devices.
    Created { head: Box<HeadRow>, count: usize, compared: Compared },
    /// It is not created.
    Withdrawn,
    /// It is removed.
    Removed { commands: u64 },
    /// It is commanded.
    Controlled { control: Control, commands: u64 },
    /// Its former values are to be restored with this login.
    RolledBack { login: Box<LoginRecord>, compared: Option<Compared>, commands: u64 },
    /// A device was not changed.
    Ended { index: usize, state: DeviceState, reason: Arc<str> },
    /// An update that was accepted has made something else than its row says.
    Corrected { index: usize, version: u64, written: Option<Arc<[WrittenPath]>> },
    /// Some devices have succeeded, and some have failed by their deadline.
    Checked { converged: Vec<usize>, overdue: Vec<usize> },
    /// Devices match by now; none any more if it is empty.
    Joined { from: usize, ids: String, compared: Compared },
    /// It ends for a reason of its driver, unless it was rolled back since.
    Stopped { reason: Arc<str>, rollbacks: u64 },
    /// A node carries out the rollouts from here on, in the place of the driver that it knew.
    Driver { number: u64, replaces: u64 },
    /// The time for which the cluster has run.
    Clock,
}

impl Event {
    /// Returns true if some updates that were sent before are not accepted after it.
    fn is_fence(&self) -> bool {
        match self {
            Self::Removed { .. }
            | Self::Controlled { .. }
            | Self::RolledBack { .. }
            | Self::Stopped { .. }
            | Self::Ended { .. } => true,
            Self::Checked { overdue, .. } => !overdue.is_empty(),
            _ => false,
        }
    }

    /// Returns true if an update of the device `index` that was sent before is not accepted after it. Failures may abort a rollout that
    /// has limits of them.
    fn precludes(&self, index: usize, has_limits: bool) -> bool {
        let is_failure = |state: &DeviceState| matches!(state, DeviceState::Failed | DeviceState::Conflict);
        match self {
            Self::Ended { index: ended, state, .. } => *ended == index || (has_limits && is_failure(state)),
            Self::Checked { .. } => has_limits && self.is_fence(),
            event => event.is_fence(),
        }
    }

    /// Returns true if a client asks for it, who is answered in time or not at all.
    pub(super) fn is_of_client(&self) -> bool {
        matches!(
            self,
            Self::Part { .. }
                | Self::Created { .. }
                | Self::Removed { .. }
                | Self::Controlled { .. }
                | Self::RolledBack { .. }
        )
    }

    /// Returns the number of commands before it, as its node knew it.
    pub(super) fn commands(&self) -> Option<u64> {
        match self {
            Self::Removed { commands } | Self::Controlled { commands, .. } | Self::RolledBack { commands, .. } => {
                Some(*commands)
            }
            _ => None,
        }
    }

    /// Returns true if only the present driver reports it.
    pub(super) fn is_of_driver(&self) -> bool {
        matches!(
            self,
            Self::Ended { .. }
                | Self::Corrected { .. }
                | Self::Checked { .. }
                | Self::Joined { .. }
                | Self::Stopped { .. }
                | Self::Clock
        )
    }
}

impl Message {
    /// Returns the encoded message.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![KIND, u8::from(self.event.is_fence())];
        out.put_u64(self.number);
        let Self { request, driver, moment: Moment { running_ms, date }, .. } = *self;
        let content = Content { request, driver, running_ms, date: date.0, event: self.event.clone() };
        out.extend(serde_json::to_vec(&content).expect("all keys are strings or numbers"));
        out.into()
    }

    /// Decodes a message; `None` if it is damaged or of a later program.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = bytes.clone();
        let (_, _, number) = (rest.try_get_u8().ok()?, rest.try_get_u8().ok()?, rest.try_get_u64().ok()?);
        let Content { request, driver, running_ms, date, event } = serde_json::from_slice(&rest).ok()?;
        Some(Self { number, request, driver, moment: Moment { running_ms, date: Timestamp(date) }, event })
    }
}

/// Returns true for an encoded message of rollouts.
pub(super) fn is_message(bytes: &[u8]) -> bool {
    bytes.first() == Some(&KIND)
}

/// Returns true for an encoded message of rollout `number` after which no update of its device `index` is accepted that was sent before.
pub(super) fn precludes(bytes: &Bytes, number: u64, index: usize, has_limits: bool) -> bool {
    let is_of_rollout = bytes.strip_prefix(&[KIND, 1]).is_some_and(|rest| rest.starts_with(&number.to_be_bytes()));
    is_of_rollout && Message::decode(bytes).is_none_or(|message| message.event.precludes(index, has_limits))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn messages_come_back() {
        let ended = |state| Event::Ended { index: 3, state, reason: "full".into() };
        let checked = |overdue| Event::Checked { converged: vec![1, 2], overdue };
        // Whether it precludes an update of device 3, of another, and of another of a rollout without limits of failures.
        for (event, precluded) in [
            (Event::Part { by: "a".into(), from: 500, ids: "a\nb".into(), forbidden: vec![501] }, [false; 3]),
            (Event::Controlled { control: Control::Pause, commands: 3 }, [true; 3]),
            (ended(DeviceState::Failed), [true, true, false]),
            (ended(DeviceState::Conflict), [true, true, false]),
            (ended(DeviceState::Skipped), [true, false, false]),
            (Event::Corrected { index: 3, version: 9, written: None }, [false; 3]),
            (checked(vec![5]), [true, true, false]),
            (checked(vec![]), [false; 3]),
            (Event::Joined { from: 2, ids: String::new(), compared: Compared::default() }, [false; 3]),
            (Event::Stopped { reason: "revoked".into(), rollbacks: 1 }, [true; 3]),
            (Event::Driver { number: u64::MAX, replaces: 5 }, [false; 3]),
        ] {
            let moment = Moment { running_ms: 5, date: Timestamp(7) };
            let message = Message { number: 1 << 60, request: u64::MAX, driver: 8, moment, event };
            let bytes = message.encode();
            assert!(is_message(&bytes));
            let found = [(3, true), (4, true), (4, false)].map(|(index, has)| precludes(&bytes, 1 << 60, index, has));
            assert_eq!((found, precludes(&bytes, 1, 3, true)), (precluded, false), "{message:?}");
            assert_eq!(format!("{:?}", Message::decode(&bytes).unwrap()), format!("{message:?}"));
            assert!(Message::decode(&bytes.slice(..bytes.len() - 1)).is_none());
        }
    }
}
