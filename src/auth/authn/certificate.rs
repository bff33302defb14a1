//! The principal of a client certificate.
//!
//! TLS has already verified the signature. This module only chooses the name: the common name (CN) of the subject, as
//! on AWS. Without a CN, it is the first DNS name or URI of the subject's alternative names that can be a principal. So
//! a certificate with a CN is never identified by another name.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::auth::Principal;

/// The identity of a client by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCertificate {
    /// The client sent no certificate.
    None,
    /// The certificate was verified and names this principal.
    Certificate(Principal),
    /// The certificate was verified, but its name cannot be a principal.
    Unusable,
}

impl PeerCertificate {
    /// Returns the identity for the verified DER certificate, if the client sent one.
    #[must_use]
    pub fn of(shown: Option<&[u8]>) -> Self {
        match shown {
            None => Self::None,
            Some(certificate) => principal(certificate).map_or(Self::Unusable, Self::Certificate),
        }
    }
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

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
