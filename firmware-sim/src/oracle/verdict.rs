//! The violations, as text with device, version and path.

use std::fmt;

use serde_json::Value;
use umbra_client::{DeviceId, Version};

/// A violation of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Violation {
    /// An accepted write is not in the final state, and no later write superseded it.
    LostUpdate {
        /// The device.
        device: DeviceId,
        /// The version assigned.
        version: Version,
        /// A JSON Pointer into `state`.
        path: String,
        /// The writer.
        writer: DeviceId,
        /// The value sent; `None` for a removal.
        sent: Option<Value>,
        /// The value found.
        found: Option<Value>,
    },
    /// Two changes got the same version.
    DuplicateVersion {
        /// The device.
        device: DeviceId,
        /// The version.
        version: Version,
        /// The writer of the second one.
        writer: DeviceId,
    },
    /// An update was accepted at another version than the one it required.
    StaleAccepted {
        /// The device.
        device: DeviceId,
        /// The version assigned.
        version: Version,
        /// The version required.
        expected: Version,
        /// The writer.
        writer: DeviceId,
    },
    /// A subscriber got a version that is not above the one before.
    VersionWentBack {
        /// The device.
        device: DeviceId,
        /// The version.
        version: Version,
        /// The version before, on the same connection.
        before: Version,
        /// The subscriber.
        subscriber: DeviceId,
    },
    /// The final version is below an assigned one.
    FinalBehind {
        /// The device.
        device: DeviceId,
        /// The highest version assigned.
        accepted: Version,
        /// The final version.
        version: Version,
    },
    /// A field of `desired` changed, and no delta delivered it.
    MissingDelta {
        /// The device.
        device: DeviceId,
        /// The version read.
        version: Version,
        /// The field.
        path: String,
    },
    /// A field that the device owns differs from `desired`.
    Unconverged {
        /// The device.
        device: DeviceId,
        /// The version read.
        version: Version,
        /// The field.
        path: String,
    },
    /// The final state could not be read.
    Unread {
        /// The device.
        device: DeviceId,
        /// The reason.
        reason: String,
    },
}

impl Violation {
    /// Returns the version concerned; 0 if there is none.
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::LostUpdate { version, .. }
            | Self::DuplicateVersion { version, .. }
            | Self::StaleAccepted { version, .. }
            | Self::VersionWentBack { version, .. }
            | Self::FinalBehind { version, .. }
            | Self::MissingDelta { version, .. }
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
                write!(f, "lost update: {device} version {version} {path}: {writer}'s {sent} was accepted, ")?;
                write!(f, "found {found} and no later write")
            }
            Self::DuplicateVersion { device, version, writer } => {
                write!(f, "version assigned twice: {device} version {version}, the second time to {writer}")
            }
            Self::StaleAccepted { device, version, expected, writer } => {
                write!(f, "precondition ignored: {device} version {version} was assigned to {writer}, ")?;
                write!(f, "which required {expected}")
            }
            Self::VersionWentBack { device, version, before, subscriber } => {
                write!(f, "version went back: {device} version {version} announced to {subscriber} after {before}")
            }
            Self::FinalBehind { device, accepted, version } => {
                write!(f, "final version too low: {device} version {version}, though {accepted} was assigned")
            }
            Self::MissingDelta { device, version, path } => {
                write!(f, "delta missing: {device} version {version} {path} is desired, and no delta delivered it")
            }
            Self::Unconverged { device, version, path } => {
                write!(f, "not converged: {device} version {version} {path} differs from reported")
            }
            Self::Unread { device, reason } => write!(f, "not read: {device}: {reason}"),
        }
    }
}

fn or_nothing(value: &Option<Value>, nothing: &str) -> String {
    value.as_ref().map_or_else(|| nothing.to_owned(), Value::to_string)
}
