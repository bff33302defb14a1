//! The client on whose behalf a rollout is created, commanded or carried out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    admission::{PrincipalQuota, work},
    auth::{Access, AuthContext, Authority, Operation, Principal},
    search::{FleetSearch, Reader},
    shadow::{Command, Projection, Rejection, Sender, ShadowKey},
    store::StoredShadow,
};

/// The longest wait for a quota before something is tried again.
pub(super) const QUOTA_WAIT_MAX: Duration = Duration::from_secs(10);

/// A login with its rights. It acts without a connection, so it does not matter that a token expires.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    access: Access,
    auth_context: Arc<AuthContext>,
    /// The generation of the rules from which `access` was made.
    generation: u64,
}

impl Actor {
    /// Returns the actor of a login that has the rights `access` by the rules of `generation`.
    pub(crate) fn new(access: Access, auth_context: Arc<AuthContext>, generation: u64) -> Self {
        Self { access, auth_context, generation }
    }

    /// Returns the actor of a login; `None` if it is revoked.
    pub(super) fn of_login(auth_context: Arc<AuthContext>, authority: &Authority) -> Option<Self> {
        let generation = authority.generation();
        let access = authority.review_absent(&auth_context)?;
        Some(Self { access, auth_context, generation })
    }

    /// Returns the login.
    pub(super) fn login(&self) -> &Arc<AuthContext> {
        &self.auth_context
    }

    /// Returns the principal.
    pub(super) fn principal(&self) -> &Principal {
        self.access.principal()
    }

    /// Returns true if the actor has all rights, like an operator.
    pub(super) fn has_all_rights(&self) -> bool {
        self.access.is_everything()
    }

    /// Returns the quota of the principal.
    pub(super) fn quota(&self, search: &FleetSearch) -> Arc<PrincipalQuota> {
        search.quota(&self.access)
    }

    /// Charges a command to the principal, and waits until it is within its rate, but not for long.
    pub(super) async fn pay_command(&self, search: &FleetSearch) {
        if let Some(wait) = self.quota(search).charge_work(work::COMMAND, Instant::now()) {
            sleep(wait.min(QUOTA_WAIT_MAX)).await;
        }
    }

    /// Reads `key`. Reads from disk take turns with the principal's other ones.
    pub(super) async fn read(&self, key: &ShadowKey, search: &FleetSearch) -> Result<StoredShadow, Rejection> {
        search.service.read_for(key, &self.quota(search)).await
    }

    /// Returns the projection of `key` that the actor may get. `None` if it may not even know that `key` exists.
    pub(super) fn projection(&self, key: &ShadowKey) -> Option<Projection> {
        self.access.projection(key, Operation::Get)
    }

    /// Checks the rights for `command`. Every command of a rollout passes here before it is submitted.
    pub(super) fn authorize(&self, key: &ShadowKey, command: &mut Command) -> Result<Sender, Rejection> {
        self.access.admit(key, command)
    }
}

impl Reader for Actor {
    fn access(&self) -> &Access {
        &self.access
    }

    fn renew(&mut self, authority: &Authority) -> bool {
        if self.generation == authority.generation() {
            return true;
        }
        let renewed = Self::of_login(self.auth_context.clone(), authority);
        renewed.map(|renewed| *self = renewed).is_some()
    }

    async fn rights_may_change(&self, authority: &Authority) {
        authority.read_anew(self.generation).await;
    }
}
