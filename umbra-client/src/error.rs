//! Why a request came to nothing.

use crate::{address::InvalidAddress, names::InvalidName, rejection::Rejection};

/// Why a request came to nothing, or may have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service refused it, and would again.
    #[error("rejected: {0}")]
    Rejected(Box<Rejection>),
    /// The broker refused the message itself, before it was looked at as a request.
    #[error("refused by the broker: {0}")]
    Refused(String),
    /// No reply came, or the connection broke before it did. A write may be in the shadow, or not.
    #[error("no reply")]
    Unanswered,
    /// Every try failed in a way that might have passed, or the last one did not tell what became of one before it.
    #[error("gave up after {tries} tries: {last}{}", if *outcome_unknown { "; it may have got in" } else { "" })]
    GaveUp {
        /// How many tries there were.
        tries: u32,
        /// How the last one failed.
        last: Box<Error>,
        /// Whether one of them may have got in unheard, and none of the later ones told.
        outcome_unknown: bool,
    },
    /// There is no connection.
    #[error("not connected: {0}")]
    Offline(String),
    /// The reply is none that this library can read.
    #[error("unreadable reply: {0}")]
    Unreadable(String),
    /// More is watched than one session of the service takes.
    #[error("more than {0} subscriptions")]
    TooManyWatches(usize),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// An address that is malformed.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// A topic or filter that MQTT does not allow, or a message that is too large.
    #[error("'{0}' is no valid topic or filter")]
    Topic(String),
    /// A name that the service would not take.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Error {
    /// The refusal, where there is one; of the last try, where there were several.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::GaveUp { last, .. } => last.rejection(),
            _ => None,
        }
    }

    /// Whether a write that ended like this may be in the shadow all the same.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Unanswered | Self::Unreadable(_) => true,
            Self::Rejected(rejection) => rejection.remedy() == crate::rejection::RecoveryAction::Find,
            Self::GaveUp { outcome_unknown, .. } => *outcome_unknown,
            _ => false,
        }
    }
}
