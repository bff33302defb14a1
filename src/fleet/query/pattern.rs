//! Wildcards: `*` is any run of characters, `?` is one.
//!
//! A pattern is cut at its `*`s. The first piece must begin the text and the last one end it; each piece between them is
//! taken at its first place after the one before. So there is no backtracking: a piece without `?` is searched in linear
//! time, one with `?` takes at most its length for each character of the text, and such patterns are short.

use std::fmt;

use crate::fleet::query::text::write_escaped;

/// Most characters of a pattern with `?`.
pub(super) const LENGTH_MAX: usize = 128;

/// A pattern with a wildcard, of folded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The pieces between the `*`s, at least one.
    pieces: Vec<Piece>,
}

/// A part of a pattern without `*`; `None` is a `?`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Piece {
    chars: Vec<Option<char>>,
    /// The same as text, if it has no `?`.
    text: Option<String>,
}

/// A character of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fleet) enum Glyph {
    /// This character.
    Literal(char),
    /// `?`
    One,
    /// `*`
    Run,
}

impl Glyph {
    /// Returns the character, if it is no wildcard.
    pub(super) fn literal(self) -> Option<char> {
        match self {
            Self::Literal(char) => Some(char),
            Self::One | Self::Run => None,
        }
    }
}

impl Pattern {
    /// Returns the pattern of folded `glyphs`; `None` if it has a `?` and is longer than [`LENGTH_MAX`].
    pub(in crate::fleet) fn new(glyphs: &[Glyph]) -> Option<Self> {
        let has_one = glyphs.contains(&Glyph::One);
        if has_one && glyphs.len() > LENGTH_MAX {
            return None;
        }
        let mut pieces: Vec<_> = glyphs.split(|glyph| *glyph == Glyph::Run).map(Piece::new).collect();
        // `**` is `*`: of the pieces between, empty ones say nothing.
        let last = pieces.len().saturating_sub(1);
        let mut index = 0;
        pieces.retain(|piece| {
            let is_kept = index == 0 || index == last || !piece.chars.is_empty();
            index += 1;
            is_kept
        });
        Some(Self { pieces })
    }

    /// Returns the text with which every match begins.
    pub(super) fn beginning(&self) -> String {
        let first = self.pieces.first().map(|piece| piece.chars.as_slice()).unwrap_or_default();
        first.iter().map_while(|char| *char).collect()
    }

    /// Returns true if all of the folded `text` matches.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self.pieces.as_slice() {
            [] => false,
            [only] => only.begins(text).is_some_and(str::is_empty),
            [first, middle @ .., last] => {
                let Some(mut rest) = first.begins(text) else { return false };
                for piece in middle {
                    match piece.after_first(rest) {
                        Some(after) => rest = after,
                        None => return false,
                    }
                }
                last.ends(rest)
            }
        }
    }
}

impl Piece {
    fn new(glyphs: &[Glyph]) -> Self {
        let chars: Vec<_> = glyphs.iter().map(|glyph| glyph.literal()).collect();
        Self { text: chars.iter().copied().collect(), chars }
    }

    /// Returns the rest of a text that begins with the piece.
    fn begins<'t>(&self, text: &'t str) -> Option<&'t str> {
        if let Some(piece) = &self.text {
            return text.strip_prefix(piece.as_str());
        }
        let mut found = text.chars();
        for wanted in &self.chars {
            let char = found.next()?;
            if wanted.is_some_and(|wanted| wanted != char) {
                return None;
            }
        }
        Some(found.as_str())
    }

    /// Returns the text after the first place where the piece is.
    fn after_first<'t>(&self, text: &'t str) -> Option<&'t str> {
        if let Some(piece) = &self.text {
            return text.split_once(piece.as_str()).map(|(_, after)| after);
        }
        let mut starts = text.char_indices().map(|(start, _)| start);
        starts.find_map(|start| self.begins(text.get(start..)?))
    }

    fn ends(&self, text: &str) -> bool {
        if let Some(piece) = &self.text {
            return text.ends_with(piece.as_str());
        }
        let mut found = text.chars().rev();
        self.chars
            .iter()
            .rev()
            .all(|wanted| found.next().is_some_and(|char| wanted.is_none_or(|wanted| wanted == char)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                f.write_str("*")?;
            }
            for char in &piece.chars {
                match char {
                    Some(char) => write_escaped(f, char.encode_utf8(&mut [0; 4]))?,
                    None => f.write_str("?")?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn pattern(text: &str) -> Pattern {
        let glyph = |char| match char {
            '*' => Glyph::Run,
            '?' => Glyph::One,
            char => Glyph::Literal(char),
        };
        Pattern::new(&text.chars().map(glyph).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn wildcards_match() {
        for (wanted, text, expected) in [
            ("*", "", true),
            ("**", "abc", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*c", "abc", true),
            ("*c", "abcd", false),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("i*t", "it's a bit", true),
            ("*b*", "abc", true),
            ("*bb*", "abc", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "abxa", false),
            ("*ab*b", "ab", false),
            ("ab?", "abc", true),
            ("ab?", "ab", false),
            ("ab?", "abcd", false),
            ("?", "é", true),
            ("*?", "", false),
            ("*a?c*", "xxabcx", true),
            ("*a?c", "aaacabc", true),
            ("a**b", "axyb", true),
            ("1.4*", "1.4.2", true),
            ("1.4*", "1x4", false),
        ] {
            assert_eq!(pattern(wanted).matches(text), expected, "{wanted} {text}");
        }
    }

    #[test]
    fn a_pattern_with_many_wildcards_takes_linear_time() {
        let text = "a".repeat(1 << 20);
        assert!(!pattern(&"*a".repeat(1000)).matches(&format!("{text}b")));
        assert!(pattern(&"*a".repeat(1000)).matches(&text));
    }
}
