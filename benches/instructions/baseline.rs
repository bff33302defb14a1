//! The committed counts, and the comparison with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZero,
    sync::Mutex,
    thread,
};

use serde::{Deserialize, Serialize};

use crate::{Case, callgrind};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json");

/// The growth above which a count is refused, in percent. A count that falls by as much is worth a new baseline.
const PERCENT_MAX: f64 = 5.0;

/// Instructions per operation, and the tools by which they were counted.
#[derive(Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// The version of the compiler. Another one makes other instructions of the same source.
    rustc: String,
    architecture: String,
    valgrind: String,
    instructions: BTreeMap<String, u64>,
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The result of a comparison.
pub(crate) enum Verdict {
    Passed,
    Failed,
    NotCompared,
}

impl Baseline {
    /// Reads the committed baseline.
    pub(crate) fn read() -> Result<Self, String> {
        let text = fs::read_to_string(PATH).map_err(|error| format!("cannot read {PATH}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{PATH}: {error}"))
    }

    /// Writes this as the baseline to commit.
    pub(crate) fn write(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(PATH, text + "\n").map_err(|error| format!("cannot write {PATH}: {error}"))?;
        println!("saved; commit benches/instructions/baseline.json");
        Ok(())
    }

    /// Counts the instructions of `cases`.
    pub(crate) fn count<'a>(cases: impl Iterator<Item = &'a Case> + Send) -> Result<Self, String> {
        let (cases, counts) = (Mutex::new(cases), Mutex::new(BTreeMap::new()));
        let next = || cases.lock().map(|mut cases| cases.next()).map_err(|error| error.to_string());
        let work = || -> Result<(), String> {
            while let Some(case) = next()? {
                let count = callgrind::instructions(case.name)? / case.operations as u64;
                counts.lock().map_err(|error| error.to_string())?.insert(case.name.to_owned(), count);
            }
            Ok(())
        };
        // Other work changes no count, so as many run at a time as there are processors.
        thread::scope(|scope| {
            let workers: Vec<_> = (0..processors()).map(|_| scope.spawn(work)).collect();
            let panicked = |_| Err("a thread panicked".to_owned());
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(panicked))
        })?;
        let instructions = counts.into_inner().map_err(|error| error.to_string())?;
        let (rustc, valgrind) = (callgrind::version("rustc")?, callgrind::version("valgrind")?);
        Ok(Self { rustc, architecture: std::env::consts::ARCH.to_owned(), valgrind, instructions })
    }

    /// Prints the counts of `now` beside these, and judges them.
    pub(crate) fn compare(&self, now: &Self) -> Verdict {
        let (mut grown, mut fallen, mut unpaired) = (0, 0, 0);
        println!("{:<24} {:>12} {:>12} {:>9}", "instructions of one", "baseline", "now", "change");
        let names: BTreeSet<_> = self.instructions.keys().chain(now.instructions.keys()).collect();
        for name in names {
            let (before, after) = (self.instructions.get(name), now.instructions.get(name));
            let shown = |count: Option<&u64>| count.map_or("-".to_owned(), u64::to_string);
            let change = before.zip(after).map(|(before, after)| (*after as f64 / *before as f64 - 1.0) * 100.0);
            let remark = match change {
                None => "not in both",
                Some(change) if change > PERCENT_MAX => "GROWN",
                Some(change) if change < -PERCENT_MAX => "fallen",
                Some(_) => "",
            };
            grown += usize::from(remark == "GROWN");
            fallen += usize::from(remark == "fallen");
            unpaired += usize::from(change.is_none());
            let change = change.map_or("-".to_owned(), |change| format!("{change:+.2} %"));
            println!("{name:<24} {:>12} {:>12} {change:>9}  {remark}", shown(before), shown(after));
        }
        if self.rustc != now.rustc || self.architecture != now.architecture {
            println!(
                "NOT COMPARED: the baseline is of Rust {} on {}, this is Rust {} on {}.",
                self.rustc, self.architecture, now.rustc, now.architecture
            );
            println!("Count the commit before with this compiler too, or save a new baseline.");
            return Verdict::NotCompared;
        }
        if grown + unpaired == 0 {
            if fallen > 0 {
                println!(
                    "{fallen} counts fell by more than {PERCENT_MAX} %: keep that with ./bench-instructions --save"
                );
            }
            return Verdict::Passed;
        }
        println!("{grown} counts grew by more than {PERCENT_MAX} %, {unpaired} are not in both.");
        println!("Remove the growth, or accept it with ./bench-instructions --save and give the reason in the commit.");
        if self.valgrind != now.valgrind {
            println!("The baseline was counted with {}, this with {}.", self.valgrind, now.valgrind);
        }
        Verdict::Failed
    }
}
