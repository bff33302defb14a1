//! Output of results and failures.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::{self, Path},
};

use serde_json::Value;

use super::Exit;

/// Reports a failure on standard error and returns `exit`.
pub(super) fn complain(error: &dyn Display, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "umbrad: {}", printable(&error.to_string())); // if that fails, nobody reads it
    exit
}

/// Writes `text` to standard output. Returns `exit`, or a failure if it cannot be written.
pub(super) fn say(text: &dyn Display, exit: Exit) -> Exit {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => exit,
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Writes a result to standard output: indented on a terminal, else on one line.
pub(super) fn print(result: &Value) -> Exit {
    let text = if io::stdout().is_terminal() { format!("{result:#}") } else { result.to_string() };
    say(&text, Exit::Done)
}

/// Returns the absolute path of a file for messages.
pub(super) fn absolute(path: &Path) -> String {
    path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// Replaces control characters: much of the output was written by other clients, and a terminal obeys some.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
