//! Buffered bytes in and out of one stream. An idle stream owns no buffer.
//!
//! Reads go through one scratch buffer per thread, so an idle connection owns no input buffer. The output is a vector
//! that is freed once it was sent. Input not yet split into frames stays in `input`, which the connection bounds by not
//! reading while it cannot process.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with its input not yet processed and its output not yet sent.
#[derive(Debug)]
pub(in crate::mqtt) struct Transport<S> {
    stream: S,
    /// Received and not yet split into frames.
    pub input: BytesMut,
    output: Vec<u8>,
    sent: usize,
    /// Bytes received and sent that were not counted yet.
    traffic: (u64, u64),
    /// True if the stream may buffer some of the written bytes, as TLS does until it is flushed.
    unflushed: bool,
}

/// The event that ended [`Transport::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum TransportEvent {
    /// There is more input.
    Input,
    /// All output was sent.
    Flushed,
    /// The peer closed its side.
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    /// Wraps `stream` with empty buffers.
    pub(in crate::mqtt) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), output: Vec::new(), sent: 0, traffic: (0, 0), unflushed: false }
    }

    /// Returns the buffer to which output is appended.
    pub(in crate::mqtt) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Returns the bytes received and sent since the last call.
    pub(in crate::mqtt) fn take_traffic(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.traffic)
    }

    /// Returns the number of bytes that wait to be sent.
    #[must_use]
    pub(in crate::mqtt) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Sends the output and, if `may_read`, reads once. Cancellation loses nothing.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream.
    pub(in crate::mqtt) async fn turn(&mut self, may_read: bool) -> io::Result<TransportEvent> {
        poll_fn(|context| self.poll_turn(context, may_read)).await
    }

    /// Sends all output.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream.
    pub(in crate::mqtt) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_send(context)).await
    }

    /// Sends what the stream accepts without waiting.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream.
    pub(in crate::mqtt) async fn send_some(&mut self) -> io::Result<()> {
        poll_fn(|context| match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Reads once without waiting. Returns `None` if there is no input.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream.
    pub(in crate::mqtt) async fn read_some(&mut self) -> io::Result<Option<TransportEvent>> {
        let read = poll_fn(|context| match self.poll_read(context) {
            Poll::Ready(turn) => Poll::Ready(turn.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        });
        tokio::task::unconstrained(read).await
    }

    /// Sends all output, closes our side of the stream, and waits for the peer to close its side.
    ///
    /// Further input is read and dropped: closing a socket with unread input resets the connection, and the peer might
    /// never see the last output.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream.
    pub(in crate::mqtt) async fn finish(&mut self) -> io::Result<()> {
        self.input = BytesMut::new();
        self.flush().await?;
        poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await?;
        for _ in 0..LAST_READS_MAX {
            if self.turn(true).await? == TransportEvent::End {
                break;
            }
            self.input.clear();
        }
        Ok(())
    }

    fn poll_turn(&mut self, context: &mut Context<'_>, may_read: bool) -> Poll<io::Result<TransportEvent>> {
        if (self.unsent() > 0 || self.unflushed) && self.poll_send(context)?.is_ready() {
            return Poll::Ready(Ok(TransportEvent::Flushed));
        }
        if may_read { self.poll_read(context) } else { Poll::Pending }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<TransportEvent>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(TransportEvent::End));
            }
            self.input.extend_from_slice(buffer.filled());
            self.traffic.0 += buffer.filled().len() as u64;
            Poll::Ready(Ok(TransportEvent::Input))
        })
    }

    /// Frees the sent bytes once they are most of the buffer, so that a peer that always leaves some unread does not
    /// make the buffer grow.
    fn free_sent(&mut self) {
        if self.sent > self.unsent() {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent) = self.output.get(self.sent..).filter(|unsent| !unsent.is_empty()) {
            let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(context, unsent) else {
                self.free_sent();
                return Poll::Pending;
            };
            match written? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.sent += count;
                    self.traffic.1 += count as u64;
                    self.unflushed = true;
                }
            }
        }
        self.sent = 0;
        self.output.clear();
        if self.output.capacity() > OUTPUT_KEPT_BYTES {
            self.output = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

const SCRATCH_BYTES: usize = 64 * 1024;
const OUTPUT_KEPT_BYTES: usize = 512;
const LAST_READS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use tokio::io::AsyncReadExt;

    use super::*;

    /// A stream that passes bytes on only when flushed, and completes only every second flush.
    #[derive(Default)]
    struct Holding {
        held: Vec<u8>,
        passed_on: Vec<u8>,
        asked: bool,
        ended: bool,
    }

    impl AsyncWrite for Holding {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.held.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.asked = !self.asked;
            if self.asked {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let held = std::mem::take(&mut self.held);
            self.passed_on.extend(held);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.ended = true;
            self.poll_flush(context)
        }
    }

    impl AsyncRead for Holding {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            // The peer ends its side when this one has.
            if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    #[tokio::test]
    async fn flushes_bytes_that_the_stream_buffers() {
        let mut transport = Transport::new(Holding::default());
        for round in 1..=3 {
            transport.output().extend_from_slice(b"packet");
            assert_eq!(transport.turn(true).await.unwrap(), TransportEvent::Flushed);
            assert_eq!((transport.unsent(), transport.stream.passed_on.len()), (0, 6 * round));
        }
        transport.output().extend_from_slice(b"last");
        transport.finish().await.unwrap();
        assert!(transport.stream.passed_on.ends_with(b"packetlast"));
    }

    /// The output grew without limit for a peer that always left something unread.
    #[tokio::test]
    async fn frees_output_that_was_sent() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut transport = Transport::new(near);
        let mut read = [0; 1000];
        for _ in 0..1000 {
            let missing = 3000 - transport.unsent();
            transport.output().extend(std::iter::repeat_n(0, missing));
            tokio::task::yield_now().await; // gives back what the runtime lets one turn of a task do
            transport.send_some().await.unwrap();
            far.read_exact(&mut read).await.unwrap();
            assert!(transport.unsent() > 0 && transport.output.len() < 10_000, "{} held", transport.output.len());
        }
    }
}
