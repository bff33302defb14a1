//! Queries: the expression, and its text.
//!
//! `parse` reads the syntax of AWS IoT fleet indexing and the short forms, `field` has the names of fields, `test` what a
//! predicate demands of a value, `pattern` the wildcards, and `evaluate` the answer for one device. A query is bounded in
//! bytes, predicates and depth, and a predicate reads a value once or twice, so a query takes bounded time for a device.
//!
//! *Invariant:* the text of a query parses to the same query, unless it is beyond the limit of bytes.

pub mod devices;
pub mod evaluate;
pub mod field;
pub mod lookups;
pub mod needs;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;
pub(in crate::fleet) mod text;
pub mod value_test;

use std::{fmt, str::FromStr};

use crate::{
    fleet::query::{
        field::{Field, ShadowField},
        value_test::ValueTest,
    },
    shadow::ShadowName,
};

/// Most bytes of a query.
pub const QUERY_BYTES_MAX: usize = 4096;
/// Most predicates of a query.
pub const PREDICATES_MAX: usize = 64;
/// Most levels of parentheses and negations.
pub const DEPTH_MAX: usize = 16;

/// A condition on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Query(Expression);

/// An expression of predicates.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// True if all of at least two are.
    All(Vec<Expression>),
    /// True if one of at least two is.
    Any(Vec<Expression>),
    /// True if the other is false.
    Not(Box<Expression>),
    /// True if the field passes the test. A field without a value, or that may not be read, passes none.
    Is(Predicate),
}

/// A test of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {
    field: Field,
    test: ValueTest,
}

/// The reason that a text is no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct QueryError {
    /// The number of the character, from 1.
    pub column: usize,
    /// The reason, with what would be right.
    pub reason: String,
}

impl FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        parse::query(text).map(Self)
    }
}

impl Query {
    /// Returns the query of this expression.
    #[must_use]
    pub fn new(expression: Expression) -> Self {
        Self(expression)
    }

    /// Returns true if a predicate reads the presence of the device.
    #[must_use]
    pub fn reads_presence(&self) -> bool {
        self.0.any_field(&mut |field| field.reads_presence())
    }

    /// Returns true if the content of the shadow with this name may change the answer; `None` is the name of the classic one.
    #[must_use]
    pub fn depends_on(&self, name: Option<&ShadowName>) -> bool {
        self.0.any_field(&mut |field| *field == Field::Drift || field.reads_shadow(name))
    }

    /// Returns a field whose predicate may become true or false without an event: by time, or because the oldest presences
    /// are forgotten.
    #[must_use]
    pub fn changes_by_time(&self) -> Option<&Field> {
        self.0.predicates().into_iter().find(|predicate| predicate.changes_by_time()).map(|predicate| &predicate.field)
    }

    /// Returns true for the query that is true for every device.
    #[must_use]
    pub fn is_true_for_all(&self) -> bool {
        matches!(&self.0, Expression::Is(Predicate { field: Field::Device, test: ValueTest::Exists }))
    }

    /// Returns the number of predicates.
    #[must_use]
    pub fn predicates(&self) -> usize {
        let mut count = 0;
        self.0.any_field(&mut |_| {
            count += 1;
            false
        });
        count
    }
}

impl Predicate {
    fn changes_by_time(&self) -> bool {
        match self.field {
            Field::Seen | Field::ConnectivityTimestamp => true,
            Field::Updated | Field::Shadow(_, ShadowField::Updated) => self.test != ValueTest::Exists,
            Field::Device | Field::Connected | Field::Drift | Field::Shadow(..) => false,
        }
    }
}

impl Expression {
    /// Returns the predicates in order.
    fn predicates(&self) -> Vec<&Predicate> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::predicates).collect(),
            Self::Not(part) => part.predicates(),
            Self::Is(predicate) => vec![predicate],
        }
    }

    /// Returns the conjunction of `parts`; of one part, the part.
    pub(in crate::fleet) fn all(parts: Vec<Self>) -> Self {
        let inner = |part| match part {
            Self::All(parts) => parts,
            part => vec![part],
        };
        one_or(parts.into_iter().flat_map(inner).collect(), Self::All)
    }

    /// Returns the disjunction of `parts`; of one part, the part.
    pub(in crate::fleet) fn any(parts: Vec<Self>) -> Self {
        let inner = |part| match part {
            Self::Any(parts) => parts,
            part => vec![part],
        };
        one_or(parts.into_iter().flat_map(inner).collect(), Self::Any)
    }

    /// Returns true if `is_wanted` is true for the field of a predicate. Stops there.
    fn any_field(&self, is_wanted: &mut impl FnMut(&Field) -> bool) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|part| part.any_field(is_wanted)),
            Self::Not(part) => part.any_field(is_wanted),
            Self::Is(predicate) => is_wanted(&predicate.field),
        }
    }
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(part) if parts.is_empty() => part,
        Some(part) => {
            parts.push(part);
            many(parts)
        }
        None => many(parts),
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) => joined(f, parts, " AND ", |part| matches!(part, Self::Any(_))),
            Self::Any(parts) => joined(f, parts, " OR ", |_| false),
            Self::Not(part) => match **part {
                Self::All(_) | Self::Any(_) => write!(f, "NOT ({part})"),
                Self::Not(_) | Self::Is(_) => write!(f, "NOT {part}"),
            },
            Self::Is(Predicate { field, test }) => write!(f, "{field}:{test}"),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expression],
    separator: &str,
    in_parentheses: fn(&Expression) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        let separator = if index == 0 { "" } else { separator };
        match in_parentheses(part) {
            true => write!(f, "{separator}({part})")?,
            false => write!(f, "{separator}{part}")?,
        }
    }
    Ok(())
}
