//! Tests of the check that knows the order of the versions ([`crate::harness::linearizability`]), also against the search.

use super::checker::is_linearizable;
use crate::harness::{
    Seed,
    linearizability::{Answer, Ask, EMPTY, Operation, Register, check},
};

use Answer::{Refused, Unknown, Written};
use Ask::Get;

/// from, to, ask, answer
type Row = (u64, u64, Ask, Answer);

fn history(rows: &[Row]) -> Vec<Operation> {
    let operation = |(client, &(invoked, responded, ask, answer)): (usize, &Row)| Operation {
        client,
        ask,
        answer,
        invoked,
        responded,
    };
    rows.iter().enumerate().map(operation).collect()
}

fn put(value: u64) -> Ask {
    Ask::Put { value }
}

fn swap(expected: u64, value: u64) -> Ask {
    Ask::Swap { expected, value }
}

fn got(version: u64, value: u64) -> Answer {
    Answer::Got(Register { version, value })
}

#[test]
fn good_histories_pass() {
    let tables: [(&str, &[u64], &[Row]); 9] = [
        ("nothing", &[], &[]),
        ("a read before any write", &[], &[(1, 2, Get, got(0, 0))]),
        ("one after the other", &[7, 8], &[(1, 2, put(7), Written(1)), (3, 4, swap(1, 8), Written(2))]),
        ("reads beside a write", &[7], &[(1, 9, put(7), Written(1)), (2, 3, Get, got(0, 0)), (4, 5, Get, got(1, 7))]),
        ("at the same instant", &[7], &[(1, 2, put(7), Written(1)), (2, 3, Get, got(0, 0))]),
        (
            "a refusal",
            &[7, 8],
            &[(1, 2, put(7), Written(1)), (1, 9, swap(1, 9), Refused(2)), (3, 4, put(8), Written(2))],
        ),
        ("unknown, and it never was", &[], &[(1, 2, put(7), Unknown), (3, 4, Get, got(0, 0))]),
        ("unknown, and it came late", &[8, 7], &[(1, 2, put(7), Unknown), (3, 4, put(8), Written(1))]),
        ("a read without an answer", &[7], &[(1, 2, put(7), Written(1)), (3, 4, Get, Unknown)]),
    ];
    for (label, values, rows) in tables {
        assert_eq!(check(&history(rows), values), Ok(()), "{label}");
    }
}

#[test]
fn bad_histories_fail() {
    let tables: [(&str, &[u64], &[Row], &str); 17] = [
        ("a stale read", &[7], &[(1, 2, put(7), Written(1)), (3, 4, Get, got(0, 0))], "was answered before"),
        ("a read of another value", &[7], &[(1, 2, put(7), Written(1)), (3, 4, Get, got(1, 9))], "saw what"),
        (
            "a read of what is to come",
            &[7],
            &[(1, 2, Get, got(1, 7)), (3, 4, put(7), Written(1))],
            "was answered before",
        ),
        ("a read of no version", &[7], &[(1, 2, put(7), Written(1)), (3, 4, Get, got(2, 8))], "saw what"),
        (
            "versions go back",
            &[7, 8],
            &[(1, 9, put(7), Written(1)), (1, 9, put(8), Written(2)), (2, 3, Get, got(2, 8)), (4, 5, Get, got(1, 7))],
            "was answered before",
        ),
        ("a lost update", &[8], &[(1, 2, put(7), Written(1)), (3, 4, put(8), Written(1))], "another value"),
        ("an update that is nowhere", &[], &[(1, 2, put(7), Written(1))], "another value"),
        (
            "two updates with one version",
            &[7],
            &[(1, 4, swap(0, 7), Written(1)), (2, 3, swap(0, 8), Written(1))],
            "another value",
        ),
        (
            "two updates under one condition",
            &[7, 8],
            &[(1, 4, swap(0, 7), Written(1)), (2, 3, swap(0, 8), Unknown)],
            "another version",
        ),
        ("an effect twice", &[7, 7], &[(1, 2, put(7), Written(1))], "twice"),
        ("an unknown one, twice", &[7, 8, 7], &[(1, 2, put(7), Unknown), (3, 4, put(8), Written(2))], "twice"),
        (
            "an effect before its invocation",
            &[8, 7],
            &[(1, 2, put(7), Written(2)), (3, 4, put(8), Written(1))],
            "was answered before",
        ),
        (
            "unknown, before its invocation",
            &[8, 7],
            &[(1, 2, put(7), Written(2)), (3, 4, put(8), Unknown)],
            "was answered before",
        ),
        (
            "an effect after its completion",
            &[7, 8],
            &[(1, 2, put(8), Written(2)), (3, 9, put(7), Written(1)), (4, 5, Get, got(0, 0))],
            "was answered before",
        ),
        ("a refusal with an effect", &[7], &[(1, 2, swap(0, 7), Refused(2))], "and took effect"),
        (
            "a refusal at the right version",
            &[7],
            &[(1, 2, put(7), Written(1)), (3, 4, swap(1, 8), Refused(1))],
            "was refused at",
        ),
        ("a version that nobody wrote", &[7, 8], &[(1, 2, put(7), Written(1))], "not one write"),
    ];
    for (label, values, rows, expected) in tables {
        let found = check(&history(rows), values).expect_err(label);
        assert!(found.contains(expected), "{label}: {found}");
    }
}

/// A history is linearizable if and only if the check passes for some order of its writes.
#[test]
fn the_check_agrees_with_the_search() {
    let (mut linearizable, mut others) = (0, 0);
    for seed in 0..3_000 {
        let history = some_history(&mut Seed(seed));
        let is_right = is_linearizable(&history, EMPTY);
        assert_eq!(is_right, some_order_passes(&history, &mut Vec::new()), "seed {seed}: {history:#?}");
        *if is_right { &mut linearizable } else { &mut others } += 1;
    }
    assert!(linearizable > 500 && others > 500, "{linearizable} are linearizable, {others} are not");
}

/// Tries `order`, and all that begin with it.
fn some_order_passes(history: &[Operation], order: &mut Vec<u64>) -> bool {
    if check(history, order).is_ok() {
        return true;
    }
    history.iter().any(|operation| {
        let (Ask::Put { value } | Ask::Swap { value, .. }) = operation.ask else { return false };
        if order.contains(&value) {
            return false;
        }
        order.push(value);
        let passes = some_order_passes(history, order);
        order.pop();
        passes
    })
}

/// A history of three clients at a register. In most of them something is altered.
fn some_history(seed: &mut Seed) -> Vec<Operation> {
    let mut operations = Vec::new();
    for client in 0..3 {
        let mut now = seed.below(4);
        for number in 0..2 {
            let value = 2 * client + number + 1;
            let ask = match seed.below(4) {
                0 | 1 => Get,
                2 => put(value),
                _ => swap(seed.below(3), value),
            };
            let (invoked, responded) = (now, now + 1 + seed.below(6));
            now = responded + seed.below(3);
            let effect = invoked + seed.below(responded - invoked + 1);
            operations.push((effect, Operation { client: client as usize, ask, answer: Unknown, invoked, responded }));
        }
    }
    operations.sort_by_key(|(effect, _)| *effect);
    let mut register = EMPTY;
    for (_, operation) in &mut operations {
        let writes = match operation.ask {
            Get => None,
            Ask::Put { value } => Some(value),
            Ask::Swap { expected, value } => (expected == register.version).then_some(value),
        };
        register = writes.map_or(register, |value| Register { version: register.version + 1, value });
        operation.answer = match (operation.ask, writes) {
            (Get, _) => Answer::Got(register),
            (_, Some(_)) => Written(register.version),
            (_, None) => Refused(register.version),
        };
    }
    let mut history: Vec<_> = operations.into_iter().map(|(_, operation)| operation).collect();
    (0..seed.below(3)).for_each(|_| alter(&mut history, seed));
    history
}

/// Alters the answer or the time of an operation.
fn alter(history: &mut [Operation], seed: &mut Seed) {
    let other = history[seed.below(history.len() as u64) as usize];
    let operation = &mut history[seed.below(6) as usize];
    match seed.below(5) {
        0 => operation.answer = Unknown,
        1 => {
            let length = operation.responded - operation.invoked;
            operation.invoked = seed.below(12);
            operation.responded = operation.invoked + length;
        }
        2 => operation.answer = other.answer,
        _ => {
            let version = seed.below(4);
            operation.answer = match operation.answer {
                Answer::Got(_) => got(version, if version == 0 { 0 } else { 1 + seed.below(6) }),
                Written(_) => Written(version),
                Refused(_) => Refused(version),
                Unknown => Unknown,
            };
        }
    }
}
