//! `POST /v1/backup`: a backup of the running service, streamed to an operator.
//!
//! One at a time, and only for who may do everything: a backup is every shadow and every principal's name. It is read
//! on a thread of its own; a few pieces wait for its reader, who must take one in [`STALL_TIMEOUT`], since the store
//! keeps the pages that are replaced meanwhile. Its connection has less patience as shipped ([`crate::http::server::write_timeout`]).
//!
//! *Invariant:* the body ends in order only after [`BackupChunk::End`]. However else the thread ends, the connection does
//! too, before the end of the body.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::{
    http::{
        api::{Api, problem::Problem},
        auth::caller::Caller,
    },
    store::CopyError,
};

/// A part of a backup on its way to its reader.
enum BackupChunk {
    Bytes(Bytes),
    /// There was no more, and nothing went wrong.
    End,
}

/// Where a backup is written to.
struct ChunkWriter {
    pieces: mpsc::Sender<BackupChunk>,
    runtime: Handle,
    piece: Vec<u8>,
}

/// Bytes sent at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for the reader.
const PIECES_AHEAD: usize = 4;
/// How long the reader may take none.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /v1/backup`
pub(in crate::http) async fn back_up(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    if !caller.may_everything() {
        let message = "Forbidden: a backup is for who may do everything";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", message, api.now()));
    }
    let place = api.backup()?;
    let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
    let (service, runtime) = (api.service.clone(), Handle::current());
    let by = caller.principal().name().clone();
    tracing::info!(%by, head = service.head().0, "a backup begins");
    let _ends_when_nobody_reads = tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { pieces, runtime, piece: Vec::with_capacity(PIECE_BYTES) };
        let written = service.back_up(&mut out);
        match written.and_then(|()| out.send(BackupChunk::End).map_err(CopyError::Write)) {
            Ok(()) => tracing::info!(%by, "a backup is done"),
            Err(error) => tracing::error!(%by, %error, "a backup broke off"),
        }
        drop(place);
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(body(taken))).into_response())
}

/// The body of the answer. It fails if what is `taken` ends without [`BackupChunk::End`].
fn body(taken: mpsc::Receiver<BackupChunk>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some(taken), async |taken| {
        let mut taken = taken?;
        match taken.recv().await {
            Some(BackupChunk::Bytes(bytes)) => Some((Ok(bytes), Some(taken))),
            Some(BackupChunk::End) => None,
            None => Some((Err(io::Error::other("the backup broke off")), None)),
        }
    })
}

impl ChunkWriter {
    fn send(&self, piece: BackupChunk) -> io::Result<()> {
        match self.runtime.block_on(timeout(STALL_TIMEOUT, self.pieces.send(piece))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "its reader is gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing")),
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        self.send(BackupChunk::Bytes(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use axum::body::to_bytes;

    use super::*;

    /// A backup that broke off while as many pieces waited as may: what said so found no room, and the body was whole.
    #[tokio::test]
    async fn a_body_is_whole_only_if_its_end_was_sent() {
        for whole in [true, false] {
            let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
            for _ in 0..PIECES_AHEAD - usize::from(whole) {
                pieces.try_send(BackupChunk::Bytes(Bytes::from_static(b"piece"))).ok().unwrap();
            }
            if whole {
                pieces.try_send(BackupChunk::End).ok().unwrap();
            }
            drop(pieces);
            let read = to_bytes(Body::from_stream(body(taken)), usize::MAX).await;
            assert_eq!(read.is_ok(), whole, "{read:?}");
        }
    }
}
