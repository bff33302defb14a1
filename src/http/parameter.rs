//! The declaration of a parameter of requests, for the checks and the description, and the error of an invalid one.

use crate::shadow::excerpt;

/// The place of a parameter in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum ParameterLocation {
    Path,
    Query,
    Header,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    /// Text that matches a pattern (ECMA 262, anchored).
    Text(&'static str),
    /// An integer within a range.
    Integer { min: u64, max: u64 },
    /// `true` or `false`.
    Flag,
    /// One of these texts.
    Choice(&'static [&'static str]),
}

/// The declaration of a parameter.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Parameter {
    pub(in crate::http) name: &'static str,
    pub(in crate::http) location: ParameterLocation,
    pub(in crate::http) kind: Kind,
    pub(in crate::http) about: &'static str,
}

/// An invalid parameter: its name, and the reason, which follows the name in a message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct BadParameter {
    pub(in crate::http) name: String,
    pub(in crate::http) reason: String,
}

pub(in crate::http) fn bad(name: &str, reason: impl Into<String>) -> BadParameter {
    BadParameter { name: excerpt(name, 64).to_owned(), reason: reason.into() }
}
