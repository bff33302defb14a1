//! The names of devices and shadows.
//!
//! They are checked on construction, so that none brings a wildcard or a further level into a topic.

use std::{fmt, sync::Arc};

/// A malformed device id or shadow name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid {what}: 1 to {bytes_max} of A-Z a-z 0-9 {punctuation}")]
pub struct InvalidName {
    name: String,
    what: &'static str,
    bytes_max: usize,
    punctuation: &'static str,
}

/// The id of a device: 1 to 128 bytes of `A-Z a-z 0-9 : _ -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// Returns the device id `id`.
    ///
    /// # Errors
    ///
    /// The id is empty, too long, or has other characters.
    ///
    /// ```
    /// use umbra_client::DeviceId;
    ///
    /// assert_eq!(DeviceId::new("lamp-1")?.as_str(), "lamp-1");
    /// assert!(DeviceId::new("lamp/1").is_err());
    /// # Ok::<(), umbra_client::InvalidName>(())
    /// ```
    pub fn new(id: &str) -> Result<Self, InvalidName> {
        check(id, "device id", 128, ": _ -", |byte| matches!(byte, b':' | b'_' | b'-')).map(Self)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of a shadow: the classic one of a device, or a named one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShadowId {
    device: DeviceId,
    name: Option<Arc<str>>,
}

impl ShadowId {
    /// Returns the key of the classic shadow of `device`.
    #[must_use]
    pub fn classic(device: DeviceId) -> Self {
        Self { device, name: None }
    }

    /// Returns the key of the shadow `name` of `device`: 1 to 64 bytes of `A-Z a-z 0-9 : _ - $`.
    ///
    /// # Errors
    ///
    /// The name is empty, too long, or has other characters.
    ///
    /// ```
    /// use umbra_client::{DeviceId, ShadowId};
    ///
    /// let wifi = ShadowId::named(DeviceId::new("lamp-1")?, "wifi")?;
    /// assert_eq!((wifi.device().as_str(), wifi.name()), ("lamp-1", Some("wifi")));
    /// assert_eq!(wifi.to_string(), "lamp-1~wifi");
    /// # Ok::<(), umbra_client::InvalidName>(())
    /// ```
    pub fn named(device: DeviceId, name: &str) -> Result<Self, InvalidName> {
        let of_name = |byte| matches!(byte, b':' | b'_' | b'-' | b'$');
        Ok(Self { device, name: Some(check(name, "shadow name", 64, ": _ - $", of_name)?) })
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Returns the name; `None` for the classic shadow.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the prefix of the topics of this shadow.
    pub(crate) fn prefix(&self) -> String {
        match &self.name {
            None => format!("shadow/{}", self.device),
            Some(name) => format!("shadow/{}/name/{name}", self.device),
        }
    }

    /// Returns the shadow that a topic belongs to, and the rest of the topic.
    pub(crate) fn of_topic(topic: &str) -> Option<(Self, &str)> {
        let (device, rest) = topic.strip_prefix("shadow/")?.split_once('/')?;
        let device = DeviceId::new(device).ok()?;
        match rest.strip_prefix("name/") {
            None => Some((Self::classic(device), rest)),
            Some(rest) => {
                let (name, rest) = rest.split_once('/')?;
                Some((Self::named(device, name).ok()?, rest))
            }
        }
    }
}

impl From<DeviceId> for ShadowId {
    fn from(device: DeviceId) -> Self {
        Self::classic(device)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for ShadowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => self.device.fmt(f),
            Some(name) => f.pad(&format!("{}~{name}", self.device)),
        }
    }
}

fn check(
    name: &str,
    what: &'static str,
    bytes_max: usize,
    punctuation: &'static str,
    punctuates: impl Fn(u8) -> bool,
) -> Result<Arc<str>, InvalidName> {
    let fits = (1..=bytes_max).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || punctuates(byte)) {
        return Ok(name.into());
    }
    // Bounds the error's size.
    let name = name.chars().take(bytes_max + 1).collect();
    Err(InvalidName { name, what, bytes_max, punctuation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_change_a_topic_are_refused() {
        for (name, device, shadow) in [
            ("lamp-1", true, true),
            ("A:b_C-9", true, true),
            ("$config", false, true),
            ("", false, false),
            ("+", false, false),
            ("#", false, false),
            ("a/b", false, false),
            ("ä", false, false),
            (&*"x".repeat(64), true, true),
            (&*"x".repeat(65), true, false),
            (&*"x".repeat(129), false, false),
        ] {
            let lamp = DeviceId::new("lamp").expect("a device id");
            assert_eq!(DeviceId::new(name).is_ok(), device, "{name:?} as a device id");
            assert_eq!(ShadowId::named(lamp, name).is_ok(), shadow, "{name:?} as a shadow name");
        }
    }

    #[test]
    fn topics_name_their_shadow() {
        for (topic, expected) in [
            ("shadow/a/update/delta", Some(("a", "update/delta"))),
            ("shadow/a/document", Some(("a", "document"))),
            ("shadow/a/name/b/update/delta", Some(("a~b", "update/delta"))),
            ("shadow/a/name/b", None),
            ("shadow/a", None),
            ("$aws/things/a/shadow/update/delta", None),
        ] {
            let found = ShadowId::of_topic(topic).map(|(shadow, rest)| (shadow.to_string(), rest));
            assert_eq!(found, expected.map(|(shadow, rest)| (shadow.to_owned(), rest)), "{topic}");
            if let Some((shadow, rest)) = ShadowId::of_topic(topic) {
                assert_eq!(format!("{}/{rest}", shadow.prefix()), topic, "and in reverse");
            }
        }
    }
}
