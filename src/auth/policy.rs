//! Which roles there are, and who has them.
//!
//! A client has the role of its listener (for clients without credentials, and for those with a certificate) and the
//! roles that grants give to its principal. Without any role it may do nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::auth::{
    Method, Principal,
    access::{Access, Granted, Rights},
    pattern::{Pattern, Who},
    rule::{Rule, RuleError, RuleText, device_pattern},
};

/// A grant as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantText {
    /// The role.
    pub role: String,
    /// Patterns of principals.
    pub principals: Vec<String>,
    /// Names of methods; none: all but `anonymous`.
    pub by: Vec<String>,
    /// Patterns of device ids.
    pub devices: Vec<String>,
}

/// Roles and grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    roles: BTreeMap<Arc<str>, Vec<Arc<Rule>>>,
    grants: Vec<Grant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    role: Arc<str>,
    principals: Vec<Pattern>,
    by: Vec<Method>,
    devices: Arc<[Pattern]>,
}

/// A rule or grant that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// `rule` or `grant`.
    pub list: &'static str,
    /// Which of them, from 0.
    pub index: usize,
    /// What about it.
    pub error: RuleError,
}

impl Policy {
    /// Reads rules and grants.
    ///
    /// # Errors
    ///
    /// The first that makes no sense, or is about a role that there is not.
    pub fn read(rules: &[RuleText], grants: &[GrantText]) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for (index, text) in rules.iter().enumerate() {
            let rule = Rule::read(text).map_err(|error| PolicyError { list: "rule", index, error })?;
            policy.roles.entry(rule.role.clone()).or_default().push(Arc::new(rule));
        }
        for (index, text) in grants.iter().enumerate() {
            let grant = policy.grant(text).map_err(|error| PolicyError { list: "grant", index, error })?;
            policy.grants.push(grant);
        }
        Ok(policy)
    }

    /// Whether there is a role of this name.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(name)
    }

    /// The names of the roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(|name| &**name)
    }

    /// What `principal`, known by `method`, may do as the client `client`. `role` is that of its listener, if it gives
    /// one.
    #[must_use]
    pub fn access(&self, principal: &Principal, method: Method, role: Option<&str>, client: &Arc<str>) -> Access {
        let who = Who { principal: principal.name(), client };
        let none: Arc<[Pattern]> = Arc::default();
        let of_listener = role.into_iter().map(|role| (role, &none));
        let grants = self.grants.iter().filter(|grant| grant.is_for(method, who));
        let roles = of_listener.chain(grants.map(|grant| (&*grant.role, &grant.devices)));
        let granted = roles.flat_map(|(role, devices)| {
            let rules = self.roles.get(role).into_iter().flatten();
            rules.map(|rule| Granted::new(rule.clone(), devices.clone(), who))
        });
        Access::new(principal.clone(), client.clone(), Rights::new(granted.collect()))
    }

    /// The roles that [`Self::access`] is made of, each once.
    #[must_use]
    pub fn roles_of<'a>(
        &'a self,
        principal: &Principal,
        method: Method,
        role: Option<&'a str>,
        client: &Arc<str>,
    ) -> BTreeSet<&'a str> {
        let who = Who { principal: principal.name(), client };
        let grants = self.grants.iter().filter(|grant| grant.is_for(method, who));
        role.into_iter().chain(grants.map(|grant| &*grant.role)).collect()
    }

    fn grant(&self, text: &GrantText) -> Result<Grant, RuleError> {
        let refuse = |key| move |problem: String| RuleError { key, problem };
        let principal = |text: &String| text.parse::<Pattern>().map_err(|error| error.to_string());
        let principals = text.principals.iter().map(principal).collect::<Result<Vec<_>, _>>();
        let devices = text.devices.iter().map(|text| device_pattern(text)).collect::<Result<Vec<_>, _>>();
        if !self.has_role(&text.role) {
            let known = self.roles().collect::<Vec<_>>().join(", ");
            let problem = format!("is '{}', but must be one of the roles that there are: {known}", text.role);
            return Err(RuleError { key: "role", problem });
        }
        let method = |name: &String| {
            let found = Method::NAMED.into_iter().find(|(known, _)| known == name).map(|(_, method)| method);
            found.ok_or_else(|| {
                let known = Method::NAMED.map(|(name, _)| name).join(", ");
                RuleError { key: "by", problem: format!("has '{name}', but must be of {known}") }
            })
        };
        Ok(Grant {
            role: text.role.as_str().into(),
            principals: principals.map_err(refuse("principals"))?,
            by: text.by.iter().map(method).collect::<Result<_, _>>()?,
            devices: devices.map_err(refuse("devices"))?.into(),
        })
    }
}

impl Grant {
    fn is_for(&self, method: Method, who: Who<'_>) -> bool {
        // What an anonymous client calls itself proves nothing, so such a grant must say that it means that.
        let known = if self.by.is_empty() { method != Method::Anonymous } else { self.by.contains(&method) };
        known && self.principals.iter().any(|pattern| pattern.matches(who.principal, who))
    }
}
