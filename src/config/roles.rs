//! Rules and grants as written. [`crate::auth::Policy`] compiles and checks them.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    error::UnlocatedError,
    raw::{RawConfig, RawGrant, RawRule},
    section::Section,
    units::{List, Text},
};

/// A section `[[rule]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleConfig {
    /// The role.
    pub role: String,
    /// The location of the rule, for explanations.
    pub origin: String,
    /// The patterns of device ids.
    pub devices: Vec<String>,
    /// The patterns of shadow names; the classic shadow has the empty name.
    pub names: Vec<String>,
    /// The names of operations; `None` for all.
    pub operations: Option<Vec<String>>,
    /// The readable paths.
    pub read: Vec<String>,
    /// The writable paths.
    pub write: Vec<String>,
    /// The patterns of ordinary topics for publishing.
    pub publish: Vec<String>,
    /// The patterns of ordinary topics for receiving.
    pub subscribe: Vec<String>,
}

/// A section `[[grant]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantConfig {
    /// The role.
    pub role: String,
    /// The patterns of principals.
    pub principals: Vec<String>,
    /// The names of authentication methods; if empty, all but `anonymous`.
    pub by: Vec<String>,
    /// The patterns of device ids.
    pub devices: Vec<String>,
}

/// Returns all rules; `place` returns the location of a key.
pub(super) fn rules(raw: &RawConfig, place: impl Fn(&str) -> String) -> Vec<RuleConfig> {
    raw.rule.iter().enumerate().map(|(index, raw)| rule(raw, place(&format!("rule[{index}]")))).collect()
}

/// Returns all grants.
pub(super) fn grants(raw: &RawConfig) -> Vec<GrantConfig> {
    raw.grant.iter().map(grant).collect()
}

/// Returns the role that `key` of a listener names; `None` if the value is empty.
pub(super) fn role(
    at: &Section,
    key: &str,
    text: &Text,
    rules: &[RuleConfig],
) -> Result<Option<Arc<str>>, UnlocatedError> {
    match text.0.as_str() {
        "" => Ok(None),
        name if rules.iter().any(|rule| rule.role == name) => Ok(Some(name.into())),
        name => {
            let known: BTreeSet<_> = rules.iter().map(|rule| rule.role.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Err(at.invalid(key, format!("is {name:?}, but must be one of the roles that there are: {known}")))
        }
    }
}

fn rule(raw: &RawRule, origin: String) -> RuleConfig {
    let optional = |texts: &Option<List>| texts.as_ref().map(|texts| texts.0.clone());
    RuleConfig {
        role: raw.role.0.clone(),
        origin,
        devices: raw.devices.0.clone(),
        names: optional(&raw.names).unwrap_or_else(|| vec!["*".to_owned()]),
        operations: optional(&raw.operations),
        read: raw.read.0.clone(),
        write: raw.write.0.clone(),
        publish: raw.publish.0.clone(),
        subscribe: raw.subscribe.0.clone(),
    }
}

fn grant(raw: &RawGrant) -> GrantConfig {
    GrantConfig {
        role: raw.role.0.clone(),
        principals: raw.principals.0.clone(),
        by: raw.by.0.clone(),
        devices: raw.devices.0.clone(),
    }
}
