//! Tests of a value: what a predicate demands.
//!
//! - A literal equals a string without regard to case, a number by value, and `true` and `false` a boolean.
//! - A pattern matches a string without regard to case, or the shortest text of a number.
//! - A bound that is a number compares with numbers, with strings that are one, and with other strings that begin with
//!   a digit, such as versions. A bound that is text compares with strings. Strings are ordered by their characters, and
//!   by the numbers in them.
//!
//! An array passes if an element does.

use std::{cmp::Ordering, fmt, ops::Bound};

use serde_json::Value;

use crate::fleet::query::{
    field::Kind,
    pattern::{self, Glyph, Pattern},
    text::{RESERVED, compared, folded, number, number_text, write_quoted},
};

/// A test of the value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueTest {
    /// There is a value.
    Exists,
    /// It equals the literal.
    Equals(Literal),
    /// It matches the pattern.
    Like(Pattern),
    /// It is in the range, of which one end at least is bounded.
    Within(Bound<Operand>, Bound<Operand>),
}

/// A literal to be equal to.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// Its folded text.
    text: String,
    /// Its value, if it is a number.
    number: Option<f64>,
}

/// A bound of a range.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A number, and its folded text.
    Number(f64, String),
    /// Folded text.
    Text(String),
    /// A time span in seconds.
    Age(u64),
}

/// A test as written, before the kind of its field is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    Word(Vec<Glyph>),
    Quoted(String),
    Within(Bound<WrittenBound>, Bound<WrittenBound>),
}

/// A bound as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenBound {
    pub(super) text: String,
    pub(super) is_quoted: bool,
}

impl ValueTest {
    /// Returns the test of a field of this kind.
    pub(super) fn new(kind: Kind, written: Written) -> Result<Self, String> {
        match written {
            Written::Word(glyphs) if glyphs.iter().all(|glyph| *glyph == Glyph::Run) => Ok(Self::Exists),
            Written::Word(glyphs) if glyphs.iter().any(|glyph| !matches!(glyph, Glyph::Literal(_))) => {
                if kind != Kind::Any {
                    return Err(kind.expected().to_owned());
                }
                let pattern = Pattern::new(&folded_glyphs(&glyphs));
                let too_long = || format!("a value with ? has at most {} characters", pattern::LENGTH_MAX);
                pattern.map(Self::Like).ok_or_else(too_long)
            }
            Written::Word(glyphs) => {
                let text: String = glyphs.iter().filter_map(|glyph| glyph.literal()).collect();
                Literal::new(kind, &text).map(Self::Equals)
            }
            Written::Quoted(text) => Literal::new(kind, &text).map(Self::Equals),
            Written::Within(Bound::Unbounded, Bound::Unbounded) => Ok(Self::Exists),
            Written::Within(lower, upper) => {
                let (lower, upper) = (bound(kind, lower)?, bound(kind, upper)?);
                match (operand(&lower), operand(&upper)) {
                    (Some(Operand::Number(..)), Some(Operand::Text(_)))
                    | (Some(Operand::Text(_)), Some(Operand::Number(..))) => {
                        Err("the bounds of a range are both numbers or both text".to_owned())
                    }
                    _ => Ok(Self::Within(lower, upper)),
                }
            }
        }
    }

    /// Returns true if `value`, or an element of it, passes.
    pub(super) fn passes(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Exists, _) => true,
            (_, Value::Array(elements)) => elements.iter().any(|element| self.passes(element)),
            (Self::Equals(literal), value) => literal.equals(value),
            (Self::Like(pattern), Value::String(text)) => pattern.matches(&folded(text)),
            (Self::Like(pattern), Value::Number(number)) => pattern.matches(&folded(&number_text(number))),
            (Self::Like(_), _) => false,
            (Self::Within(lower, upper), value) => {
                above(lower, |operand| operand.order_of(value)) && below(upper, |operand| operand.order_of(value))
            }
        }
    }

    /// Returns the folded text with which every string that passes begins, and true if it is all of it; `None` if that is
    /// no text at all.
    pub(super) fn beginning(&self) -> Option<(String, bool)> {
        match self {
            Self::Equals(literal) => Some((literal.text.clone(), true)),
            Self::Like(pattern) => Some((pattern.beginning(), false)).filter(|(text, _)| !text.is_empty()),
            Self::Exists | Self::Within(..) => None,
        }
    }

    /// Returns true if a time span passes.
    pub(super) fn passes_age(&self, seconds: u64) -> bool {
        let order = |operand: &Operand| match operand {
            Operand::Age(age) => Some(seconds.cmp(age)),
            Operand::Number(..) | Operand::Text(_) => None,
        };
        match self {
            Self::Exists => true,
            Self::Equals(_) | Self::Like(_) => false,
            Self::Within(lower, upper) => above(lower, order) && below(upper, order),
        }
    }
}

fn above(bound: &Bound<Operand>, order: impl Fn(&Operand) -> Option<Ordering>) -> bool {
    match bound {
        Bound::Unbounded => true,
        Bound::Included(operand) => order(operand).is_some_and(Ordering::is_ge),
        Bound::Excluded(operand) => order(operand).is_some_and(Ordering::is_gt),
    }
}

fn below(bound: &Bound<Operand>, order: impl Fn(&Operand) -> Option<Ordering>) -> bool {
    above(bound, |operand| order(operand).map(Ordering::reverse))
}

impl Literal {
    fn new(kind: Kind, text: &str) -> Result<Self, String> {
        let literal = Self { text: folded(text).into_owned(), number: number(text) };
        let fits = match kind {
            Kind::Any => true,
            Kind::Flag => matches!(literal.text.as_str(), "true" | "false"),
            Kind::Number => literal.number.is_some(),
            Kind::Age | Kind::Existence => false,
        };
        if fits { Ok(literal) } else { Err(kind.expected().to_owned()) }
    }

    /// Returns its folded text, and its value if it is a number.
    pub(super) fn parts(&self) -> (&str, Option<f64>) {
        (&self.text, self.number)
    }

    fn equals(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => *folded(text) == *self.text,
            Value::Number(number) => self.number.is_some() && self.number == number.as_f64(),
            Value::Bool(true) => self.text == "true",
            Value::Bool(false) => self.text == "false",
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }
    }
}

impl Operand {
    /// Returns its folded text, unless it is a time span.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Number(_, text) | Self::Text(text) => Some(text),
            Self::Age(_) => None,
        }
    }

    /// Returns its value, if it is a number.
    pub(super) fn number(&self) -> Option<f64> {
        if let Self::Number(number, _) = self { Some(*number) } else { None }
    }

    /// Returns the order of `value` with respect to this bound; `None` if they do not compare.
    fn order_of(&self, value: &Value) -> Option<Ordering> {
        match (self, value) {
            (Self::Number(bound, _), Value::Number(number)) => number.as_f64()?.partial_cmp(bound),
            (Self::Number(bound, written), Value::String(text)) => match number(text) {
                Some(number) => number.partial_cmp(bound),
                None => text.starts_with(|char: char| char.is_ascii_digit()).then(|| compared(&folded(text), written)),
            },
            (Self::Text(bound), Value::String(text)) => Some(compared(&folded(text), bound)),
            _ => None,
        }
    }
}

impl Kind {
    /// Returns what a value of this kind must be, for messages.
    fn expected(self) -> &'static str {
        match self {
            Self::Any => "expected a value",
            Self::Flag => "expected true, false or *",
            Self::Number => "expected a number, a comparison or a range of numbers, or *",
            Self::Age => "expected a comparison with a time span of s, m, h, d or w, such as <1h or [1d TO 7d], or *",
            Self::Existence => "expected *: a shadow exists or not",
        }
    }
}

fn bound(kind: Kind, written: Bound<WrittenBound>) -> Result<Bound<Operand>, String> {
    let operand = |WrittenBound { text, is_quoted }: WrittenBound| {
        let as_number = number(&text).filter(|_| !is_quoted);
        let operand = match kind {
            Kind::Any => {
                let text = folded(&text).into_owned();
                Some(
                    as_number
                        .map_or_else(|| Operand::Text(text.clone()), |number| Operand::Number(number, text.clone())),
                )
            }
            Kind::Number => as_number.map(|number| Operand::Number(number, folded(&text).into_owned())),
            Kind::Age => age(&text).map(Operand::Age),
            Kind::Flag | Kind::Existence => None,
        };
        operand.ok_or_else(|| kind.expected().to_owned())
    };
    match written {
        Bound::Unbounded => Ok(Bound::Unbounded),
        Bound::Included(written) => operand(written).map(Bound::Included),
        Bound::Excluded(written) => operand(written).map(Bound::Excluded),
    }
}

fn operand(bound: &Bound<Operand>) -> Option<&Operand> {
    match bound {
        Bound::Unbounded => None,
        Bound::Included(operand) | Bound::Excluded(operand) => Some(operand),
    }
}

/// Parses a time span: an integer and its unit.
fn age(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_integer)?.checked_mul(seconds)
}

fn folded_glyphs(glyphs: &[Glyph]) -> Vec<Glyph> {
    let mut all = Vec::with_capacity(glyphs.len());
    for glyph in glyphs {
        match glyph {
            Glyph::Literal(char) => all.extend(char.to_lowercase().map(Glyph::Literal)),
            glyph => all.push(*glyph),
        }
    }
    all
}

impl fmt::Display for ValueTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("*"),
            Self::Equals(literal) => literal.fmt(f),
            Self::Like(pattern) => pattern.fmt(f),
            Self::Within(Bound::Unbounded, Bound::Unbounded) => f.write_str("*"),
            Self::Within(Bound::Excluded(lower), Bound::Unbounded) => write!(f, ">{lower}"),
            Self::Within(Bound::Included(lower), Bound::Unbounded) => write!(f, ">={lower}"),
            Self::Within(Bound::Unbounded, Bound::Excluded(upper)) => write!(f, "<{upper}"),
            Self::Within(Bound::Unbounded, Bound::Included(upper)) => write!(f, "<={upper}"),
            Self::Within(lower, upper) => {
                let open = if matches!(lower, Bound::Included(_)) { '[' } else { '{' };
                let close = if matches!(upper, Bound::Included(_)) { ']' } else { '}' };
                match (operand(lower), operand(upper)) {
                    (Some(lower), Some(upper)) => write!(f, "{open}{lower} TO {upper}{close}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |char: char| !char.is_whitespace() && !RESERVED.contains(&char) && !matches!(char, '*' | '?');
        match !self.text.is_empty() && self.text.chars().all(is_plain) {
            true => f.write_str(&self.text),
            false => write_quoted(f, &self.text),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(_, text) => f.write_str(text),
            Self::Text(text) => write_quoted(f, text),
            Self::Age(seconds) => write!(f, "{seconds}s"),
        }
    }
}
