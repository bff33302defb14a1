//! The events of rollouts in the log of a cluster, and their encoding.
//!
//! A message begins with its kind ([`KIND`], 1 byte), 1 for a command after which no update is accepted that was sent before it (1 byte), and
//! the number of its rollout (8 bytes, big-endian). The rest is JSON.

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
    /// Devices of a rollout that is about to be created, the first of which has the index `from`. Its creator may not change those that
    /// are `forbidden`.
    Part { from: usize, ids: String, forbidden: Vec<usize> },
    /// It is created, with `count` devices.
    Created { head: Box<HeadRow>, count: usize, compared: Compared },
    /// It is not created.
    Withdrawn,
    /// It is removed.
    Removed,
    /// It is commanded.
    Controlled(Control),
    /// Its former values are to be restored with this login.
    RolledBack { login: Box<LoginRecord>, compared: Option<Compared> },
    /// A device was not changed.
    Ended { index: usize, state: DeviceState, reason: Arc<str> },
    /// An update that was accepted has made something else than its row says.
    Corrected { index: usize, version: u64, written: Option<Arc<[WrittenPath]>> },
    /// Some devices have succeeded, and some have failed by their deadline.
    Checked { converged: Vec<usize>, overdue: Vec<usize> },
    /// Devices match by now; none any more if it is empty.
    Joined { from: usize, ids: String, compared: Compared },
    /// It ends for a reason of its driver, unless another login acts since.
    Stopped { reason: Arc<str>, is_rolling_back: bool },
    /// A node carries out the rollouts from here on.
    Driver(u64),
    /// The time for which the cluster has run.
    Clock,
}

impl Event {
    /// Returns true if updates that were sent before are not accepted after it.
    fn is_fence(&self) -> bool {
        matches!(self, Self::Removed | Self::Controlled(_) | Self::RolledBack { .. } | Self::Stopped { .. })
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

/// Returns true for an encoded message after which no update of rollout `number` is accepted that was sent before.
pub(super) fn is_fence_of(bytes: &[u8], number: u64) -> bool {
    bytes.strip_prefix(&[KIND, 1]).is_some_and(|rest| rest.starts_with(&number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn messages_come_back() {
        for (event, is_fence) in [
            (Event::Part { from: 500, ids: "a\nb".into(), forbidden: vec![501] }, false),
            (Event::Controlled(Control::Pause), true),
            (Event::Ended { index: 3, state: DeviceState::Failed, reason: "full".into() }, false),
            (Event::Corrected { index: 3, version: 9, written: None }, false),
            (Event::Checked { converged: vec![1, 2], overdue: vec![3] }, false),
            (Event::Joined { from: 2, ids: String::new(), compared: Compared::default() }, false),
            (Event::Stopped { reason: "revoked".into(), is_rolling_back: true }, true),
            (Event::Driver(u64::MAX), false),
        ] {
            let moment = Moment { running_ms: 5, date: Timestamp(7) };
            let message = Message { number: 1 << 60, request: u64::MAX, driver: 8, moment, event };
            let bytes = message.encode();
            assert!(is_message(&bytes));
            assert_eq!((is_fence_of(&bytes, 1 << 60), is_fence_of(&bytes, 1)), (is_fence, false), "{message:?}");
            assert_eq!(format!("{:?}", Message::decode(&bytes).unwrap()), format!("{message:?}"));
            assert!(Message::decode(&bytes.slice(..bytes.len() - 1)).is_none());
        }
    }
}
