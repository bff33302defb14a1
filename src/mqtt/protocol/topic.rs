//! Topic names and topic filters, validated when they are decoded.
//!
//! A message is published to a [`TopicName`]; a client subscribes to a [`TopicFilter`]. Both are valid by construction,
//! so that no other code validates strings. Not here: the index of filters ([`crate::mqtt::broker::router`]).

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The largest topic name or filter, in UTF-8 bytes.
pub const TOPIC_BYTES_MAX: usize = crate::config::limits::TOPIC_BYTES_MAX as usize;

/// A valid topic name: 1 to [`TOPIC_BYTES_MAX`] bytes without wildcard and NUL. Except from [`TopicName::lenient`] it
/// is also clean, see [`is_clean`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// A valid topic filter. The group of a `$share/<group>/` prefix is stored apart.
#[derive(Clone, Debug, Eq, PartialOrd, Ord)]
pub struct TopicFilter {
    text: Arc<str>,
    share: Option<Arc<str>>,
}

/// Reason why a string is not a topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The string is empty.
    #[error("topic is empty")]
    Empty,
    /// The string exceeds [`TOPIC_BYTES_MAX`].
    #[error("topic exceeds {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// A name contains `+` or `#`.
    #[error("topic name contains a wildcard")]
    WildcardInName,
    /// The string contains a control character or a non-character.
    #[error("topic contains a control character or a Unicode non-character")]
    Character,
    /// A filter has `+` or `#` together with other characters of a level, or `#` before the last level.
    #[error("topic filter has a wildcard that is not alone in its level, or # before the last level")]
    Wildcard,
    /// `$share/` without a group name or without a filter, or a group name with a wildcard.
    #[error("shared subscription is not of the form $share/<group>/<filter>")]
    Share,
}

impl TopicName {
    /// Validates `text`.
    ///
    /// # Errors
    ///
    /// [`TopicError::Empty`], [`TopicError::TooLong`], [`TopicError::WildcardInName`], [`TopicError::Character`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        if is_clean(text) { Self::lenient(text) } else { Err(TopicError::Character) }
    }

    /// Validates `text`, but allows control characters other than NUL, and non-characters.
    ///
    /// The topic of a PUBLISH is decoded so, since such characters refuse the message and do not end the connection.
    ///
    /// # Errors
    ///
    /// [`TopicError::Empty`], [`TopicError::TooLong`], [`TopicError::WildcardInName`]; [`TopicError::Character`] for
    /// NUL.
    pub fn lenient(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if text.contains(['+', '#']) {
            return Err(TopicError::WildcardInName); // [MQTT-3.3.2-2]
        }
        if text.contains('\0') {
            return Err(TopicError::Character); // [MQTT-4.7.3-2]
        }
        Ok(Self(text.into()))
    }

    /// Returns the topic.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicFilter {
    /// Validates `text`, and splits off a `$share/<group>/` prefix.
    ///
    /// # Errors
    ///
    /// Any [`TopicError`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if !is_clean(text) {
            return Err(TopicError::Character); // [MQTT-4.7.3-2]; no topic has other unclean characters
        }
        let (share, filter) = match text.strip_prefix("$share/") {
            None => (None, text),
            Some(rest) => {
                let (group, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
                if group.is_empty() || filter.is_empty() || group.contains(['+', '#']) {
                    return Err(TopicError::Share);
                }
                (Some(group.into()), filter)
            }
        };
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
            if (level.contains('#') && (level != "#" || !last)) || (level.contains('+') && level != "+") {
                return Err(TopicError::Wildcard);
            }
        }
        Ok(Self { text: filter.into(), share })
    }

    /// Returns the filter without a `$share/<group>/` prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns [`Self::as_str`] as a shared pointer, to store it without a copy.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the group of a shared subscription.
    #[must_use]
    pub fn share(&self) -> Option<&str> {
        self.share.as_deref()
    }

    /// Returns the filter without its group.
    #[must_use]
    pub fn without_share(&self) -> Self {
        Self { text: Arc::clone(&self.text), share: None }
    }

    /// Returns true if the filter selects `topic`. A leading wildcard does not select `$…` topics.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.selects(topic.as_str())
    }

    /// Returns the same as [`Self::matches`] for the text of a topic.
    #[must_use]
    pub fn selects(&self, topic: &str) -> bool {
        // [MQTT-4.7.2-1]
        if topic.starts_with('$') && self.text.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.split('/');
        for level in self.text.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// Written out, so that tests can count the comparisons of an operation.
impl PartialEq for TopicFilter {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(test)]
        comparisons::add();
        self.text == other.text && self.share == other.share
    }
}

impl Hash for TopicFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.share.hash(state);
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.share {
            Some(group) => write!(f, "$share/{group}/{}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Returns false if `text` contains a control character (U+0000–1F, U+007F–9F) or a non-character (U+FDD0–EF, and the
/// last two of each plane). Section 1.5.4 advises against them, and clients built on libmosquitto disconnect when
/// they receive one.
#[must_use]
pub fn is_clean(text: &str) -> bool {
    let printable = |byte| matches!(byte, 0x20..0x7F); // ASCII, nearly every string
    text.bytes().all(printable)
        || !text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE)
}

fn check_length(text: &str) -> Result<(), TopicError> {
    match text.len() {
        0 => Err(TopicError::Empty),
        length if length > TOPIC_BYTES_MAX => Err(TopicError::TooLong),
        _ => Ok(()),
    }
}

/// The comparisons of filters on this thread.
#[cfg(test)]
pub(in crate::mqtt) mod comparisons {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add() {
        COUNT.set(COUNT.get() + 1);
    }

    /// Returns the comparisons that `operation` makes.
    pub(in crate::mqtt) fn of(operation: impl FnOnce()) -> usize {
        let before = COUNT.get();
        operation();
        COUNT.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_topics() {
        // filter, topic, selected
        let table = [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/x", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("#", "$aws/things", false),
            ("+/things", "$aws/things", false),
            ("$aws/#", "$aws/things", true),
            ("a/b/#", "a/c", false),
        ];
        for (filter, topic, selected) in table {
            let (parsed, name) = (TopicFilter::new(filter), TopicName::new(topic));
            assert_eq!(parsed.ok().zip(name.ok()).map(|(f, t)| f.matches(&t)), Some(selected), "{filter} {topic}");
        }
    }

    #[test]
    fn invalid_topics_are_refused() {
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        for (filter, error) in [
            ("", TopicError::Empty),
            (long.as_str(), TopicError::TooLong),
            ("a\0b", TopicError::Character),
            ("a/\u{1}", TopicError::Character),
            ("$share/g\u{85}/a", TopicError::Character),
            ("a/#/b", TopicError::Wildcard),
            ("a#", TopicError::Wildcard),
            ("a+/b", TopicError::Wildcard),
            ("$share/g", TopicError::Share),
            ("$share//a", TopicError::Share),
            ("$share/g/", TopicError::Share),
            ("$share/g+/a", TopicError::Share),
        ] {
            assert_eq!(TopicFilter::new(filter), Err(error), "{filter}");
        }
        assert_eq!(TopicName::new("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicFilter::new("$share/g/a/+").map(|f| f.to_string()), Ok("$share/g/a/+".into()));
    }

    #[test]
    fn control_characters_and_non_characters_are_not_clean() {
        for (first, last, clean) in [
            (0x0, 0x1F, false),
            (0x20, 0x7E, true),
            (0x7F, 0x9F, false),
            (0xA0, 0xD7FF, true),
            (0xE000, 0xFDCF, true),
            (0xFDD0, 0xFDEF, false),
            (0xFDF0, 0xFFFD, true),
            (0xFFFE, 0xFFFF, false),
            (0x1_0000, 0x1_FFFD, true),
            (0x1_FFFE, 0x1_FFFF, false),
            (0x10_FFFD, 0x10_FFFD, true),
            (0x10_FFFE, 0x10_FFFF, false),
        ] {
            for c in (first..=last).filter_map(char::from_u32) {
                assert_eq!(is_clean(&format!("a/{c}b")), clean, "{c:?}");
                assert_eq!(TopicName::new(&format!("{c}/a")).is_ok(), clean && !"+#".contains(c), "{c:?}");
                assert_eq!(TopicName::lenient(&format!("{c}/a")).is_ok(), !"\0+#".contains(c), "{c:?}");
            }
        }
    }
}
