//! Passwords that were found right, so that a fleet which comes back after an outage is not hashed again.
//!
//! What is kept of a password is a tag: HMAC-SHA256 over user, password and the user's hash, under a key that this
//! process made up and nobody else knows. Whoever changes or removes a user makes its tag worthless, since the hash it
//! was made with is no longer the user's. One tag a user, so there are never more than users.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ring::{hmac, rand::SystemRandom};

use super::{PasswordHash, Principal};

/// HMAC-SHA256 of a user, a password and a hash.
pub(super) type Tag = [u8; 32];

/// The tags of passwords that were found right.
pub(super) struct Verified {
    key: hmac::Key,
    /// How long a tag is kept after the last login with it.
    age_max: Duration,
    tags: Mutex<HashMap<Principal, Entry>>,
}

struct Entry {
    tag: Tag,
    until: Instant,
}

impl Verified {
    /// None so far. `None`: the operating system gives no random bytes.
    pub(super) fn new(age_max: Duration) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { key, age_max, tags: Mutex::default() })
    }

    /// What would be kept of `password`.
    pub(super) fn tag(&self, user: &str, password: &[u8], hash: &PasswordHash) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash.to_string().as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes()); // or two that differ could run into the same bytes
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("an HMAC-SHA256 has 32 bytes")
    }

    /// Whether the password of `tag` was found right lately. The tag is kept longer for that.
    ///
    /// Who does not know the key learns nothing from how long the comparison takes.
    pub(super) fn holds(&self, user: &Principal, tag: &Tag, now: Instant) -> bool {
        let mut tags = self.tags.lock();
        match tags.get_mut(user) {
            Some(entry) if entry.tag == *tag && entry.until > now => {
                entry.until = now + self.age_max;
                true
            }
            _ => false,
        }
    }

    /// The password of `tag` is right.
    pub(super) fn keep(&self, user: &Principal, tag: Tag, now: Instant) {
        if !self.age_max.is_zero() {
            self.tags.lock().insert(user.clone(), Entry { tag, until: now + self.age_max });
        }
    }

    /// Drops the tags of users who are not there any more, and those that are too old.
    pub(super) fn sweep(&self, is_there: impl Fn(&Principal) -> bool, now: Instant) {
        let mut tags = self.tags.lock();
        tags.retain(|user, entry| entry.until > now && is_there(user));
        tags.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::{super::password::tests::cheap, *};

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn tags_tell_everything_apart_that_they_are_made_of() {
        let verified = Verified::new(HOUR).unwrap();
        let (hash, other) = (cheap("x"), cheap("x"));
        let tags = [
            verified.tag("user", b"password", &hash),
            verified.tag("user", b"passwore", &hash),
            verified.tag("userp", b"assword", &hash),
            verified.tag("user", b"password", &other),
            verified.tag("user", b"", &hash),
            verified.tag("", b"", &hash),
            Verified::new(HOUR).unwrap().tag("user", b"password", &hash),
        ];
        for (n, tag) in tags.iter().enumerate() {
            assert!(!tags.get(..n).unwrap().contains(tag), "{n}");
        }
        assert_eq!(verified.tag("user", b"password", &hash), tags[0]);
    }

    #[test]
    fn a_tag_is_kept_for_a_time_after_its_last_use() {
        let (verified, start) = (Verified::new(HOUR).unwrap(), Instant::now());
        let (lamp, other) = (Principal::named("lamp").unwrap(), Principal::named("other").unwrap());
        let tag = verified.tag("lamp", b"x", &cheap("x"));
        verified.keep(&lamp, tag, start);
        assert!(!verified.holds(&other, &tag, start) && !verified.holds(&lamp, &Tag::default(), start));
        for half_hours in 1..10 {
            assert!(verified.holds(&lamp, &tag, start + HOUR / 2 * half_hours), "{half_hours}");
        }
        assert!(!verified.holds(&lamp, &tag, start + HOUR * 6));
    }

    #[test]
    fn what_is_swept_is_gone() {
        let (verified, start) = (Verified::new(HOUR).unwrap(), Instant::now());
        let users = ["a", "b", "c"].map(|name| Principal::named(name).unwrap());
        for (n, user) in (0..).zip(&users) {
            verified.keep(user, Tag::default(), start + HOUR * n);
        }
        verified.sweep(|user| &**user.name() != "c", start + HOUR);
        let held = users.each_ref().map(|user| verified.holds(user, &Tag::default(), start + HOUR));
        assert_eq!(held, [false, true, false]);
        assert_eq!(verified.tags.lock().len(), 1);
    }

    #[test]
    fn an_age_of_nothing_keeps_nothing() {
        let verified = Verified::new(Duration::ZERO).unwrap();
        let user = Principal::named("a").unwrap();
        verified.keep(&user, Tag::default(), Instant::now());
        assert!(!verified.holds(&user, &Tag::default(), Instant::now()));
        assert!(verified.tags.lock().is_empty());
    }
}
