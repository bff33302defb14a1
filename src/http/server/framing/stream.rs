//! The stream between the network and hyper.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::http::server::framing::{HeadRefusal, tracker::RequestTracker};

/// A stream of requests whose framing is checked as they are read. Writes pass unchanged.
///
/// A fault in a body is an error of kind `InvalidData` that wraps a [`ChunkFault`](super::ChunkFault). It follows all
/// bytes before the fault. After a refused head, input is discarded and its end is not reported, so that the response
/// is sent even if the client has closed its side.
pub(in crate::http) struct FramingStream<S> {
    stream: S,
    tracker: RequestTracker,
    /// The beginning of a head: at most hyper's limit plus one read.
    partial_head: BytesMut,
    /// Bytes from `partial_head` that are ready to be read, before any others.
    released: Bytes,
}

impl<S> FramingStream<S> {
    pub(in crate::http) fn new(stream: S) -> Self {
        Self { stream, tracker: RequestTracker::new(), partial_head: BytesMut::new(), released: Bytes::new() }
    }

    /// Returns the refusal that is set once a head is refused.
    pub(in crate::http) fn refusal(&self) -> HeadRefusal {
        self.tracker.refusal()
    }

    /// Returns the stream and the bytes that were read but not passed on.
    pub(in crate::http) fn into_parts(self) -> (S, Bytes) {
        let mut unread = BytesMut::from(self.released);
        unread.unsplit(self.partial_head);
        (self.stream, unread.freeze())
    }

    /// Checks the bytes read after the first `before` bytes of `buffer`, and keeps there those that pass.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let bytes = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        if self.partial_head.is_empty() {
            let passed = self.tracker.advance(bytes);
            if self.tracker.expects_head() {
                self.partial_head.extend_from_slice(bytes.get(passed..).unwrap_or_default());
            }
            buffer.set_filled(before + passed);
            return;
        }
        self.partial_head.extend_from_slice(bytes);
        buffer.set_filled(before);
        let passed = self.tracker.advance(&mut self.partial_head);
        if passed == 0 {
            return;
        }
        let mut bytes = mem::take(&mut self.partial_head);
        let rest = bytes.split_off(passed);
        self.released = bytes.freeze();
        if self.tracker.expects_head() {
            self.partial_head.extend_from_slice(&rest);
        }
    }

    /// Moves released bytes to `buffer`, and frees their memory with the last of them.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.released.len().min(buffer.remaining());
        buffer.put_slice(&self.released.split_to(count));
        if !self.released.has_remaining() {
            self.released = Bytes::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FramingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.released.has_remaining() {
                this.release(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(fault) = this.tracker.fault() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault.clone())));
            }
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if buffer.filled().len() > before {
                this.check(buffer, before);
            } else if this.tracker.is_refused() {
                return Poll::Pending; // the response closes the connection
            } else if this.partial_head.is_empty() {
                return Poll::Ready(Ok(()));
            } else {
                this.released = mem::take(&mut this.partial_head).freeze();
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

crate::net::forward_writes!(FramingStream, stream);
