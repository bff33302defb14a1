//! The file of users, written by the command that does that.

use std::{io::Write, path::Path, process::Stdio};

use super::program::umbrad;

/// Runs `umbrad passwd` with `arguments` on the file `users` in `directory`.
pub fn passwd(directory: &Path, arguments: &[&str], input: &str) {
    let mut child = umbrad(&["passwd"])
        .args(arguments)
        .args(["--file", "users"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the server's binary is built");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin.write_all(format!("{input}\n").as_bytes()).expect("the command reads");
    drop(stdin);
    assert!(child.wait().expect("a child").success(), "umbrad passwd {arguments:?}");
}
