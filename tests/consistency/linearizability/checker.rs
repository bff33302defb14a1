//! Search for an order that explains a concurrent history of a compare-and-swap register: Wing and Gong's, with Lowe's memory of
//! what was tried.
//!
//! The register is a version and the value written with it. Each operation must have taken effect at one instant
//! between its invocation and its response, and have answered what is true at that instant; one without an answer may
//! have taken effect at any later instant, or never.

use std::collections::HashSet;

use crate::harness::linearizability::{Answer, Ask, Operation, Register};

/// The register after `operation`; `None` if its answer is not true of `now`.
fn step(operation: &Operation, now: Register) -> Option<Register> {
    let (swaps, value) = match operation.ask {
        Ask::Get => {
            let is_true = matches!(operation.answer, Answer::Got(got) if got == now);
            return (is_true || operation.answer == Answer::Unknown).then_some(now);
        }
        Ask::Put { value } => (true, value),
        Ask::Swap { expected, value } => (expected == now.version, value),
    };
    let next = Register { version: now.version + 1, value };
    match operation.answer {
        Answer::Written(version) => (swaps && version == next.version).then_some(next),
        Answer::Refused(version) => (!swaps && version == now.version).then_some(now),
        Answer::Unknown => Some(if swaps { next } else { now }),
        Answer::Got(_) => None,
    }
}

/// Returns true if there is an order of `history`, beginning with `first`, in which every answer is true.
pub(crate) fn is_linearizable(history: &[Operation], first: Register) -> bool {
    assert!(history.len() <= 128, "more operations than the search has bits for");
    search(history, 0, first, &mut HashSet::new())
}

/// Tries every operation that may come next; `done` has the bits of those that came.
fn search(history: &[Operation], done: u128, now: Register, tried: &mut HashSet<(u128, Register)>) -> bool {
    let left = || history.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
    // What nobody was answered need not have happened.
    if left().all(|(_, operation)| operation.answer == Answer::Unknown) {
        return true;
    }
    if !tried.insert((done, now)) {
        return false;
    }
    // An operation may come next if none of the others left was answered before it was asked.
    let first_response = left().map(|(_, operation)| operation.deadline()).min().unwrap_or(u64::MAX);
    let next: Vec<_> = left().filter(|(_, operation)| operation.invoked <= first_response).collect();
    next.into_iter().any(|(place, operation)| {
        step(operation, now).is_some_and(|after| search(history, done | (1 << place), after, tried))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::linearizability::EMPTY;

    /// client, from, to, ask, answer
    type Row = (usize, u64, u64, Ask, Answer);

    fn check(what: &str, rows: &[Row], holds: bool) {
        let operation =
            |&(client, invoked, responded, ask, answer): &Row| Operation { client, ask, answer, invoked, responded };
        let history: Vec<_> = rows.iter().map(operation).collect();
        assert_eq!(is_linearizable(&history, EMPTY), holds, "{what}");
    }

    fn swap(expected: u64, value: u64) -> Ask {
        Ask::Swap { expected, value }
    }

    fn got(version: u64, value: u64) -> Answer {
        Answer::Got(Register { version, value })
    }

    #[test]
    fn good_histories_pass() {
        use Answer::{Refused, Unknown, Written};
        use Ask::Get;
        check("nothing", &[], true);
        check("one after the other", &[(0, 1, 2, swap(0, 7), Written(1)), (1, 3, 4, Get, got(1, 7))], true);
        check("a get beside a write, before it", &[(0, 1, 4, swap(0, 7), Written(1)), (1, 2, 3, Get, got(0, 0))], true);
        check("a get beside a write, after it", &[(0, 1, 4, swap(0, 7), Written(1)), (1, 2, 3, Get, got(1, 7))], true);
        check("one of two wins", &[(0, 1, 4, swap(0, 7), Written(1)), (1, 2, 3, swap(0, 8), Refused(1))], true);
        check("it happened", &[(0, 1, 2, swap(0, 7), Unknown), (1, 3, 4, Get, got(1, 7))], true);
        check("it did not", &[(0, 1, 2, swap(0, 7), Unknown), (1, 3, 4, Get, got(0, 0))], true);
        check(
            "it happened late",
            &[(0, 1, 2, swap(0, 7), Unknown), (1, 3, 4, Get, got(0, 0)), (1, 5, 6, Get, got(1, 7))],
            true,
        );
    }

    #[test]
    fn bad_histories_fail() {
        use Answer::{Refused, Unknown, Written};
        use Ask::Get;
        check("a stale read", &[(0, 1, 2, swap(0, 7), Written(1)), (1, 3, 4, Get, got(0, 0))], false);
        check("a value nobody wrote", &[(0, 1, 2, swap(0, 7), Written(1)), (1, 3, 4, Get, got(1, 9))], false);
        check("two win at one version", &[(0, 1, 4, swap(0, 7), Written(1)), (1, 2, 3, swap(0, 8), Written(1))], false);
        check(
            "a lost update",
            &[(0, 1, 2, swap(0, 7), Written(1)), (1, 3, 4, swap(1, 8), Written(2)), (0, 5, 6, Get, got(2, 7))],
            false,
        );
        check(
            "a version goes back",
            &[(0, 1, 2, swap(0, 7), Written(1)), (0, 3, 4, swap(1, 8), Written(2)), (1, 5, 6, Get, got(1, 7))],
            false,
        );
        check(
            "two reads beside one write, the later one older",
            &[(0, 1, 9, swap(0, 7), Written(1)), (1, 2, 3, Get, got(1, 7)), (1, 4, 5, Get, got(0, 0))],
            false,
        );
        check("a version is left out", &[(0, 1, 2, swap(0, 7), Written(2))], false);
        check("refused at the right version", &[(0, 1, 2, swap(0, 7), Refused(0))], false);
        check("refused by one to come", &[(0, 1, 2, swap(5, 7), Refused(1)), (1, 3, 4, swap(0, 8), Written(1))], false);
        check(
            "in doubt, and done twice",
            &[
                (0, 1, 2, swap(0, 7), Unknown),
                (1, 3, 4, Get, got(1, 7)),
                (1, 5, 6, swap(1, 8), Written(2)),
                (1, 7, 8, Get, got(3, 7)),
            ],
            false,
        );
        check(
            "in doubt, seen and gone",
            &[(0, 1, 2, swap(0, 7), Unknown), (1, 3, 4, Get, got(1, 7)), (1, 5, 6, Get, got(0, 0))],
            false,
        );
        check("before it was asked", &[(1, 1, 2, Get, got(1, 7)), (0, 3, 4, swap(0, 7), Written(1))], false);
        check("in doubt, before it was asked", &[(1, 1, 2, Get, got(1, 7)), (0, 3, 4, swap(0, 7), Unknown)], false);
    }

    /// A good history with one answer altered does not pass, unless it is another good history.
    #[test]
    fn an_altered_answer_is_found() {
        let mut history: Vec<_> = (0..60)
            .map(|n| {
                let (client, invoked) = (n as usize % 3, 2 * n);
                Operation {
                    client,
                    ask: swap(n, n + 1),
                    answer: Answer::Written(n + 1),
                    invoked,
                    responded: invoked + 3,
                }
            })
            .collect();
        assert!(is_linearizable(&history, EMPTY));
        for place in 0..history.len() {
            let right = history[place].answer;
            for wrong in
                [Answer::Refused(place as u64), Answer::Written(place as u64), Answer::Written(place as u64 + 2)]
            {
                history[place].answer = wrong;
                assert!(!is_linearizable(&history, EMPTY), "{:?}", history[place]);
            }
            history[place].answer = right;
        }
    }
}
