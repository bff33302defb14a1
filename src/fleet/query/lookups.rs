//! The searches of an index that a query allows.
//!
//! Where a query is true, each predicate of its outermost conjunction is. So the devices with a value that such a predicate
//! may want are all that the query can be true for.

use std::ops::Bound;

use crate::{
    fleet::query::{
        Expression, Predicate, Query,
        field::{Field, Part, ShadowField},
        value_test::{Operand, ValueTest},
    },
    shadow::index::{IndexLookup, TermRange, ValuePath},
};

impl Query {
    /// Returns searches of which each finds all devices that the query can be true for.
    #[must_use]
    pub fn lookups(&self) -> Vec<IndexLookup> {
        match &self.0 {
            Expression::All(parts) => parts.iter().filter_map(Expression::lookup).collect(),
            part => part.lookup().into_iter().collect(),
        }
    }
}

impl Expression {
    fn lookup(&self) -> Option<IndexLookup> {
        match self {
            Self::Is(Predicate { field, test }) => {
                Some(IndexLookup { path: field.path()?, ranges: test.term_ranges()? })
            }
            // Alternatives of one field.
            Self::Any(parts) => {
                let mut parts = parts.iter().map(Self::lookup);
                let mut all = parts.next()??;
                for part in parts {
                    let IndexLookup { path, ranges } = part?;
                    if path != all.path {
                        return None;
                    }
                    all.ranges.extend(ranges);
                }
                Some(all)
            }
            Self::All(_) | Self::Not(_) => None,
        }
    }
}

impl Field {
    /// Returns the path of the values in the documents of a shadow; `None` for any other field.
    #[must_use]
    pub fn path(&self) -> Option<ValuePath> {
        match self {
            Self::Shadow(shadow, ShadowField::Value(Part::Section(section), keys)) if !keys.is_empty() => {
                Some(ValuePath { shadow: shadow.clone(), section: *section, keys: keys.clone() })
            }
            _ => None,
        }
    }
}

impl ValueTest {
    /// Returns ranges that have a term of each value that passes; `None` if that may be any value.
    fn term_ranges(&self) -> Option<Vec<TermRange>> {
        match self {
            Self::Exists => None,
            Self::Equals(literal) => {
                let (text, number) = literal.parts();
                let flag = match text {
                    "true" => Some(true),
                    "false" => Some(false),
                    _ => None,
                };
                let ranges = [TermRange::text(text)].into_iter().chain(number.map(TermRange::number));
                Some(ranges.chain(flag.map(TermRange::flag)).collect())
            }
            Self::Like(pattern) => {
                let beginning = pattern.beginning();
                let mut ranges = TermRange::texts_beginning(&beginning);
                if beginning.starts_with(|char: char| char.is_ascii_digit() || char == '-') {
                    ranges.push(TermRange::all_numbers());
                }
                (!beginning.is_empty()).then_some(ranges)
            }
            Self::Within(lower, upper) => within(lower, upper),
        }
    }
}

fn within(lower: &Bound<Operand>, upper: &Bound<Operand>) -> Option<Vec<TermRange>> {
    let (lower, upper) = (lower.as_ref(), upper.as_ref());
    let kind = |bound: Bound<&Operand>| match bound {
        Bound::Unbounded => None,
        Bound::Included(operand) | Bound::Excluded(operand) => Some(matches!(operand, Operand::Number(..))),
    };
    let texts = (lower.map(Operand::text), upper.map(Operand::text));
    let texts = (all(texts.0)?, all(texts.1)?);
    match kind(lower).or(kind(upper))? {
        false => Some(vec![TermRange::texts(texts.0, texts.1)]),
        true => {
            let mut ranges = TermRange::numbers(all(lower.map(Operand::number))?, all(upper.map(Operand::number))?);
            ranges.extend(TermRange::texts_of_digits(texts.0, texts.1));
            Some(ranges)
        }
    }
}

/// Returns the bound, unless it has no value.
fn all<T>(bound: Bound<Option<T>>) -> Option<Bound<T>> {
    match bound {
        Bound::Unbounded => Some(Bound::Unbounded),
        Bound::Included(value) => value.map(Bound::Included),
        Bound::Excluded(value) => value.map(Bound::Excluded),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn lookups_are_of_the_outermost_conjunction() {
        for (query, expected) in [
            ("reported.a:1", "a"),
            ("reported.a:x* tags.b:>5 drift:true", "a b"),
            ("reported.a:(1 OR 2)", "a"),
            ("reported.a:(1 OR 2) tags.b:true", "a b"),
            ("reported.a:1 OR tags.b:1", ""),
            ("reported.a:(1 OR *)", ""),
            ("reported.a:*", ""),
            ("reported.a:*x", ""),
            ("NOT reported.a:1", ""),
            ("reported:*", ""),
            ("delta.a:1", ""),
            ("version:1", ""),
            ("lamp", ""),
            ("(reported.a:1 OR x) tags.b:[1 TO *]", "b"),
            ("shadow.name.cfg.reported.a:{x TO y}", "a"),
        ] {
            let lookups = query.parse::<Query>().unwrap().lookups();
            let found: Vec<_> = lookups.iter().map(|lookup| lookup.path.keys.join(".")).collect();
            assert_eq!(found.join(" "), expected, "{query}");
        }
    }
}
