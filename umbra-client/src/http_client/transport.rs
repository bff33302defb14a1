//! One HTTP/1.1 request: connection, TLS, response, and the time limit of each step.

use std::{error::Error as StdError, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::Settings;
use crate::{error::Error, rejection::Rejection, tls::Tls};

/// The body of a response, in parts.
#[derive(Debug)]
pub struct Body {
    settings: Arc<Settings>,
    incoming: Incoming,
    /// The time at which the next part is late, once it is waited for. A call that is cancelled does not extend it.
    late_at: Option<Instant>,
    /// Drives the connection, which is closed with this body.
    connection: JoinHandle<()>,
}

impl Body {
    /// Returns the next part; `None` at the end. A call that is cancelled loses nothing, and the next one goes on with the same
    /// time limit.
    ///
    /// # Errors
    ///
    /// [`Error::Http`]: the connection broke, or no part came in time.
    ///
    /// ```no_run
    /// # async fn example(mut body: umbra_client::Body) -> Result<(), umbra_client::Error> {
    /// while let Some(part) = body.chunk().await? {
    ///     println!("{} bytes", part.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let Self { settings, incoming, late_at, .. } = self;
        loop {
            let until = *late_at.get_or_insert_with(|| Instant::now() + settings.timeout);
            let frame = settings.until(until, async { incoming.frame().await.transpose() }).await?;
            *late_at = None;
            match frame.map(hyper::body::Frame::into_data) {
                None => return Ok(None),
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_trailers)) => {}
            }
        }
    }

    /// Returns the whole body.
    pub(super) async fn collect(mut self) -> Result<Bytes, Error> {
        self.collect_up_to(usize::MAX).await
    }

    async fn collect_up_to(&mut self, bytes_max: usize) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(part) = self.chunk().await? {
            all.extend_from_slice(&part);
            if all.len() > bytes_max {
                break;
            }
        }
        Ok(all.freeze())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The content of a request: headers of its own, and a body in JSON.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) headers: Vec<(&'static str, String)>,
    /// No body if it is empty.
    pub(super) body: Bytes,
}

/// Sends a request without a body; returns the body of the response if its status is one of success.
pub(super) async fn send(settings: &Arc<Settings>, method: Method, path: &str) -> Result<Body, Error> {
    send_with(settings, method, path, Content::default()).await
}

/// Sends a request; returns the body of the response if its status is one of success.
pub(super) async fn send_with(
    settings: &Arc<Settings>,
    method: Method,
    path: &str,
    content: Content,
) -> Result<Body, Error> {
    let url: Uri = settings.url.parse().map_err(|error: http::uri::InvalidUri| settings.failed(error))?;
    let request = settings.request(method, &url, path, content)?;
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream = settings.in_time(TcpStream::connect((host, url.port_u16().unwrap_or_default()))).await?;
    if url.scheme_str() != Some("https") {
        return exchange(settings, stream, request).await;
    }
    let tls = settings.tls.get_or_init(Tls::default);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| settings.failed(error))?;
    let stream = settings.in_time(TlsConnector::from(tls.config()).connect(name, stream)).await?;
    exchange(settings, stream, request).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    settings: &Arc<Settings>,
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Body, Error> {
    let (mut sender, connection) = settings.in_time(http1::handshake(TokioIo::new(stream))).await?;
    // Its error arrives with the response or its body, too.
    let connection = AbortOnDrop(Some(tokio::spawn(async move { drop(connection.await) })));
    let response = settings.in_time(sender.send_request(request)).await?;
    let status = response.status();
    let incoming = response.into_body();
    let mut body =
        Body { settings: settings.clone(), incoming, late_at: None, connection: connection.into_inner(settings)? };
    if status.is_success() {
        return Ok(body);
    }
    let problem = body.collect_up_to(PROBLEM_BYTES_MAX).await.unwrap_or_default();
    Err(Error::Rejected(Box::new(rejection(status, &problem))))
}

/// A connection's task until its response is there.
struct AbortOnDrop(Option<JoinHandle<()>>);

impl AbortOnDrop {
    fn into_inner(mut self, settings: &Settings) -> Result<JoinHandle<()>, Error> {
        self.0.take().ok_or_else(|| settings.failed("the connection has no task"))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Returns the rejection that a response with another status is: its problem details, if it has some.
fn rejection(status: StatusCode, problem: &[u8]) -> Rejection {
    let problem: Value = serde_json::from_slice(problem).unwrap_or_default();
    let mut rejection = Rejection::from_reply(&problem).unwrap_or_default();
    if rejection.code == 0 {
        rejection.code = status.as_u16();
    }
    if rejection.message.is_empty() {
        let title = problem.get("title").and_then(Value::as_str).or(status.canonical_reason());
        title.unwrap_or_default().clone_into(&mut rejection.message);
    }
    rejection
}

impl Settings {
    fn request(&self, method: Method, url: &Uri, path: &str, content: Content) -> Result<Request<Full<Bytes>>, Error> {
        let prefix = url.path().trim_end_matches('/');
        let target = Uri::try_from(format!("{prefix}{path}")).map_err(|error| self.failed(error))?;
        let host = url.authority().map_or("", http::uri::Authority::as_str);
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, host);
        if let Some(authorization) = &self.authorization {
            let mut value = HeaderValue::try_from(&authorization.0).map_err(|error| self.failed(error))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in &content.headers {
            request = request.header(*name, value);
        }
        if !content.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(content.body)).map_err(|error| self.failed(error))
    }

    async fn in_time<T, E: Into<Box<dyn StdError + Send + Sync>>>(
        &self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        self.until(Instant::now() + self.timeout, step).await
    }

    async fn until<T, E: Into<Box<dyn StdError + Send + Sync>>>(
        &self,
        at: Instant,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        match timeout_at(at, step).await {
            Ok(done) => done.map_err(|error| self.failed(error)),
            Err(_) => Err(self.failed(format!("no answer within {:?}", self.timeout))),
        }
    }

    fn failed(&self, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Http { url: self.url.clone(), source: Arc::from(error.into()) }
    }
}

/// Bytes of a problem that are read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_with_errors_become_rejections() {
        for (status, body, expected) in [
            (403, r#"{"code": 403, "error": "forbidden", "message": "Forbidden"}"#, "403 forbidden: Forbidden"),
            (
                412,
                r#"{"status": 412, "code": 409, "error": "version-conflict", "message": "Version conflict", "version": 9}"#,
                "409 version-conflict: Version conflict; current version 9",
            ),
            (404, r#"{"title": "Not Found", "status": 404}"#, "404 ?: Not Found"),
            (502, "<html>", "502 ?: Bad Gateway"),
            (502, "", "502 ?: Bad Gateway"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(rejection(status, body.as_bytes()).to_string(), expected, "{body}");
        }
    }
}
