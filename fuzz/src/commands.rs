//! Commands and paths made of bytes: few keys, so that they meet, and the values that are hard to compare.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};
use umbrad::shadow::{Command, Delete, Pointer, SectionPatch, Update, pointer::SectionName};

/// Some sort differently as UTF-8 and UTF-16, or need escapes.
const KEYS: [&str; 8] = ["a", "a", "b", "b", "c", "\u{fb33}", "\u{1f600}", "q\"\n/~"];

/// An update, or one time in ten a deletion.
///
/// # Errors
///
/// The bytes do not suffice.
pub fn command(bytes: &mut Unstructured<'_>) -> Result<Command> {
    if bytes.ratio(1, 10)? {
        return Ok(Command::Delete(Delete::default()));
    }
    Ok(Command::Update(Update {
        desired: section(bytes)?,
        reported: section(bytes)?,
        tags: section(bytes)?,
        replace: bytes.ratio(1, 5)?,
        bumps: bytes.ratio(1, 4)?,
        ..Update::default()
    }))
}

/// A path, of which something may be at.
///
/// # Errors
///
/// The bytes do not suffice.
pub fn path(bytes: &mut Unstructured<'_>) -> Result<Pointer> {
    let section = *bytes.choose(&SectionName::ALL)?;
    let keys = (0..bytes.int_in_range(0..=3)?).map(|_| key(bytes).map(Into::into)).collect::<Result<_>>()?;
    Ok(Pointer { section, keys })
}

fn section(bytes: &mut Unstructured<'_>) -> Result<SectionPatch> {
    Ok(match bytes.int_in_range(0..=7)? {
        0..3 => SectionPatch::Keep,
        3 => SectionPatch::Clear,
        _ => SectionPatch::Merge(members(bytes, 3)?),
    })
}

fn members(bytes: &mut Unstructured<'_>, levels: u8) -> Result<Map<String, Value>> {
    let count = bytes.int_in_range(0..=3)?;
    (0..count).map(|_| Ok((key(bytes)?.to_owned(), member(bytes, levels)?))).collect()
}

fn key(bytes: &mut Unstructured<'_>) -> Result<&'static str> {
    bytes.choose(&KEYS).copied()
}

fn member(bytes: &mut Unstructured<'_>, levels: u8) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=11)? {
        0..2 => Value::Null,
        2 => json!({}),
        3 => json!([]),
        4 => json!([scalar(bytes)?, {"a": [scalar(bytes)?]}]),
        5..8 if levels > 0 => Value::Object(members(bytes, levels - 1)?),
        _ => scalar(bytes)?,
    })
}

fn scalar(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=11)? {
        kind @ 0..3 => json!(kind),
        kind @ 3..6 => json!(f64::from(kind - 3)),
        6 => json!(-0.0),
        7 => json!(1u64 << 60),
        8 => json!(2f64.powi(60)),
        9 => Some(bytes.arbitrary::<f64>()?).filter(|double| double.is_finite()).map_or(json!(true), Value::from),
        10 => json!(1e21),
        _ => json!(*bytes.choose(&["", "a", "\u{e9}\t", "\u{1f600}"])?),
    })
}
