//! One request to a running server over HTTP/1.1, with TLS for https URLs. It depends only on the paths of the server.

use std::{
    io::{self, Write},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{self, HeaderValue},
};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use umbra_client::{ConnectOptions, Credentials, Tls};

use super::{Exit, connect_args::CommandFailure as ClientFailure};
use crate::store::{BackupError, CopyError, StoreError};

/// The HTTP interface of a running server.
#[derive(Debug)]
pub(super) struct Server {
    url: Uri,
    /// Value of the Authorization header.
    authorization: Option<String>,
    /// Settings for https.
    tls: Option<Tls>,
}

/// The cause of a missing result.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpFailure {
    /// An error in the arguments or in a file that they name.
    #[error("{0}")]
    Usage(String),
    /// An error in the connection options.
    #[error(transparent)]
    Client(ClientFailure),
    /// A connection that failed or ended early.
    #[error("{0}: {1}")]
    Connection(Uri, String),
    /// A rejection by the server.
    #[error("the server refused the request: {0}")]
    Rejected(String),
    /// An error of the output file.
    #[error("cannot write: {0}")]
    Write(io::Error),
    /// An error of the store or backup.
    #[error(transparent)]
    Store(CopyError),
}

/// Time limit for the connection, for the response, and between two parts of it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

impl Server {
    /// Returns the server that `options` name, with the files that they name read.
    pub(super) fn new(options: &ConnectOptions) -> Result<Self, ClientFailure> {
        let url = options.http_address()?;
        let tls = url.starts_with("https:").then(|| options.tls()).transpose()?;
        let authorization = options.credentials()?.map(|credentials| match credentials {
            Credentials::Token(token) => format!("Bearer {token}"),
            Credentials::Password(user, password) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
            }
        });
        let url = url.parse().map_err(|_| ClientFailure::usage(format!("{url} is not an HTTP URL")))?;
        Ok(Self { url, authorization, tls })
    }

    /// Sends an empty POST to `path` and writes the whole body of the response to `out`.
    pub(super) async fn post(&self, path: &str, out: &mut impl Write) -> Result<(), HttpFailure> {
        self.send(Method::POST, path, out).await
    }

    /// Returns the JSON at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Value, HttpFailure> {
        let mut body = Vec::new();
        self.send(Method::GET, path, &mut body).await?;
        serde_json::from_slice(&body).map_err(|error| HttpFailure::Connection(self.url.clone(), error.to_string()))
    }

    async fn send(&self, method: Method, path: &str, out: &mut impl Write) -> Result<(), HttpFailure> {
        let host = self.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let request = self.request(method, path)?;
        let port = self.url.port_u16().unwrap_or_default();
        let connected = self.in_time(TcpStream::connect((bare, port))).await?;
        let Some(tls) = &self.tls else { return self.exchange(connected, request, out).await };
        let name =
            ServerName::try_from(bare.to_owned()).map_err(|error| HttpFailure::Usage(format!("{bare}: {error}")))?;
        let stream = self.in_time(TlsConnector::from(tls.config()).connect(name, connected)).await?;
        self.exchange(stream, request, out).await
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Empty<Bytes>>, HttpFailure> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        let prefix = self.url.path().trim_end_matches('/');
        let target = Uri::try_from(format!("{prefix}{path}"));
        *request.uri_mut() = target.map_err(|error| HttpFailure::Usage(format!("{path}: {error}")))?;
        let host = self.url.authority().map(|authority| authority.to_string());
        let fields = [(header::HOST, host), (header::AUTHORIZATION, self.authorization.clone())];
        for (name, text) in fields {
            let Some(text) = text else { continue };
            let value = HeaderValue::try_from(text);
            let mut value =
                value.map_err(|_| HttpFailure::Usage(format!("the credentials cannot be sent as {name}")))?;
            value.set_sensitive(name == header::AUTHORIZATION);
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    /// Sends `request` over `stream`. Only this task drives the connection, which ends with it.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
        out: &mut impl Write,
    ) -> Result<(), HttpFailure> {
        let (mut sender, connection) = self.in_time(http1::handshake(TokioIo::new(stream))).await?;
        let answered = async {
            let response = self.in_time(sender.send_request(request)).await?;
            let (status, body) = (response.status(), response.into_body());
            match status {
                StatusCode::OK => self.write(body, out).await,
                status => Err(refusal(status, body).await),
            }
        };
        tokio::pin!(connection, answered);
        tokio::select! {
            answered = &mut answered => answered,
            // The server may have closed the connection after its response, which can still be read.
            _ = &mut connection => answered.await,
        }
    }

    async fn write(&self, mut body: Incoming, out: &mut impl Write) -> Result<(), HttpFailure> {
        while let Some(frame) = self.in_time(async { body.frame().await.transpose() }).await? {
            if let Ok(piece) = frame.into_data() {
                out.write_all(&piece).map_err(HttpFailure::Write)?;
            }
        }
        Ok(())
    }

    async fn in_time<T, E: std::fmt::Display>(
        &self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, HttpFailure> {
        let failed = |error: String| HttpFailure::Connection(self.url.clone(), error);
        match timeout(TIMEOUT, step).await {
            Ok(done) => done.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {TIMEOUT:?}"))),
        }
    }
}

/// Returns the exit code of a failure.
pub(super) fn exit_of(failure: &HttpFailure) -> Exit {
    match failure {
        HttpFailure::Rejected(_) => Exit::Rejected,
        HttpFailure::Usage(_) => Exit::Usage,
        HttpFailure::Client(failure) => failure.exit,
        HttpFailure::Store(
            CopyError::Store(StoreError::Io { .. })
            | CopyError::Backup { error: BackupError::Io(_), .. }
            | CopyError::Exists(_),
        ) => Exit::Failed,
        HttpFailure::Store(_) => Exit::Store,
        HttpFailure::Connection(..) | HttpFailure::Write(_) => Exit::Failed,
    }
}

/// Returns the failure for a refusal, with message and detail of its problem document if it has one.
async fn refusal(status: StatusCode, body: Incoming) -> HttpFailure {
    let body = timeout(TIMEOUT, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let texts = ["message", "detail"].into_iter().filter_map(|member| problem.get(member)?.as_str());
    HttpFailure::Rejected(texts.fold(status.to_string(), |message, text| format!("{message}: {text}")))
}
