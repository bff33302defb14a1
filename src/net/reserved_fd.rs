//! A file kept open for when the process can open no other.
//!
//! Without a file left, accepting fails and clients would wait in the kernel's queue for as long as the shortage lasts.
//! The spare one gives up its place for as long as it takes to accept a client and close its connection, so that it
//! learns at once that the server is full.

use std::{fs::File, future::poll_fn, io, task::Poll};

use rustix::io::Errno;
use tokio::net::TcpListener;

/// The file, unless there was none to be had when it was last wanted back.
#[derive(Debug)]
pub(super) struct ReservedFd(Option<File>);

impl ReservedFd {
    pub(super) fn new() -> Self {
        Self(open())
    }

    /// Whether accepting failed because this process or the machine has as many files open as it may.
    pub(super) fn is_wanted(error: &io::Error) -> bool {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }

    /// Closes the connection that waits longest, if one does, in the place of the spare file. `false`: there is no
    /// place.
    pub(super) async fn refuse(&mut self, socket: &TcpListener) -> bool {
        let had = self.0.take().is_some();
        // Accepting fails for want of a file also when nobody waits, and the place must not be given up until somebody
        // comes: another thread would take it.
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
