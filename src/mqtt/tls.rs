//! TLS of one listener: its certificate, and who the client proves to be.
//!
//! TLS 1.2 and 1.3. A client certificate is asked for where the listener names an authority for them; on an anonymous
//! listener a client may come without one, elsewhere the handshake fails. Files are read once, when the listener is
//! bound.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
    server::TlsStream,
};

use crate::{auth::certificate::Proof, config::TlsConfig};

/// What clients may ask for by ALPN, those of AWS on its port for everything among them; one that asks for nothing is
/// taken too.
const PROTOCOLS: [&[u8]; 2] = [b"mqtt", b"x-amzn-mqtt-ca"];

/// Why a listener cannot have TLS.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {told}")]
pub struct TlsError {
    path: PathBuf,
    told: String,
}

/// Takes the server's side of handshakes.
#[derive(Clone)]
pub(super) struct Tls(TlsAcceptor);

impl Tls {
    /// Reads the files of `config`. With `optional` a client may come without a certificate.
    pub(super) fn open(config: &TlsConfig, optional: bool) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&config.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| failed(&config.key, &error))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&config.certificate, &error))?;
        let builder = match &config.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => builder.with_client_cert_verifier(verifier(path, provider, optional)?),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| failed(&config.certificate, &error))?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Self(TlsAcceptor::from(Arc::new(server))))
    }

    /// Goes through the handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Proof)> {
        let stream = self.0.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let proof = Proof::of(shown.map(AsRef::as_ref));
        Ok((stream, proof))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Verifies client certificates against the authorities in the file at `path`.
fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        roots.add(root).map_err(|error| failed(path, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| failed(path, &error))
}

/// The certificates in a PEM file: at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Err(error) => Err(failed(path, &error)),
        Ok(all) if all.is_empty() => Err(failed(path, &"there is no certificate in it")),
        Ok(all) => Ok(all),
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError { path: path.to_owned(), told: error.to_string() }
}
