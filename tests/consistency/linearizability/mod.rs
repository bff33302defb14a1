//! One shadow under concurrent clients is a compare-and-swap register.
//!
//! Many short rounds, each on a shadow of its own: clients over real sockets read and write under an expected version
//! at the same time, and each notes when it asked, when it was answered and what. In some rounds connections are cut
//! while a request is under way. Then `checker` looks for an order that explains all answers.
//!
//! `UMBRA_LINEARIZABILITY_SEED` repeats what was asked, though not what the threads made of it;
//! `UMBRA_LINEARIZABILITY_ROUNDS` sets how often.

mod checker;
mod register;
mod versions;

use std::{
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::harness::{
    Meeting, Seed,
    linearizability::{Answer, Ask, EMPTY, Operation},
    server::{Server, UNLIMITED},
};
use checker::is_linearizable;
use register::Client;

/// Rounds, unless the environment sets another number.
const ROUNDS: u64 = 60;
const CLIENTS: usize = 4;
/// Operations of each client in a round.
const OPERATIONS: usize = 12;

#[test]
fn a_shadow_is_a_compare_and_swap_register() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64 % 1_000_000_000;
    let seed = number("UMBRA_LINEARIZABILITY_SEED").unwrap_or_else(fresh);
    let rounds = number("UMBRA_LINEARIZABILITY_ROUNDS").unwrap_or(ROUNDS);
    println!("UMBRA_LINEARIZABILITY_SEED={seed} UMBRA_LINEARIZABILITY_ROUNDS={rounds}");
    let mut server = Server::with(UNLIMITED);
    let mut counts = Counts::default();
    for number in 0..rounds {
        // In each third round connections are cut.
        let history = round(&server, seed, number, number % 3 == 2);
        counts.add(&history);
        if !is_linearizable(&history, EMPTY) {
            history.iter().for_each(|operation| println!("{operation:?}"));
            panic!("round {number} of seed {seed} has no explanation");
        }
    }
    println!("{rounds} rounds: {counts:?}");
    assert!(rounds < 6 || counts.written > 0 && counts.refused > 0 && counts.overlapping > 0 && counts.unknown > 0);
    server.stop();
}

/// Counts of the operations of all rounds.
#[derive(Debug, Default)]
struct Counts {
    got: u64,
    written: u64,
    refused: u64,
    unknown: u64,
    /// Pairs of operations of which neither was answered before the other was asked.
    overlapping: u64,
}

impl Counts {
    fn add(&mut self, history: &[Operation]) {
        for (place, operation) in history.iter().enumerate() {
            *match operation.answer {
                Answer::Got(_) => &mut self.got,
                Answer::Written(_) => &mut self.written,
                Answer::Refused(_) => &mut self.refused,
                Answer::Unknown => &mut self.unknown,
            } += 1;
            let beside =
                |other: &&Operation| other.invoked < operation.responded && operation.invoked < other.responded;
            self.overlapping += history[..place].iter().filter(beside).count() as u64;
        }
    }
}

/// The history of some clients at one shadow.
fn round(server: &Server, seed: u64, number: u64, cuts: bool) -> Vec<Operation> {
    let (meeting, clock) = (Meeting::of(CLIENTS), Instant::now());
    thread::scope(|scope| {
        let client = |client: usize| {
            let seed = Seed(seed ^ (number << 20) ^ ((client as u64) << 50));
            let device = format!("register-{number}");
            let (meeting, clock) = (&meeting, &clock);
            scope.spawn(move || {
                let register = Client::connect(server, &device, client);
                meeting.wait();
                writes(register, client, seed, clock, cuts)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client that went through")).collect()
    })
}

/// Runs the operations of one client, and returns them with their answers.
fn writes(mut register: Client<'_>, client: usize, mut seed: Seed, clock: &Instant, cuts: bool) -> Vec<Operation> {
    let mut history = Vec::new();
    let mut known = 0;
    for number in 0..OPERATIONS {
        let value = (client * OPERATIONS + number + 1) as u64;
        let ask = match seed.below(4) {
            0 => Ask::Get,
            _ => Ask::Swap { expected: known, value },
        };
        let cut = cuts && seed.below(5) == 0;
        let invoked = clock.elapsed().as_nanos() as u64;
        let answer = if cut { register.cut(ask, seed.below(4)) } else { register.ask(ask) };
        let responded = clock.elapsed().as_nanos() as u64;
        history.push(Operation { client, ask, answer, invoked, responded });
        known = match answer {
            Answer::Got(register) => register.version,
            Answer::Written(version) | Answer::Refused(version) => version,
            // It may have got in: the next write finds out.
            Answer::Unknown => known + seed.below(2),
        };
    }
    history
}
