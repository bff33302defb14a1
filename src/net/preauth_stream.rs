//! A stream that reads no more than the client's memory budget allows before authentication.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::admission::PreAuthPermit;

/// A stream that reads only bytes for which its client has memory.
#[derive(Debug)]
pub struct PreAuthStream<S> {
    stream: S,
    client: PreAuthPermit,
}

impl<S> PreAuthStream<S> {
    /// Reads from `stream` within the budget of `client`.
    #[must_use]
    pub fn new(stream: S, client: PreAuthPermit) -> Self {
        Self { stream, client }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PreAuthStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, client } = &mut *self;
        let Some(room) = ready!(client.poll_room(context))? else { return Pin::new(stream).poll_read(context, buffer) };
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room.min(buffer.remaining())));
        ready!(Pin::new(stream).poll_read(context, &mut part))?;
        let count = part.filled().len();
        client.count(count);
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PreAuthStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
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
