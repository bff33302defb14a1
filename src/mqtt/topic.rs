//! Topic names and topic filters, checked once where they enter.
//!
//! A [`TopicName`] is what a message is published to; a [`TopicFilter`] is what a client subscribes to. Both are
//! valid by construction, so nothing further in looks at raw strings. Matching is the router's.

use std::{fmt, sync::Arc};

/// The largest topic name or filter, in UTF-8 bytes.
pub const TOPIC_BYTES_MAX: usize = 512;

/// A valid topic name: 1 to [`TOPIC_BYTES_MAX`] bytes, no wildcard, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// A valid topic filter, without the `$share/<group>/` prefix, which is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    text: Arc<str>,
    share: Option<Arc<str>>,
}

/// Why a string is no topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero bytes long.
    #[error("a topic is empty")]
    Empty,
    /// Longer than [`TOPIC_BYTES_MAX`].
    #[error("a topic is longer than {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// A NUL character, or in a name `+` or `#`.
    #[error("a topic holds a character that is not allowed there")]
    Character,
    /// In a filter: `+` or `#` beside other characters of a level, or `#` not last.
    #[error("a wildcard is not alone in its level, or # is not the last level")]
    Wildcard,
    /// `$share/` without a group name or without a filter, or a group name with a wildcard.
    #[error("a shared subscription is not of the form $share/<group>/<filter>")]
    Share,
}

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// [`TopicError::Empty`], [`TopicError::TooLong`], [`TopicError::Character`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if text.bytes().any(|byte| matches!(byte, 0 | b'+' | b'#')) {
            return Err(TopicError::Character); // [MQTT-3.3.2-2], [MQTT-4.7.3-2]
        }
        Ok(Self(text.into()))
    }

    /// The topic as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicFilter {
    /// Checks `text`, taking a `$share/<group>/` prefix off.
    ///
    /// # Errors
    ///
    /// Any [`TopicError`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if text.contains('\0') {
            return Err(TopicError::Character); // [MQTT-4.7.3-2]
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

    /// The filter itself, without a `$share/<group>/` prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same as [`Self::as_str`], to be kept without a copy.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The group of a shared subscription.
    #[must_use]
    pub fn share(&self) -> Option<&str> {
        self.share.as_deref()
    }

    /// Whether `topic` is one of those the filter selects; `$…` topics are not selected by a leading wildcard.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        // [MQTT-4.7.2-1]
        if topic.as_str().starts_with('$') && self.text.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.as_str().split('/');
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

fn check_length(text: &str) -> Result<(), TopicError> {
    match text.len() {
        0 => Err(TopicError::Empty),
        length if length > TOPIC_BYTES_MAX => Err(TopicError::TooLong),
        _ => Ok(()),
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
    fn bad_topics_are_refused() {
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        for (filter, error) in [
            ("", TopicError::Empty),
            (long.as_str(), TopicError::TooLong),
            ("a\0b", TopicError::Character),
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
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Character));
        assert_eq!(TopicFilter::new("$share/g/a/+").map(|f| f.to_string()), Ok("$share/g/a/+".into()));
    }
}
