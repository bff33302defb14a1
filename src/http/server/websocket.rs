//! MQTT over WebSocket: a connection of HTTP that goes on as one of bytes.
//!
//! By RFC 6455 and section 6 of both versions of MQTT: what is in binary messages, end to end, are MQTT's bytes: a packet
//! of a client may span messages and a message hold several. A message is taken whole before its bytes are passed on,
//! hence the bound on it; the next one is read only when they were taken. In the other direction each packet is one
//! message (`frame_writer`). Frames with nothing of MQTT in them count as MQTT's control packets do, or they would be free:
//! above that rate the next message waits.
//!
//! The subprotocol is `mqtt`, as the standard has it, or `mqttv3.1`, which clients older than it ask for, or none.
//!
//! [`upgrade`] answers the request, [`open`] takes the connection from HTTP, and [`serve`] has a door serve it.

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

/// Where a request leaves the connection that it is to become.
#[derive(Clone)]
pub(in crate::http) struct Handover(pub(in crate::http) mpsc::Sender<(OnUpgrade, Option<SignedIn>)>);

/// Answers `GET /mqtt`.
///
/// A client that is signed in is so on the WebSocket too: a page cannot show anything else, as it knows no more than
/// that there is a cookie. That the page is one of ours, the guard has seen to.
pub(in crate::http) async fn upgrade(
    Extension(handover): Extension<Handover>,
    Extension(sessions): Extension<Arc<Sessions>>,
    Extension(keys): Extension<UrlKeys>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let mut response = match create_response_with_body(&request, Body::empty) {
        Ok(response) => response,
        Err(error) => return refusal(&format!("this is for WebSocket: {error}")),
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
        return StatusCode::BAD_REQUEST.into_response(); // a connection becomes one thing only
    }
    response
}

/// Answers a request for a WebSocket where there is none with the path that has it.
pub(in crate::http) async fn elsewhere(request: Request, next: Next) -> Response {
    let upgrades = request.headers().get_all(UPGRADE).iter().filter_map(|field| field.to_str().ok());
    let wants_one = upgrades.flat_map(|field| field.split(',')).any(|it| it.trim().eq_ignore_ascii_case("websocket"));
    if wants_one && !PATHS.contains(&request.uri().path()) {
        return (StatusCode::NOT_FOUND, format!("MQTT over WebSocket is at {}\n", PATHS.join(" and "))).into_response();
    }
    next.run(request).await
}

/// RFC 6455 section 4.4: which version it would have to be.
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

/// Takes a connection over `S` from HTTP. Messages of more than `message_bytes_max` bytes end it.
pub(in crate::http) async fn open<S: Stream>(
    upgraded: Upgraded,
    message_bytes_max: usize,
) -> Option<WebSocketStream<FrameWriter<S>>> {
    let parts = upgraded.downcast::<TokioIo<FramingStream<WriteTimeoutStream<S>>>>().ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0) // a control frame goes to the outlet when it is made
        .max_write_buffer_size(CONTROL_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let (stream, unread) = parts.io.into_inner().into_parts();
    let (stream, read) = (stream.into_inner(), [parts.read_buf, unread].concat());
    Some(WebSocketStream::from_partially_read(FrameWriter::new(stream), read, Role::Server, Some(config)).await)
}

/// Has `door` serve what is in the messages, then ends the WebSocket; or until `session` ends, if there is one.
pub(in crate::http) async fn serve<S: Stream, D: ConnectionHandler>(
    socket: WebSocketStream<FrameWriter<S>>,
    session: Option<SignedIn>,
    empty: EmptyFrames,
    door: D,
    peer: Peer,
    deadline: Instant,
) {
    let peer = Peer { signed_in: session.as_ref().map(|session| session.auth_context.clone()), ..peer };
    let over: Option<SessionEnd> = session.map(|session| Box::pin(session.ended()) as SessionEnd);
    let address = peer.address;
    let socket = Socket { socket, over, empty, unread: Bytes::new(), fault: None, closed: false, closing: false };
    let socket = Arc::new(Mutex::new(socket));
    door.serve(SharedSocket(socket.clone()), peer, deadline).await;
    // The door has let go of its share.
    if let Some(socket) = Arc::into_inner(socket) {
        let ended = timeout(FAREWELL_TIMEOUT, socket.into_inner().finish()).await;
        tracing::debug!(peer = %address, ?ended, "WebSocket ends");
    }
}

/// What is in the messages of a WebSocket, as a stream. Its end is left to [`serve`], which has the other share of the
/// socket: by then the door is done with the client.
struct SharedSocket<S>(Arc<Mutex<Socket<S>>>);

/// The end of a session.
type SessionEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Socket<S> {
    socket: WebSocketStream<FrameWriter<S>>,
    /// When the client is no longer known, nothing more is read. `None`: it has no session, or has had one.
    over: Option<SessionEnd>,
    empty: EmptyFrames,
    /// What is left of the message that was read last.
    unread: Bytes,
    /// What the client did wrong.
    fault: Option<CloseCode>,
    /// Whether the client sent its close, after which nothing more of MQTT may be sent.
    closed: bool,
    /// Whether a close was sent to the client.
    closing: bool,
}

/// The frames of one connection that bring nothing: pings, pongs, empty messages.
pub(in crate::http) struct EmptyFrames {
    rate: Rate,
    quotas: Arc<Quotas>,
    counted: Gcra,
    /// No message is read until then.
    rest: Option<Pin<Box<Sleep>>>,
}

impl EmptyFrames {
    /// None yet, of which there may be `rate`.
    pub(in crate::http) fn new(rate: Rate, quotas: Arc<Quotas>) -> Self {
        Self { rate, quotas, counted: Gcra::new(Instant::now()), rest: None }
    }

    fn count(&mut self) {
        if let Some(wait) = self.counted.charge(self.rate, 1, Instant::now()) {
            self.quotas.count(QuotaKind::ControlPackets);
            self.rest = Some(Box::pin(sleep(wait)));
        }
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(context));
            self.rest = None;
        }
        Poll::Ready(())
    }
}

impl<S: Stream> Socket<S> {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(context).is_ready()) {
            self.over = Some(Box::pin(std::future::ready(())));
            return Poll::Ready(Ok(()));
        }
        while self.unread.is_empty() {
            ready!(self.empty.poll_rest(context));
            match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(Message::Binary(bytes))) if !bytes.is_empty() => self.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    self.fault = Some(CloseCode::Unsupported); // [MQTT-6.0.0-1]
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a text message")));
                }
                // Answered, where they are to be, by the next read or write.
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
            self.unread = Bytes::new(); // or it would keep the whole message
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

    /// Sends the close, or the answer to the client's.
    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing && !self.closed {
            ready!(self.socket.poll_ready_unpin(context)).map_err(stream_error)?;
            self.closing = true;
            let code = self.fault.unwrap_or(CloseCode::Normal);
            let frame = CloseFrame { code, reason: "".into() };
            self.socket.start_send_unpin(Message::Close(Some(frame))).map_err(stream_error)?;
        }
        match ready!(self.socket.poll_flush_unpin(context)) {
            // It has written the answer to the client's close, and leaves the rest to the stream.
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                Pin::new(self.socket.get_mut()).poll_flush(context)
            }
            Err(error) => Poll::Ready(Err(stream_error(error))),
        }
    }

    /// Ends the WebSocket and then the stream under it, and waits for the client's end of that: what the client still
    /// sends is read and dropped, or it would reset the connection and the client might never see what it was sent.
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

/// RFC 6455 section 7.4.1. `None`: it is not the client's.
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

/// The subprotocols spoken, the one that is chosen first at first. The second is that of clients from before MQTT 3.1.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Where [`upgrade`] is.
const PATHS: [&str; 2] = ["/mqtt", "/mqtt/"];

/// Bytes read at once; an idle connection holds as much.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes of control frames that the outlet has not taken.
const CONTROL_BYTES_MAX: usize = 1024;
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_READS_MAX: usize = 64;
