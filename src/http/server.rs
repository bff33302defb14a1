//! Serves one connection: requests one after another, until one of them makes a WebSocket of it.
//!
//! The first request's head must be there by the connection's deadline. The next one's has the listener's
//! `connect_timeout` after the answer to the one before, a body has as much time again, and so has the client for
//! taking some more of an answer. When the server ends, requests that are being answered are answered, and no more are
//! taken. One that fails before its first request, as one without a CONNECT does over MQTT, is a failed handshake of
//! its address.
//!
//! What a client that is not known has sent counts as held until its request is answered.
//!
//! Each request carries among its extensions its [`Peer`], and whom the connection was known as last.

pub(super) mod body;
pub(super) mod framing;
pub(super) mod websocket;
pub(super) mod write_timeout;
use std::{
    future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::Response,
    routing::get,
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

use crate::{
    admission::{Gcra, QuotaKind, Quotas, Rate},
    auth::Authority,
    config::{HttpConfig, Limits, ListenerConfig},
    http::{
        api::{operating::MetricsForAll, problem::RefusedByEngine},
        auth::{
            caller::LastCaller,
            guard::{self, Guard},
            sessions::Sessions,
            sign_in::Secure,
            url_keys::UrlKeys,
        },
        server::{
            body::TimedBody,
            framing::FramingStream,
            websocket::{EmptyFrames, Handover},
            write_timeout::WriteTimeoutStream,
        },
    },
    net::{ConnectionHandler, Peer, handler::Stream},
    observability::request_id::RequestId,
};

/// What clients may ask for by ALPN.
pub const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// Serves HTTP, and what comes over a WebSocket through another door.
#[derive(Clone)]
pub struct HttpHandler<D>(Arc<Server<D>>);

/// What one listener takes.
#[derive(Clone)]
pub struct HttpOptions {
    guard: Guard,
    url_keys: UrlKeys,
    metrics: MetricsForAll,
    timeout: Duration,
    /// Bytes of a request's body, unless its route says otherwise, and of a WebSocket message.
    message_bytes_max: usize,
    /// Frames of a WebSocket that bring nothing.
    empty_frames: Rate,
    /// Refusals for want of quota, above which the connection ends.
    refusals: Rate,
}

struct Server<D> {
    routes: Router,
    sockets: D,
    quotas: Arc<Quotas>,
    options: HttpOptions,
    closing: watch::Receiver<bool>,
}

impl HttpOptions {
    /// Those of `listener`, which is one for HTTP as `http` says.
    #[must_use]
    pub fn of(listener: &ListenerConfig, http: &HttpConfig, limits: &Limits) -> Self {
        Self {
            guard: Guard::new(listener, http),
            url_keys: UrlKeys::default(),
            metrics: MetricsForAll(http.metrics),
            timeout: listener.connect_timeout,
            message_bytes_max: limits.packet_bytes_max,
            empty_frames: Rate::per_second(limits.quotas.control_packets_per_second.into()),
            refusals: Rate::per_minute(limits.quotas.refusals_per_minute_max.into()),
        }
    }
}

impl HttpOptions {
    /// These, with WebSockets for those who signed their URL with an access key of `authority`.
    #[must_use]
    pub fn with_signed_urls(self, authority: Arc<Authority>) -> Self {
        Self { url_keys: UrlKeys(Some(authority)), ..self }
    }
}

impl<D: ConnectionHandler> HttpHandler<D> {
    /// Serves `api` beside what is here, and WebSockets, with `sessions` on the same terms, by `sockets`, until
    /// `closing` turns true.
    #[must_use]
    pub fn new(
        api: Router,
        sessions: Arc<Sessions>,
        sockets: D,
        quotas: Arc<Quotas>,
        options: HttpOptions,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let routes = api
            .route("/healthz", get(async || "ok"))
            .route("/mqtt", get(websocket::upgrade))
            .route("/mqtt/", get(websocket::upgrade))
            .layer(middleware::from_fn(websocket::elsewhere))
            .layer(Extension(options.metrics))
            .layer(Extension(sessions))
            .layer(Extension(options.url_keys.clone()))
            .layer(Extension(Secure(options.guard.has_tls())))
            .layer(DefaultBodyLimit::max(options.message_bytes_max))
            .layer(middleware::from_fn_with_state(Arc::new(options.guard.clone()), guard::guard))
            .layer(middleware::from_fn(framing::check))
            .layer(middleware::from_fn(identified));
        Self(Arc::new(Server { routes, sockets, quotas, options, closing }))
    }
}

impl<D: ConnectionHandler> ConnectionHandler for HttpHandler<D> {
    async fn serve<S: Stream>(self, stream: S, peer: Peer, deadline: Instant) {
        let (handover, mut handed) = mpsc::channel(1);
        self.0.answer(stream, &peer, Handover(handover), deadline).await;
        // All requests are gone by now, and with them what could hand over.
        let Some((upgrade, session)) = handed.recv().await else { return };
        let Ok(upgraded) = upgrade.await else { return };
        let Server { sockets, quotas, options, .. } = &*self.0;
        let deadline = Instant::now() + options.timeout;
        if let Some(socket) = websocket::open::<S>(upgraded, options.message_bytes_max).await {
            let empty = EmptyFrames::new(options.empty_frames, quotas.clone());
            websocket::serve(socket, session, empty, sockets.clone(), peer, deadline).await;
        }
    }
}

impl<D: ConnectionHandler> Server<D> {
    /// Answers requests until the connection ends, or one hands it over.
    async fn answer<S: Stream>(&self, stream: S, peer: &Peer, handover: Handover, deadline: Instant) {
        // One more for each request that is being answered.
        let handled = Arc::new(());
        let asked = Arc::new(AtomicBool::new(false));
        let stream = FramingStream::new(WriteTimeoutStream::new(stream, self.options.timeout));
        let refusal = stream.refusal();
        let service = service_fn({
            let (peer, handled, asked) = (peer.clone(), handled.clone(), asked.clone());
            let caller = LastCaller::default();
            let (routes, timeout) = (TowerToHyperService::new(self.routes.clone()), self.options.timeout);
            let refusals = Arc::new(Refusals::new(self.options.refusals, self.quotas.clone()));
            move |request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                let preauth_permit = peer.preauth_permit.clone();
                let mut request = request.map(|body| Body::new(TimedBody::new(body, timeout, preauth_permit.clone())));
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(caller.clone());
                request.extensions_mut().insert(handover.clone());
                request.extensions_mut().insert(refusal.clone());
                let (answer, handled, refusals) = (routes.call(request), handled.clone(), refusals.clone());
                async move {
                    let answer = answer.await.map(|answer| refusals.count(answer));
                    preauth_permit.release();
                    drop(handled);
                    answer
                }
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.timeout)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut closing = self.closing.clone();
        let first_head_is_late = async {
            sleep_until(deadline.into()).await;
            if asked.load(Ordering::Relaxed) {
                future::pending().await
            }
        };
        let ended = tokio::select! {
            biased; // a head that has come is not late
            ended = connection.as_mut() => Some(ended.map_err(|error| error.to_string())),
            () = first_head_is_late => Some(Err("no request in time".to_owned())),
            _ = closing.wait_for(|closing| *closing) => None,
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(peer = %peer.address, error, "connection ends");
                if !asked.load(Ordering::Relaxed) {
                    self.quotas.addresses.handshake_failed(peer.address.ip(), Instant::now());
                }
            }
            None => {
                connection.as_mut().graceful_shutdown();
                let answering = Arc::strong_count(&handled) > ANSWERING_NONE;
                let _ = timeout(if answering { LEAVE_TIMEOUT } else { FAREWELL_TIMEOUT }, connection).await;
            }
        }
    }
}

/// The refusals for want of quota that one connection has met.
struct Refusals {
    rate: Rate,
    met: Mutex<Gcra>,
    quotas: Arc<Quotas>,
}

impl Refusals {
    fn new(rate: Rate, quotas: Arc<Quotas>) -> Self {
        Self { rate, met: Mutex::new(Gcra::new(Instant::now())), quotas }
    }

    /// Counts `answer` if it is one, and ends the connection with it if they are too many, as over MQTT: a client that
    /// takes no notice of refusals is sent away.
    fn count(&self, mut answer: Response) -> Response {
        let refuses = answer.status() == StatusCode::TOO_MANY_REQUESTS;
        if refuses
            && answer.extensions().get::<RefusedByEngine>().is_none()
            && self.met.lock().charge(self.rate, 1, Instant::now()).is_some()
        {
            self.quotas.count(QuotaKind::Refusals);
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Answers under an id of the request's own, which the client is told.
async fn identified(request: axum::extract::Request, next: middleware::Next) -> Response {
    let id = RequestId::next();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = id.scope(next.run(request)).await;
    match response.status().as_u16() {
        status @ 500.. if status != 501 && status != 503 => {
            tracing::error!(request = %id, %method, path = uri.path(), status, "a request failed")
        }
        status => tracing::debug!(request = %id, %method, path = uri.path(), status, "answered"),
    }
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// What the log calls a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How many hold the count of requests when there is none: the server and its service.
const ANSWERING_NONE: usize = 2;

pub(super) const HEADERS_MAX: usize = 64;
/// Bytes of a request's line and header fields.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes read and not yet processed, and written and not yet sent, of each; a request's head has to fit.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX;

/// How long an ending server waits for a request to be answered.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for the last answer to be read.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
