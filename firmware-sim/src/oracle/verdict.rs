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
    /// An update was applied a second time under the same idempotency key.
    AppliedTwice {
        /// The device.
        device: DeviceId,
        /// The version of the second time.
        version: Version,
        /// The version of the first time.
        first: Version,
        /// The writer.
        writer: DeviceId,
        /// The key.
        key: String,
    },
    /// The same request under the same key was rejected after it had been accepted.
    KeyForgotten {
        /// The device.
        device: DeviceId,
        /// The key.
        key: String,
        /// The rejection.
        rejection: String,
    },
    /// A command took effect a second time.
    EffectTwice {
        /// The device.
        device: DeviceId,
        /// The id of the command.
        command: String,
    },
    /// An accepted command took no effect.
    EffectMissing {
        /// The device.
        device: DeviceId,
        /// The id of the command.
        command: String,
    },
    /// More versions were assigned than the fleet has asked for.
    Unaccounted {
        /// The device.
        device: DeviceId,
        /// Versions that no reply assigned.
        versions: u64,
        /// Updates whose outcome is unknown.
        unknown: u64,
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
    /// A rollout changed a device before its wave, or beyond the number of devices of its wave.
    WaveExceeded {
        /// The device.
        device: DeviceId,
        /// The rollout.
        rollout: String,
        /// The finding at the device.
        reason: String,
    },
    /// A node of a cluster has another final state than the device has read.
    NodeDiffers {
        /// The device.
        device: DeviceId,
        /// The address of the node.
        node: String,
        /// The final version.
        version: Version,
        /// The document at the node.
        found: String,
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
            | Self::AppliedTwice { version, .. }
            | Self::NodeDiffers { version, .. }
            | Self::Unconverged { version, .. } => *version,
            Self::KeyForgotten { .. }
            | Self::EffectTwice { .. }
            | Self::EffectMissing { .. }
            | Self::Unaccounted { .. }
            | Self::WaveExceeded { .. }
            | Self::Unread { .. } => Version::default(),
        }
    }

    /// Returns the device concerned.
    pub(crate) fn device(&self) -> &DeviceId {
        match self {
            Self::LostUpdate { device, .. }
            | Self::DuplicateVersion { device, .. }
            | Self::StaleAccepted { device, .. }
            | Self::VersionWentBack { device, .. }
            | Self::AppliedTwice { device, .. }
            | Self::KeyForgotten { device, .. }
            | Self::EffectTwice { device, .. }
            | Self::EffectMissing { device, .. }
            | Self::Unaccounted { device, .. }
            | Self::FinalBehind { device, .. }
            | Self::MissingDelta { device, .. }
            | Self::Unconverged { device, .. }
            | Self::WaveExceeded { device, .. }
            | Self::NodeDiffers { device, .. }
            | Self::Unread { device, .. } => device,
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
            Self::AppliedTwice { device, version, first, writer, key } => {
                write!(f, "applied twice: {device} version {version} under the key {key} of {writer}, ")?;
                write!(f, "after version {first}")
            }
            Self::KeyForgotten { device, key, rejection } => {
                write!(
                    f,
                    "key forgotten: {device}: the same request under {key} was accepted, then rejected: {rejection}"
                )
            }
            Self::EffectTwice { device, command } => write!(f, "took effect twice: {device} command {command}"),
            Self::EffectMissing { device, command } => {
                write!(f, "took no effect: {device} command {command}, which was accepted")
            }
            Self::Unaccounted { device, versions, unknown } => {
                write!(f, "unaccounted versions: {device} has {versions} that no reply assigned, ")?;
                write!(f, "though the outcome of only {unknown} updates is unknown")
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
            Self::WaveExceeded { device, rollout, reason } => {
                write!(f, "wave exceeded by rollout {rollout}: {device}: {reason}")
            }
            Self::NodeDiffers { device, node, version, found } => {
                write!(f, "nodes differ: {device} has the final version {version}, and {node} has {found}")
            }
            Self::Unread { device, reason } => write!(f, "not read: {device}: {reason}"),
        }
    }
}

fn or_nothing(value: &Option<Value>, nothing: &str) -> String {
    value.as_ref().map_or_else(|| nothing.to_owned(), Value::to_string)
}
