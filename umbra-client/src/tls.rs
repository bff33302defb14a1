//! TLS towards the broker: the trusted certificate authorities, and the client certificate.

use std::{error::Error as StdError, fmt, sync::Arc};

use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// TLS settings of a client. The default trusts the system's certificate authorities.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// A certificate or key that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The PEM text with the certificate authorities holds no certificate.
    #[error("no certificate of an authority in PEM")]
    NoAuthority,
    /// A certificate of an authority is malformed.
    #[error("a certificate of an authority cannot be used")]
    Authority(#[source] Cause),
    /// The client's certificate is missing or malformed.
    #[error("the client certificate cannot be used")]
    Certificate(#[source] Cause),
    /// The client's key is missing or malformed.
    #[error("the key of the client certificate cannot be used")]
    Key(#[source] Cause),
    /// The key does not belong to the certificate.
    #[error("client certificate and key do not belong together")]
    Pair(#[source] Cause),
}

/// The error of a parser, or of rustls.
type Cause = Arc<dyn StdError + Send + Sync>;

impl Tls {
    /// Returns settings that trust the authorities in `ca` (PEM; `None`: those of the system) and present the client
    /// certificate in `identity`, a chain and its key (PEM).
    ///
    /// # Errors
    ///
    /// A certificate or key cannot be used.
    ///
    /// ```no_run
    /// use umbra_client::{Options, Tls};
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let (ca, chain, key) = (std::fs::read("ca.pem")?, std::fs::read("me.pem")?, std::fs::read("me.key")?);
    /// let tls = Tls::from_pem(Some(&ca), Some((&chain, &key)))?;
    /// let options = Options::new("mqtts://broker.example", "back-end-1")?.tls(tls);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_pem(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let roots = match ca {
            Some(pem) => authorities(pem)?,
            None => system_authorities(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(|error| TlsError::Certificate(Arc::new(error)))?;
                if chain.is_empty() {
                    return Err(TlsError::Certificate(Arc::from(Box::from("no certificate in PEM"))));
                }
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(Arc::new(error)))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                    error @ rustls::Error::InconsistentKeys(_) => TlsError::Pair(Arc::new(error)),
                    error => TlsError::Key(Arc::new(error)),
                })?
            }
        };
        Ok(Self { config: Arc::new(config) })
    }

    /// Returns the settings for rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::from_pem(None, None).expect("without PEM there is nothing to parse")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(|error| TlsError::Authority(Arc::new(error)))? {
        roots.add(certificate).map_err(|error| TlsError::Authority(Arc::new(error)))?;
    }
    if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(roots) }
}

/// Returns the readable certificate authorities of the system. Without any, every handshake fails with an error.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}
