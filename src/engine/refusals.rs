//! The last refusals of each shadow, in memory, to answer "why did my update fail", and the last refusals of all
//! shadows, for clients that follow them.
//!
//! They end with the process. When too many shadows have refusals, those of the shadow refused longest ago are dropped,
//! since any client can be refused for any name.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

use crate::{
    shadow::{Rejection, ShadowKey, Timestamp, excerpt},
    wire::{RefusedEntry, Via},
};

/// Most refusals kept of one shadow.
const PER_SHADOW_MAX: usize = 32;

/// Most shadows whose refusals are kept.
const SHADOWS_MAX: usize = 2048;

/// Most refusals of all shadows kept for clients that follow them.
const LATEST_MAX: usize = 1024;

/// Most characters kept of a text that the requester may have influenced.
const TEXT_MAX: usize = 256;

/// The recent refusals.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Distinguishes the positions of this process from those of an earlier one.
    run: u32,
    table: Mutex<RefusalTable>,
}

#[derive(Debug, Default)]
struct RefusalTable {
    shadows: HashMap<ShadowKey, (u64, VecDeque<Arc<RefusedEntry>>)>,
    /// The shadows by the turn of their last refusal.
    by_turn: BTreeMap<u64, ShadowKey>,
    /// The refusals of all shadows with their turn, oldest first.
    latest: VecDeque<(u64, ShadowKey, Arc<RefusedEntry>)>,
    turn: u64,
}

/// A position in the sequence of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalPosition {
    run: u32,
    turn: u64,
}

/// A refusal, its shadow, and the position after it.
pub type FollowedRefusal = (RefusalPosition, ShadowKey, Arc<RefusedEntry>);

impl fmt::Display for RefusalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.run, self.turn)
    }
}

impl FromStr for RefusalPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, turn) = text.split_once('-').ok_or(())?;
        let run = u32::from_str_radix(run, 16).map_err(drop)?;
        Ok(Self { run, turn: turn.parse().map_err(drop)? })
    }
}

impl Default for Refusals {
    fn default() -> Self {
        let mut run = [0; 4];
        SystemRandom::new().fill(&mut run).expect("an operating system that has started a process has random bytes");
        Self { run: u32::from_le_bytes(run), table: Mutex::default() }
    }
}

impl Refusals {
    /// Records a refusal of a command for `key`.
    pub(super) fn note(&self, key: &ShadowKey, entry: RefusedEntry) {
        let entry = Arc::new(entry);
        let mut table = self.table.lock();
        table.turn += 1;
        let turn = table.turn;
        let (last, entries) = table.shadows.entry(key.clone()).or_default();
        let last = std::mem::replace(last, turn);
        entries.truncate(PER_SHADOW_MAX - 1);
        entries.push_front(entry.clone());
        if table.latest.len() >= LATEST_MAX {
            table.latest.pop_front();
        }
        table.latest.push_back((turn, key.clone(), entry));
        table.by_turn.remove(&last);
        table.by_turn.insert(turn, key.clone());
        if table.shadows.len() > SHADOWS_MAX
            && let Some((_, oldest)) = table.by_turn.pop_first()
        {
            table.shadows.remove(&oldest);
        }
    }

    /// Returns the refusals of `key`, newest first.
    pub(super) fn of(&self, key: &ShadowKey) -> Vec<RefusedEntry> {
        let table = self.table.lock();
        let kept = table.shadows.get(key).map_or_else(Vec::new, |(_, entries)| entries.iter().cloned().collect());
        drop(table);
        kept.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Returns the refusals of all shadows after `position`, oldest first, and the position after them. Without a
    /// position, or with one of an earlier process, returns all that are kept.
    pub(super) fn after(&self, position: Option<RefusalPosition>) -> (Vec<FollowedRefusal>, RefusalPosition) {
        let run = self.run;
        let since = position.filter(|position| position.run == run).map_or(0, |position| position.turn);
        let table = self.table.lock();
        let first = table.latest.partition_point(|(turn, ..)| *turn <= since);
        let newer = table.latest.range(first..);
        let newer = newer.map(|(turn, key, entry)| (RefusalPosition { run, turn: *turn }, key.clone(), entry.clone()));
        (newer.collect(), RefusalPosition { run, turn: table.turn })
    }
}

/// Returns the record of a refusal.
pub(super) fn refused_entry(
    key: &ShadowKey,
    by: &Arc<str>,
    client: &Arc<str>,
    via: Via,
    rejection: &Rejection,
    now: Timestamp,
) -> RefusedEntry {
    let cut = |text: String| excerpt(&text, TEXT_MAX).to_owned();
    let (expected, version) = match rejection {
        Rejection::VersionConflict { expected, version, .. } => (*expected, Some(*version)),
        Rejection::ExpectationFailed { version, .. } => (None, Some(*version)),
        _ => (None, None),
    };
    RefusedEntry {
        timestamp: now,
        by: by.clone(),
        client: client.clone(),
        via,
        code: rejection.code(),
        error: rejection.error(),
        message: cut(rejection.message(key)),
        detail: rejection.detail().map(cut),
        message_to_others: cut(rejection.clone().without_names().message(key)),
        expected,
        version,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::shadow::DeviceId;

    fn key(id: &str) -> ShadowKey {
        ShadowKey::classic(DeviceId::new(id).unwrap())
    }

    fn note(refusals: &Refusals, id: &str, n: u64) {
        let rejection = Rejection::InvalidJson { detail: "x".repeat(1000) };
        let key = key(id);
        refusals.note(&key, refused_entry(&key, &"p".into(), &"c".into(), Via::Mqtt, &rejection, Timestamp(n)));
    }

    #[test]
    fn keeps_the_last_refusals_of_a_shadow_newest_first() {
        let refusals = Refusals::default();
        (0..100).for_each(|n| note(&refusals, "d", n));
        let kept = refusals.of(&key("d"));
        let times: Vec<u64> = kept.iter().map(|entry| entry.timestamp.0).collect();
        assert_eq!(times, (68..100).rev().collect::<Vec<_>>());
        assert_eq!(kept.first().unwrap().detail.as_ref().unwrap().len(), TEXT_MAX);
        assert_eq!(refusals.of(&key("other")), []);
    }

    #[test]
    fn drops_the_shadow_refused_longest_ago() {
        let refusals = Refusals::default();
        note(&refusals, "busy", 0);
        for n in 0..2 * SHADOWS_MAX as u64 {
            note(&refusals, &format!("d{n}"), n);
            note(&refusals, "busy", n);
        }
        assert_eq!(refusals.of(&key("busy")).len(), PER_SHADOW_MAX);
        assert_eq!(refusals.of(&key("d0")), []);
        assert_eq!(refusals.of(&key(&format!("d{}", 2 * SHADOWS_MAX - 1))).len(), 1);
        let table = refusals.table.lock();
        assert_eq!(
            (table.shadows.len(), table.by_turn.len(), table.latest.len()),
            (SHADOWS_MAX, SHADOWS_MAX, LATEST_MAX)
        );
    }

    #[test]
    fn returns_refusals_of_all_shadows_after_a_position() {
        let refusals = Refusals::default();
        let devices = |position| -> Vec<String> {
            refusals.after(position).0.iter().map(|(_, key, _)| key.device.as_str().to_owned()).collect()
        };
        note(&refusals, "a", 1);
        let (found, start) = refusals.after(None);
        assert_eq!(found.len(), 1);
        note(&refusals, "b", 2);
        note(&refusals, "a", 3);
        assert_eq!(devices(Some(start)), ["b", "a"]);
        let (found, end) = refusals.after(Some(start));
        assert_eq!(devices(Some(found.first().unwrap().0)), ["a"]);
        assert_eq!(devices(Some(end)), [""; 0]);
        assert_eq!(end.to_string().parse(), Ok(end));
        // For a position of another process, all refusals are new.
        let other = RefusalPosition { run: start.run.wrapping_add(1), turn: u64::MAX };
        assert_eq!(devices(Some(other)), ["a", "b", "a"]);
        assert_eq!(["", "-", "x-1", "1-", "1-x", "100000000-1"].map(str::parse::<RefusalPosition>), [Err(()); 6]);
    }
}
