//! Patterns of ordinary topics: an MQTT topic filter whose levels may have placeholders and `*`.
//!
//! A topic is allowed if it matches. A subscription is allowed if its filter may select a matching topic; each message
//! is checked again on delivery.

use std::{fmt, str::FromStr};

use crate::auth::authz::pattern::{Pattern, PatternError, PlaceholderValues};

/// A pattern of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    levels: Vec<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// A `+` level.
    One,
    /// A `#` level, at the end.
    Rest,
    Named(Pattern),
}

/// An error for a text that is not a pattern of ordinary topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPatternError {
    /// A `+` with other text in its level, or a `#` before the last level.
    #[error("'{0}' has a '+' or '#' that is not a level of its own, or a '#' that is not the last one")]
    Wildcard(String),
    /// A reserved topic: `shadow/…`, `$aws/…`, `$share/…` and `$SYS/…` are not ordinary topics.
    #[error("'{0}' is no ordinary topic: the topics of shadows go by 'devices', 'read' and 'write'")]
    Reserved(String),
    /// A level that is not a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl TopicPattern {
    /// Returns true if `topic` matches. Topics of shadows and of the service never match.
    #[must_use]
    pub fn matches(&self, topic: &str, who: PlaceholderValues<'_>) -> bool {
        if is_reserved(topic) || topic.starts_with('$') != self.begins_with_dollar() {
            return false;
        }
        let mut levels = topic.split('/');
        for level in &self.levels {
            match (level, levels.next()) {
                (Level::Rest, _) => return true,
                (Level::One, Some(_)) => {}
                (Level::Named(pattern), Some(name)) if pattern.matches(name, who) => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Returns true if `filter` may select a matching topic.
    #[must_use]
    pub fn overlaps(&self, filter: &str, who: PlaceholderValues<'_>) -> bool {
        if is_reserved(filter) || filter.starts_with('$') != self.begins_with_dollar() {
            return false;
        }
        let mut wanted = filter.split('/');
        for level in &self.levels {
            match (level, wanted.next()) {
                // `a/#` also selects `a`. [MQTT-4.7.1-2]
                (_, Some("#")) | (Level::Rest, _) => return true,
                (Level::One, Some(_)) => {}
                (Level::Named(pattern), Some("+")) if pattern.may_be_level(who) => {}
                (Level::Named(pattern), Some(name)) if name != "+" && pattern.matches(name, who) => {}
                _ => return false,
            }
        }
        matches!(wanted.next(), None | Some("#"))
    }

    /// Returns a filter that selects every matching topic, and perhaps others; `Some(None)` if no topic matches, `None` if
    /// there is no such filter.
    #[must_use]
    pub fn outline(&self, who: PlaceholderValues<'_>) -> Option<Option<String>> {
        let mut filter = String::new();
        for (number, level) in self.levels.iter().enumerate() {
            if number > 0 {
                filter.push('/');
            }
            match level {
                Level::One => filter.push('+'),
                Level::Rest => filter.push('#'),
                Level::Named(pattern) if !pattern.may_be_level(who) => return Some(None),
                Level::Named(pattern) => match pattern.name(who) {
                    Some(name) => filter.push_str(&name),
                    // A leading wildcard does not select `$…` topics. [MQTT-4.7.2-1]
                    None if number == 0 && pattern.begins_with('$') => return None,
                    None => filter.push('+'),
                },
            }
        }
        Some(Some(filter))
    }

    /// Returns true if the pattern begins with `$`. Only such patterns match topics that begin with `$`: neither a wildcard
    /// [MQTT-4.7.2-1] nor a placeholder grants them.
    fn begins_with_dollar(&self) -> bool {
        matches!(self.levels.first(), Some(Level::Named(pattern)) if pattern.begins_with('$'))
    }

    /// Returns true if a level has the placeholder of the client id.
    #[must_use]
    pub fn is_by_client(&self) -> bool {
        self.levels.iter().any(|level| matches!(level, Level::Named(pattern) if pattern.is_by_client()))
    }

    /// Returns true if every ordinary topic matches, apart from those that begin with `$`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.levels.first() == Some(&Level::Rest)
    }
}

impl FromStr for TopicPattern {
    type Err = TopicPatternError;

    fn from_str(text: &str) -> Result<Self, TopicPatternError> {
        if is_reserved(text) || text == "shadow" {
            return Err(TopicPatternError::Reserved(text.to_owned()));
        }
        let last = text.split('/').count() - 1;
        let level = |(number, level): (usize, &str)| match level {
            "+" => Ok(Level::One),
            "#" if number == last => Ok(Level::Rest),
            level if level.contains(['+', '#']) => Err(TopicPatternError::Wildcard(text.to_owned())),
            level => Ok(Level::Named(level.parse()?)),
        };
        Ok(Self { levels: text.split('/').enumerate().map(level).collect::<Result<_, _>>()? })
    }
}

/// Returns true if a topic is reserved for shadows or the service. For a filter, returns true if everything that it
/// selects is reserved, apart from the topic `shadow`. Other topics that begin with `$` are ordinary.
#[must_use]
pub fn is_reserved(text: &str) -> bool {
    let (root, below) = text.split_once('/').map_or((text, None), |(root, rest)| (root, Some(rest)));
    matches!(root, "$aws" | "$share" | "$SYS") || (root == "shadow" && below.is_some())
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, level) in self.levels.iter().enumerate() {
            if number > 0 {
                f.write_str("/")?;
            }
            match level {
                Level::One => f.write_str("+")?,
                Level::Rest => f.write_str("#")?,
                Level::Named(pattern) => pattern.fmt(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn topics_and_filters_are_compared_level_by_level() {
        let own = PlaceholderValues { principal: "d1", client: "+" };
        // pattern, topic or filter, true if the topic matches, true if the filter may select a match
        for (pattern, text, matches, overlaps) in [
            ("#", "a/b", true, true),
            ("#", "shadow/d1/get/accepted", false, false),
            ("#", "$aws/things/d1/shadow/get/accepted", false, false),
            ("+/+/get/#", "shadow/d1/get/accepted", false, false),
            ("+/+/get/#", "+/d1/get/accepted", true, true),
            ("#", "shadow", true, true),
            ("#", "$SYS/#", false, false),
            ("#", "$other/a", false, false),
            ("+/a", "$other/a", false, false),
            ("*/a", "$other/a", false, false),
            ("$other/#", "$other/a", true, true),
            ("$other/#", "$other/+", true, true),
            ("$other/#", "#", false, false),
            ("$other/#", "+/a", false, false),
            ("$*/a", "$other/a", true, true),
            ("$*/a", "$SYS/a", false, false),
            ("$*/a", "$aws/a", false, false),
            ("a/#", "a", true, true),
            ("a/#", "b", false, false),
            ("a/+/c", "a/b/c", true, true),
            ("a/+/c", "a/b/d", false, false),
            ("a/+/c", "a/b", false, false),
            ("a/+/c", "a/b/c/d", false, false),
            ("d/{principal}/x", "d/d1/x", true, true),
            ("d/{principal}/x", "d/d2/x", false, false),
            ("d/{principal}/x", "d/D1/x", false, false),
            ("d/{principal}/x", "d/d1", false, false),
            ("d/{principal}/#", "d/#", false, true),
            ("d/{principal}/x", "d/+/x", false, true),
            ("d/{principal}/x", "+/+/y", false, false),
            ("d/{principal}/x", "#", false, true),
            ("d/{principal}/x", "d/d2/#", false, false),
            ("d/{client}/x", "d/d1/x", false, false),
            ("d/{client}/x", "d/+/x", true, false), // the client id is `+`; no topic has such a level
            ("a", "a/#", false, true),
            ("a", "a/+", false, false),
            ("s-*/t", "s-1/t", true, true),
            ("s-*/t", "+/t", false, true),
            ("s-*/t", "t-1/t", false, false),
        ] {
            let parsed: TopicPattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(parsed.matches(text, own), matches, "{pattern} {text}");
            assert_eq!(parsed.overlaps(text, own), overlaps, "{pattern} over {text}");
        }
    }

    #[test]
    fn a_reserved_topic_is_refused() {
        for text in
            ["a/#/b", "a+", "#a", "$aws/x", "$aws", "$SYS/#", "$share/g/a", "shadow/+/update", "shadow", "a/{x}"]
        {
            assert!(text.parse::<TopicPattern>().is_err(), "{text}");
        }
        for text in ["shadows/x", "$shared/x", "$awsome", "$sys/#"] {
            assert!(text.parse::<TopicPattern>().is_ok(), "{text}");
        }
    }
}
