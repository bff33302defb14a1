//! The device ids that a query can be true for, as far as its predicates about ids say so.

use std::collections::BTreeSet;

use crate::fleet::query::{Expression, Predicate, Query, field::Field};

/// Most texts of a query.
const TEXTS_MAX: usize = 256;
/// Most texts that differ from one another in case only.
const CASES_MAX: usize = 64;

/// Ids, and beginnings of ids, for which the flag is false.
type Texts = BTreeSet<(String, bool)>;

impl Query {
    /// Returns the ids of all devices that the query can be true for: exact ones, and with a false flag beginnings of ids. `None`
    /// if it can be true for too many.
    #[must_use]
    pub fn device_texts(&self) -> Option<Texts> {
        self.0.device_texts()
    }
}

impl Expression {
    fn device_texts(&self) -> Option<Texts> {
        match self {
            Self::All(parts) => {
                // The one with the fewest devices, as far as one can say: exact ids, or the longest beginning.
                let weight = |texts: &Texts| {
                    let beginnings = texts.iter().filter(|(_, is_exact)| !is_exact);
                    beginnings.map(|(text, _)| text.len()).min().map_or(0, |length| usize::MAX - length)
                };
                parts.iter().filter_map(Self::device_texts).min_by_key(weight)
            }
            Self::Any(parts) => {
                let mut all = Texts::new();
                for part in parts {
                    all.extend(part.device_texts()?);
                }
                (all.len() <= TEXTS_MAX).then_some(all)
            }
            Self::Not(_) => None,
            Self::Is(Predicate { field: Field::Device, test }) => {
                let (text, is_exact) = test.beginning()?;
                Some(cases(&text, is_exact))
            }
            Self::Is(_) => None,
        }
    }
}

/// Returns the spellings of a folded text. If they are too many, those of its beginning.
fn cases(text: &str, is_exact: bool) -> Texts {
    let mut spellings = vec![String::new()];
    for char in text.chars() {
        let upper = char.to_ascii_uppercase();
        if upper != char && spellings.len() * 2 > CASES_MAX {
            return spellings.into_iter().map(|text| (text, false)).collect();
        }
        let other =
            if upper == char { vec![] } else { spellings.iter().map(|text| format!("{text}{upper}")).collect() };
        spellings.iter_mut().for_each(|text| text.push(char));
        spellings.extend(other);
    }
    spellings.into_iter().map(|text| (text, is_exact)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn predicates_about_ids_bound_the_devices() {
        for (query, expected) in [
            ("reported.a:1", None),
            ("*", None),
            ("*-7", None),
            ("?amp", None),
            ("NOT 7", None),
            ("device:>5", None),
            ("17", Some("17")),
            ("1-7* reported.a:1", Some("1-7*")),
            ("1?7", Some("1*")),
            ("1* 12* 1*", Some("12*")),
            ("1* AND (123 OR 45)", Some("123 45")),
            ("1* OR 23", Some("1* 23")),
            ("1* OR tags.a:1", None),
            ("a1", Some("A1 a1")),
            ("aB*", Some("AB* Ab* aB* ab*")),
        ] {
            let found = query.parse::<Query>().unwrap().device_texts().map(|texts| {
                let texts = texts.into_iter().map(|(text, is_exact)| if is_exact { text } else { format!("{text}*") });
                texts.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.as_deref(), expected, "{query}");
        }
        let many = "abcdefgh".parse::<Query>().unwrap().device_texts().unwrap();
        assert_eq!(many.len(), CASES_MAX);
        assert!(many.contains(&("abcdef".to_owned(), false)) && many.contains(&("ABCDEF".to_owned(), false)));
    }
}
