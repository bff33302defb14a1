//! A path into `state`: the section and the keys below it, written as an RFC 6901 JSON Pointer.

use std::fmt;

/// A path into one section of `state`; no keys means the whole section.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer {
    /// The section.
    pub section: SectionName,
    /// The keys from the section down.
    pub keys: Vec<Box<str>>,
}

/// One of the three sections of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SectionName {
    /// What the device should be.
    Desired,
    /// What the device is.
    Reported,
    /// Back-end notes a device does not see.
    Tags,
}

impl SectionName {
    /// The three, in the order documents show them.
    pub const ALL: [Self; 3] = [Self::Desired, Self::Reported, Self::Tags];

    /// The key in `state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Reported => "reported",
            Self::Tags => "tags",
        }
    }
}

impl Pointer {
    /// The whole of one section.
    #[must_use]
    pub fn section(section: SectionName) -> Self {
        Self { section, keys: Vec::new() }
    }

    /// The member `key` of what is here.
    #[must_use]
    pub fn member(&self, key: &str) -> Self {
        let keys = self.keys.iter().map(|key| &**key).chain([key]).map(Into::into).collect();
        Self { section: self.section, keys }
    }

    /// Whether this path is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.section == other.section && self.keys.starts_with(&other.keys)
    }
}

/// RFC 6901: `~` is `~0` and `/` is `~1` inside a key.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.section.as_str())?;
        self.keys.iter().try_for_each(|key| write!(f, "/{}", key.replace('~', "~0").replace('/', "~1")))
    }
}
