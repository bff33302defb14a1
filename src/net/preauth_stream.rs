//! A stream that reads no more than the client's memory budget allows before authentication.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

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

crate::net::forward_writes!(PreAuthStream, stream);
