//! A file descriptor kept in reserve for when the process can open no other.
//!
//! Without a free descriptor, accepting fails, and clients would wait in the kernel's queue during the whole shortage.
//! The reserve is released for as long as it takes to accept a client and close its connection. So the client learns at
//! once that the server is full.

use std::{fs::File, future::poll_fn, io, task::Poll};

use rustix::io::Errno;
use tokio::net::TcpListener;

/// The reserved descriptor; `None` if it could not be opened again.
#[derive(Debug)]
pub(super) struct ReservedFd(Option<File>);

impl ReservedFd {
    pub(super) fn new() -> Self {
        Self(open())
    }

    /// Returns true if accepting failed because the process or the machine has no descriptor left.
    pub(super) fn is_wanted(error: &io::Error) -> bool {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }

    /// Closes the oldest pending connection, if there is one, with the reserved descriptor. Returns false if accepting
    /// failed all the same.
    pub(super) async fn refuse(&mut self, socket: &TcpListener) -> bool {
        let had = self.0.take().is_some();
        // Accepting fails for lack of a descriptor even if nobody waits. The descriptor must not be released until
        // somebody connects: another thread would take it.
        let accepted = poll_fn(|context| Poll::Ready(socket.poll_accept(context))).await;
        let failed = matches!(accepted, Poll::Ready(Err(_)));
        drop(accepted);
        self.0 = open();
        had && !failed
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}
