//! Explanations of authorization for the authors of rules: the rules that allow an operation.

use std::fmt;

use crate::{
    auth::{
        Access, Operation,
        authz::{administration::Administration, rule::Rule},
    },
    shadow::{Pointer, ShadowKey},
};

/// An operation to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation on a shadow, on one path or on any path.
    Shadow(Operation, ShadowKey, Option<Pointer>),
    /// Publishing to an ordinary topic.
    Publish(String),
    /// Receiving messages of an ordinary topic.
    Receive(String),
    /// Receiving messages of a topic of a named query.
    ReceiveOfQuery(String),
    /// An administrative operation.
    Administer(Administration),
}

/// The rules that allow the operation, in order; without any it is not allowed.
#[derive(Debug)]
pub struct Answer<'a> {
    access: &'a Access,
    question: &'a Question,
    by: Vec<&'a Rule>,
}

impl Question {
    /// Returns the rules of `access` that allow the operation.
    #[must_use]
    pub fn ask<'a>(&'a self, access: &'a Access) -> Answer<'a> {
        let by = match self {
            // Deleting requires write access to all of the state, which several rules may grant together.
            Self::Shadow(Operation::Delete, key, None) if !access.may_delete(key) => Vec::new(),
            Self::Shadow(operation, key, path) => access.rules(key, *operation, path.as_ref()).collect(),
            Self::Publish(topic) => access.rules_to_publish(topic).collect(),
            Self::Receive(topic) => access.rules_to_receive(topic).collect(),
            Self::ReceiveOfQuery(_) => access.rules_to_search().collect(),
            Self::Administer(operation) => access.rules_to_administer(*operation).collect(),
        };
        Answer { access, question: self, by }
    }
}

impl Answer<'_> {
    /// Returns true if the operation is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !self.by.is_empty()
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shadow(operation, key, None) => write!(f, "{} {key}", operation.name()),
            Self::Shadow(operation, key, Some(path)) => write!(f, "{} {path} of {key}", operation.name()),
            Self::Publish(topic) => write!(f, "publish to {topic}"),
            Self::Receive(topic) | Self::ReceiveOfQuery(topic) => write!(f, "receive {topic}"),
            Self::Administer(operation) => write!(f, "administer {}", operation.name()),
        }
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, may) = (self.access.principal().name(), if self.is_allowed() { "may" } else { "may not" });
        write!(f, "{who} {may} {}", self.question)?;
        for rule in &self.by {
            write!(f, "\n  by the rule of the role '{}' at {}", rule.role, rule.origin.0)?;
        }
        if self.by.is_empty() {
            let mut roles: Vec<_> = self.access.all_rules().map(|rule| &*rule.role).collect();
            roles.dedup();
            match roles.is_empty() {
                true => f.write_str("\n  it has no role")?,
                false => write!(f, "\n  no rule of its roles allows it: {}", roles.join(", "))?,
            }
        }
        if self.access.is_any() { write!(f, "\n  its limits: {}", self.access.limits()) } else { Ok(()) }
    }
}
