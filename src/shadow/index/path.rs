//! The paths that are indexed, as an operator declares them.

use std::{fmt, str::FromStr};

use serde_json::Value;

use crate::shadow::{
    Document, Pointer, ShadowKey, ShadowName,
    document::tree::{Members, Node},
    index::ValuePath,
    pointer::SectionName,
    selection::Selection,
};

/// Most indexed paths.
pub const PATHS_MAX: usize = 16;
/// Most bytes of a path as it is written.
const BYTES_MAX: usize = 512;

/// A path that is indexed, such as `reported.firmware`, or all paths below one, such as `tags.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedPath {
    shadow: Option<ShadowName>,
    section: SectionName,
    keys: Vec<Box<str>>,
    /// True for all paths below.
    is_below: bool,
}

/// An error for a text that is no path to be indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a path such as reported.firmware, tags.*, or shadow.name.cfg.reported.rate")]
pub struct NotIndexable;

/// Parses the name of a field of queries, or its beginning and `.*`. A backslash makes the next character literal. What is
/// displayed is never longer than the text, and parses to the same path.
impl FromStr for IndexedPath {
    type Err = NotIndexable;

    fn from_str(text: &str) -> Result<Self, NotIndexable> {
        let mut parts = parts(text).filter(|_| text.len() <= BYTES_MAX).ok_or(NotIndexable)?;
        let is_below = parts.last().is_some_and(|(part, has_wildcard)| part == "*" && *has_wildcard);
        if is_below {
            parts.pop();
        }
        if parts.iter().any(|(part, has_wildcard)| part.is_empty() || *has_wildcard) {
            return Err(NotIndexable);
        }
        let names: Vec<_> = parts.iter().map(|(part, _)| part.as_str()).collect();
        let (shadow, rest) = match names.as_slice() {
            ["shadow", "name", name, rest @ ..] => (Some(ShadowName::new(name).map_err(|_| NotIndexable)?), rest),
            ["shadow", rest @ ..] => (None, rest),
            rest => (None, rest),
        };
        let (section, keys) = match rest {
            ["attributes", keys @ ..] if names.len() == rest.len() => (SectionName::Tags, keys),
            [section, keys @ ..] => (SectionName::of(section).ok_or(NotIndexable)?, keys),
            [] => return Err(NotIndexable),
        };
        if keys.is_empty() && !is_below {
            return Err(NotIndexable);
        }
        Ok(Self { shadow, section, keys: keys.iter().map(|key| Box::from(*key)).collect(), is_below })
    }
}

/// Returns the parts of a text between its dots, and true for those with a `*` that is not literal; `None` if a backslash
/// ends the text.
fn parts(text: &str) -> Option<Vec<(String, bool)>> {
    let mut parts = vec![(String::new(), false)];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let last = parts.last_mut()?;
        match char {
            '.' => parts.push((String::new(), false)),
            '\\' => last.0.push(chars.next()?),
            char => {
                last.0.push(char);
                last.1 |= char == '*';
            }
        }
    }
    Some(parts)
}

impl IndexedPath {
    /// Returns true if the value of the path, or of one below it, may be other after a change of `changed` in the shadow `key`.
    pub(super) fn is_concerned(&self, key: &ShadowKey, changed: &Pointer) -> bool {
        self.shadow == key.name
            && self.section == changed.section
            && (changed.keys.starts_with(&self.keys) || self.keys.starts_with(&changed.keys))
    }

    /// Returns true if the path is of shadows with this name; `None` is that of the classic one.
    #[must_use]
    pub fn is_of_shadow(&self, name: Option<&ShadowName>) -> bool {
        self.shadow.as_ref() == name
    }

    /// Returns the keys of `path` below this one; `None` if it is not indexed by it.
    #[must_use]
    pub fn below<'a>(&self, path: &'a ValuePath) -> Option<&'a [Box<str>]> {
        let is_same = self.shadow == path.shadow && self.section == path.section;
        let below = path.keys.strip_prefix(self.keys.as_slice()).filter(|_| is_same)?;
        (below.is_empty() != self.is_below).then_some(below)
    }

    /// Returns true if all paths below are indexed.
    #[must_use]
    pub fn is_below(&self) -> bool {
        self.is_below
    }

    /// Adds the parts of a document with the values of the path.
    pub fn select(&self, selection: &mut Selection) {
        selection.add(self.section, &self.keys);
    }

    /// Calls `each` for each value in `document`, which is of a shadow with the name of the path, with the keys below this path.
    /// The elements of an array are values one by one, and an object is none.
    pub fn each_value<'a>(&self, document: &'a Document, each: &mut dyn FnMut(&[&'a str], &'a Value)) {
        let mut below = Vec::new();
        let mut members = &document.section(self.section).members;
        for (index, key) in self.keys.iter().enumerate() {
            match members.get(key) {
                None => return,
                Some(Node::Object(inner)) => members = inner,
                Some(Node::Leaf(leaf)) => {
                    let rest = self.keys.get(index + 1..).unwrap_or_default();
                    return self.in_value(&leaf.value, rest, &mut below, each);
                }
            }
        }
        if self.is_below {
            in_members(members, &mut below, each);
        }
    }

    /// Calls `each` for the values at `keys` below `value`, and if all paths are indexed those below them.
    fn in_value<'a>(
        &self,
        value: &'a Value,
        keys: &[Box<str>],
        below: &mut Vec<&'a str>,
        each: &mut dyn FnMut(&[&'a str], &'a Value),
    ) {
        match (value, keys) {
            (Value::Array(elements), _) => {
                elements.iter().for_each(|element| self.in_value(element, keys, below, each));
            }
            (Value::Object(members), [key, rest @ ..]) => {
                members.get(&**key).into_iter().for_each(|value| self.in_value(value, rest, below, each));
            }
            (Value::Object(_), []) if self.is_below => below_value(value, below, each),
            (Value::Object(_), []) | (_, [_, ..]) => {}
            (value, []) if !self.is_below => each(below, value),
            (_, []) => {}
        }
    }
}

fn in_members<'a>(members: &'a Members, below: &mut Vec<&'a str>, each: &mut dyn FnMut(&[&'a str], &'a Value)) {
    for (key, node) in members {
        below.push(key);
        match node {
            Node::Object(members) => in_members(members, below, each),
            Node::Leaf(leaf) => below_value(&leaf.value, below, each),
        }
        below.pop();
    }
}

/// Calls `each` for the values in `value`, at whatever path.
fn below_value<'a>(value: &'a Value, below: &mut Vec<&'a str>, each: &mut dyn FnMut(&[&'a str], &'a Value)) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|element| below_value(element, below, each)),
        Value::Object(members) => {
            for (key, value) in members {
                below.push(key);
                below_value(value, below, each);
                below.pop();
            }
        }
        value => each(below, value),
    }
}

impl fmt::Display for IndexedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.shadow {
            write!(f, "shadow.name.{}.", name.as_str())?;
        }
        f.write_str(self.section.as_str())?;
        for key in &self.keys {
            f.write_str(".")?;
            for char in key.chars() {
                if matches!(char, '.' | '\\' | '*') {
                    f.write_str("\\")?;
                }
                write!(f, "{char}")?;
            }
        }
        if self.is_below { f.write_str(".*") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::tests::written;

    #[test]
    fn paths_are_parsed_and_written() {
        for (text, expected) in [
            ("reported.firmware", Some("reported.firmware")),
            ("shadow.reported.a.b", Some("reported.a.b")),
            ("attributes.region", Some("tags.region")),
            ("tags.*", Some("tags.*")),
            ("reported.a.*", Some("reported.a.*")),
            ("shadow.name.cfg.desired.x", Some("shadow.name.cfg.desired.x")),
            ("shadow.name.cfg.tags.*", Some("shadow.name.cfg.tags.*")),
            (r"reported.a\.b.\*", Some(r"reported.a\.b.\*")),
            ("", None),
            ("reported", None),
            ("reported.", None),
            ("reported..a", None),
            ("reported.a*", None),
            ("reported.*.a", None),
            ("*", None),
            ("delta.a", None),
            ("version", None),
            ("connected", None),
            ("shadow.name.c/d.reported.a", None),
            ("shadow.attributes.a", None),
            (r"reported.a\", None),
            (r"reported.a\.b*", None),
            (r"reported.\*", Some(r"reported.\*")),
            (r"reported.\*.*", Some(r"reported.\*.*")),
        ] {
            let found = text.parse::<IndexedPath>().ok().map(|path| path.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        for key in ["a".repeat(512), r"\.".repeat(254), r"\.".repeat(253)] {
            let parsed = format!("tags.{key}").parse::<IndexedPath>().map(|path| path.to_string());
            assert!(parsed.is_err() || parsed.as_ref().is_ok_and(|text| text.parse::<IndexedPath>().is_ok()), "{key}");
            assert_eq!(parsed.is_ok(), key.len() == 506, "{key}");
        }
    }

    #[test]
    fn the_values_of_a_path_are_its_scalars() {
        let document = written(&[json!({
            "reported": {"a": {"b": 1, "c": [2, [3], {"d": [4, null]}, {"d": {"e": 5}}]}, "x": "s", "o": {}},
            "tags": {"t": true},
        })]);
        for (path, expected) in [
            ("reported.a.b", "=1"),
            ("reported.a.c", "=2 =3"),
            ("reported.a.c.d", "=4 =null"),
            ("reported.a.c.d.e", "=5"),
            ("reported.a", ""),
            ("reported.o", ""),
            ("reported.none.x", ""),
            ("reported.x.y", ""),
            ("reported.a.*", "b=1 c=2 c=3 c.d=4 c.d=null c.d.e=5"),
            ("reported.a.c.*", "d=4 d=null d.e=5"),
            ("reported.x.*", ""),
            ("tags.*", "t=true"),
        ] {
            let mut found = Vec::new();
            path.parse::<IndexedPath>().unwrap().each_value(&document, &mut |below, value| {
                found.push(format!("{}={value}", below.join(".")));
            });
            assert_eq!(found.join(" "), expected, "{path}");
        }
    }

    #[test]
    fn a_path_below_is_found_by_its_keys() {
        let path = |keys: &str| ValuePath {
            shadow: None,
            section: SectionName::Tags,
            keys: keys.split('.').map(Box::from).collect(),
        };
        let below = |declared: &str, keys: &str| {
            let declared: IndexedPath = declared.parse().unwrap();
            declared.below(&path(keys)).map(|below| below.join("."))
        };
        assert_eq!(below("tags.a", "a").as_deref(), Some(""));
        assert_eq!(below("tags.a", "a.b"), None);
        assert_eq!(below("tags.*", "a.b").as_deref(), Some("a.b"));
        assert_eq!(below("tags.a.*", "a"), None);
        assert_eq!(below("tags.a.*", "a.b").as_deref(), Some("b"));
        assert_eq!(below("reported.a", "a"), None);
        assert_eq!(below("shadow.name.x.tags.a", "a"), None);
    }
}
