//! Listening sockets that the service manager opened (socket activation of systemd). They stay open while the server
//! restarts, so a client that connects meanwhile waits and is not refused.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use listenfd::ListenFd;

/// The sockets that no listener has taken.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(SocketAddr, TcpListener)>);

impl InheritedSockets {
    /// Returns the sockets that the environment names (`LISTEN_FDS`, `LISTEN_PID`), which it no longer does then.
    ///
    /// # Errors
    ///
    /// One of them is not a TCP socket.
    pub fn take() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for index in 0..passed.len() {
            if let Some(socket) = passed.take_tcp_listener(index)? {
                sockets.push((socket.local_addr()?, socket));
            }
        }
        Ok(Self(sockets))
    }

    /// Removes and returns the socket of `address`.
    pub fn remove(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|(bound, _)| *bound == address)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Returns the address of a socket that is not that of any of `listeners`.
    #[must_use]
    pub fn foreign(&self, listeners: &[SocketAddr]) -> Option<SocketAddr> {
        self.0.iter().map(|(bound, _)| *bound).find(|bound| !listeners.contains(bound))
    }
}
