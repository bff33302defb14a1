//! Patterns of names: text with `*` for any run of characters, `{principal}` for the name of the principal and
//! `{client}` for its client id.
//!
//! A placeholder's value is compared literally: a `*`, `+`, `#` or `/` in a client id has no special meaning. The
//! client chooses its client id, so `{client}` alone proves nothing.

use std::{fmt, str::FromStr};

/// A pattern of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text between the `*`, in order: one run more than there are `*`.
    runs: Vec<Vec<Segment>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(Box<str>),
    Principal,
    Client,
}

/// The values of the placeholders.
#[derive(Clone, Copy, Debug)]
pub struct PlaceholderValues<'a> {
    /// The name of the principal.
    pub principal: &'a str,
    /// The client id; empty over HTTP.
    pub client: &'a str,
}

/// An error for a text that is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Unknown placeholder, or an unmatched brace.
    #[error("has '{0}', where braces are around something else than {{principal}} or {{client}}")]
    Placeholder(String),
    /// A `*` where it is not allowed.
    #[error("'{0}' has a '*', which no path has")]
    Star(String),
}

impl Pattern {
    /// Returns true if `text` matches the pattern.
    #[must_use]
    pub fn matches(&self, text: &str, who: PlaceholderValues<'_>) -> bool {
        let strip = |run: &Vec<Segment>, text: &'_ str| stripped(run, text, who).map(str::len);
        let Some((first, rest)) = self.runs.split_first() else { return text.is_empty() };
        let Some(after) = strip(first, text).and_then(|left| text.get(text.len() - left..)) else { return false };
        let Some((last, middle)) = rest.split_last() else { return after.is_empty() };
        // For runs in the middle, the leftmost match is best; the last run must match at the end.
        let mut text = after;
        for run in middle {
            let starts = text.char_indices().map(|(start, _)| start).chain([text.len()]);
            let found = starts.filter_map(|start| stripped(run, text.get(start..)?, who)).next();
            let Some(after) = found else { return false };
            text = after;
        }
        let length = length(last, who);
        text.len()
            .checked_sub(length)
            .and_then(|start| text.get(start..))
            .is_some_and(|end| stripped(last, end, who).is_some_and(str::is_empty))
    }

    /// Returns the only name that matches, if the pattern has no `*`.
    #[must_use]
    pub fn name(&self, who: PlaceholderValues<'_>) -> Option<String> {
        let [run] = self.runs.as_slice() else { return None };
        Some(run.iter().map(|piece| piece.text(who)).collect())
    }

    /// Returns the text with which every matching name begins, and true if only that name matches.
    #[must_use]
    pub fn beginning(&self, who: PlaceholderValues<'_>) -> (String, bool) {
        let first = self.runs.first().into_iter().flatten().map(|piece| piece.text(who));
        (first.collect(), self.runs.len() <= 1)
    }

    /// Returns the literal pieces of the pattern.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().flatten().filter_map(|piece| match piece {
            Segment::Text(text) => Some(&**text),
            Segment::Principal | Segment::Client => None,
        })
    }

    /// Returns true if the pattern has the placeholder of the client id.
    #[must_use]
    pub fn is_by_client(&self) -> bool {
        self.runs.iter().flatten().any(|piece| matches!(piece, Segment::Client))
    }

    /// Returns true if every name matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.runs.len() > 1 && self.runs.iter().all(Vec::is_empty)
    }

    /// Returns true if a `*` is nowhere but at the end, so that the matching names are neighbours in their order.
    #[must_use]
    pub fn is_range(&self) -> bool {
        self.runs.iter().skip(1).all(Vec::is_empty)
    }

    /// Returns true if the pattern begins with the literal `c`.
    #[must_use]
    pub fn begins_with(&self, c: char) -> bool {
        let first = self.runs.first().and_then(|run| run.first());
        matches!(first, Some(Segment::Text(text)) if text.starts_with(c))
    }

    /// Returns true if a name without `/`, `+` and `#`, that is a topic level, may match.
    #[must_use]
    pub fn may_be_level(&self, who: PlaceholderValues<'_>) -> bool {
        self.runs.iter().flatten().all(|piece| !piece.text(who).contains(['/', '+', '#']))
    }
}

impl Segment {
    fn text<'a>(&'a self, who: PlaceholderValues<'a>) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Principal => who.principal,
            Self::Client => who.client,
        }
    }
}

/// Returns the text after `run`, if it begins with it.
fn stripped<'t>(run: &[Segment], text: &'t str, who: PlaceholderValues<'_>) -> Option<&'t str> {
    run.iter().try_fold(text, |text, piece| text.strip_prefix(piece.text(who)))
}

fn length(run: &[Segment], who: PlaceholderValues<'_>) -> usize {
    run.iter().map(|piece| piece.text(who).len()).sum()
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let runs = text.split('*').map(|run| pieces(run).ok_or_else(|| PatternError::Placeholder(text.to_owned())));
        Ok(Self { runs: runs.collect::<Result<_, _>>()? })
    }
}

fn pieces(mut text: &str) -> Option<Vec<Segment>> {
    let mut pieces = Vec::new();
    while let Some(start) = text.find(['{', '}']) {
        let (before, rest) = text.split_at(start);
        if !before.is_empty() {
            pieces.push(Segment::Text(before.into()));
        }
        let known = [("{principal}", Segment::Principal), ("{client}", Segment::Client)];
        let (rest, piece) = known.into_iter().find_map(|(name, piece)| Some((rest.strip_prefix(name)?, piece)))?;
        pieces.push(piece);
        text = rest;
    }
    if !text.is_empty() {
        pieces.push(Segment::Text(text.into()));
    }
    Some(pieces)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, run) in self.runs.iter().enumerate() {
            if number > 0 {
                f.write_str("*")?;
            }
            run.iter().try_for_each(|piece| {
                f.write_str(piece.text(PlaceholderValues { principal: "{principal}", client: "{client}" }))
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    const WHO: PlaceholderValues<'_> = PlaceholderValues { principal: "lamp-1", client: "a*+#/" };

    #[test]
    fn a_pattern_matches_the_whole_name() {
        for (pattern, matching, others) in [
            ("lamp-1", &["lamp-1"][..], &["lamp-12", "Lamp-1", "", "xlamp-1"][..]),
            ("*", &["", "anything"], &[]),
            ("", &[""], &["x"]),
            ("lamp-*", &["lamp-", "lamp-77"], &["lamp", "a-lamp-1"]),
            ("*-eu", &["x-eu", "-eu", "-eu-eu"], &["x-eu-1", "eu"]),
            ("a*b*c", &["abc", "a1b2b3c", "abbc"], &["ac", "ab", "acb", "abcd"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("é*é", &["éé", "éxé"], &["é"]),
            ("{principal}", &["lamp-1"], &["lamp-2", "{principal}", ""]),
            ("x-{principal}-*", &["x-lamp-1-", "x-lamp-1-y"], &["x-lamp-1", "x-lamp-2-"]),
            ("{client}", &["a*+#/"], &["ab+#/", "a*+x/", "a"]),
            ("*{client}*", &["1a*+#/2"], &["1ab+#/2"]),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            matching.iter().for_each(|text| assert!(parsed.matches(text, WHO), "{pattern} {text}"));
            others.iter().for_each(|text| assert!(!parsed.matches(text, WHO), "{pattern} {text}"));
        }
    }

    #[test]
    fn an_unknown_placeholder_is_refused() {
        for text in ["{principle}", "{", "a}b", "{principal", "{{principal}}", "{*}", "{Principal}"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError::Placeholder(text.into())), "{text}");
        }
    }

    #[test]
    fn a_name_with_a_separator_is_no_level() {
        let may = |pattern: &str| pattern.parse::<Pattern>().unwrap().may_be_level(WHO);
        assert!(may("{principal}") && may("a*") && !may("{client}") && !may("x{client}*"));
    }
}
