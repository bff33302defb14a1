//! How results and failures are written.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::{self, Path},
};

use serde_json::Value;

use super::Exit;

/// Tells a failure on standard error and hands `exit` back.
pub(super) fn complain(error: &dyn Display, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "umbrad: {}", printable(&error.to_string())); // else nobody is there to be told
    exit
}

/// Writes `text` to standard output and hands `exit` back, if that could be done.
pub(super) fn say(text: &dyn Display, exit: Exit) -> Exit {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => exit,
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Writes a result to standard output: on a terminal in lines, elsewhere on one.
pub(super) fn print(result: &Value) -> Exit {
    let text = if io::stdout().is_terminal() { format!("{result:#}") } else { result.to_string() };
    say(&text, Exit::Done)
}

/// The absolute path of a file, for somebody who looks for it.
pub(super) fn absolute(path: &Path) -> String {
    path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// `text` without control characters: much of what is shown was written by other clients, and a terminal obeys some.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
