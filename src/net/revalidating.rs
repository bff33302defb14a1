//! A stream over TLS that fails when its peer's certificate is no longer good.
//!
//! A handshake looks at a certificate once, and a connection lasts for months. So at each reload of its listener's
//! files every connection looks at its own again, in its own task; one whose certificate would not pass the handshake
//! any more reads and writes nothing from then on, and its door ends it as any connection that is lost.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::net::tls::{Reloads, Tls};

/// See the module.
pub(super) struct RevalidatingTlsStream<S> {
    stream: TlsStream<S>,
    /// `None` for a peer that showed no certificate, or one that was found bad.
    watch: Option<Watch>,
    distrusted: bool,
}

struct Watch {
    tls: Arc<Tls>,
    /// Resolves at the next reload.
    reload: Pin<Box<dyn Future<Output = Reloads> + Send>>,
}

impl<S> RevalidatingTlsStream<S> {
    /// `reloads` must not have seen any that the handshake did not know of.
    pub(super) fn new(stream: TlsStream<S>, tls: Arc<Tls>, reloads: Reloads) -> Self {
        let shown = stream.get_ref().1.peer_certificates().is_some();
        let watch = shown.then(|| Watch { tls, reload: Box::pin(next(reloads)) });
        Self { stream, watch, distrusted: false }
    }

    fn poll_trust(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(watch) = &mut self.watch {
            let Poll::Ready(reloads) = watch.reload.as_mut().poll(context) else { break };
            let chain = self.stream.get_ref().1.peer_certificates().unwrap_or_default();
            if watch.tls.still_trusts(chain) {
                watch.reload = Box::pin(next(reloads));
            } else {
                (self.watch, self.distrusted) = (None, true);
            }
        }
        if self.distrusted {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client's certificate is no longer good"));
        }
        Ok(())
    }
}

async fn next(mut reloads: Reloads) -> Reloads {
    reloads.changed().await;
    reloads
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RevalidatingTlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_trust(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RevalidatingTlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_trust(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_trust(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    /// Otherwise hyper copies what it sends, as much as a page's script for each connection.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}
