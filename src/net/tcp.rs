//! An accepted TCP connection: its socket options, and prompt acknowledgements.
//!
//! Linux delays the acknowledgement of received data by some 40 ms, to send it along with a reply. A client that leaves
//! Nagle's algorithm on, as stock paho for Python does, sends no second small packet before the first one is
//! acknowledged. So each exchange with two such packets takes that long. Hence, when a reader would wait for more and
//! nothing was sent since the last data arrived, the data is acknowledged at once (`TCP_QUICKACK`). A reply that was
//! sent meanwhile has carried the acknowledgement, and saves the system call.
//!
//! TCP keep-alive probes find vanished peers that have no MQTT keep-alive.

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream that acknowledges received data before it waits for more.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    /// True if data was read, and nothing was written since.
    unanswered: bool,
}

impl Tcp {
    /// Wraps a connection that was just accepted.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, unanswered: false })
    }

    #[cfg(target_os = "linux")]
    fn acknowledge(&self) {
        // It fails only on a closed socket, which the next read reports.
        let _ = sockopt::set_tcp_quickack(&self.stream, true);
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge(&self) {}
}

/// Makes the kernel probe the connections that `socket` will accept, which inherit this. Probes start after
/// [`KEEP_ALIVE_IDLE`] of silence and repeat every [`KEEP_ALIVE_INTERVAL`]. After [`KEEP_ALIVE_PROBES`] without an
/// answer a connection is lost.
///
/// # Errors
///
/// Returns the errors of the operating system.
pub(super) fn probe_peers(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES)?)
}

/// Makes the kernel keep at most [`SEND_BUFFER_BYTES`] of what the clients of connections that `socket` will accept do not read. By
/// default, it lets a few hundred connections fill the memory that it has for all. For HTTP, which answers those who have no login:
/// MQTT limits the replies that a client does not read, and counts on the kernel for a moment's.
///
/// # Errors
///
/// Returns the errors of the operating system.
pub(super) fn bound_send_buffers(socket: &impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES)?)
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &read {
            Poll::Ready(_) => self.unanswered |= buffer.filled().len() > before,
            Poll::Pending if std::mem::take(&mut self.unanswered) => self.acknowledge(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unanswered &= !written.is_ready();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.unanswered &= !written.is_ready();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Silence after which a peer is probed. It never wakes a device with a shorter MQTT keep-alive.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEP_ALIVE_PROBES: u32 = 5;

/// The send buffer of a connection; Linux counts twice as much.
const SEND_BUFFER_BYTES: usize = 64 << 10;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        probe_peers(&socket).unwrap();
        bound_send_buffers(&socket).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// Exchanges data until the kernel treats the connection as interactive and delays acknowledgements.
    async fn exchange(client: &mut TcpStream, served: &mut Tcp) {
        for _ in 0..20 {
            client.write_all(b"ask").await.unwrap();
            served.read_exact(&mut [0; 3]).await.unwrap();
            served.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn data_without_an_answer_is_acknowledged_at_once() {
        let (mut client, served) = pair().await;
        let mut served = Tcp::new(served).unwrap();
        assert!(served.stream.nodelay().unwrap());
        exchange(&mut client, &mut served).await;
        assert!(!sockopt::tcp_quickack(&served.stream).unwrap(), "the kernel delays acknowledgements");
        client.write_all(b"data").await.unwrap();
        served.read_exact(&mut [0; 4]).await.unwrap();
        assert!(!sockopt::tcp_quickack(&served.stream).unwrap(), "an answer may come yet");
        assert!(served.read(&mut [0]).now_or_never().is_none(), "there is no more");
        assert!(sockopt::tcp_quickack(&served.stream).unwrap());
    }

    #[tokio::test]
    async fn an_answer_carries_the_acknowledgement() {
        let (mut client, served) = pair().await;
        let mut served = Tcp::new(served).unwrap();
        exchange(&mut client, &mut served).await;
        assert!(served.read(&mut [0]).now_or_never().is_none());
        assert!(!sockopt::tcp_quickack(&served.stream).unwrap(), "one system call less");
    }

    #[tokio::test]
    async fn accepted_sockets_probe_their_peers() {
        let (_client, served) = pair().await;
        assert!(sockopt::socket_keepalive(&served).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&served).unwrap(), KEEP_ALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&served).unwrap(), KEEP_ALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&served).unwrap(), KEEP_ALIVE_PROBES);
        assert!(sockopt::socket_send_buffer_size(&served).unwrap() <= 2 * SEND_BUFFER_BYTES);
    }
}
