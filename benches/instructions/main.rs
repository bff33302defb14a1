//! Counts the instructions of single operations, and compares them with the committed baseline. Unlike a time, a count is the
//! same on a busy machine. `./bench-instructions` builds this program and runs it.
//!
//! Started without arguments, it runs itself once per case under valgrind's tool callgrind, and compares. With `--save` it
//! writes the baseline instead. With `run NAME` it executes one case.
//!
//! Exit status: 0 if no count grew by more than 5 %, 1 if one did or could not be taken, 77 if the baseline is of another
//! compiler, so that nothing was compared.

mod baseline;
mod callgrind;
#[path = "../commands/mod.rs"]
mod commands;
#[path = "../documents/mod.rs"]
mod documents;
mod functions;
#[path = "../sessions/mod.rs"]
mod sessions;
mod updates;

use std::{hint::black_box, process::ExitCode};

use baseline::{Baseline, Verdict};

/// The allocator of the server, whose instructions count too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An operation whose instructions are counted.
struct Case {
    name: &'static str,
    /// The number of operations in one pass.
    operations: usize,
    /// Prepares two passes of `operations`, and returns a function that executes one.
    prepare: fn(operations: usize) -> Pass,
}

/// A function that executes all operations of a pass. Its first call, which also fills caches, is not counted.
type Pass = Box<dyn FnMut()>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => compare(),
        ["--save"] => save(),
        ["run", name] => run(name),
        _ => Err("usage: instructions [--save]".to_owned()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("instructions: {error}");
        ExitCode::FAILURE
    })
}

fn cases() -> impl Iterator<Item = &'static Case> {
    functions::CASES.iter().chain(updates::CASES)
}

/// Executes the case `name`.
fn run(name: &str) -> Result<ExitCode, String> {
    let case = cases().find(|case| case.name == name).ok_or(format!("there is no case {name}"))?;
    let mut pass = (case.prepare)(case.operations);
    pass();
    black_box(reset_counts());
    Ok(counted_region(&mut pass))
}

/// Marks the begin. Callgrind zeroes its counts at the call of this function, which it finds by its name.
#[inline(never)]
fn reset_counts() -> ExitCode {
    black_box(ExitCode::SUCCESS)
}

/// Executes a pass. Callgrind writes the counts of all threads when this function returns. It has something to return:
/// otherwise the call of `pass` would be compiled to a jump, and callgrind would see no return.
#[inline(never)]
fn counted_region(pass: &mut Pass) -> ExitCode {
    black_box(pass)();
    black_box(ExitCode::SUCCESS)
}

fn compare() -> Result<ExitCode, String> {
    let baseline = Baseline::read()?;
    let now = Baseline::count(cases())?;
    Ok(match baseline.compare(&now) {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
        Verdict::NotCompared => ExitCode::from(77),
    })
}

fn save() -> Result<ExitCode, String> {
    let now = Baseline::count(cases())?;
    if let Ok(former) = Baseline::read() {
        former.compare(&now);
    }
    now.write()?;
    Ok(ExitCode::SUCCESS)
}
