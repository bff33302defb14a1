//! MQTT over WebSocket: an HTTP connection that becomes a byte stream.
//!
//! RFC 6455 and section 6 of both MQTT versions apply. The payloads of binary messages, concatenated, are the MQTT
//! bytes: a client's packet may span messages, and a message may hold several packets. A message is buffered whole
//! before its bytes are passed on, so its size is limited. The next message is read after its last byte was consumed.
//! Sent packets are one message each (`frame_writer`). Frames without MQTT data count against the rate of MQTT control
//! packets. Above the rate, reading is throttled.
//!
//! The subprotocol is `mqtt` (the standard), `mqttv3.1` (older clients) or none.
//!
//! [`upgrade`] answers the request, [`open`] takes the connection from HTTP, and [`serve`] passes it to a handler.

mod frame_writer;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::Request,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::mpsc,
    time::{Sleep, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::create_response_with_body,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use self::frame_writer::FrameWriter;
use crate::{
    admission::{Gcra, QuotaKind, Quotas, Rate},
    http::{
        auth::{
            sessions::{Sessions, SignedIn},
            url_keys::UrlKeys,
        },
        server::{framing::FramingStream, write_timeout::WriteTimeoutStream},
    },
    net::{ConnectionHandler, Peer, handler::Stream},
};

/// The channel on which a request hands over its connection for the upgrade.
#[derive(Clone)]
pub(in crate::http) struct Handover(pub(in crate::http) mpsc::Sender<(OnUpgrade, Option<SignedIn>)>);

/// Answers `GET /mqtt`.
///
/// A browser session is valid on the WebSocket too: a page cannot read its cookie, so it has no other credentials. The
/// guard has checked the page's origin.
pub(in crate::http) async fn upgrade(
    Extension(handover): Extension<Handover>,
    Extension(sessions): Extension<Arc<Sessions>>,
    Extension(keys): Extension<UrlKeys>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let mut response = match create_response_with_body(&request, Body::empty) {
        Ok(response) => response,
        Err(error) => return refusal(&format!("invalid WebSocket request: {error}")),
    };
    match subprotocol(request.headers()) {
        Ok(Some(chosen)) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen)); // [MQTT-6.0.0-4]
        }
        Ok(None) => {}
        Err(()) => {
            return refusal(&format!("the subprotocols offered do not include one of {}", SUBPROTOCOLS.join(", ")));
        }
    }
    let (parts, body) = request.into_parts();
    let session = match keys.signer(&parts, &peer.listener) {
        Ok(Some(signer)) => Some(signer),
        Ok(None) => sessions.find(&parts.headers, &peer.listener, Instant::now()),
        Err(error) => return (StatusCode::FORBIDDEN, format!("{error}\n")).into_response(),
    };
    let mut request = Request::from_parts(parts, body);
    if handover.0.try_send((hyper::upgrade::on(&mut request), session)).is_err() {
        return StatusCode::BAD_REQUEST.into_response(); // a connection is upgraded once
    }
    response
}

/// Answers a WebSocket request on a wrong path with the right one.
pub(in crate::http) async fn check_path(request: Request, next: Next) -> Response {
    let upgrades = request.headers().get_all(UPGRADE).iter().filter_map(|field| field.to_str().ok());
    let mut protocols = upgrades.flat_map(|field| field.split(','));
    let is_websocket = protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"));
    if is_websocket && !PATHS.contains(&request.uri().path()) {
        return (StatusCode::NOT_FOUND, format!("MQTT over WebSocket is at {}\n", PATHS.join(" and "))).into_response();
    }
    next.run(request).await
}

/// Returns a 400 response with the supported version. RFC 6455 section 4.4.
fn refusal(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, [(SEC_WEBSOCKET_VERSION, "13")], format!("{text}\n")).into_response()
}

/// Returns the first of [`SUBPROTOCOLS`] that the client offers, or `None` if it offers nothing.
fn subprotocol(headers: &HeaderMap) -> Result<Option<&'static str>, ()> {
    let fields = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(|field| field.to_str().unwrap_or("?"));
    let offered: Vec<_> = fields.flat_map(|field| field.split(',')).map(str::trim).collect();
    match SUBPROTOCOLS.iter().find(|known| offered.contains(known)) {
        None if !offered.is_empty() => Err(()),
        chosen => Ok(chosen.copied()),
    }
}

/// Takes a connection over `S` from HTTP. A message over `message_bytes_max` bytes ends it.
pub(in crate::http) async fn open<S: Stream>(
    upgraded: Upgraded,
    message_bytes_max: usize,
) -> Option<WebSocketStream<FrameWriter<S>>> {
    let parts = upgraded.downcast::<TokioIo<FramingStream<WriteTimeoutStream<S>>>>().ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0) // control frames go to the frame writer at once
        .max_write_buffer_size(CONTROL_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let (stream, unread) = parts.io.into_inner().into_parts();
    let (stream, read) = (stream.into_inner(), [parts.read_buf, unread].concat());
    Some(WebSocketStream::from_partially_read(FrameWriter::new(stream), read, Role::Server, Some(config)).await)
}

/// Passes the byte stream to `handler` until it returns or `session` ends. Then closes the WebSocket.
pub(in crate::http) async fn serve<S: Stream, D: ConnectionHandler>(
    socket: WebSocketStream<FrameWriter<S>>,
    session: Option<SignedIn>,
    empty: EmptyFrames,
    handler: D,
    peer: Peer,
    deadline: Instant,
) {
    let peer = Peer { signed_in: session.as_ref().map(|session| session.auth_context.clone()), ..peer };
    let session_end: Option<SessionEnd> = session.map(|session| Box::pin(session.ended()) as SessionEnd);
    let address = peer.address;
    let socket =
        Socket { socket, session_end, empty, unread: Bytes::new(), fault: None, closed: false, closing: false };
    let socket = Arc::new(Mutex::new(socket));
    handler.serve(SharedSocket(socket.clone()), peer, deadline).await;
    // The handler has dropped its reference.
    if let Some(socket) = Arc::into_inner(socket) {
        let ended = timeout(GRACEFUL_CLOSE_TIMEOUT, socket.into_inner().finish()).await;
        tracing::debug!(peer = %address, ?ended, "WebSocket ends");
    }
}

/// The payloads of a WebSocket's messages as a byte stream. [`serve`] has the other reference and closes the socket
/// after the handler has returned.
struct SharedSocket<S>(Arc<Mutex<Socket<S>>>);

/// A future that resolves when a browser session ends.
type SessionEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Socket<S> {
    socket: WebSocketStream<FrameWriter<S>>,
    /// The end of the client's session, after which nothing is read. `None` without a session.
    session_end: Option<SessionEnd>,
    empty: EmptyFrames,
    /// The unread rest of the last message.
    unread: Bytes,
    /// The code for the client's error.
    fault: Option<CloseCode>,
    /// True once the client has sent its close frame. No more MQTT data may be sent then.
    closed: bool,
    /// True once a close frame was sent to the client.
    closing: bool,
}

/// The rate of frames without MQTT data on one connection: pings, pongs, empty messages.
pub(in crate::http) struct EmptyFrames {
    rate: Rate,
    quotas: Arc<Quotas>,
    state: Gcra,
    /// The timer until which no message is read.
    throttled_until: Option<Pin<Box<Sleep>>>,
}

impl EmptyFrames {
    /// Creates a counter with the limit `rate`.
    pub(in crate::http) fn new(rate: Rate, quotas: Arc<Quotas>) -> Self {
        Self { rate, quotas, state: Gcra::new(Instant::now()), throttled_until: None }
    }

    fn count(&mut self) {
        if let Some(wait) = self.state.charge(self.rate, 1, Instant::now()) {
            self.quotas.count(QuotaKind::ControlPackets);
            self.throttled_until = Some(Box::pin(sleep(wait)));
        }
    }

    fn poll_throttle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.throttled_until {
            ready!(timer.as_mut().poll(context));
            self.throttled_until = None;
        }
        Poll::Ready(())
    }
}

impl<S: Stream> Socket<S> {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.session_end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            self.session_end = Some(Box::pin(std::future::ready(())));
            return Poll::Ready(Ok(()));
        }
        while self.unread.is_empty() {
            ready!(self.empty.poll_throttle(context));
            match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(Message::Binary(bytes))) if !bytes.is_empty() => self.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    self.fault = Some(CloseCode::Unsupported); // [MQTT-6.0.0-1]
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a text message")));
                }
                // The library answers pings and closes in the next read or write.
                Some(Ok(message)) => {
                    self.closed |= message.is_close();
                    self.empty.count();
                }
                Some(Err(error)) => {
                    self.fault = fault(&error);
                    return Poll::Ready(Err(stream_error(error)));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(count));
        if !self.unread.has_remaining() {
            self.unread = Bytes::new(); // frees the message's memory
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed || self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())); // RFC 6455 section 5.5.1
        }
        self.socket.get_mut().poll_packets(context, bytes)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(context).map_err(stream_error)
    }

    /// Sends a close frame, or the response to the client's.
    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing && !self.closed {
            ready!(self.socket.poll_ready_unpin(context)).map_err(stream_error)?;
            self.closing = true;
            let code = self.fault.unwrap_or(CloseCode::Normal);
            let frame = CloseFrame { code, reason: "".into() };
            self.socket.start_send_unpin(Message::Close(Some(frame))).map_err(stream_error)?;
        }
        match ready!(self.socket.poll_flush_unpin(context)) {
            // The library has written the response to the client's close; the stream may still buffer it.
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                Pin::new(self.socket.get_mut()).poll_flush(context)
            }
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }

    /// Closes the WebSocket and its stream, and waits until the client closes its side. Data from the client is read
    /// and dropped: unread data would reset the connection, and the client might lose the last bytes sent to it.
    async fn finish(mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_close(context)).await?;
        let mut stream = self.socket.into_inner().into_inner();
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        for _ in 0..LAST_READS_MAX {
            if stream.read(&mut ignored).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl<S: Stream> AsyncRead for SharedSocket<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(context, buffer)
    }
}

impl<S: Stream> AsyncWrite for SharedSocket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_close(context)
    }
}

/// Returns the close code for an error of the client, else `None`. RFC 6455 section 7.4.1.
fn fault(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Capacity(_) => Some(CloseCode::Size),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        _ => None,
    }
}

fn stream_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// The supported subprotocols by preference. The second is that of clients older than MQTT 3.1.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// The paths of [`upgrade`].
const PATHS: [&str; 2] = ["/mqtt", "/mqtt/"];

/// Bytes of the read buffer, which an idle connection keeps.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Most bytes of control frames that the frame writer has not accepted.
const CONTROL_BYTES_MAX: usize = 1024;
const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_READS_MAX: usize = 64;
