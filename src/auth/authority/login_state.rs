//! The state of one login, which a command carries to the writer.
//!
//! A command may wait long between its authorization and its decision: for memory in the engine's queue, or for the
//! disk. The writer asks its login before it decides it, so a command of a revoked login is refused. The answer is
//! computed once after each reload; the writer reads two atomics otherwise.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    auth::authority::{AuthContext, AuthorityState},
    shadow::Revocable,
};

/// A login and the authority that may revoke it.
pub(super) struct LoginState {
    auth_context: Arc<AuthContext>,
    authority: Arc<AuthorityState>,
    /// The generation in which the login was reviewed, times two, plus one if it was revoked.
    reviewed: AtomicU64,
}

impl LoginState {
    /// Returns the state of a login that was valid in `generation`.
    pub(super) fn new(auth_context: Arc<AuthContext>, authority: Arc<AuthorityState>, generation: u64) -> Self {
        Self { auth_context, authority, reviewed: AtomicU64::new(generation << 1) }
    }
}

impl Revocable for LoginState {
    fn is_revoked(&self) -> bool {
        let (generation, reviewed) = (self.authority.generation(), self.reviewed.load(Ordering::Relaxed));
        if reviewed >> 1 == generation {
            return reviewed & 1 == 1;
        }
        let revoked = self.authority.access(&self.auth_context).is_none();
        self.reviewed.store(generation << 1 | u64::from(revoked), Ordering::Relaxed);
        revoked
    }
}
