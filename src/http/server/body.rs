//! A request's body that must be whole in time.

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

/// A body that fails if it is not whole within a time from when it is first waited for: as one that timed out, or, if
/// there was no room for what a stranger sends, as a busy one.
pub(in crate::http) struct TimedBody {
    body: Incoming,
    timeout: Duration,
    /// Tells whether it is others that it waits for.
    preauth_permit: PreAuthPermit,
    /// `None`: not waited for yet.
    ending: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    pub(in crate::http) fn new(body: Incoming, timeout: Duration, preauth_permit: PreAuthPermit) -> Self {
        Self { body, timeout, preauth_permit, ending: None }
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
        let ending = self.ending.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match ending.as_mut().poll(context) {
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
