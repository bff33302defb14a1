//! The server against a reference model: a random sequence of requests, each answered as the model says.
//!
//! `reference` keeps every version of every shadow and answers by looking through all of them; `shapes` says which messages
//! that makes; `operations` draws requests; `driver` sends them to a real server over real sockets, stops, kills and
//! starts it in between, and compares. None of it knows how the server decides.
//!
//! `UMBRA_MODEL_SEED` repeats a run, `UMBRA_MODEL_STEPS` sets its length.

mod compare;
mod conflicts;
mod driver;
mod operations;
mod reference;
mod shapes;
mod trace;

/// Requests of a run, unless the environment sets another number.
const STEPS: u64 = 2_000;

#[test]
fn every_reply_matches_the_model() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let fresh = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_micros() as u64 % 1_000_000_000
    };
    let seed = number("UMBRA_MODEL_SEED").unwrap_or_else(fresh);
    let steps = number("UMBRA_MODEL_STEPS").unwrap_or(STEPS);
    println!("UMBRA_MODEL_SEED={seed} UMBRA_MODEL_STEPS={steps}");
    driver::Driver::new(seed).run(steps);
}
