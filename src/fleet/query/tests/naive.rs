//! Random queries against the same rules written a second time: on the text of a query's parts, on plain JSON, and without
//! regard to speed.

use std::cmp::Ordering;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::*;
use crate::fleet::Query;

/// A query before it is written.
#[derive(Clone, Debug)]
enum Ask {
    All(Vec<Ask>),
    Any(Vec<Ask>),
    Not(Box<Ask>),
    Term(String, Demand),
}

/// A test before it is written.
#[derive(Clone, Debug)]
enum Demand {
    Exists,
    Is(String),
    Like(String),
    Compare(&'static str, Edge),
    Range(char, Edge, Edge, char),
}

/// A bound: its text, and true if it is in quotes.
#[derive(Clone, Debug)]
struct Edge(String, bool);

const WORDS: [&str; 14] = ["a", "ab", "B", "aBa", "1", "1.5", "01", "1.10.2", "1.9.1", "2x", "true", "x y", "-1", "10"];

fn ask() -> impl Strategy<Value = Ask> {
    let part =
        select(vec!["reported", "shadow.reported", "desired", "tags", "attributes", "delta", "shadow.name.n.reported"]);
    let path =
        (part, vec(select(vec!["a", "b", "c"]), 1..3)).prop_map(|(part, keys)| format!("{part}.{}", keys.join(".")));
    let field = prop_oneof![8 => path, 1 => select(vec!["device", "thingName"]).prop_map(str::to_owned)];
    let number = select(vec!["-1", "0", "1", "1.5", "1.50", "2", "10"]).prop_map(|text| Edge(text.to_owned(), false));
    let text = (select(WORDS.to_vec()), Just(true)).prop_map(|(text, quoted)| Edge(text.to_owned(), quoted));
    let edges = prop_oneof![(number.clone(), number.clone()), (text.clone(), text.clone())];
    let demand = prop_oneof![
        1 => Just(Demand::Exists),
        4 => select(WORDS.to_vec()).prop_map(|text| Demand::Is(text.to_owned())),
        3 => "[ab1*?]{0,3}[*?][ab1.*?]{0,3}".prop_map(Demand::Like),
        3 => (select(vec!["<", "<=", ">", ">="]), prop_oneof![number, text]).prop_map(|(sign, edge)| Demand::Compare(sign, edge)),
        2 => (select(vec!['[', '{']), edges, select(vec![']', '}']))
            .prop_map(|(open, (lower, upper), close)| Demand::Range(open, lower, upper, close)),
    ];
    let term = (field, demand).prop_map(|(field, demand)| Ask::Term(field, demand));
    term.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(Ask::All),
            vec(inner.clone(), 1..4).prop_map(Ask::Any),
            inner.prop_map(|part| Ask::Not(Box::new(part))),
        ]
    })
}

/// A value without objects in it.
fn leaf() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        4 => select(WORDS.to_vec()).prop_map(Value::from),
        2 => select(vec![json!(-1), json!(0), json!(1), json!(1.0), json!(1.5), json!(2), json!(10)]),
        1 => any::<bool>().prop_map(Value::from),
    ];
    scalar.prop_recursive(2, 6, 3, |inner| vec(inner, 0..3).prop_map(Value::Array))
}

fn section() -> impl Strategy<Value = Value> {
    let value = leaf().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec((select(vec!["a", "b", "c"]), inner.clone()), 0..3).prop_map(object),
            vec((select(vec!["a", "b", "c"]), inner.clone()), 0..3).prop_map(|members| json!([object(members), 1])),
        ]
    });
    vec((select(vec!["a", "b", "c"]), value), 0..4).prop_map(object)
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

/// Writes a query with more parentheses than it needs.
fn written(ask: &Ask) -> String {
    let joined = |asks: &[Ask], sign| format!("({})", asks.iter().map(written).collect::<Vec<_>>().join(sign));
    match ask {
        Ask::All(asks) => joined(asks, " "),
        Ask::Any(asks) => joined(asks, " OR "),
        Ask::Not(ask) => format!("NOT {}", written(ask)),
        Ask::Term(field, Demand::Exists) => format!("{field}:*"),
        Ask::Term(field, Demand::Is(text)) if text.contains(' ') => format!("{field}:\"{text}\""),
        Ask::Term(field, Demand::Is(text) | Demand::Like(text)) => format!("{field}:{text}"),
        Ask::Term(field, Demand::Compare(sign, edge)) => format!("{field}{sign} {}", edge.written()),
        Ask::Term(field, Demand::Range(open, lower, upper, close)) => {
            format!("{field} : {open} {} TO {}{close}", lower.written(), upper.written())
        }
    }
}

impl Edge {
    fn written(&self) -> String {
        if self.1 { format!("\"{}\"", self.0) } else { self.0.clone() }
    }
}

/// Returns true if `ask` holds for the documents of a device: `{"": {"desired": …}, "n": …}`.
fn holds(ask: &Ask, id: &str, shadows: &Value) -> bool {
    match ask {
        Ask::All(asks) => asks.iter().all(|ask| holds(ask, id, shadows)),
        Ask::Any(asks) => asks.iter().any(|ask| holds(ask, id, shadows)),
        Ask::Not(ask) => !holds(ask, id, shadows),
        Ask::Term(field, demand) => {
            let keys: Vec<_> = field.split('.').collect();
            let (name, keys) = match keys.as_slice() {
                ["device" | "thingName"] => return fits(demand, &json!(id)),
                ["shadow", "name", name, keys @ ..] => (*name, keys.to_vec()),
                ["shadow", keys @ ..] => ("", keys.to_vec()),
                ["attributes", keys @ ..] => ("", [&["tags"], keys].concat()),
                keys => ("", keys.to_vec()),
            };
            let values = values(shadows.get(name).unwrap_or(&Value::Null), &keys);
            let exists = match demand {
                Demand::Exists => true,
                Demand::Like(text) => text.chars().all(|char| char == '*'),
                _ => false,
            };
            values.iter().any(|value| exists || elements(value).iter().any(|value| fits(demand, value)))
        }
    }
}

/// Returns all values at `keys`, also in elements of arrays.
fn values(value: &Value, keys: &[&str]) -> Vec<Value> {
    let [key, rest @ ..] = keys else { return vec![value.clone()] };
    match value {
        Value::Object(members) => members.get(*key).map(|value| values(value, rest)).unwrap_or_default(),
        Value::Array(inner) => inner.iter().flat_map(|value| values(value, keys)).collect(),
        _ => Vec::new(),
    }
}

fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(inner) => inner.iter().flat_map(elements).collect(),
        value => vec![value.clone()],
    }
}

fn fits(demand: &Demand, value: &Value) -> bool {
    let order = |edge: &Edge| ordered(value, edge);
    match demand {
        Demand::Exists => true,
        Demand::Is(text) => match value {
            Value::String(value) => value.to_lowercase() == text.to_lowercase(),
            Value::Number(value) => text.parse::<f64>().is_ok_and(|number| Some(number) == value.as_f64()),
            Value::Bool(value) => value.to_string() == text.to_lowercase(),
            _ => false,
        },
        Demand::Like(wanted) => {
            let text = match value {
                Value::String(text) => text.to_lowercase(),
                // The numbers of this test have a short text.
                Value::Number(number) => number.as_f64().unwrap().to_string(),
                _ => return false,
            };
            like(&wanted.to_lowercase().chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
        }
        Demand::Compare("<", edge) => order(edge) == Some(Ordering::Less),
        Demand::Compare("<=", edge) => matches!(order(edge), Some(Ordering::Less | Ordering::Equal)),
        Demand::Compare(">", edge) => order(edge) == Some(Ordering::Greater),
        Demand::Compare(_, edge) => matches!(order(edge), Some(Ordering::Greater | Ordering::Equal)),
        Demand::Range(open, lower, upper, close) => {
            let above = if *open == '[' { ">=" } else { ">" };
            let below = if *close == ']' { "<=" } else { "<" };
            fits(&Demand::Compare(above, lower.clone()), value) && fits(&Demand::Compare(below, upper.clone()), value)
        }
    }
}

fn like(wanted: &[char], text: &[char]) -> bool {
    match (wanted, text) {
        ([], text) => text.is_empty(),
        (['*', rest @ ..], text) => (0..=text.len()).any(|skipped| like(rest, text.get(skipped..).unwrap())),
        (['?', rest @ ..], [_, text @ ..]) => like(rest, text),
        ([char, rest @ ..], [other, text @ ..]) => char == other && like(rest, text),
        _ => false,
    }
}

fn ordered(value: &Value, Edge(edge, is_quoted): &Edge) -> Option<Ordering> {
    let number = edge.parse::<f64>().ok().filter(|_| !is_quoted);
    match (value, number) {
        (Value::Number(value), Some(number)) => value.as_f64().unwrap().partial_cmp(&number),
        (Value::String(value), Some(number)) => match value.parse::<f64>() {
            Ok(value) => value.partial_cmp(&number),
            Err(_) if value.as_bytes().first().is_some_and(u8::is_ascii_digit) => Some(by_numbers(value, edge)),
            Err(_) => None,
        },
        (Value::String(value), None) => Some(by_numbers(value, edge)),
        _ => None,
    }
}

/// Compares texts cut into numbers and characters.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let mut parts: Vec<(u64, String)> = Vec::new();
        for char in text.to_lowercase().chars() {
            match parts.last_mut() {
                Some((value, digits)) if char.is_ascii_digit() && digits.chars().all(|char| char.is_ascii_digit()) => {
                    digits.push(char);
                    *value = digits.parse().unwrap();
                }
                _ => parts.push((u64::from(char.to_digit(10).unwrap_or(0)), char.to_string())),
            }
        }
        parts
    };
    for pair in parts(a).iter().zip(&parts(b)) {
        let ((value, text), (other, other_text)) = pair;
        let both = [text, other_text].iter().all(|text| text.chars().all(|char| char.is_ascii_digit()));
        match if both { value.cmp(other) } else { text.cmp(other_text) } {
            Ordering::Equal => {}
            order => return order,
        }
    }
    parts(a).len().cmp(&parts(b).len()).then_with(|| a.to_lowercase().cmp(&b.to_lowercase()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_query_has_the_answer_of_the_naive_evaluator(
        ask in ask(),
        id in select(vec!["a", "AB", "1", "b1a", "10"]),
        classic in (section(), section(), section()),
        named in proptest::option::of(section()),
    ) {
        let state = json!({"desired": classic.0, "reported": classic.1, "tags": classic.2});
        let mut shadows = vec![("", state)];
        shadows.extend(named.map(|reported| ("n", json!({"reported": reported}))));
        let device = device(id, None, 0, &shadows);
        let documents = device.shadows.iter().map(|shadow| {
            let mut all = json!({"delta": json(&shadow.delta)});
            for (name, section) in shadow.document.sections() {
                all.as_object_mut().unwrap().insert(name.as_str().to_owned(), json(&section.members));
            }
            (shadow.name.as_ref().map_or("", |name| name.as_str()).to_owned(), all)
        });
        let documents = Value::Object(documents.collect());

        let text = written(&ask);
        let query: Query = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(query.matches(&device, NOW), holds(&ask, id, &documents), "{} on {}", text, documents);
    }
}
