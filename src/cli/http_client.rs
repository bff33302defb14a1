//! One request to a running server over HTTP/1.1, with TLS where its URL says https. Knows nothing of the server but
//! its paths.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::password_file;
use crate::store::CopyError;

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// Where the server listens for HTTP.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Uri,
    /// The user to log in as.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file with the user's password in its first line.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A file with a token, in place of user and password.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
    /// For https: the authority of the server's certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments, or a file they name.
    #[error("{0}")]
    Usage(String),
    /// No connection, or it ended too early.
    #[error("{0}: {1}")]
    Connection(Uri, String),
    /// The server's answer.
    #[error("the server refuses: {0}")]
    Rejected(String),
    /// The file that is written.
    #[error("cannot write: {0}")]
    Write(io::Error),
    /// The store or backup.
    #[error(transparent)]
    Store(CopyError),
}

/// How long the server may take to be reached, to answer, and between two pieces of its answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a refusal that are shown.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

impl Server {
    /// Sends an empty POST to `path` and writes the body of the answer, all of it, to `out`.
    pub(super) async fn post(&self, path: &str, out: &mut impl Write) -> Result<(), Failure> {
        let https = match self.url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Failure::Usage(format!("{}: a URL begins with http:// or https://", self.url))),
        };
        let host = self.url.host().ok_or_else(|| Failure::Usage(format!("{}: there is no host in it", self.url)))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(if https { 443 } else { 80 });
        let request = self.request(path, host)?;
        let connected = self.in_time(TcpStream::connect((bare, port))).await?;
        if !https {
            return self.exchange(connected, request, out).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| Failure::Usage(format!("{bare}: {error}")))?;
        let stream = self.in_time(self.tls()?.connect(name, connected)).await?;
        self.exchange(stream, request, out).await
    }

    fn request(&self, path: &str, host: &str) -> Result<Request<Empty<Bytes>>, Failure> {
        let host = self.url.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::try_from(path).expect("the paths of this program are sound");
        let fields = [(header::HOST, Some(host)), (header::AUTHORIZATION, self.authorization()?)];
        for (name, text) in fields {
            let Some(text) = text else { continue };
            let value = HeaderValue::try_from(text);
            let mut value = value.map_err(|_| Failure::Usage(format!("this cannot be sent as {name}")))?;
            value.set_sensitive(name == header::AUTHORIZATION);
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    fn authorization(&self) -> Result<Option<String>, Failure> {
        if let Some(file) = &self.token_file {
            return Ok(Some(format!("Bearer {}", secret(file)?)));
        }
        let Some((user, file)) = self.user.as_ref().zip(self.password_file.as_ref()) else { return Ok(None) };
        let both = format!("{user}:{}", secret(file)?);
        Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(both))))
    }

    fn tls(&self) -> Result<TlsConnector, Failure> {
        let Some(file) = &self.ca else {
            return Err(Failure::Usage("https needs --ca, the authority of the server's certificate".to_owned()));
        };
        let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().map_err(|error| wrong(&error))?;
        Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// Sends `request` over `stream`. The connection is driven by this task alone, and ends with it.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
        out: &mut impl Write,
    ) -> Result<(), Failure> {
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
            // The server may have closed the connection after its answer, which is then there to be read.
            _ = &mut connection => answered.await,
        }
    }

    async fn write(&self, mut body: Incoming, out: &mut impl Write) -> Result<(), Failure> {
        while let Some(frame) = self.in_time(async { body.frame().await.transpose() }).await? {
            if let Ok(piece) = frame.into_data() {
                out.write_all(&piece).map_err(Failure::Write)?;
            }
        }
        Ok(())
    }

    async fn in_time<T, E: std::fmt::Display>(&self, step: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        let failed = |told: String| Failure::Connection(self.url.clone(), told);
        match timeout(TIMEOUT, step).await {
            Ok(done) => done.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {TIMEOUT:?}"))),
        }
    }
}

/// What the server says of a refusal: message and detail of its problem, if it is one.
async fn refusal(status: StatusCode, body: Incoming) -> Failure {
    let body = timeout(TIMEOUT, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = ["message", "detail"].into_iter().filter_map(|member| problem.get(member)?.as_str());
    Failure::Rejected(said.fold(status.to_string(), |told, said| format!("{told}: {said}")))
}

fn secret(file: &Path) -> Result<String, Failure> {
    password_file::read(file).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}
