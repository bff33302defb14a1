//! The name in a client certificate.
//!
//! The signature has been verified by then; this is not where that happens. What is accepted as a name is decided here.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::Principal;

/// The most characters of a common name.
const NAME_MAX: usize = 128;

/// The principal that the common name in a DER certificate names.
///
/// `None` if there is none, or more than one, or it is not 1–128 of `A-Z a-z 0-9 . : _ -`: names end up in logs,
/// metadata and, later, rules, and none may look like another kind of principal (`anonymous/…`).
#[must_use]
pub fn principal(certificate: &[u8]) -> Option<Principal> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else { return None };
    let name = name.as_str().ok()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-');
    let fits = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(allowed);
    fits.then(|| Principal::certified(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(common_name: Option<&str>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "org");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_found_and_checked() {
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
            let found = principal(&certificate(name));
            let expected = name.filter(|_| valid);
            assert_eq!(found.as_ref().map(|principal| &**principal.name()), expected, "{name:?}");
        }
    }

    #[test]
    fn no_bytes_are_trusted() {
        let sound = certificate(Some("lamp"));
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
