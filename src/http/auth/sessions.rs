//! Who signed in with a browser: sessions that a cookie names.
//!
//! A page must not keep a password where its scripts can read it, so it sends one once and holds a cookie that only the
//! browser sees. The cookie is 256 random bits; what is kept here is their digest, with what the client was let in on.
//! That is reviewed at each use, as rights, users and keys may have been read anew since.
//!
//! *Invariant:* there is a bounded number of sessions, in all and of each principal: one more takes the place of the
//! one that was used least lately. Nobody gets one without having been let in, so it costs at least a right password.
//!
//! A WebSocket that was opened under a session ends with it, and so does a stream of events or a wait.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use tokio::{sync::watch, time::sleep_until};

use crate::auth::AuthContext;

/// The name of the cookie.
pub(in crate::http) const COOKIE: &str = "umbra-session";

/// How long a session may be unused.
pub(in crate::http) const IDLE_MAX: Duration = Duration::from_secs(8 * 3600);
/// How long it may be used.
pub(in crate::http) const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const SESSIONS_MAX: usize = 4_096;
const SESSIONS_OF_ONE_MAX: usize = 32;

/// Bytes of an id.
const ID_BYTES: usize = 32;

/// The sessions there are. One for all listeners; a session is good for the listener that it was made at.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<Digest, Session>>);

/// What a session is found by. A digest, so that the time of a search tells nothing of an id.
type Digest = [u8; 32];

struct Session {
    auth_context: Arc<AuthContext>,
    made: Instant,
    used: Instant,
    /// Dropped with the session, which tells those who wait.
    ended: watch::Sender<()>,
}

/// Who is signed in.
#[derive(Clone, Debug)]
pub(in crate::http) struct SignedIn {
    pub(in crate::http) auth_context: Arc<AuthContext>,
    /// When it ends at the latest.
    until: Instant,
    ended: watch::Receiver<()>,
    /// Keeps `ended` open where there is no session that could end.
    _open: Option<Arc<watch::Sender<()>>>,
}

impl Sessions {
    /// Begins one for `auth_context`, and returns its id; `None`: the operating system has no random bytes.
    pub(in crate::http) fn begin(&self, auth_context: AuthContext, now: Instant) -> Option<String> {
        let mut id = [0; ID_BYTES];
        SystemRandom::new().fill(&mut id).ok()?;
        let session =
            Session { auth_context: Arc::new(auth_context), made: now, used: now, ended: watch::Sender::new(()) };
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.is_alive(now));
        let principal = &session.auth_context.identity.principal;
        let same = |other: &Session| other.auth_context.identity.principal == *principal;
        if sessions.values().filter(|session| same(session)).count() >= SESSIONS_OF_ONE_MAX {
            remove_oldest(&mut sessions, same);
        } else if sessions.len() >= SESSIONS_MAX {
            remove_oldest(&mut sessions, |_| true);
        }
        sessions.insert(digest_of(&id), session);
        Some(BASE64_URL_SAFE_NO_PAD.encode(id))
    }

    /// The session that the cookie in `headers` names, if it is one of the listener.
    pub(in crate::http) fn find(&self, headers: &HeaderMap, listener: &str, now: Instant) -> Option<SignedIn> {
        let digest = named(headers)?;
        let mut sessions = self.0.lock();
        let session = sessions.get_mut(&digest).filter(|session| session.auth_context.is_of(listener))?;
        if !session.is_alive(now) {
            sessions.remove(&digest);
            return None;
        }
        session.used = now;
        let (auth_context, ended) = (session.auth_context.clone(), session.ended.subscribe());
        Some(SignedIn { auth_context, until: session.made + AGE_MAX, ended, _open: None })
    }

    /// Ends the session that the cookie in `headers` names.
    pub(in crate::http) fn end(&self, headers: &HeaderMap) {
        if let Some(digest) = named(headers) {
            self.0.lock().remove(&digest);
        }
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_MAX && now.duration_since(self.made) < AGE_MAX
    }
}

impl SignedIn {
    /// Returns the client of a presigned URL, which is no session that it could end: it lasts as long as one may.
    pub(in crate::http) fn by_url(auth_context: Arc<AuthContext>, now: Instant) -> Self {
        let open = watch::Sender::new(());
        Self { auth_context, until: now + AGE_MAX, ended: open.subscribe(), _open: Some(Arc::new(open)) }
    }

    /// Whether the session has ended.
    pub(in crate::http) fn is_over(&self, now: Instant) -> bool {
        // The sender never sends: an error is its having been dropped.
        now >= self.until || self.ended.has_changed().is_err()
    }

    /// Waits for the end of the session.
    pub(in crate::http) async fn ended(mut self) {
        tokio::select! {
            () = sleep_until(self.until.into()) => {}
            // Never changed: this is its sender being dropped.
            _ = self.ended.changed() => {}
        }
    }
}

fn remove_oldest(sessions: &mut HashMap<Digest, Session>, of: impl Fn(&Session) -> bool) {
    let oldest = sessions.iter().filter(|(_, session)| of(session)).min_by_key(|(_, session)| session.used);
    if let Some(digest) = oldest.map(|(digest, _)| *digest) {
        sessions.remove(&digest);
    }
}

/// The digest of the id in the cookie.
fn named(headers: &HeaderMap) -> Option<Digest> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, id) = pairs.find(|(name, _)| *name == COOKIE)?;
    let id = BASE64_URL_SAFE_NO_PAD.decode(id).ok().filter(|id| id.len() == ID_BYTES)?;
    Some(digest_of(&id))
}

fn digest_of(id: &[u8]) -> Digest {
    digest(&SHA256, id).as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use super::*;
    use crate::auth::Principal;

    fn cookie(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {COOKIE}={id}").parse().unwrap())])
    }

    fn auth_context(name: &str) -> AuthContext {
        AuthContext::of_user(Principal::named(name).unwrap(), "web")
    }

    #[test]
    fn a_session_ends_unused_and_old() {
        let begun = Instant::now();
        let minute = Duration::from_secs(60);
        // when it is used, after it began; whether the last use finds it
        let often = (1..=23).map(|step| IDLE_MAX.mul_f64(0.9) * step).take_while(|after| *after < AGE_MAX);
        let often = often.chain([AGE_MAX - minute]).collect::<Vec<_>>();
        let late = often.iter().copied().chain([AGE_MAX + minute]).collect();
        for (uses, found) in [
            (vec![minute], true),
            (vec![IDLE_MAX - minute], true),
            (vec![IDLE_MAX + minute], false),
            (vec![IDLE_MAX - minute, 2 * (IDLE_MAX - minute)], true),
            (often, true),
            (late, false),
        ] {
            let sessions = Sessions::default();
            let id = sessions.begin(auth_context("app"), begun).unwrap();
            let last = uses.iter().map(|after| sessions.find(&cookie(&id), "web", begun + *after).is_some()).last();
            assert_eq!(last, Some(found), "{uses:?}");
        }
    }

    #[test]
    fn a_session_is_found_by_its_id_at_its_listener_alone() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.begin(auth_context("app"), now).unwrap();
        let other = sessions.begin(auth_context("app"), now).unwrap();
        assert_ne!(id, other);
        for (id, listener, found) in [
            (id.as_str(), "web", true),
            (&id, "other", false),
            (&id[1..], "web", false),
            ("", "web", false),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "web", false),
        ] {
            assert_eq!(sessions.find(&cookie(id), listener, now).is_some(), found, "{id:?} at {listener}");
        }
        sessions.end(&cookie(&id));
        assert!(sessions.find(&cookie(&id), "web", now).is_none());
        assert!(sessions.find(&cookie(&other), "web", now).is_some());
    }

    #[test]
    fn one_principal_cannot_take_the_room_of_others() {
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let other = sessions.begin(auth_context("other"), begun).unwrap();
        let ids = (0..=SESSIONS_OF_ONE_MAX)
            .map(|step| sessions.begin(auth_context("app"), begun + Duration::from_secs(step as u64)).unwrap());
        let ids = ids.collect::<Vec<_>>();
        let now = begun + Duration::from_secs(60);
        let found = ids.iter().filter(|id| sessions.find(&cookie(id), "web", now).is_some()).count();
        assert_eq!(found, SESSIONS_OF_ONE_MAX);
        assert!(sessions.find(&cookie(&ids[0]), "web", now).is_none(), "the one used least lately");
        assert!(sessions.find(&cookie(&other), "web", now).is_some());
    }

    #[tokio::test]
    async fn who_waits_for_the_end_is_told() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.begin(auth_context("app"), now).unwrap();
        let signed_in = sessions.find(&cookie(&id), "web", now).unwrap();
        let waiting = tokio::spawn(signed_in.clone().ended());
        assert!(!signed_in.is_over(now) && signed_in.is_over(now + AGE_MAX));
        sessions.end(&cookie(&id));
        waiting.await.unwrap();
        assert!(signed_in.is_over(now));
    }
}
