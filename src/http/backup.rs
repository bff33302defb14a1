//! `POST /v1/backup`: a backup of the running service, streamed to an operator.
//!
//! One at a time, and only for who may do everything: a backup is every shadow and every principal's name. It is read on a
//! thread of its own; a few pieces wait for its reader, who must take one in [`STALL_TIMEOUT`], since the store keeps the
//! pages that are replaced meanwhile. A backup that breaks off ends the connection before the end of the body.

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
use futures_util::stream;
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::http::{api::Api, caller::Caller, problem::Problem};

/// A backup on its way to its reader.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
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
pub(super) async fn back_up(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
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
        let out = Pieces { pieces: pieces.clone(), runtime, piece: Vec::with_capacity(PIECE_BYTES) };
        match service.back_up(out) {
            Ok(()) => tracing::info!(%by, "a backup is done"),
            Err(error) => {
                tracing::error!(%by, %error, "a backup broke off");
                let _ = pieces.try_send(Err(io::Error::other("the backup broke off")));
            }
        }
        drop(place);
    });
    let body = stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|piece| (piece, taken)) });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

impl Write for Pieces {
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
        let sent = self.runtime.block_on(timeout(STALL_TIMEOUT, self.pieces.send(Ok(piece.into()))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "its reader is gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing")),
        }
    }
}
