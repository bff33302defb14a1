//! A TLS stream that fails once its peer's certificate is no longer valid.
//!
//! A handshake verifies a certificate once, but a connection lasts for months. So after each reload of its listener's
//! files, every connection verifies its certificate again, in its own task. If the certificate would not pass the
//! handshake any more, reads and writes fail, and the handler ends the connection like any lost one.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::{
    auth::authn::certificate::CertificateTrust,
    net::tls::{Reloads, Tls},
};

/// A TLS stream that verifies its peer's certificate after each reload.
pub(super) struct RevalidatingTlsStream<S> {
    stream: TlsStream<S>,
    /// `None` if the peer presented no certificate, or it was found invalid.
    watch: Option<Watch>,
    invalid: bool,
}

struct Watch {
    tls: Arc<Tls>,
    /// Resolves at the next reload.
    reload: Pin<Box<dyn Future<Output = Reloads> + Send>>,
}

impl<S> RevalidatingTlsStream<S> {
    /// `reloads` must not have seen a reload that the handshake did not use.
    pub(super) fn new(stream: TlsStream<S>, tls: Arc<Tls>, reloads: Reloads) -> Self {
        let presented = stream.get_ref().1.peer_certificates().is_some();
        let watch = presented.then(|| Watch { tls, reload: Box::pin(next(reloads)) });
        Self { stream, watch, invalid: false }
    }

    fn poll_revalidation(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(watch) = &mut self.watch {
            let Poll::Ready(reloads) = watch.reload.as_mut().poll(context) else { break };
            let chain = self.stream.get_ref().1.peer_certificates().unwrap_or_default();
            if watch.tls.trusts(chain) {
                watch.reload = Box::pin(next(reloads));
            } else {
                (self.watch, self.invalid) = (None, true);
            }
        }
        if self.invalid {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the client's certificate is no longer valid"));
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
        self.poll_revalidation(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RevalidatingTlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_revalidation(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_revalidation(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    /// Without it, hyper copies its output, as much as a script of the dashboard for each connection.
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
