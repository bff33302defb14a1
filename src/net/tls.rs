//! TLS of one listener: its certificate, and who the client proves to be.
//!
//! TLS 1.2 and 1.3. A client certificate is asked for where the listener names an authority for them. The files are
//! read when the listener is bound and at each [`Tls::reload`], all of them or none; a handshake goes by those that
//! were there when it began, and a connection is looked at again after each reload ([`super::trusted`]).

use std::{fmt, io, path::Path, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        HandshakeKind, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, UnixTime},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

pub use crate::net::pem::PemError;
use crate::{
    auth::certificate::Proof,
    config::{ClientTlsConfig, TlsConfig},
    net::{pem, trusted::Trusted},
};

/// Takes the server's side of handshakes.
pub struct Tls {
    config: TlsConfig,
    protocols: &'static [&'static [u8]],
    /// What was read last.
    files: watch::Sender<Arc<Files>>,
}

/// Tells of reloads.
pub(super) struct Reloads(watch::Receiver<Arc<Files>>);

/// What the files of a listener come to.
struct Files {
    acceptor: TlsAcceptor,
    /// `None`: clients are not asked for a certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// Reads the files of `config`. `protocols` are what clients may ask for by ALPN; one that asks for nothing is
    /// taken.
    ///
    /// # Errors
    ///
    /// A [`PemError`] about the first file that will not do.
    pub fn open(config: &TlsConfig, protocols: &'static [&'static [u8]]) -> Result<Self, PemError> {
        let files = Files::read(config, protocols)?;
        Ok(Self { config: config.clone(), protocols, files: watch::Sender::new(Arc::new(files)) })
    }

    /// Reads the files again: new connections go by what is in them now, and those that are open whose certificate
    /// would not be taken any more end.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; everything stays as it was.
    pub fn reload(&self) -> Result<(), PemError> {
        let files = Files::read(&self.config, self.protocols)?;
        self.files.send_replace(Arc::new(files));
        Ok(())
    }

    /// Whether a client that shows `chain`, its own certificate first, would be taken now.
    #[must_use]
    pub fn still_trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.files.borrow().clone().trusts(chain)
    }

    /// Goes through the handshake.
    ///
    /// # Errors
    ///
    /// Those of the stream, and what is wrong with the handshake.
    pub(super) async fn accept<S>(self: Arc<Self>, stream: S) -> io::Result<(Trusted<S>, Proof)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let reloads = self.files.subscribe();
        let files = reloads.borrow().clone();
        let stream = files.acceptor.accept(stream).await?;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        // A resumed session has the chain that was verified when it began, which may have expired since.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) && !files.trusts(chain) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the resumed certificate is no longer good"));
        }
        let proof = Proof::of(chain.first().map(AsRef::as_ref));
        Ok((Trusted::new(stream, self, Reloads(reloads)), proof))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Reloads {
    /// Waits for a reload that was not seen yet.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // the listener and all it holds are gone: no reload will come
        }
    }
}

impl Files {
    fn read(config: &TlsConfig, protocols: &[&[u8]]) -> Result<Self, PemError> {
        let failed = |error| PemError::new(&config.certificate, &error);
        let provider = Arc::new(ring::default_provider());
        let chain = pem::certificates(&config.certificate)?;
        let key = pem::key(&config.key)?;
        let clients = config.clients.as_ref().map(|clients| verifier(clients, provider.clone())).transpose()?;
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        // Sessions to be resumed are kept with it, so after a reload none of before is.
        let mut server = builder.with_single_cert(chain, key).map_err(failed)?;
        server.max_fragment_size = Some(config.record_bytes_max + RECORD_HEAD_BYTES);
        server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), clients })
    }

    fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        match (chain.split_first(), &self.clients) {
            (None, None) => true,
            (None, Some(clients)) => !clients.client_auth_mandatory(),
            (Some(_), None) => false,
            (Some((own, others)), Some(clients)) => clients.verify_client_cert(own, others, UnixTime::now()).is_ok(),
        }
    }
}

/// Verifies client certificates as `config` says. With lists of what is revoked, all of a chain must be known not to
/// be.
fn verifier(config: &ClientTlsConfig, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
    let failed = |path: &Path, error: &dyn fmt::Display| PemError::new(path, error);
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(&config.ca)? {
        roots.add(root).map_err(|error| failed(&config.ca, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if config.optional { builder.allow_unauthenticated() } else { builder };
    match &config.crl {
        None => builder.build().map_err(|error| failed(&config.ca, &error)),
        Some(path) => {
            let lists = pem::revocation_lists(path)?;
            builder.with_crls(lists).build().map_err(|error| failed(path, &error))
        }
    }
}

/// Bytes before the contents of a record, which rustls counts among its size.
const RECORD_HEAD_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{fs, path::PathBuf};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use tokio_rustls::{TlsConnector, rustls::ClientConfig};

    use super::*;

    /// An authority, its files in a directory of their own.
    struct Authority {
        directory: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let (key, directory) = (KeyPair::generate().unwrap(), tempfile::tempdir().unwrap());
            fs::write(directory.path().join("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
            Self { directory, issuer: Issuer::new(params, key) }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn issue(&self, serial: u64) -> (rcgen::Certificate, KeyPair) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.serial_number = Some(SerialNumber::from(serial));
            (params.signed_by(&key, &self.issuer).unwrap(), key)
        }

        fn revoke(&self, serials: &[u64]) {
            let revoked = |serial: &u64| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2000, 1, 1),
                reason_code: None,
                invalidity_date: None,
            };
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2000, 1, 1),
                next_update: date_time_ymd(4000, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: serials.iter().map(revoked).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            fs::write(self.file("crl"), list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        }

        fn listener(&self, optional: bool) -> TlsConfig {
            let (certificate, key) = self.issue(1);
            fs::write(self.file("certificate"), certificate.pem()).unwrap();
            fs::write(self.file("key"), key.serialize_pem()).unwrap();
            self.revoke(&[]);
            let clients = ClientTlsConfig { ca: self.file("ca"), optional, crl: Some(self.file("crl")) };
            let [certificate, key] = ["certificate", "key"].map(|name| self.file(name));
            TlsConfig { certificate, key, clients: Some(clients), record_bytes_max: 16_384 }
        }
    }

    #[tokio::test]
    async fn whom_a_reload_leaves_trusted() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let [first, second] = [2, 3].map(|serial| [authority.issue(serial).0.der().clone()]);
        let forged = [stranger.issue(2).0.der().clone()];
        let tls = Tls::open(&authority.listener(false), &[b"mqtt"]).unwrap();
        let trusted = || [&first[..], &second, &forged, &[]].map(|chain| tls.still_trusts(chain));
        assert_eq!(trusted(), [true, true, false, false]);

        let mut reloads = Reloads(tls.files.subscribe());
        authority.revoke(&[3]);
        assert_eq!(trusted(), [true, true, false, false], "nothing was read again yet");
        tls.reload().unwrap();
        reloads.changed().await;
        assert_eq!(trusted(), [true, false, false, false]);

        // Nothing of a set is taken of which one file will not do.
        authority.revoke(&[]);
        fs::write(authority.file("key"), "none").unwrap();
        let told = tls.reload().unwrap_err().to_string();
        assert!(told.starts_with(&authority.file("key").display().to_string()), "{told}");
        assert_eq!(trusted(), [true, false, false, false]);
        assert!(!reloads.0.has_changed().unwrap(), "nobody is told");

        let [key, certificate] = ["key", "certificate"].map(|name| stranger.file(name));
        stranger.listener(false);
        fs::copy(key, authority.file("key")).unwrap();
        fs::copy(certificate, authority.file("certificate")).unwrap();
        fs::copy(stranger.file("ca"), authority.file("ca")).unwrap();
        fs::copy(stranger.file("crl"), authority.file("crl")).unwrap();
        tls.reload().unwrap();
        assert_eq!(trusted(), [false, false, true, false], "the authority was taken away");
    }

    /// Each client of a page's script over TLS had a copy of it made.
    #[tokio::test]
    async fn what_is_sent_in_parts_is_taken_in_parts() {
        let authority = Authority::new();
        let tls = Arc::new(Tls::open(&authority.listener(true), &[]).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(pem::certificates(&authority.file("ca")).unwrap());
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connecting = TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), near);
        let (connected, accepted) = tokio::join!(connecting, tls.accept(far));
        connected.unwrap();
        assert!(accepted.unwrap().0.is_write_vectored());
    }

    #[test]
    fn whether_no_certificate_will_do() {
        let authority = Authority::new();
        for (optional, expected) in [(true, true), (false, false)] {
            assert_eq!(Tls::open(&authority.listener(optional), &[]).unwrap().still_trusts(&[]), expected);
        }
        let without = TlsConfig { clients: None, ..authority.listener(false) };
        let tls = Tls::open(&without, &[]).unwrap();
        let chain = [authority.issue(2).0.der().clone()];
        assert_eq!((tls.still_trusts(&[]), tls.still_trusts(&chain)), (true, false));
    }
}
