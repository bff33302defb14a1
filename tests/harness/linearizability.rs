//! The check that what clients saw of one shadow is linearizable, if its history of versions is known.
//!
//! Each operation must have taken effect at one instant between its invocation and its response, and its answer must be true at that
//! instant. A write that takes effect makes the next version, and the shadow's history has the value of each version. So the order is
//! known: what made a version comes after all that saw an earlier one, and before all that saw this one; reads of the same version change
//! nothing, and may come in any order. What is left to find is an instant for each operation, not before the instants of those that
//! precede it. None can be earlier than the latest invocation among the operation and those that precede it; and if each has just that
//! instant, they are in order. So the history is linearizable if and only if no operation was answered before one that precedes it was
//! invoked, which one pass finds. A write without an answer that is in the history of versions has any instant after its invocation; one
//! that is not there never took effect.
//!
//! Crates with a search for any object were considered: the tester of `stateright` tries orders without memory of what it has tried, and
//! takes one operation without an answer for each client; the checker of `todc-utils` has that memory, and takes none. With the thousands
//! of concurrent operations of a round a search has no end. `tests/consistency/linearizability` has one for short histories, and compares
//! this check with it.

use std::collections::HashMap;

/// A version, and the value written with it; version 0: nothing was ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    pub version: u64,
    pub value: u64,
}

pub const EMPTY: Register = Register { version: 0, value: 0 };

/// A request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ask {
    Get,
    /// Write `value`, which no other request has.
    Put {
        value: u64,
    },
    /// Write `value`, which no other request has, if the version is `expected`.
    Swap {
        expected: u64,
        value: u64,
    },
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// To a get.
    Got(Register),
    /// To a write: accepted with this version.
    Written(u64),
    /// To a swap: refused, because this is the version.
    Refused(u64),
    /// The connection was cut.
    Unknown,
}

/// An operation, with its invocation and response on a clock that all clients share.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub client: usize,
    pub ask: Ask,
    pub answer: Answer,
    pub invoked: u64,
    /// Without a meaning if the answer is unknown.
    pub responded: u64,
}

/// The place of an operation in the order: before all others are those that saw or made an earlier version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    version: u64,
    /// True if it saw the version, false if it made it.
    saw: bool,
}

impl Operation {
    /// The end of the time in which it took effect.
    pub fn deadline(&self) -> u64 {
        if self.answer == Answer::Unknown { u64::MAX } else { self.responded }
    }

    /// Returns its place among the versions with `values`, `None` if it has none; or what is wrong.
    fn place(&self, values: &[u64], versions: &HashMap<u64, u64>) -> Result<Option<Place>, &'static str> {
        let made = match self.ask {
            Ask::Get => None,
            Ask::Put { value } | Ask::Swap { value, .. } => versions.get(&value).copied(),
        };
        if let (Ask::Swap { expected, .. }, Some(version)) = (self.ask, made)
            && version != expected + 1
        {
            return Err("took effect at another version than was expected");
        }
        match (self.ask, self.answer) {
            (Ask::Get, Answer::Got(Register { version, value })) => {
                let written = if version == 0 { Some(0) } else { values.get(version as usize - 1).copied() };
                let place = Place { version, saw: true };
                (written == Some(value)).then_some(Some(place)).ok_or("saw what the version never was")
            }
            (Ask::Put { .. } | Ask::Swap { .. }, Answer::Written(version)) => {
                let place = Place { version, saw: false };
                (made == Some(version)).then_some(Some(place)).ok_or("was accepted, and the version has another value")
            }
            (Ask::Swap { expected, .. }, Answer::Refused(version)) => match made {
                Some(_) => Err("was refused, and took effect"),
                None if version == expected => Err("was refused at the version that was expected"),
                None if version > values.len() as u64 => Err("was refused by a version that never was"),
                None => Ok(Some(Place { version, saw: true })),
            },
            (_, Answer::Unknown) => Ok(made.map(|version| Place { version, saw: false })),
            _ => Err("has an answer to another request"),
        }
    }
}

/// Checks that the operations of `history` explain each other, if `values` are those of the versions from 1 on.
///
/// # Errors
///
/// The operations that do not.
pub fn check(history: &[Operation], values: &[u64]) -> Result<(), String> {
    let versions: HashMap<u64, u64> = values.iter().copied().zip(1..).collect();
    if versions.len() < values.len() {
        return Err("a write took effect twice".to_owned());
    }
    let mut placed = Vec::new();
    for operation in history {
        let place = operation.place(values, &versions).map_err(|wrong| format!("{operation:?} {wrong}"))?;
        placed.extend(place.map(|place| (place, operation)));
    }
    placed.sort_by_key(|(place, operation)| (*place, operation.invoked));
    let made: Vec<u64> = placed.iter().filter(|(place, _)| !place.saw).map(|(place, _)| place.version).collect();
    if !made.iter().copied().eq(1..=values.len() as u64) {
        return Err(format!("not one write for each version up to {}: {made:?}", values.len()));
    }
    let mut latest: Option<&Operation> = None;
    for (_, operation) in placed {
        if let Some(former) = latest
            && former.invoked > operation.deadline()
        {
            return Err(format!("{operation:?} was answered before {former:?} was invoked, which precedes it"));
        }
        if latest.is_none_or(|latest| latest.invoked < operation.invoked) {
            latest = Some(operation);
        }
    }
    Ok(())
}
