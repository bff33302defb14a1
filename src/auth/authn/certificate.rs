//! The principal of a client certificate.
//!
//! TLS has already verified the signature. This module only chooses the name: the common name (CN) of the subject, as
//! on AWS. Without a CN, it is the first DNS name or URI of the subject's alternative names that can be a principal. So
//! a certificate with a CN is never identified by another name.
//!
//! A session may outlive its connection by days, so its login keeps the whole chain ([`VerifiedCertificate`]). The
//! chain is verified again, as a handshake would, after each reload of the listener's files.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::auth::Principal;

/// The value of [`VerifiedCertificate::verified`] for a generation that no files have.
const NEVER_VERIFIED: u64 = u64::MAX;

/// The identity of a client by its certificate.
#[derive(Clone, Debug)]
pub enum PeerCertificate {
    /// The client sent no certificate.
    None,
    /// The certificate was verified and names a principal.
    Certificate(Arc<VerifiedCertificate>),
    /// The certificate was verified, but its name cannot be a principal.
    Unusable,
}

/// The authorities and revocation lists of a listener.
pub trait CertificateTrust: Send + Sync {
    /// Returns a number that changes when the files were read again.
    fn generation(&self) -> u64;

    /// Returns true if a handshake would accept `chain`, the client's own certificate first.
    fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool;
}

/// A client certificate that a handshake has accepted.
pub struct VerifiedCertificate {
    /// The principal that it names.
    pub principal: Principal,
    /// The time since 1970 at which it expires.
    pub(in crate::auth) expires: Duration,
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<dyn CertificateTrust>,
    /// The generation of the files that last accepted or refused the chain, times two, plus one if they refused it.
    verified: AtomicU64,
}

impl PeerCertificate {
    /// Returns the identity for `chain`, the client's own certificate first, which `trust` has accepted at its
    /// `generation`. The chain is empty if the client sent none.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>], trust: Arc<dyn CertificateTrust>, generation: u64) -> Self {
        if chain.is_empty() {
            return Self::None;
        }
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        match VerifiedCertificate::new(chain, trust, generation << 1) {
            Some(certificate) => Self::Certificate(Arc::new(certificate)),
            None => Self::Unusable,
        }
    }
}

impl VerifiedCertificate {
    fn new(chain: Vec<CertificateDer<'static>>, trust: Arc<dyn CertificateTrust>, verified: u64) -> Option<Self> {
        let own = chain.first()?;
        let (principal, expires) = principal(own).zip(expiry(own))?;
        Some(Self { principal, expires, chain, trust, verified: AtomicU64::new(verified) })
    }

    /// Returns the certificate of a `chain` that an earlier run of the server accepted. `trust` verifies it when
    /// [`Self::is_trusted`] is called first. `None` if it names no principal.
    pub(in crate::auth) fn restored(
        chain: Vec<CertificateDer<'static>>,
        trust: Arc<dyn CertificateTrust>,
    ) -> Option<Self> {
        Self::new(chain, trust, NEVER_VERIFIED)
    }

    /// Returns the chain, the client's own certificate first.
    pub(in crate::auth) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Returns the bytes of the chain.
    #[must_use]
    pub fn chain_bytes(&self) -> usize {
        self.chain.iter().map(|certificate| certificate.len()).sum()
    }

    /// Returns true if a handshake with the files read last would accept the certificate, apart from its expiry. The
    /// result is kept until the files are read again.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        let (generation, verified) = (self.trust.generation(), self.verified.load(Ordering::Relaxed));
        if verified >> 1 == generation {
            return verified & 1 == 0;
        }
        let trusted = self.trust.trusts(&self.chain);
        self.verified.store(generation << 1 | u64::from(!trusted), Ordering::Relaxed);
        trusted
    }
}

impl fmt::Debug for VerifiedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCertificate").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Returns the first second since 1970 in which a DER certificate is no longer valid.
fn expiry(certificate: &[u8]) -> Option<Duration> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let last = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Some(Duration::from_secs(last.saturating_add(1)))
}

/// Returns the principal that a DER certificate names.
///
/// `None` if its common name is not 1–128 of `A-Z a-z 0-9 . : _ -` or there is more than one. Without a common name,
/// `None` if none of its alternative DNS names and URIs qualifies (`spiffe://…` does not, `urn:dev:mac:…` does).
#[must_use]
pub fn principal(certificate: &[u8]) -> Option<Principal> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => Principal::named(name.as_str().ok()?).ok(),
        (None, _) => alternative_name(&certificate),
        (Some(_), Some(_)) => None,
    }
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<Principal> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Principal::named(name).ok(),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// Files that accept every chain before their generation 2.
    #[derive(Default)]
    pub(crate) struct Files(pub(crate) AtomicU64);

    impl CertificateTrust for Files {
        fn generation(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn trusts(&self, _: &[CertificateDer<'_>]) -> bool {
            self.generation() < 2
        }
    }

    /// Returns the identity of a certificate of `name` that the files accepted in their generation 0.
    pub(crate) fn verified(name: &str, files: &Arc<Files>) -> PeerCertificate {
        let chain = [CertificateDer::from(certificate(Some(name), Vec::new()))];
        PeerCertificate::of(&chain, files.clone(), 0)
    }

    #[test]
    fn a_certificate_is_verified_again_after_each_reload() {
        let files = Arc::new(Files(AtomicU64::new(0)));
        let PeerCertificate::Certificate(lamp) = verified("lamp", &files) else { panic!("it has a name") };
        for (generation, trusted) in [(0, true), (1, true), (2, false), (3, false)] {
            files.0.store(generation, Ordering::Relaxed);
            assert_eq!([lamp.is_trusted(), lamp.is_trusted()], [trusted; 2], "{generation}");
        }
    }

    fn certificate(common_name: Option<&str>, alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "org");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    #[test]
    fn common_names_are_found_and_checked() {
        let (longest, long) = ("x".repeat(128), "x".repeat(129));
        for (name, valid) in [
            (Some("lamp-1.example:a_B"), true),
            (Some(longest.as_str()), true),
            (Some(long.as_str()), false),
            (Some(""), false),
            (Some("a b"), false),
            (Some("anonymous/x"), false),
            (Some("é"), false),
            (None, false),
        ] {
            let found = principal(&certificate(name, Vec::new()));
            let expected = name.filter(|_| valid);
            assert_eq!(found.as_ref().map(|principal| &**principal.name()), expected, "{name:?}");
        }
    }

    #[test]
    fn without_a_common_name_the_first_usable_alternative_counts() {
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        let mail = SanType::Rfc822Name("lamp@example.org".try_into().unwrap());
        // common name, alternatives, principal
        let table = [
            (None, vec![dns("lamp.example"), dns("other")], Some("lamp.example")),
            (None, vec![uri("urn:dev:mac:0024befffe804ff1"), dns("lamp")], Some("urn:dev:mac:0024befffe804ff1")),
            (None, vec![uri("spiffe://example/lamp"), dns("*.example"), dns("lamp")], Some("lamp")),
            (None, vec![mail, address, dns("lamp")], Some("lamp")),
            (None, vec![uri("spiffe://example/lamp")], None),
            (Some("lamp"), vec![dns("other")], Some("lamp")),
            (Some("a b"), vec![dns("other")], None),
        ];
        for (row, (name, alternatives, expected)) in table.into_iter().enumerate() {
            let found = principal(&certificate(name, alternatives));
            assert_eq!(found.as_ref().map(|principal| &**principal.name()), expected, "row {row}");
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic() {
        for sound in [certificate(Some("lamp"), Vec::new()), certificate(None, vec![dns("lamp"), uri("urn:x:y")])] {
            for end in 0..sound.len() {
                assert_eq!(principal(sound.get(..end).unwrap_or_default()), None, "cut at {end}");
            }
            for place in 0..sound.len() {
                for value in [0, 0x30, 0x7F, 0x80, 0x84, 0xFF] {
                    let mut wrong = sound.clone();
                    *wrong.get_mut(place).unwrap() = value;
                    let _ = principal(&wrong);
                }
            }
        }
    }
}
