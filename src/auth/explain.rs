//! What somebody may do, and by which rule: for people who write rules.

use std::fmt;

use crate::{
    auth::{Access, Operation, rule::Rule},
    shadow::{Pointer, ShadowKey},
};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation on a shadow, on one path or on any.
    Shadow(Operation, ShadowKey, Option<Pointer>),
    /// To publish to an ordinary topic.
    Publish(String),
    /// To receive what is published to an ordinary topic.
    Receive(String),
}

/// The answer: allowed by these rules, in the order they stand in; by none: not allowed.
#[derive(Debug)]
pub struct Answer<'a> {
    access: &'a Access,
    question: &'a Question,
    by: Vec<&'a Rule>,
}

impl Question {
    /// Whether `access` allows it.
    #[must_use]
    pub fn ask<'a>(&'a self, access: &'a Access) -> Answer<'a> {
        let by = match self {
            // Takes all of the state, which the rules may have together.
            Self::Shadow(Operation::Delete, key, None) if !access.may_delete(key) => Vec::new(),
            Self::Shadow(operation, key, path) => access.rules(key, *operation, path.as_ref()).collect(),
            Self::Publish(topic) => access.rules_to_publish(topic).collect(),
            Self::Receive(topic) => access.rules_to_receive(topic).collect(),
        };
        Answer { access, question: self, by }
    }
}

impl Answer<'_> {
    /// Whether it is allowed.
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
            Self::Receive(topic) => write!(f, "receive {topic}"),
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
        Ok(())
    }
}
