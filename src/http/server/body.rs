//! A request body with a deadline.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::BoxError;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::admission::PreAuthPermit;

/// A body that fails if it is not complete within `timeout` after its first pending read.
///
/// The error has the kind `ResourceBusy` if the pre-auth budget delayed the read, and `TimedOut` otherwise.
pub(in crate::http) struct TimedBody {
    body: Incoming,
    timeout: Duration,
    /// Knows if a read waits for the pre-auth budget.
    preauth_permit: PreAuthPermit,
    /// `None` until the first pending read.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    pub(in crate::http) fn new(body: Incoming, timeout: Duration, preauth_permit: PreAuthPermit) -> Self {
        Self { body, timeout, preauth_permit, deadline: None }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timeout = self.timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                let kind =
                    if self.preauth_permit.waits() { io::ErrorKind::ResourceBusy } else { io::ErrorKind::TimedOut };
                Poll::Ready(Some(Err(io::Error::from(kind).into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
