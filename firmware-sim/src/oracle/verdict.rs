//! What the service can be found guilty of, in words that name device, version and path.

use std::fmt;

use serde_json::Value;
use umbra_client::{DeviceId, Version};

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Violation {
    /// An accepted write is not in the final state and nothing later explains it.
    LostUpdate {
        /// Whose shadow.
        device: DeviceId,
        /// The version its writer was told.
        version: Version,
        /// Where, as a JSON Pointer into `state`.
        path: String,
        /// Who wrote it.
        writer: DeviceId,
        /// What was sent; `None` for a removal.
        sent: Option<Value>,
        /// What is there.
        found: Option<Value>,
    },
    /// Two changes were told the same version.
    DuplicateVersion {
        /// Whose shadow.
        device: DeviceId,
        /// The version told again.
        version: Version,
        /// Who was told it, the second time.
        writer: DeviceId,
    },
    /// An update was accepted on a version other than the one it required.
    StaleAccepted {
        /// Whose shadow.
        device: DeviceId,
        /// The version its writer was told.
        version: Version,
        /// The version it had required.
        expected: Version,
        /// Who wrote it.
        writer: DeviceId,
    },
    /// A subscriber heard a version that does not follow the one it had heard before.
    FellBack {
        /// Whose shadow.
        device: DeviceId,
        /// The version heard now.
        version: Version,
        /// The version heard before, on the same connection.
        before: Version,
        /// Who listened.
        listener: DeviceId,
    },
    /// The final version is below one that was told.
    FinalBehind {
        /// Whose shadow.
        device: DeviceId,
        /// The highest version told.
        accepted: Version,
        /// The version in the end.
        version: Version,
    },
    /// Something else is wanted of a device and no delta told it.
    NotTold {
        /// Whose shadow.
        device: DeviceId,
        /// The version it was read at.
        version: Version,
        /// The field.
        path: String,
    },
    /// A field the device answers for still differs from what is wanted.
    Unconverged {
        /// Whose shadow.
        device: DeviceId,
        /// The version it was read at.
        version: Version,
        /// The field.
        path: String,
    },
    /// The final state could not be read.
    Unread {
        /// Whose shadow.
        device: DeviceId,
        /// Why.
        reason: String,
    },
}

impl Violation {
    /// The version it is about; 0 if about none.
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::LostUpdate { version, .. }
            | Self::DuplicateVersion { version, .. }
            | Self::StaleAccepted { version, .. }
            | Self::FellBack { version, .. }
            | Self::FinalBehind { version, .. }
            | Self::NotTold { version, .. }
            | Self::Unconverged { version, .. } => *version,
            Self::Unread { .. } => Version::default(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostUpdate { device, version, path, writer, sent, found } => {
                let (sent, found) = (or_nothing(sent, "removed"), or_nothing(found, "nothing"));
                write!(
                    f,
                    "lost update: {device} version {version} {path}: {writer} was told its {sent} is accepted, "
                )?;
                write!(f, "found {found} and no later write")
            }
            Self::DuplicateVersion { device, version, writer } => {
                write!(f, "version told twice: {device} version {version}, the second time to {writer}")
            }
            Self::StaleAccepted { device, version, expected, writer } => {
                write!(f, "precondition ignored: {device} version {version} was given to {writer}, ")?;
                write!(f, "which required {expected}")
            }
            Self::FellBack { device, version, before, listener } => {
                write!(f, "version fell back: {device} version {version} heard by {listener} after {before}")
            }
            Self::FinalBehind { device, accepted, version } => {
                write!(f, "final version too low: {device} version {version}, though {accepted} had been told")
            }
            Self::NotTold { device, version, path } => {
                write!(f, "delta missing: {device} version {version} {path} is wanted and no delta said so")
            }
            Self::Unconverged { device, version, path } => {
                write!(f, "not converged: {device} version {version} {path} differs from what is reported")
            }
            Self::Unread { device, reason } => write!(f, "not read: {device}: {reason}"),
        }
    }
}

fn or_nothing(value: &Option<Value>, nothing: &str) -> String {
    value.as_ref().map_or_else(|| nothing.to_owned(), Value::to_string)
}
