//! The last refusals of each shadow, in memory: "why did my update fail".
//!
//! They are gone with the process, and those of the shadows that were refused longest ago go when there are too many
//! shadows: anybody can be refused for any name.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    shadow::{Rejection, ShadowKey, Timestamp},
    wire::RefusedEntry,
};

/// Refusals that are kept of one shadow.
const PER_SHADOW_MAX: usize = 32;

/// Shadows of which they are kept.
const SHADOWS_MAX: usize = 2048;

/// Characters kept of a text that a requester had a part in.
const TEXT_MAX: usize = 256;

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    shadows: HashMap<ShadowKey, (u64, VecDeque<RefusedEntry>)>,
    /// The shadows by when they were refused last.
    by_turn: BTreeMap<u64, ShadowKey>,
    turn: u64,
}

impl Refusals {
    /// Keeps a refusal.
    pub(super) fn note(
        &self,
        key: &ShadowKey,
        by: &Arc<str>,
        client: &Arc<str>,
        rejection: &Rejection,
        now: Timestamp,
    ) {
        let entry = entry(key, by, client, rejection, now);
        let mut table = self.0.lock();
        table.turn += 1;
        let turn = table.turn;
        let (last, entries) = table.shadows.entry(key.clone()).or_default();
        let last = std::mem::replace(last, turn);
        entries.truncate(PER_SHADOW_MAX - 1);
        entries.push_front(entry);
        table.by_turn.remove(&last);
        table.by_turn.insert(turn, key.clone());
        if table.shadows.len() > SHADOWS_MAX
            && let Some((_, oldest)) = table.by_turn.pop_first()
        {
            table.shadows.remove(&oldest);
        }
    }

    /// Those of `key`, newest first.
    pub(super) fn of(&self, key: &ShadowKey) -> Vec<RefusedEntry> {
        let table = self.0.lock();
        table.shadows.get(key).map_or_else(Vec::new, |(_, entries)| entries.iter().cloned().collect())
    }
}

fn entry(key: &ShadowKey, by: &Arc<str>, client: &Arc<str>, rejection: &Rejection, now: Timestamp) -> RefusedEntry {
    let cut = |text: String| match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    };
    let (expected, version) = match rejection {
        Rejection::VersionConflict { expected, version, .. } => (*expected, Some(*version)),
        Rejection::ExpectationFailed { version, .. } => (None, Some(*version)),
        _ => (None, None),
    };
    RefusedEntry {
        timestamp: now,
        by: by.clone(),
        client: client.clone(),
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
        refusals.note(&key(id), &"p".into(), &"c".into(), &rejection, Timestamp(n));
    }

    #[test]
    fn the_last_ones_are_kept_newest_first() {
        let refusals = Refusals::default();
        (0..100).for_each(|n| note(&refusals, "d", n));
        let kept = refusals.of(&key("d"));
        let times: Vec<u64> = kept.iter().map(|entry| entry.timestamp.0).collect();
        assert_eq!(times, (68..100).rev().collect::<Vec<_>>());
        assert_eq!(kept.first().unwrap().detail.as_ref().unwrap().len(), TEXT_MAX);
        assert_eq!(refusals.of(&key("other")), []);
    }

    #[test]
    fn shadows_refused_longest_ago_go_first() {
        let refusals = Refusals::default();
        note(&refusals, "busy", 0);
        for n in 0..2 * SHADOWS_MAX as u64 {
            note(&refusals, &format!("d{n}"), n);
            note(&refusals, "busy", n);
        }
        assert_eq!(refusals.of(&key("busy")).len(), PER_SHADOW_MAX);
        assert_eq!(refusals.of(&key("d0")), []);
        assert_eq!(refusals.of(&key(&format!("d{}", 2 * SHADOWS_MAX - 1))).len(), 1);
        assert_eq!(refusals.0.lock().shadows.len(), SHADOWS_MAX);
        assert_eq!(refusals.0.lock().by_turn.len(), SHADOWS_MAX);
    }
}
