//! What one client may do: the one answer to every question of rights, whichever door it came through.
//!
//! A command passes [`Access::admit`] on its way to the service, and carries away what its sender may do; whatever is
//! rendered for a reader passes [`Access::projection`]; ordinary topics pass [`Access::may_publish`] and
//! [`Access::may_receive`].

use std::sync::Arc;

use crate::{
    auth::{
        Principal, Projection,
        pattern::{Pattern, Who},
        rule::{Operation, Rule},
    },
    shadow::{Command, Delete, Paths, Pointer, Rejection, Scope, Sender, ShadowKey},
};

/// What one client may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    principal: Principal,
    client: Arc<str>,
    rights: Arc<Rights>,
}

/// The rules that a client has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rights {
    granted: Vec<Granted>,
    /// One of the rules allows everything, so that nothing need be looked at.
    everything: bool,
}

/// A rule of a role that a client has, with what its placeholders stand for.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    rule: Arc<Rule>,
    /// The devices that the role was granted for.
    devices: Arc<[Pattern]>,
    reads: Paths,
    writes: Paths,
}

impl Granted {
    /// The paths that `operation` is about.
    fn paths(&self, operation: Operation) -> &Paths {
        match operation {
            Operation::Update | Operation::Delete => &self.writes,
            Operation::Get | Operation::Subscribe | Operation::History => &self.reads,
        }
    }
}

/// The place of a device id or shadow name in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Any.
    Any,
    /// This one.
    Is(&'a str),
}

impl Granted {
    /// `rule` of a role granted for `devices`.
    #[must_use]
    pub fn new(rule: Arc<Rule>, devices: Arc<[Pattern]>, who: Who<'_>) -> Self {
        Self { reads: rule.reads(who), writes: rule.writes(who), rule, devices }
    }
}

impl Rights {
    /// The rights of these rules.
    #[must_use]
    pub fn new(granted: Vec<Granted>) -> Self {
        let everything = granted.iter().any(|granted| granted.rule.is_everything());
        Self { granted, everything }
    }
}

impl Access {
    /// `rights` for `principal` as the client `client`.
    #[must_use]
    pub fn new(principal: Principal, client: Arc<str>, rights: Rights) -> Self {
        Self { principal, client, rights: Arc::new(rights) }
    }

    /// Everything, for `principal`.
    #[must_use]
    pub fn admin(principal: Principal) -> Self {
        let rights = Rights { granted: Vec::new(), everything: true };
        Self { principal, client: "".into(), rights: Arc::new(rights) }
    }

    /// Nothing, for `principal`.
    #[must_use]
    pub fn none(principal: Principal) -> Self {
        Self::new(principal, "".into(), Rights::default())
    }

    /// Whose access this is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether there is anything that may be done.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.rights.everything || !self.rights.granted.is_empty()
    }

    /// Whether it may do everything there is to do, as who operates the service.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.rights.everything
    }

    /// Whether `other` may do the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.principal == other.principal && self.client == other.client && self.rights == other.rights
    }

    /// What of the shadow `key` may be read by `operation`; `None`: there is nothing.
    #[must_use]
    pub fn projection(&self, key: &ShadowKey, operation: Operation) -> Option<Projection> {
        if self.rights.everything {
            return Some(Projection::ALL);
        }
        let paths = self.paths(key, operation);
        (!paths.is_empty()).then(|| paths.into())
    }

    /// Checks that `command` may be done to `key`, takes out of a `"state": null` what may not be cleared, and tells
    /// what its sender may do.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`] that names the operation or the first path refused.
    pub fn admit(&self, key: &ShadowKey, command: &mut Command) -> Result<Sender, Rejection> {
        let by = self.principal.name().clone();
        if self.rights.everything {
            return Ok(Sender { by, scope: Scope::ALL });
        }
        let operation = match command {
            Command::Update(_) | Command::Patch(_) => Operation::Update,
            Command::Delete(_) => Operation::Delete,
        };
        let writes = self.paths(key, operation);
        if writes.is_empty() {
            return Err(forbidden(key, operation));
        }
        let scope = Scope { reads: self.paths(key, Operation::Get), writes };
        scope.admit(command)?;
        Ok(Sender { by, scope })
    }

    /// Whether `operation` may be done to `key` at all.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`].
    pub fn admit_any(&self, key: &ShadowKey, operation: Operation) -> Result<(), Rejection> {
        let admitted = self.rights.everything
            || self.rights.granted.iter().any(|granted| {
                granted.rule.allows(operation)
                    && granted.rule.is_about(key, &granted.devices, self.who())
                    && !granted.paths(operation).is_empty()
            });
        if admitted { Ok(()) } else { Err(forbidden(key, operation)) }
    }

    /// Whether `key` may be deleted.
    #[must_use]
    pub fn may_delete(&self, key: &ShadowKey) -> bool {
        self.admit(key, &mut Command::Delete(Delete::default())).is_ok()
    }

    /// What may be read of `key` on request.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`]: nothing.
    pub fn admit_get(&self, key: &ShadowKey) -> Result<Projection, Rejection> {
        self.projection(key, Operation::Get).ok_or_else(|| forbidden(key, Operation::Get))
    }

    /// What may be read of the past of `key`.
    ///
    /// # Errors
    ///
    /// As [`Access::admit_get`].
    pub fn admit_history(&self, key: &ShadowKey) -> Result<Projection, Rejection> {
        self.projection(key, Operation::History).ok_or_else(|| forbidden(key, Operation::History))
    }

    /// Whether an ordinary `topic` may be published to.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.rights.everything || self.rules_to_publish(topic).next().is_some()
    }

    /// Whether a message on an ordinary `topic` may be received.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.rights.everything || self.rules_to_receive(topic).next().is_some()
    }

    /// Whether `filter` may select an ordinary topic that may be received.
    #[must_use]
    pub fn may_receive_some(&self, filter: &str) -> bool {
        self.rights.everything
            || self.all_rules().any(|rule| rule.subscribe().iter().any(|known| known.overlaps(filter, self.who())))
    }

    /// Whether changes of a shadow may be received whose device and name are these; no name: a classic one.
    #[must_use]
    pub fn may_follow_some(&self, device: Wanted<'_>, name: Option<Wanted<'_>>) -> bool {
        let who = self.who();
        let follows = |granted: &Granted| {
            let rule = &granted.rule;
            let device = match device {
                Wanted::Any => rule.has_devices(&granted.devices, who),
                Wanted::Is(device) => rule.has_device(device, &granted.devices, who),
            };
            let name = match name {
                None => rule.has_name("", who),
                Some(Wanted::Any) => rule.has_names(who),
                Some(Wanted::Is(name)) => rule.has_name(name, who),
            };
            device && name && rule.allows(Operation::Subscribe) && !granted.reads.is_empty()
        };
        self.rights.everything || self.rights.granted.iter().any(follows)
    }

    /// The rules by which `operation` is allowed on `path` of `key`, or on any path, in the order they stand in.
    pub fn rules<'a>(
        &'a self,
        key: &'a ShadowKey,
        operation: Operation,
        path: Option<&'a Pointer>,
    ) -> impl Iterator<Item = &'a Rule> {
        let who = self.who();
        let granted = self.rights.granted.iter().filter(move |granted| {
            let paths = granted.paths(operation);
            granted.rule.allows(operation)
                && granted.rule.is_about(key, &granted.devices, who)
                && path.map_or(!paths.is_empty(), |path| paths.has(path))
        });
        granted.map(|granted| &*granted.rule)
    }

    /// The rules by which an ordinary `topic` may be published to.
    pub fn rules_to_publish<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Rule> {
        let allowed = move |rule: &&Rule| rule.publish().iter().any(|known| known.matches(topic, self.who()));
        self.all_rules().filter(allowed)
    }

    /// The rules by which an ordinary `topic` may be received.
    pub fn rules_to_receive<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Rule> {
        let allowed = move |rule: &&Rule| rule.subscribe().iter().any(|known| known.matches(topic, self.who()));
        self.all_rules().filter(allowed)
    }

    /// Every rule there is.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rights.granted.iter().map(|granted| &*granted.rule)
    }

    fn paths(&self, key: &ShadowKey, operation: Operation) -> Paths {
        let who = self.who();
        let mut paths = Paths::NONE;
        for granted in &self.rights.granted {
            if granted.rule.allows(operation) && granted.rule.is_about(key, &granted.devices, who) {
                paths.add(granted.paths(operation));
            }
        }
        paths
    }

    fn who(&self) -> Who<'_> {
        Who { principal: self.principal.name(), client: &self.client }
    }
}

fn forbidden(key: &ShadowKey, operation: Operation) -> Rejection {
    Rejection::Forbidden { what: format!("{} {key}", operation.name()) }
}
