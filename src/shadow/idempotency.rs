//! Requests that a requester may send again without knowing whether the first one got in.
//!
//! A shadow remembers the accepted requests that carried a key, with what they were told. The same key of the same
//! principal with the same request is told the same again; with another request it is refused. What is remembered lives
//! beside the document, in its record and tombstone, and is a function of the accepted requests alone: recovery
//! remembers the same from the journal.
//!
//! A shadow remembers at most [`PER_SHADOW_MAX`] keys, a principal has at most [`PER_PRINCIPAL_MAX`] of them, and a key
//! is forgotten after [`REMEMBERED_SECONDS`] of the store's clock (a clock that jumps forward forgets earlier, one that
//! jumps back later). A principal at its maximum forgets its own oldest key. In a full shadow a principal takes the
//! oldest key of the one that has most, if that one has at least two more than itself; else it forgets its own oldest.
//!
//! *Invariant:* so with `n` principals the newest ⌊64/n⌋ keys of each stay, whatever the others send. A further
//! principal that finds 64 others with one key each is refused rather than take the only key of any.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::shadow::{
    canonical,
    command::{Command, Delete, EtagCondition, Expected, OnConflict, Patch, Preconditions, SectionPatch, Update},
    document::{Document, Timestamp, Version},
    etag::Etag,
    pointer::SectionName,
    rejection::Rejection,
};

/// Most keys that a shadow remembers.
pub const PER_SHADOW_MAX: usize = 64;

/// Most keys that it remembers of one principal.
pub const PER_PRINCIPAL_MAX: usize = 16;

/// How long it remembers a key.
pub const REMEMBERED_SECONDS: u64 = 24 * 3600;

/// The text by which a requester marks a request that it may send again: 1 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(Arc<str>);

/// What a request asks, in 16 bytes: operation, state and preconditions, wherever given; not the client token, not
/// whether it is a dry run. Part of the store's format.
pub type RequestDigest = [u8; 16];

/// A key and the request it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// The request.
    pub digest: RequestDigest,
}

/// What an accepted request was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstOutcome {
    /// Of what was asked.
    pub digest: RequestDigest,
    /// The version it made, or found right.
    pub version: Version,
    /// When that version was made.
    pub timestamp: Timestamp,
    /// The etag of that version.
    pub etag: Etag,
    /// Whether it made that version.
    pub changed: bool,
    /// The earlier version it was accepted under.
    pub rebased_from: Option<Version>,
}

/// One remembered request.
#[derive(Clone, Debug, PartialEq)]
pub struct RememberedKey {
    /// The principal.
    pub by: Arc<str>,
    /// The key.
    pub key: IdempotencyKey,
    /// When it was decided.
    pub decided: Timestamp,
    /// What it was told.
    pub first: FirstOutcome,
}

/// The requests that a shadow remembers, oldest first. Cheap to clone, and nothing at all for most shadows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered(Option<Arc<Vec<Arc<RememberedKey>>>>);

impl IdempotencyKey {
    /// The most bytes of one.
    pub const BYTES_MAX: usize = 64;

    /// The key `text`; `None` if it is empty or too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (1..=Self::BYTES_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Remembered {
    /// These requests, oldest first.
    #[must_use]
    pub fn of(keys: Vec<RememberedKey>) -> Self {
        Self((!keys.is_empty()).then(|| Arc::new(keys.into_iter().map(Arc::new).collect())))
    }

    /// What is remembered, oldest first; some of it may be too old to count.
    #[must_use]
    pub fn keys(&self) -> &[Arc<RememberedKey>] {
        self.0.as_ref().map_or(&[], |keys| keys.as_slice())
    }

    /// What the request with `key` of `by` was told, if it is remembered at `now`.
    #[must_use]
    pub fn find(&self, by: &str, key: &IdempotencyKey, now: Timestamp) -> Option<&FirstOutcome> {
        let fits = |known: &&Arc<RememberedKey>| known.key == *key && *known.by == *by && known.counts(now);
        self.keys().iter().rev().find(fits).map(|known| &known.first)
    }

    /// This and `new`, without what has to go for it.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`]: as many other principals as there are keys have one each.
    pub fn with(&self, new: RememberedKey) -> Result<Self, Rejection> {
        let now = new.decided;
        let mut keys = Vec::with_capacity(self.keys().len() + 1);
        keys.extend(self.keys().iter().filter(|known| known.counts(now)).cloned());
        let own = keys.iter().filter(|known| known.by == new.by).count();
        let victim = match () {
            () if own >= PER_PRINCIPAL_MAX => Some(new.by.clone()),
            () if keys.len() < PER_SHADOW_MAX => None,
            () => Some(fair_victim(&keys, &new.by, own).ok_or_else(|| full(&keys, now))?),
        };
        if let Some(victim) = victim
            && let Some(oldest) = keys.iter().position(|known| known.by == victim)
        {
            keys.remove(oldest);
        }
        keys.push(Arc::new(new));
        Ok(Self(Some(Arc::new(keys))))
    }
}

impl RememberedKey {
    fn counts(&self, now: Timestamp) -> bool {
        now.0.saturating_sub(self.decided.0) <= REMEMBERED_SECONDS
    }
}

/// Whose oldest key has to go for one more of `by`, which has `own`, when there is no room.
fn fair_victim(keys: &[Arc<RememberedKey>], by: &Arc<str>, own: usize) -> Option<Arc<str>> {
    let mut counts: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    keys.iter().for_each(|known| *counts.entry(&known.by).or_default() += 1);
    let most = counts.values().max().copied().unwrap_or_default();
    if most >= own + 2 {
        keys.iter().map(|known| &known.by).find(|by| counts.get(by) == Some(&most)).cloned()
    } else {
        (own > 0).then(|| by.clone())
    }
}

fn full(keys: &[Arc<RememberedKey>], now: Timestamp) -> Rejection {
    let oldest = keys.iter().map(|known| known.decided.0).min().unwrap_or(now.0);
    let seconds = (oldest + REMEMBERED_SECONDS + 1).saturating_sub(now.0);
    let quota = "the shadow remembers the idempotency keys of as many principals as it can".to_owned();
    Rejection::TooManyRequests { quota, retry_after_ms: seconds.saturating_mul(1000) }
}

impl Keyed {
    /// `update` asked for under `key`.
    #[must_use]
    pub fn update(key: IdempotencyKey, update: &Update) -> Self {
        let mut form = vec![b'u', u8::from(update.replace), u8::from(update.state_is_null)];
        put_state(&mut form, update);
        put_preconditions(&mut form, &update.preconditions);
        Self { key, digest: digest(&form) }
    }

    /// The edits whose canonical form is `edits` asked for under `key`, whatever update they come to.
    #[must_use]
    pub fn edits(key: IdempotencyKey, edits: &Value, preconditions: &Preconditions) -> Self {
        let mut form = vec![b'p'];
        canonical::write_value(&mut form, edits);
        put_preconditions(&mut form, preconditions);
        Self { key, digest: digest(&form) }
    }

    /// `delete` asked for under `key`.
    #[must_use]
    pub fn delete(key: IdempotencyKey, delete: &Delete) -> Self {
        let mut form = vec![b'd'];
        put_preconditions(&mut form, &delete.preconditions);
        Self { key, digest: digest(&form) }
    }
}

fn digest(form: &[u8]) -> RequestDigest {
    let mut digest = RequestDigest::default();
    digest.iter_mut().zip(Sha256::digest(form)).for_each(|(to, from)| *to = from);
    digest
}

impl Command {
    /// The key it was asked for under, if there is one.
    #[must_use]
    pub fn keyed(&self) -> Option<&Keyed> {
        match self {
            Self::Update(update) => update.keyed.as_ref(),
            Self::Delete(delete) => delete.keyed.as_ref(),
            Self::Patch(patch) => patch.keyed.as_ref(),
        }
    }

    /// The earlier version that it was accepted under, `before` being what it was decided against.
    #[must_use]
    pub fn rebased_from(&self, before: &Document) -> Option<Version> {
        match self {
            Self::Update(update) => update.preconditions.rebased_from(before),
            Self::Patch(patch) => patch.preconditions.rebased_from(before),
            Self::Delete(_) => None,
        }
    }

    /// Whether it is only to be told what would become of it.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        matches!(self, Self::Update(Update { dry_run: true, .. }) | Self::Patch(Patch { dry_run: true, .. }))
    }
}

/// Each part begins with a letter of its own and is canonical JSON, so no two requests have the same form.
fn put_state(form: &mut Vec<u8>, update: &Update) {
    for name in SectionName::ALL {
        match update.section(name) {
            SectionPatch::Keep => form.push(b'k'),
            SectionPatch::Clear => form.push(b'c'),
            SectionPatch::Merge(members) => {
                form.push(b'm');
                canonical::write_object_value(form, members);
            }
        }
    }
}

fn put_preconditions(form: &mut Vec<u8>, preconditions: &Preconditions) {
    let mut put = |letter: u8, value: Value| {
        form.push(letter);
        canonical::write_value(form, &value);
    };
    if let Some(version) = preconditions.version {
        put(b'v', version.0.to_string().into());
    }
    match &preconditions.etag {
        None => {}
        Some(EtagCondition::Any) => put(b'*', Value::Null),
        Some(EtagCondition::OneOf(tags)) => put(b'l', tags.iter().map(tag_text).collect()),
        Some(tag) => put(b'e', tag_text(tag)),
    }
    if !preconditions.none_of.is_empty() {
        put(b'n', preconditions.none_of.iter().map(ToString::to_string).collect());
    }
    if preconditions.on_conflict == OnConflict::Rebase {
        put(b'r', Value::Null);
    }
    for expectation in &preconditions.expect {
        put(b'x', expectation.path.to_string().into());
        match &expectation.holds {
            Expected::Version(version) => put(b'v', version.0.to_string().into()),
            Expected::Value(value) => put(b'=', value.clone()),
            Expected::Absent => put(b'a', Value::Null),
        }
    }
}

fn tag_text(condition: &EtagCondition) -> Value {
    match condition {
        EtagCondition::Tag(tag) => tag.to_string().into(),
        EtagCondition::Other(text) => text.as_str().into(),
        EtagCondition::OneOf(tags) => tags.iter().map(tag_text).collect(),
        EtagCondition::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn known(by: &str, key: &str, decided: u64) -> RememberedKey {
        let document = Document::absent();
        let first = FirstOutcome {
            digest: RequestDigest::default(),
            version: Version(1),
            timestamp: Timestamp(decided),
            etag: document.etag,
            changed: true,
            rebased_from: None,
        };
        RememberedKey { by: by.into(), key: IdempotencyKey::new(key).unwrap(), decided: Timestamp(decided), first }
    }

    /// `each` of these principals sends so many keys, in turn.
    fn filled(principals: usize, each: usize) -> Remembered {
        let rounds = (0..each).flat_map(|round| (0..principals).map(move |principal| (round, principal)));
        rounds.fold(Remembered::default(), |remembered, (round, principal)| {
            remembered.with(known(&format!("p{principal}"), &format!("k{round}"), 100 + round as u64)).unwrap()
        })
    }

    fn count(remembered: &Remembered, by: &str) -> usize {
        remembered.keys().iter().filter(|known| &*known.by == by).count()
    }

    #[test]
    fn each_principal_keeps_its_newest() {
        let remembered = filled(1, 20);
        assert_eq!(remembered.keys().len(), PER_PRINCIPAL_MAX);
        assert_eq!(remembered.keys().first().map(|known| known.key.as_str()), Some("k4"));
        for principals in 1..=PER_SHADOW_MAX {
            let remembered = filled(principals, 20);
            assert!(remembered.keys().len() <= PER_SHADOW_MAX);
            for principal in 0..principals {
                let share = (PER_SHADOW_MAX / principals).min(PER_PRINCIPAL_MAX);
                let by = format!("p{principal}");
                for newest in 20 - share..20 {
                    let key = IdempotencyKey::new(&format!("k{newest}")).unwrap();
                    assert!(remembered.find(&by, &key, Timestamp(200)).is_some(), "{by} of {principals}: {newest}");
                }
            }
        }
    }

    /// However much one principal sends, it takes no other below the fair share.
    #[test]
    fn one_principal_cannot_flush_another() {
        for principals in 1..PER_SHADOW_MAX {
            let mut remembered = filled(principals, 16);
            for n in 0..200 {
                remembered = remembered.with(known("flood", &format!("f{n}"), 200)).unwrap();
            }
            let share = PER_SHADOW_MAX / (principals + 1);
            for principal in 0..principals {
                let left = count(&remembered, &format!("p{principal}"));
                assert!(left >= share.min(16), "{principals} principals and a flood: {left} left, {share} fair");
            }
            assert!(count(&remembered, "flood") >= 1);
        }
    }

    #[test]
    fn who_finds_no_room_is_refused_until_there_is_some() {
        let full = filled(PER_SHADOW_MAX, 1);
        let refused = full.with(known("late", "k", 150)).unwrap_err();
        let after = REMEMBERED_SECONDS + 1 - 50;
        assert!(matches!(refused, Rejection::TooManyRequests { retry_after_ms, .. } if retry_after_ms == after * 1000));
        let later = full.with(known("late", "k", 150 + after)).unwrap();
        assert_eq!((later.keys().len(), count(&later, "late")), (1, 1));
        let own = full.with(known("p7", "other", 150)).unwrap();
        assert_eq!((own.keys().len(), count(&own, "p7")), (PER_SHADOW_MAX, 1), "its own oldest goes");
    }
}
