//! Serves one connection: one request after the other, until one of them upgrades it to a WebSocket.
//!
//! The head of the first request must arrive by the connection's deadline. The listener's `connect_timeout` applies to
//! each of these: the next head after a response, a body, and each time the client reads nothing of a response. At
//! shutdown, requests in flight are answered and no more are accepted. A connection that fails before its first request
//! counts as a failed handshake of its address, like one without a CONNECT over MQTT.
//!
//! Bytes from an unauthenticated client count against the pre-auth budget until its request is answered.
//!
//! Each request carries in its extensions the [`Peer`] and the connection's last
//! [`Caller`](crate::http::auth::caller::Caller).

pub(super) mod body;
pub(super) mod framing;
pub(super) mod websocket;
pub(super) mod write_timeout;

use std::{
    future,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::{Body, HttpBody},
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
    admission::{Gcra, QuotaKind, Quotas, Rate, RequestClass, work},
    auth::Authority,
    config::{HttpConfig, Limits, ListenerConfig},
    http::{
        api::operating::{self, ExtraWork, MetricsForAll},
        auth::{
            caller::LastCaller,
            guard::{self, Guard},
            sessions::{Secure, Sessions},
            url_keys::UrlKeys,
        },
        problem::RefusedByEngine,
        server::{
            body::TimedBody,
            framing::FramingStream,
            websocket::{EmptyFrames, Handover},
            write_timeout::WriteTimeoutStream,
        },
    },
    net::{ConnectionHandler, Peer, handler::Stream},
    observability::{
        logging::{LineLimit, limited},
        request_id::RequestId,
    },
};

/// The protocols offered by ALPN.
pub const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// The handler of HTTP connections. It passes WebSockets to another handler.
#[derive(Clone)]
pub struct HttpHandler<D>(Arc<Server<D>>);

/// The settings of one listener.
#[derive(Clone)]
pub struct HttpOptions {
    guard: Guard,
    url_keys: UrlKeys,
    metrics: MetricsForAll,
    timeout: Duration,
    /// Most bytes of a request body, unless its route sets another limit, and of a WebSocket message.
    message_bytes_max: usize,
    /// The rate of WebSocket frames without MQTT data.
    empty_frames: Rate,
    /// The rate of 429 responses above which the connection is closed.
    refusals: Rate,
}

struct Server<D> {
    routes: Router,
    sockets: Option<D>,
    quotas: Arc<Quotas>,
    options: HttpOptions,
    closing: watch::Receiver<bool>,
}

impl HttpOptions {
    /// Returns the settings of `listener` with its HTTP section `http`.
    #[must_use]
    pub fn of(listener: &ListenerConfig, http: &HttpConfig, limits: &Limits) -> Self {
        Self {
            guard: Guard::new(listener, http),
            url_keys: UrlKeys::default(),
            metrics: MetricsForAll(http.metrics),
            timeout: listener.connect_timeout,
            message_bytes_max: limits.packet_bytes_max,
            empty_frames: limits.quotas.control_packets.with_burst_of_a_second(),
            refusals: limits.quotas.refusals,
        }
    }
}

impl HttpOptions {
    /// Also accepts WebSockets whose URL is signed with an access key of `authority`.
    #[must_use]
    pub fn with_signed_urls(self, authority: Arc<Authority>) -> Self {
        Self { url_keys: UrlKeys(Some(authority)), ..self }
    }
}

impl<D: ConnectionHandler> HttpHandler<D> {
    /// Creates a handler that serves `api` until `closing` turns true. `sockets` serves WebSockets, on which `sessions`
    /// are valid too; without it, `api` answers their requests as those of any path.
    #[must_use]
    pub fn new(
        api: Router,
        sessions: Arc<Sessions>,
        sockets: Option<D>,
        quotas: Arc<Quotas>,
        options: HttpOptions,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let routes = match &sockets {
            Some(_) => api.route("/mqtt", get(websocket::upgrade)).route("/mqtt/", get(websocket::upgrade)),
            None => api,
        };
        let routes = routes
            .layer(middleware::from_fn(websocket::check_path))
            .layer(Extension(options.metrics))
            .layer(Extension(sessions))
            .layer(Extension(options.url_keys.clone()))
            .layer(Extension(Secure(options.guard.has_tls())))
            .layer(DefaultBodyLimit::max(options.message_bytes_max))
            .layer(middleware::from_fn_with_state(Arc::new(options.guard.clone()), guard::guard))
            .layer(middleware::from_fn(framing::check))
            .layer(middleware::from_fn(with_request_id));
        Self(Arc::new(Server { routes, sockets, quotas, options, closing }))
    }
}

impl<D: ConnectionHandler> ConnectionHandler for HttpHandler<D> {
    async fn serve<S: Stream>(self, stream: S, peer: Peer, deadline: Instant) {
        let (handover, mut handed_over) = mpsc::channel(1);
        self.0.answer(stream, &peer, Handover(handover), deadline).await;
        // All requests have ended, so no sender is left and this does not wait.
        let Some((upgrade, session)) = handed_over.recv().await else { return };
        let Ok(upgraded) = upgrade.await else { return };
        let Server { sockets: Some(sockets), quotas, options, .. } = &*self.0 else { return };
        let deadline = Instant::now() + options.timeout;
        if let Some(socket) = websocket::open::<S>(upgraded, options.message_bytes_max).await {
            let empty = EmptyFrames::new(options.empty_frames, quotas.clone());
            websocket::serve(socket, session, empty, sockets.clone(), peer, deadline).await;
        }
    }
}

impl<D: ConnectionHandler> Server<D> {
    /// Answers requests until the connection ends or is handed over.
    async fn answer<S: Stream>(&self, stream: S, peer: &Peer, handover: Handover, deadline: Instant) {
        // Has one more reference for each request in flight.
        let in_flight = Arc::new(());
        let has_request = Arc::new(AtomicBool::new(false));
        let stream = FramingStream::new(WriteTimeoutStream::new(stream, self.options.timeout));
        let refusal = stream.refusal();
        let service = service_fn({
            let (peer, in_flight, has_request) = (peer.clone(), in_flight.clone(), has_request.clone());
            let caller = LastCaller::default();
            let (routes, timeout) = (TowerToHyperService::new(self.routes.clone()), self.options.timeout);
            let quotas = Arc::new(self.connection_quotas(&peer, &caller));
            move |request: Request<Incoming>| {
                let class = operating::class_of(request.uri().path());
                has_request.store(true, Ordering::Relaxed);
                let preauth_permit = peer.preauth_permit.clone();
                let mut request = request.map(|body| Body::new(TimedBody::new(body, timeout, preauth_permit.clone())));
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(caller.clone());
                request.extensions_mut().insert(handover.clone());
                request.extensions_mut().insert(refusal.clone());
                let (response, in_flight, quotas) = (routes.call(request), in_flight.clone(), quotas.clone());
                async move {
                    let response = response.await.map(|response| quotas.count_refusal(response));
                    preauth_permit.release();
                    quotas.charge(class, response.as_ref().map_or(0, work_of)).await;
                    drop(in_flight);
                    response
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
            if has_request.load(Ordering::Relaxed) {
                future::pending().await
            }
        };
        let ended = tokio::select! {
            biased; // a head that has arrived is not late
            ended = connection.as_mut() => Some(ended.map_err(|error| error.to_string())),
            () = first_head_is_late => Some(Err("no request in time".to_owned())),
            _ = closing.wait_for(|closing| *closing) => None,
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(peer = %peer.address, error, "connection ends");
                if !has_request.load(Ordering::Relaxed) {
                    self.quotas.addresses.handshake_failed(peer.address.ip(), Instant::now());
                }
            }
            None => {
                connection.as_mut().graceful_shutdown();
                let is_idle = Arc::strong_count(&in_flight) <= IDLE_REFERENCES;
                let limit = if is_idle { GRACEFUL_CLOSE_TIMEOUT } else { IN_FLIGHT_TIMEOUT };
                let _ = timeout(limit, connection).await;
            }
        }
    }

    fn connection_quotas(&self, peer: &Peer, caller: &LastCaller) -> ConnectionQuotas {
        ConnectionQuotas {
            peer: peer.address.ip(),
            caller: caller.clone(),
            refusals: (self.options.refusals, Mutex::new(Gcra::new(Instant::now()))),
            quotas: self.quotas.clone(),
            closing: self.closing.clone(),
        }
    }
}

/// The quotas of one connection.
struct ConnectionQuotas {
    peer: IpAddr,
    caller: LastCaller,
    /// The rate of 429 responses.
    refusals: (Rate, Mutex<Gcra>),
    quotas: Arc<Quotas>,
    closing: watch::Receiver<bool>,
}

impl ConnectionQuotas {
    /// Counts `response` if it is a 429. Above the rate, closes the connection after it, as over MQTT: the client
    /// ignores refusals.
    fn count_refusal(&self, mut response: Response) -> Response {
        let is_refusal = response.status() == StatusCode::TOO_MANY_REQUESTS;
        let (rate, state) = &self.refusals;
        if is_refusal
            && response.extensions().get::<RefusedByEngine>().is_none()
            && state.lock().charge(*rate, 1, Instant::now()).is_some()
        {
            self.quotas.count(QuotaKind::Refusals);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Charges the work of a request that no principal has paid for to the network of the client. Above its rate, waits before the
    /// response is sent and the next request is read, but not at shutdown.
    async fn charge(&self, class: RequestClass, units: u64) {
        if self.caller.take_paid() {
            return;
        }
        let mut closing = self.closing.clone();
        let waited = tokio::select! {
            waited = self.quotas.unauthenticated.pay(self.peer, class, units) => waited,
            _ = closing.wait_for(|closing| *closing) => false,
        };
        if waited {
            self.quotas.count(QuotaKind::AddressWork);
        }
    }
}

/// Returns the work of a request with this response; 0 for an upgrade, of which a connection has one.
fn work_of(response: &Response) -> u64 {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return 0;
    }
    let extra = response.extensions().get::<ExtraWork>().map_or(0, |extra| extra.0);
    work::HTTP_REQUEST + extra + work::rendered(response.body().size_hint().lower())
}

/// The limit of lines about requests that failed.
static FAILURE_LINES: LazyLock<LineLimit> = LazyLock::new(LineLimit::default);

/// Assigns a request id, logs the request with it, and adds it to the response.
async fn with_request_id(request: axum::extract::Request, next: middleware::Next) -> Response {
    let id = RequestId::next();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = id.scope(next.run(request)).await;
    match response.status().as_u16() {
        status @ 500.. if status != 501 && status != 503 => {
            limited!(error, FAILURE_LINES, request = %id, %method, path = uri.path(), status, "a request failed");
        }
        status => tracing::debug!(request = %id, %method, path = uri.path(), status, "answered"),
    }
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The header with the request's id in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// References to `in_flight` without a request: those of the server and its service.
const IDLE_REFERENCES: usize = 2;

pub(super) const HEADERS_MAX: usize = 64;
/// Most bytes of a request line and its header fields.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most bytes in each of the read buffer and the write buffer. A request's head must fit.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX;

/// Time for requests in flight at shutdown.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the client to read the last response at shutdown.
const GRACEFUL_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
