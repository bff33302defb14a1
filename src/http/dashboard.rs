//! The dashboard: a single page and its assets, embedded in the binary.
//!
//! npm builds `dashboard/dist` from `dashboard/`. The result is committed, so that building the server needs only Rust
//! (decision 0005). The page loads nothing from other hosts. Its content security policy enforces that: only these
//! scripts and styles, connections only to this server, no embedding in frames.
//!
//! `GET /session/mqtt` returns the MQTT listeners, for the page's instructions on connecting a device.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use crate::{
    http::{
        api::history::no_store,
        auth::caller::Caller,
        hex::hex,
        state::{Api, MqttListener},
    },
    wire::{self, MqttAddress},
};

/// A file of the dashboard.
struct Asset {
    path: &'static str,
    kind: HeaderValue,
    bytes: &'static [u8],
    etag: HeaderValue,
}

static ASSETS: LazyLock<[Asset; 4]> = LazyLock::new(|| {
    [
        Asset::new("/", "text/html; charset=utf-8", include_bytes!("../../dashboard/dist/index.html")),
        Asset::new("/assets/app.js", "text/javascript; charset=utf-8", include_bytes!("../../dashboard/dist/app.js")),
        Asset::new("/assets/app.css", "text/css; charset=utf-8", include_bytes!("../../dashboard/dist/app.css")),
        Asset::new("/assets/icon.svg", "image/svg+xml", include_bytes!("../../dashboard/dist/icon.svg")),
    ]
});

/// The headers of every asset. Names do not change with contents, so browsers revalidate each time and mostly get 304.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Adds the dashboard's assets and `/session/mqtt` to `router`.
pub(super) fn routes(mut router: Router<Arc<Api>>) -> Router<Arc<Api>> {
    for asset in &*ASSETS {
        router = router.route(asset.path, get(move |headers: HeaderMap| async move { asset.answer(&headers) }));
    }
    router.route("/session/mqtt", get(mqtt))
}

/// `GET /session/mqtt`
async fn mqtt(State(api): State<Arc<Api>>, _caller: Caller) -> Response {
    let address = |listener: &MqttListener| {
        let MqttListener { address, tls, anonymous } = *listener;
        // A listener on the unspecified address is reachable at the page's own host.
        let host = (!address.ip().is_unspecified()).then(|| address.ip().to_canonical());
        MqttAddress { host, port: address.port(), tls, anonymous }
    };
    no_store(wire::mqtt_listeners(api.mqtt_listeners.get().into_iter().flatten().map(address)))
}

impl Asset {
    fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        let etag = format!("\"{:.ETAG_DIGITS$}\"", hex(&Sha256::digest(bytes)));
        let etag = HeaderValue::try_from(etag).expect("digits and quotes are valid in a header");
        Self { path, kind: HeaderValue::from_static(kind), bytes, etag }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
        let known = known.flat_map(|field| field.split(',')).any(|etag| etag.trim().as_bytes() == self.etag.as_bytes());
        let mut response =
            if known { StatusCode::NOT_MODIFIED.into_response() } else { Body::from(self.bytes).into_response() };
        let headers = response.headers_mut();
        headers.extend(HEADERS);
        headers.insert(header::ETAG, self.etag.clone());
        if !known {
            headers.insert(header::CONTENT_TYPE, self.kind.clone());
        }
        response
    }
}

/// Hex digits of the digest in an etag.
const ETAG_DIGITS: usize = 32;
