//! The rights of one client: every authorization check for MQTT and HTTP.
//!
//! A command passes [`Access::admit`] on its way to the service, which attaches the rights of its sender. All rendering
//! for a reader passes [`Access::projection`]. Ordinary topics pass [`Access::may_publish`] and
//! [`Access::may_receive`].

use std::sync::Arc;

use crate::{
    auth::{
        Principal,
        authz::{
            administration::Administration,
            devices::{self, DeviceRange, DeviceSet},
            pattern::{Pattern, PlaceholderValues},
            rule::{Operation, Rule},
        },
    },
    config::RoleLimits,
    shadow::{
        Command, Delete, Paths, Pointer, Projection, Rejection, Revocable, Scope, Sender, SenderLogin, ShadowKey,
        ShadowName, index::ValuePath,
    },
};

/// The rights of one client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    principal: Principal,
    client: Arc<str>,
    rights: Arc<Rights>,
    limits: Arc<RoleLimits>,
}

/// The rules of a client.
#[derive(Debug, Default)]
pub struct Rights {
    granted: Vec<GrantedRule>,
    /// True if one of the rules allows everything, which saves all lookups.
    everything: bool,
    /// True if they depend on the client id.
    by_client: bool,
    /// The login, which commands carry to their decision. It is ignored when rights are compared.
    login: SenderLogin,
}

/// A rule of a role of the client, with the values of its placeholders.
#[derive(Debug, PartialEq, Eq)]
pub struct GrantedRule {
    rule: Arc<Rule>,
    /// The devices for which the role was granted.
    devices: Arc<[Pattern]>,
    reads: Paths,
    writes: Paths,
}

impl GrantedRule {
    /// Returns the paths that concern `operation`.
    fn paths(&self, operation: Operation) -> &Paths {
        match operation {
            Operation::Update | Operation::Delete => &self.writes,
            Operation::Get | Operation::Subscribe | Operation::History => &self.reads,
        }
    }
}

/// The device id or shadow name in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFilter<'a> {
    /// Any value.
    Any,
    /// This value.
    Is(&'a str),
}

impl GrantedRule {
    /// Returns `rule` of a role granted for `devices`.
    #[must_use]
    pub fn new(rule: Arc<Rule>, devices: Arc<[Pattern]>, who: PlaceholderValues<'_>) -> Self {
        Self { reads: rule.reads(who), writes: rule.writes(who), rule, devices }
    }

    /// Returns true if the devices, names or topics depend on the client id. The paths are those of the client already.
    fn is_by_client(&self) -> bool {
        self.rule.is_by_client() || self.devices.iter().any(Pattern::is_by_client)
    }
}

impl Rights {
    /// Returns the rights of these rules.
    #[must_use]
    pub fn new(granted: Vec<GrantedRule>) -> Self {
        let everything = granted.iter().any(|granted| granted.rule.is_everything());
        let by_client = granted.iter().any(GrantedRule::is_by_client);
        Self { granted, everything, by_client, login: SenderLogin::default() }
    }
}

impl PartialEq for Rights {
    fn eq(&self, other: &Self) -> bool {
        let Self { granted, everything, by_client, login: _ } = self;
        (granted, everything, by_client) == (&other.granted, &other.everything, &other.by_client)
    }
}

impl Access {
    /// Returns `rights` for `principal` as the client `client`, with the limits of its roles.
    #[must_use]
    pub fn new(principal: Principal, client: Arc<str>, rights: Rights, limits: Arc<RoleLimits>) -> Self {
        Self { principal, client, rights: Arc::new(rights), limits }
    }

    /// Returns these rights for a login, which end when it is revoked. No clone of them may exist.
    #[must_use]
    pub fn with_login(mut self, login: Arc<dyn Revocable>) -> Self {
        let rights = Arc::get_mut(&mut self.rights);
        debug_assert!(rights.is_some(), "the rights have a clone");
        if let Some(rights) = rights {
            rights.login = SenderLogin::new(login);
        }
        self
    }

    /// Returns all rights for `principal`.
    #[must_use]
    pub fn admin(principal: Principal) -> Self {
        let rights = Rights { everything: true, ..Rights::default() };
        Self::new(principal, "".into(), rights, Arc::new(RoleLimits::UNLIMITED))
    }

    /// Returns no rights for `principal`.
    #[must_use]
    pub fn none(principal: Principal) -> Self {
        Self::new(principal, "".into(), Rights::default(), Arc::new(RoleLimits::NONE))
    }

    /// Returns the principal.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the limits of the principal by its roles.
    #[must_use]
    pub fn limits(&self) -> &RoleLimits {
        &self.limits
    }

    /// Returns true if there is any right.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.rights.everything || !self.rights.granted.is_empty()
    }

    /// Returns true if everything is allowed, as for the operator.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.rights.everything
    }

    /// Returns true if `operation` is allowed.
    #[must_use]
    pub fn may_administer(&self, operation: Administration) -> bool {
        self.rights.everything || self.rules_to_administer(operation).next().is_some()
    }

    /// Returns true if `other` has the same rights; its limits may differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.principal == other.principal && self.client == other.client && self.rights == other.rights
    }

    /// Returns true if every check for `other` has the same result, unless it is of a command. Clients of one principal
    /// differ in their client ids, which few rules name.
    #[must_use]
    pub fn decides_as(&self, other: &Self) -> bool {
        let (own, others) = (&self.rights, &other.rights);
        (own.everything && others.everything)
            || (self.principal == other.principal
                && (Arc::ptr_eq(own, others) || own == others)
                && (!own.by_client || self.client == other.client))
    }

    /// Returns the part of the shadow `key` that may be read by `operation`; `None` if there is none.
    #[must_use]
    pub fn projection(&self, key: &ShadowKey, operation: Operation) -> Option<Projection> {
        if self.rights.everything {
            return Some(Projection::ALL);
        }
        let paths = self.paths(key, operation);
        (!paths.is_empty()).then(|| paths.into())
    }

    /// Checks the rights of `command` on `key`, and returns its sender with these rights. Restricts a `"state": null`
    /// to the sections that may be cleared.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`] with the operation or the first path refused.
    pub fn admit(&self, key: &ShadowKey, command: &mut Command) -> Result<Sender, Rejection> {
        let by = self.principal.name().clone();
        if self.rights.everything {
            return Ok(Sender { by, scope: Scope::ALL, login: self.rights.login.clone() });
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
        Ok(Sender { by, scope, login: self.rights.login.clone() })
    }

    /// Checks that `operation` on `key` is allowed at all.
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

    /// Returns true if `key` may be deleted.
    #[must_use]
    pub fn may_delete(&self, key: &ShadowKey) -> bool {
        self.admit(key, &mut Command::Delete(Delete::default())).is_ok()
    }

    /// Returns the part of `key` that may be read on request.
    ///
    /// # Errors
    ///
    /// [`Rejection::Forbidden`] if there is none.
    pub fn admit_get(&self, key: &ShadowKey) -> Result<Projection, Rejection> {
        self.projection(key, Operation::Get).ok_or_else(|| forbidden(key, Operation::Get))
    }

    /// Returns the part of the history of `key` that may be read.
    ///
    /// # Errors
    ///
    /// As [`Access::admit_get`].
    pub fn admit_history(&self, key: &ShadowKey) -> Result<Projection, Rejection> {
        self.projection(key, Operation::History).ok_or_else(|| forbidden(key, Operation::History))
    }

    /// Returns true if publishing to an ordinary `topic` is allowed.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.rights.everything || self.rules_to_publish(topic).next().is_some()
    }

    /// Returns true if receiving messages of an ordinary `topic` is allowed.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.rights.everything || self.rules_to_receive(topic).next().is_some()
    }

    /// Returns true if `filter` may select an ordinary topic that may be received.
    #[must_use]
    pub fn may_receive_some(&self, filter: &str) -> bool {
        self.rights.everything
            || self.all_rules().any(|rule| rule.subscribe().iter().any(|known| known.overlaps(filter, self.who())))
    }

    /// Returns true if changes of some shadow with this device and name may be received; no name means the classic
    /// shadow.
    #[must_use]
    pub fn may_follow_some(&self, device: NameFilter<'_>, name: Option<NameFilter<'_>>) -> bool {
        let who = self.who();
        let follows = |granted: &GrantedRule| {
            let rule = &granted.rule;
            let device = match device {
                NameFilter::Any => rule.has_devices(&granted.devices, who),
                NameFilter::Is(device) => rule.has_device(device, &granted.devices, who),
            };
            let name = match name {
                None => rule.has_name("", who),
                Some(NameFilter::Any) => rule.has_names(who),
                Some(NameFilter::Is(name)) => rule.has_name(name, who),
            };
            device && name && rule.allows(Operation::Subscribe) && !granted.reads.is_empty()
        };
        self.rights.everything || self.rights.granted.iter().any(follows)
    }

    /// Returns the rules that allow to read some device, so that a query may have an answer.
    pub fn rules_to_search(&self) -> impl Iterator<Item = &Rule> {
        let who = self.who();
        let granted = self.rights.granted.iter().filter(move |granted| {
            let rule = &granted.rule;
            rule.allows(Operation::Get)
                && !granted.paths(Operation::Get).is_empty()
                && rule.has_devices(&granted.devices, who)
        });
        granted.map(|granted| &*granted.rule)
    }

    /// Returns the ranges of the devices with a shadow that `operation` may read, in order and disjoint; `None` if any
    /// device may have one, or the ranges are more than `max`.
    #[must_use]
    pub fn devices(&self, operation: Operation, max: usize) -> Option<Vec<DeviceRange>> {
        if self.rights.everything {
            return None;
        }
        let is_of = move |granted: &GrantedRule| granted.rule.allows(operation) && !granted.paths(operation).is_empty();
        devices::ranges(self.patterns_of(is_of), self.who(), max)
    }

    /// Returns the devices whose values at `path` may be read on request. `None` if ranges cannot say so exactly, or they are more
    /// than `max`.
    #[must_use]
    pub fn devices_with(&self, path: &ValuePath, max: usize) -> Option<DeviceSet> {
        if self.rights.everything {
            return Some(DeviceSet::All);
        }
        let name = path.shadow.as_ref().map_or("", ShadowName::as_str);
        let (pointer, who) = (path.pointer(), self.who());
        let reads = |granted: &GrantedRule| {
            let rule = &granted.rule;
            rule.allows(Operation::Get) && rule.has_name(name, who) && granted.reads.has(&pointer)
        };
        devices::exact(self.patterns_of(reads), who, max)
    }

    fn patterns_of<'a>(&'a self, is_of: impl Fn(&GrantedRule) -> bool + 'a) -> impl Iterator<Item = &'a Pattern> {
        let granted = self.rights.granted.iter().filter(move |granted| is_of(granted));
        granted.flat_map(|granted| granted.rule.device_patterns(&granted.devices))
    }

    /// Returns topic filters that together select every ordinary topic that may be received, and perhaps others; `None`
    /// if no filters do.
    #[must_use]
    pub fn topics(&self) -> Option<Vec<String>> {
        if self.rights.everything {
            return None;
        }
        let patterns = self.all_rules().flat_map(Rule::subscribe);
        Some(
            patterns
                .map(|pattern| pattern.outline(self.who()))
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect(),
        )
    }

    /// Returns the rules that allow `operation` on `path` of `key`, or on any path, in order.
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

    /// Returns the rules that allow publishing to an ordinary `topic`.
    pub fn rules_to_publish<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Rule> {
        let allowed = move |rule: &&Rule| rule.publish().iter().any(|known| known.matches(topic, self.who()));
        self.all_rules().filter(allowed)
    }

    /// Returns the rules that allow receiving an ordinary `topic`.
    pub fn rules_to_receive<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Rule> {
        let allowed = move |rule: &&Rule| rule.subscribe().iter().any(|known| known.matches(topic, self.who()));
        self.all_rules().filter(allowed)
    }

    /// Returns the rules that allow `operation`.
    pub fn rules_to_administer(&self, operation: Administration) -> impl Iterator<Item = &Rule> {
        self.all_rules().filter(move |rule| rule.may_administer(operation))
    }

    /// Returns all rules.
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

    fn who(&self) -> PlaceholderValues<'_> {
        PlaceholderValues { principal: self.principal.name(), client: &self.client }
    }
}

fn forbidden(key: &ShadowKey, operation: Operation) -> Rejection {
    Rejection::Forbidden { what: format!("{} {key}", operation.name()) }
}
