//! How results and failures are written.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde_json::Value;

use super::Exit;

/// Tells a failure on standard error and hands `exit` back.
pub(super) fn complain(error: &dyn Display, exit: Exit) -> Exit {
    eprintln!("umbrad: {}", printable(&error.to_string()));
    exit
}

/// Writes a result to standard output: on a terminal in lines, elsewhere on one.
pub(super) fn print(result: &Value) -> Exit {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { format!("{result:#}") } else { result.to_string() };
    match writeln!(out, "{text}") {
        Ok(()) => Exit::Done,
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// `text` without control characters: much of what is shown was written by other clients, and a terminal obeys some.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
