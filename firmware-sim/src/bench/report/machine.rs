//! The machine of a run: its processors, memory, kernel and disk.

use std::{fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};

/// The machine and the date of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The date, UTC.
    pub(crate) date: String,
    /// The model of the processors.
    pub(crate) processor: String,
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// Memory in GiB.
    pub(crate) memory_gib: f64,
    /// The kernel.
    pub(crate) kernel: String,
    /// The file system of the stores.
    pub(crate) file_system: String,
}

impl Machine {
    /// Reads it from the system; a field that cannot be read is empty.
    pub(crate) fn this(stores: &Path) -> Self {
        let first = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kilobytes: f64 = first("/proc/meminfo", "MemTotal").trim_end_matches("kB").trim().parse().unwrap_or(0.0);
        Self {
            date: output("date", &["-u", "+%Y-%m-%d"]),
            processor: first("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kilobytes / 1024.0 / 1024.0).round(),
            kernel: output("uname", &["-sr"]),
            file_system: output("stat", &["-f", "-c", "%T", &stores.display().to_string()]),
        }
    }
}

/// Returns the output of a program of the system, without the end of its line.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
