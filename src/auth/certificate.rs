//! The name in a client certificate.
//!
//! Only what is needed for it is read: the way through DER to the subject, and in it the one common name. The signature
//! has been verified by then; this is not where that happens, and nothing here trusts the bytes to be well formed.

use crate::auth::Principal;

/// The most characters of a common name.
const NAME_MAX: usize = 128;

/// The principal that the common name in a DER certificate names.
///
/// `None` if there is none, or more than one, or it is not 1–128 of `A-Z a-z 0-9 . : _ -`: names end up in logs,
/// metadata and, later, rules, and none may look like another kind of principal (`anonymous/…`).
#[must_use]
pub fn principal(certificate: &[u8]) -> Option<Principal> {
    let name = common_name(certificate)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-');
    let fits = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(allowed);
    fits.then(|| Principal::certified(name))
}

/// RFC 5280: Certificate → tbsCertificate → [version], serialNumber, signature, issuer, validity, subject.
fn common_name(certificate: &[u8]) -> Option<&str> {
    let mut signed = Der(Der(certificate).expect(SEQUENCE)?);
    let mut fields = Der(signed.expect(SEQUENCE)?);
    fields.skip_if(VERSION)?;
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        fields.expect(tag)?;
    }
    let mut subject = Der(fields.expect(SEQUENCE)?);
    let mut found = None;
    while !subject.0.is_empty() {
        let mut set = Der(subject.expect(SET)?);
        while !set.0.is_empty() {
            let mut attribute = Der(set.expect(SEQUENCE)?);
            if attribute.expect(OBJECT_IDENTIFIER)? == COMMON_NAME {
                let (tag, text) = attribute.next()?;
                let text = TEXTS.contains(&tag).then(|| str::from_utf8(text).ok()).flatten()?;
                if found.replace(text).is_some() {
                    return None;
                }
            }
        }
    }
    found
}

/// The rest of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk::<2>()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            // The long form: so many bytes of length. No certificate needs more than three.
            let (bytes, after) =
                rest.split_at_checked(usize::from(first & 0x7F)).filter(|(bytes, _)| bytes.len() <= 3)?;
            length = bytes.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte));
            rest = after;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// Takes the next value, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Takes the next value if it has this tag.
    fn skip_if(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) { self.next().map(drop) } else { Some(()) }
    }
}

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The explicit tag 0.
const VERSION: u8 = 0xA0;
/// UTF8String, PrintableString, IA5String.
const TEXTS: [u8; 3] = [0x0C, 0x13, 0x16];
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let mut out = vec![tag];
        match u8::try_from(value.len()) {
            Ok(length) if length < 0x80 => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => {
                out.push(0x82);
                out.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
            }
        }
        out.extend(value);
        out
    }

    fn attribute(identifier: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        der(SET, &[&der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[identifier]), &der(tag, &[text])])])
    }

    /// A certificate as far as it is read.
    fn certificate(version: &[u8], subject: &[Vec<u8>]) -> Vec<u8> {
        let subject = der(SEQUENCE, &subject.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let other = der(SEQUENCE, &[]);
        let issuer = der(SEQUENCE, &[&attribute(COMMON_NAME, 0x0C, b"issuer")]);
        let fields = [version, &der(INTEGER, &[&[7]]), &other, &issuer, &other, &subject, &[0; 300]].concat();
        der(SEQUENCE, &[&der(SEQUENCE, &[&fields]), &other])
    }

    #[test]
    fn names_are_found_and_checked() {
        let organisation = attribute(&[0x55, 0x04, 0x0A], 0x0C, b"org");
        let named = |tag, text: &[u8]| attribute(COMMON_NAME, tag, text);
        let (longest, long) = ("x".repeat(128), "x".repeat(129));
        // subject, the name
        let table: [(&[Vec<u8>], Option<&str>); 12] = [
            (&[named(0x0C, b"lamp-1.example:a_B")], Some("lamp-1.example:a_B")),
            (&[organisation.clone(), named(0x13, b"lamp")], Some("lamp")),
            (&[named(0x16, longest.as_bytes()), organisation.clone()], Some(&longest)),
            (&[named(0x16, long.as_bytes())], None),
            (&[named(0x0C, b"")], None),
            (&[named(0x0C, b"a b")], None),
            (&[named(0x0C, b"anonymous/x")], None),
            (&[named(0x0C, "é".as_bytes())], None),
            (&[named(0x1E, b"\0a")], None),
            (&[named(0x0C, b"a"), named(0x0C, b"b")], None),
            (&[organisation], None),
            (&[], None),
        ];
        for (subject, expected) in table {
            for version in [&[][..], &der(VERSION, &[&der(INTEGER, &[&[2]])])] {
                let found = principal(&certificate(version, subject));
                assert_eq!(found.as_ref().map(|principal| &**principal.name()), expected, "{subject:02x?}");
            }
        }
    }

    #[test]
    fn no_bytes_are_trusted() {
        let sound = certificate(&[], &[attribute(COMMON_NAME, 0x0C, b"lamp")]);
        for end in 0..sound.len() {
            assert_eq!(principal(sound.get(..end).unwrap_or_default()), None, "cut at {end}");
        }
        for place in 0..sound.len() {
            for value in [0, 0x30, 0x7F, 0x80, 0x84, 0xFF] {
                let mut wrong = sound.clone();
                if let Some(byte) = wrong.get_mut(place) {
                    *byte = value;
                }
                let _ = principal(&wrong);
            }
        }
    }
}
