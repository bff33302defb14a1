//! A command line client as a child process, read line by line.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use crate::harness::{DEADLINE, eventually};

/// A running tool; dropped, it is killed.
pub(crate) struct Tool {
    what: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Tool {
    /// Starts `program` with its output unbuffered. The tests need it, so its absence is a failure, not a reason to
    /// skip.
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        // The C library keeps back what goes to a pipe until it is a block.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "-eL", program]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("stdbuf: {error}; run ./test, which installs it"));
        let (sender, lines) = channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        Self { what: format!("{program} {}", arguments.join(" ")), child, lines, seen: Vec::new() }
    }

    /// The next line that contains `text`.
    pub(crate) fn line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(*DEADLINE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("{}: no {text:?} ({error}); it said {:#?}", self.what, self.seen),
            }
        }
    }

    /// Waits for its end; what it said from the start.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = eventually(&self.what, || self.child.try_wait().unwrap());
        while let Ok(line) = self.lines.recv_timeout(*DEADLINE) {
            self.seen.push(line);
        }
        assert_ne!(status.code(), Some(127), "{}: run ./test, which installs it: {:?}", self.what, self.seen);
        (status, std::mem::take(&mut self.seen))
    }

    /// Waits for its end, which must be a success; what it said from the start.
    pub(crate) fn succeed(self) -> Vec<String> {
        let what = self.what.clone();
        let (status, lines) = self.end();
        assert!(status.success(), "{what} ended with {status}: {lines:#?}");
        lines
    }

    /// Ends it with SIGKILL: no DISCONNECT.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
