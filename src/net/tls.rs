//! TLS of one listener: its certificate, and the verification of client certificates.
//!
//! TLS 1.2 and 1.3. A client certificate is requested if the listener names an authority for them. The files are read
//! when the listener is bound and at each [`Tls::reload`], all of them or none. A handshake uses the files that were
//! current when it began. After a reload, each connection verifies its certificate again ([`super::revalidating`]), and
//! so does the review of each session ([`CertificateTrust`]).

use std::{
    fmt, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, CertificateError, HandshakeKind, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

pub use crate::net::pem::PemError;
use crate::{
    auth::authn::certificate::{CertificateTrust, PeerCertificate},
    config::{ClientTlsConfig, TlsConfig},
    net::{HandshakeFailure, Peer, pem, revalidating::RevalidatingTlsStream},
    observability::logging::{LineLimit, Shortened, limited},
};

/// Days before the expiry of a server certificate from which on the log warns of it.
const EXPIRY_WARNING_DAYS: i64 = 14;
const DAY: i64 = 24 * 60 * 60;

/// The server side of the TLS handshakes of a listener.
pub struct Tls {
    config: TlsConfig,
    protocols: &'static [&'static [u8]],
    /// The files read last.
    files: watch::Sender<Arc<Files>>,
    /// Limits log lines about failed handshakes.
    failures: LineLimit,
}

/// A receiver that resolves at each reload.
pub(super) struct Reloads(watch::Receiver<Arc<Files>>);

/// The parsed files of a listener.
struct Files {
    /// The number of reloads before they were read.
    generation: u64,
    acceptor: TlsAcceptor,
    /// The verifier of client certificates; `None` if none are requested.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// True if there are revocation lists.
    revokes: bool,
    /// The earliest expiry in the server's chain, in seconds since 1970, and its subject.
    expiry: (i64, String),
}

impl Tls {
    /// Reads the files of `config`. `protocols` are the ALPN names that clients may request; clients without ALPN are
    /// accepted.
    ///
    /// # Errors
    ///
    /// Returns a [`PemError`] about the first unusable file.
    pub fn open(config: &TlsConfig, protocols: &'static [&'static [u8]]) -> Result<Self, PemError> {
        let files = Files::read(config, protocols, 0)?;
        let files = watch::Sender::new(Arc::new(files));
        Ok(Self { config: config.clone(), protocols, files, failures: LineLimit::default() })
    }

    /// Reads the files again. New connections use their content, and open connections whose certificate would not be
    /// accepted any more end.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Self::open`], and one if the file of revocation lists has become empty. Then nothing
    /// changes.
    pub fn reload(&self) -> Result<(), PemError> {
        let files = Files::read(&self.config, self.protocols, self.generation() + 1)?;
        if self.files.borrow().revokes && !files.revokes {
            // A truncated file would accept every revoked certificate.
            let path = self.config.clients.as_ref().and_then(|clients| clients.crl.as_deref()).unwrap_or(Path::new(""));
            let reason = "is empty, and had revocation lists before; to revoke nothing, use a list without entries";
            return Err(PemError::new(path, &reason));
        }
        self.files.send_replace(Arc::new(files));
        Ok(())
    }

    /// Returns the seconds until the first certificate of the server's chain expires; negative once it has.
    #[must_use]
    pub fn seconds_to_expiry(&self) -> i64 {
        self.files.borrow().expiry.0.saturating_sub(unix_now())
    }

    /// Logs a warning if a certificate of the server's chain has expired or soon does.
    pub fn warn_of_expiry(&self, listener: &str) {
        let files = self.files.borrow().clone();
        let (at, subject) = &files.expiry;
        if let Some(when) = expiry_warning(*at, unix_now()) {
            let file = self.config.certificate.display();
            tracing::warn!(listener, %file, subject, "the certificate of a listener {when}");
        }
    }

    /// Logs that the handshake with `peer` failed, within the limit of such lines, and returns the cause. A closed
    /// connection, as by health checks and port scanners, is logged at the level `debug`.
    pub(super) fn log_failure(&self, peer: &Peer, error: &io::Error) -> HandshakeFailure {
        let failure = HandshakeFailure::of(error);
        let (address, listener, cause, error) = (peer.address, &*peer.listener, failure.name(), error.to_string());
        let error = Shortened(&error);
        if failure == HandshakeFailure::Closed {
            tracing::debug!(%address, listener, cause, %error, "a TLS handshake failed");
        } else {
            limited!(info, self.failures, %address, listener, cause, %error, "a TLS handshake failed");
        }
        failure
    }

    /// Performs the handshake.
    ///
    /// # Errors
    ///
    /// Returns the errors of the stream and of the handshake.
    pub(super) async fn accept<S>(self: Arc<Self>, stream: S) -> io::Result<(RevalidatingTlsStream<S>, PeerCertificate)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let reloads = self.files.subscribe();
        let files = reloads.borrow().clone();
        let stream = files.acceptor.accept(stream).await?;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        // A resumed session has the chain verified when it began, which may have expired since.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            files.verify(chain).map_err(io::Error::other)?;
        }
        let chain_bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if chain_bytes > CHAIN_BYTES_MAX {
            let problem = format!("the client's certificates have {chain_bytes} bytes, at most {CHAIN_BYTES_MAX}");
            return Err(io::Error::other(problem));
        }
        let proof = PeerCertificate::of(chain, self.clone(), files.generation);
        Ok((RevalidatingTlsStream::new(stream, self, Reloads(reloads)), proof))
    }
}

impl CertificateTrust for Tls {
    fn generation(&self) -> u64 {
        self.files.borrow().generation
    }

    fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.files.borrow().clone().trusts(chain)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Reloads {
    /// Waits for the next reload.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // the listener and its files are gone: no reload will come
        }
    }
}

impl Files {
    fn read(config: &TlsConfig, protocols: &[&[u8]], generation: u64) -> Result<Self, PemError> {
        let failed = |error| PemError::new(&config.certificate, &error);
        let provider = Arc::new(ring::default_provider());
        let chain = pem::certificates(&config.certificate)?;
        let expiry = pem::expiry(&config.certificate, &chain)?;
        let key = pem::key(&config.key)?;
        let lists = config.clients.as_ref().and_then(|clients| clients.crl.as_deref());
        let lists = lists.map(pem::revocation_lists).transpose()?.unwrap_or_default();
        let revokes = !lists.is_empty();
        let clients = config.clients.as_ref();
        let clients = clients.map(|clients| verifier(clients, lists, provider.clone())).transpose()?;
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
        };
        // The cache of resumable sessions is part of it, so a reload empties the cache.
        let mut server = builder.with_single_cert(chain, key).map_err(failed)?;
        server.max_fragment_size = Some(config.record_bytes_max + RECORD_HEAD_BYTES);
        server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self { generation, acceptor: TlsAcceptor::from(Arc::new(server)), clients, revokes, expiry })
    }

    fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.verify(chain).is_ok()
    }

    /// Verifies the chain of a client, its own certificate first.
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        match (chain.split_first(), &self.clients) {
            (None, Some(clients)) if clients.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            (None, _) => Ok(()),
            (Some(_), None) => Err(CertificateError::UnknownIssuer.into()),
            (Some((own, others)), Some(clients)) => {
                clients.verify_client_cert(own, others, UnixTime::now()).map(|_verified| ())
            }
        }
    }
}

/// Logs warnings about expiring certificates of the named listeners at the interval `every`. Never returns.
pub async fn warn_of_expiries(tls: &[(String, Arc<Tls>)], every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        tls.iter().for_each(|(listener, tls)| tls.warn_of_expiry(listener));
    }
}

/// Returns a text about a certificate that expires at `at`, if it has expired or soon does; in seconds since 1970.
fn expiry_warning(at: i64, now: i64) -> Option<String> {
    let shown = |days: i64| if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
    match at.saturating_sub(now) {
        left if left > EXPIRY_WARNING_DAYS * DAY => None,
        left @ 0.. => Some(format!("expires in less than {}", shown(left / DAY + 1))),
        left => Some(format!("expired less than {} ago", shown(left.saturating_neg() / DAY + 1))),
    }
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Returns a verifier of client certificates according to `config`. With revocation `lists`, the revocation status of a
/// whole chain must be known.
fn verifier(
    config: &ClientTlsConfig,
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
    let failed = |path: &Path, error: &dyn fmt::Display| PemError::new(path, error);
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(&config.ca)? {
        roots.add(root).map_err(|error| failed(&config.ca, &error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if config.optional { builder.allow_unauthenticated() } else { builder };
    match &config.crl {
        Some(path) if !lists.is_empty() => builder.with_crls(lists).build().map_err(|error| failed(path, &error)),
        _ => builder.build().map_err(|error| failed(&config.ca, &error)),
    }
}

/// Most bytes of a client's certificates, which are kept for as long as its session.
const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a record header, which rustls counts as part of the record's size.
const RECORD_HEAD_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use tokio_rustls::{TlsConnector, rustls::ClientConfig};

    use super::*;

    /// A certificate authority with its files in its own directory.
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
            fs::set_permissions(self.file("key"), fs::Permissions::from_mode(0o600)).unwrap();
            self.revoke(&[]);
            let clients = ClientTlsConfig { ca: self.file("ca"), optional, crl: Some(self.file("crl")) };
            let [certificate, key] = ["certificate", "key"].map(|name| self.file(name));
            TlsConfig { certificate, key, clients: Some(clients), record_bytes_max: 16_384 }
        }
    }

    #[tokio::test]
    async fn a_reload_revalidates_client_certificates() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let [first, second] = [2, 3].map(|serial| [authority.issue(serial).0.der().clone()]);
        let forged = [stranger.issue(2).0.der().clone()];
        let tls = Tls::open(&authority.listener(false), &[b"mqtt"]).unwrap();
        let trusted = || [&first[..], &second, &forged, &[]].map(|chain| tls.trusts(chain));
        assert_eq!(trusted(), [true, true, false, false]);

        let mut reloads = Reloads(tls.files.subscribe());
        authority.revoke(&[3]);
        assert_eq!(trusted(), [true, true, false, false], "nothing was read again yet");
        tls.reload().unwrap();
        reloads.changed().await;
        assert_eq!(trusted(), [true, false, false, false]);

        // A set of files with an unusable one is rejected as a whole.
        authority.revoke(&[]);
        fs::write(authority.file("key"), "none").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.starts_with(&authority.file("key").display().to_string()), "{error}");
        assert_eq!(trusted(), [true, false, false, false]);
        assert!(!reloads.0.has_changed().unwrap(), "no connection is notified");

        let [key, certificate] = ["key", "certificate"].map(|name| stranger.file(name));
        stranger.listener(false);
        fs::copy(key, authority.file("key")).unwrap();
        fs::copy(certificate, authority.file("certificate")).unwrap();
        fs::copy(stranger.file("ca"), authority.file("ca")).unwrap();
        fs::copy(stranger.file("crl"), authority.file("crl")).unwrap();
        tls.reload().unwrap();
        assert_eq!(trusted(), [false, false, true, false], "the authority was taken away");
    }

    #[tokio::test]
    async fn an_empty_crl_file_revokes_nothing_until_it_has_a_list() {
        let authority = Authority::new();
        let client = [authority.issue(2).0.der().clone()];
        let config = authority.listener(false);
        fs::write(authority.file("crl"), " \n").unwrap();
        let tls = Tls::open(&config, &[]).unwrap();
        assert!(tls.trusts(&client));
        tls.reload().unwrap();
        authority.revoke(&[2]);
        tls.reload().unwrap();
        assert!(!tls.trusts(&client));
        // A truncated file would accept revoked certificates again.
        fs::write(authority.file("crl"), "").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("crl: is empty, and had revocation lists before"), "{error}");
        assert!(!tls.trusts(&client));
        fs::write(authority.file("crl"), "no list").unwrap();
        assert!(Tls::open(&config, &[]).is_err(), "neither empty nor a list");
    }

    #[test]
    fn warns_of_expiring_certificates() {
        for (left, expected) in [
            (15 * DAY, None),
            (14 * DAY + 1, None),
            (14 * DAY, Some("expires in less than 15 days")),
            (DAY - 1, Some("expires in less than 1 day")),
            (0, Some("expires in less than 1 day")),
            (-1, Some("expired less than 1 day ago")),
            (-3 * DAY, Some("expired less than 4 days ago")),
        ] {
            assert_eq!(expiry_warning(1_000_000_000 + left, 1_000_000_000).as_deref(), expected, "{left}");
        }
    }

    /// A server that had been started two months before the expiry logged no warning.
    #[tokio::test]
    async fn repeats_warnings_about_certificates() {
        let authority = Authority::new();
        let config = authority.listener(false);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2000, 1, 1);
        fs::write(authority.file("certificate"), params.signed_by(&key, &authority.issuer).unwrap().pem()).unwrap();
        fs::write(authority.file("key"), key.serialize_pem()).unwrap();
        let tls = [("devices".to_owned(), Arc::new(Tls::open(&config, &[]).unwrap()))];
        let (warned, mut warnings) = tokio::sync::mpsc::unbounded_channel();
        let writer = move || Lines(warned.clone());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        for _ in 0..3 {
            let warning = tokio::select! {
                () = warn_of_expiries(&tls, Duration::from_millis(1)) => None,
                warning = warnings.recv() => warning,
            };
            let warning = warning.unwrap();
            assert!(
                warning.contains("the certificate of a listener expired") && warning.contains("devices"),
                "{warning}"
            );
        }
    }

    /// Sends each written line.
    struct Lines(tokio::sync::mpsc::UnboundedSender<String>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A script of the dashboard was copied for each client over TLS.
    #[tokio::test]
    async fn supports_vectored_writes() {
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
    fn accepts_no_certificate_only_if_optional() {
        let authority = Authority::new();
        for (optional, expected) in [(true, true), (false, false)] {
            assert_eq!(Tls::open(&authority.listener(optional), &[]).unwrap().trusts(&[]), expected);
        }
        let without = TlsConfig { clients: None, ..authority.listener(false) };
        let tls = Tls::open(&without, &[]).unwrap();
        let chain = [authority.issue(2).0.der().clone()];
        assert_eq!((tls.trusts(&[]), tls.trusts(&chain)), (true, false));
    }
}
