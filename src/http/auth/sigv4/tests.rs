//! Verification of requests that botocore signed (made by `tests/http/signatures.py`), and of changed ones.

#![expect(clippy::unwrap_used, reason = "a test")]

use axum::http::Request;

use crate::{auth::Principal, http::auth::sigv4::*};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2026-09-21T14:13:20Z
const SIGNED_AT: Timestamp = Timestamp(1_790_000_000);

/// Method, path and query, body, an additional header, and botocore's signature.
type Vector = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>, &'static str);

const VECTORS: &[Vector] = &[
    ("GET", "/things/lamp/shadow", "", None, "269c807bae61af66f699c972a83e2d2d36280a2926325a08702cf785ff629db1"),
    (
        "GET",
        "/things/lamp%3A1/shadow?name=with%3Acolon",
        "",
        None,
        "2c6c8a96ed149910bfc91cdd4c1b5d1f2bf9df00cc604cd777afb49e984759f2",
    ),
    (
        "POST",
        "/things/lamp/shadow?name=b",
        r#"{"state":{"desired":{"a":1}}}"#,
        Some(("x-spaces", "  a   b ")),
        "3de74376e2a81d39164ec9f6a308f7226e7938beab9a62fc7d639e232bf6cc16",
    ),
    (
        "GET",
        "/api/things/shadow/ListNamedShadowsForThing/lamp?pageSize=3&nextToken=a%24b",
        "",
        None,
        "aa97b82604bb0374fa27664a75986e2a674281ba7a17e046ff494bd85b873ba9",
    ),
];

fn keys() -> AccessKeys {
    AccessKeys::default().with("AKIDEXAMPLE", SECRET, Principal::named("back-end").unwrap())
}

fn parts(vector: usize) -> Parts {
    let (method, uri, _, header, signature) = VECTORS.get(vector).unwrap();
    let more = header.map_or("", |_| ";x-spaces");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260921/eu-central-1/iotdata/aws4_request, \
         SignedHeaders=host;x-amz-date{more}, Signature={signature}"
    );
    let mut request = Request::builder().method(*method).uri(*uri);
    request = request.header("host", "localhost:8080").header("x-amz-date", "20260921T141320Z");
    if let Some((name, value)) = header {
        request = request.header(*name, *value);
    }
    request.header("authorization", authorization).body(()).unwrap().into_parts().0
}

fn body(vector: usize) -> &'static [u8] {
    VECTORS.get(vector).unwrap().2.as_bytes()
}

fn verified(parts: &Parts, body: &[u8], now: Timestamp) -> Result<String, SignatureError> {
    let signed = Signed::of(parts).unwrap();
    signed.verify(body, &keys(), now).map(|key| key.principal.name().to_string())
}

#[test]
fn verifies_signatures_of_botocore() {
    for vector in 0..VECTORS.len() {
        let found = verified(&parts(vector), body(vector), SIGNED_AT);
        assert_eq!(found.as_deref(), Ok("back-end"), "{vector}");
    }
}

#[test]
fn refuses_changed_requests() {
    for vector in 0..VECTORS.len() {
        for changed in ["method", "path", "query", "date", "host", "body", "signature", "region"] {
            let mut parts = parts(vector);
            let mut payload = body(vector).to_vec();
            let authorization = parts.headers.get("authorization").unwrap().to_str().unwrap().to_owned();
            match changed {
                "method" => parts.method = axum::http::Method::DELETE,
                "path" => parts.uri = format!("/x{}", parts.uri).parse().unwrap(),
                "query" => parts.uri = format!("{}?name=other", parts.uri.path()).parse().unwrap(),
                "date" => _ = parts.headers.insert("x-amz-date", "20260921T141321Z".parse().unwrap()),
                "host" => _ = parts.headers.insert("host", "localhost:8081".parse().unwrap()),
                "body" => payload.push(b' '),
                "signature" => {
                    let flipped = authorization.replace("Signature=", "Signature=00");
                    parts.headers.insert("authorization", flipped.parse().unwrap());
                }
                _ => {
                    let moved = authorization.replace("eu-central-1", "eu-central-2");
                    parts.headers.insert("authorization", moved.parse().unwrap());
                }
            }
            assert_eq!(verified(&parts, &payload, SIGNED_AT), Err(SignatureError::Mismatch), "{vector}, {changed}");
        }
    }
}

#[test]
fn refuses_old_and_incomplete_signatures() {
    for (seconds, expected) in
        [(-300, Ok(())), (300, Ok(())), (301, Err(SignatureError::Expired)), (-301, Err(SignatureError::Expired))]
    {
        let now = Timestamp(SIGNED_AT.0.saturating_add_signed(seconds));
        assert_eq!(verified(&parts(0), b"", now).map(|_| ()), expected, "{seconds}");
    }
    let complete = parts(0).headers.get("authorization").unwrap().to_str().unwrap().to_owned();
    for (from, to, expected) in [
        ("AKIDEXAMPLE", "AKIDOTHER", SignatureError::UnknownKey),
        ("host;x-amz-date", "x-amz-date", SignatureError::Incomplete),
        ("host;x-amz-date", "host", SignatureError::Incomplete),
        ("host;x-amz-date", "host;x-amz-date;x-none", SignatureError::Incomplete),
        ("/aws4_request", "/other", SignatureError::Incomplete),
        ("20260921", "20260920", SignatureError::Incomplete),
        ("Signature=", "Signatur=", SignatureError::Incomplete),
        ("Signature=2", "Signature=x", SignatureError::Incomplete),
        ("Credential=", "Credential", SignatureError::Incomplete),
    ] {
        let mut parts = parts(0);
        parts.headers.insert("authorization", complete.replace(from, to).parse().unwrap());
        assert_eq!(verified(&parts, b"", SIGNED_AT), Err(expected), "{from} → {to}");
    }
    let mut other = parts(0);
    other.headers.insert("authorization", "Bearer x".parse().unwrap());
    assert_eq!(Signed::of(&other), None);
}

#[test]
fn parses_times() {
    for (text, expected) in [
        ("19700101T000000Z", Some(0)),
        ("20000229T235959Z", Some(951_868_799)),
        ("20260921T141320Z", Some(1_790_000_000)),
        ("20280229T000000Z", Some(1_835_395_200)),
        ("20260229T000000Z", None),
        ("21000229T000000Z", None),
        ("20260231T000000Z", None),
        ("20260431T000000Z", None),
        ("20260900T000000Z", None),
        ("20260921T141360Z", None),
        ("20260921T141320", None),
        ("20261321T141320Z", None),
        ("2026-9-21T141320Z", None),
        ("19691231T235959Z", None),
    ] {
        assert_eq!(time(text), expected.map(Timestamp), "{text}");
    }
}

/// Path and query of URLs signed by botocore for 900 seconds, the last two with a security token.
const PRESIGNED_URLS: [&str; 4] = [
    "/things/lamp/shadow?name=with%3Acolon&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260921%2Feu-central-1%2Fiotdata%2Faws4_request&X-Amz-Date=20260921T141320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=90af108e07a957c92aa1cad1a2be4168fea93216e53616276f016c55b3b1b073",
    "/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260921%2Feu-central-1%2Fiotdata%2Faws4_request&X-Amz-Date=20260921T141320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=fe4d24402ad2ad53f2a638c660fc3bcbb3e1cd0c6b1c8b5b128c113c565a8c53",
    "/things/lamp/shadow?name=with%3Acolon&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260921%2Feu-central-1%2Fiotdata%2Faws4_request&X-Amz-Date=20260921T141320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=tok%2Fen%2B%3D&X-Amz-Signature=f7ca767e1e800d91d1d7b401d00a3ec1fb7f6dfaed6765a2914c0153624a04de",
    "/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260921%2Feu-central-1%2Fiotdata%2Faws4_request&X-Amz-Date=20260921T141320Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=tok%2Fen%2B%3D&X-Amz-Signature=b0a612598a776ac7fb179ba1e72d2b289e1bf4df9142649983596e60fb392b02",
];

fn of_url(url: &str) -> Parts {
    Request::builder().uri(url).header("host", "localhost:8080").body(()).unwrap().into_parts().0
}

#[test]
fn presigned_urls_are_valid_for_their_stated_time() {
    for url in PRESIGNED_URLS {
        for (seconds, expected) in [
            (-301, Err(SignatureError::Expired)),
            (-300, Ok(())),
            (0, Ok(())),
            (900, Ok(())),
            (901, Err(SignatureError::Expired)),
        ] {
            let now = Timestamp(SIGNED_AT.0.saturating_add_signed(seconds));
            assert_eq!(verified(&of_url(url), b"", now).map(|_| ()), expected, "{seconds}: {url}");
        }
    }
    // AWS's clients add the token to the URL of a WebSocket after signing it.
    let later = format!("{}&X-Amz-Security-Token=later", PRESIGNED_URLS[1]);
    assert_eq!(verified(&of_url(&later), b"", SIGNED_AT).as_deref(), Ok("back-end"));
    assert_eq!(without_signature(&of_url(PRESIGNED_URLS[2])), "name=with%3Acolon");
    assert_eq!(without_signature(&of_url("/x?a=1&X-Amz-Date=2")), "a=1&X-Amz-Date=2", "not presigned");
}

#[test]
fn refuses_changed_urls() {
    for (from, to, expected) in [
        ("name=with%3Acolon", "name=other", SignatureError::Mismatch),
        ("/things/lamp/", "/things/lamp2/", SignatureError::Mismatch),
        ("X-Amz-Expires=900", "X-Amz-Expires=901", SignatureError::Mismatch),
        ("X-Amz-Expires=900", "X-Amz-Expires=604801", SignatureError::Incomplete),
        ("X-Amz-Expires=900", "X-Amz-Expires=0", SignatureError::Incomplete),
        ("X-Amz-Expires=900", "X-Amz-Expires=x", SignatureError::Incomplete),
        ("X-Amz-Expires=900", "X-Amz-Expires=900&X-Amz-Expires=900", SignatureError::Mismatch),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=", SignatureError::Incomplete),
        ("X-Amz-Signature=9", "X-Amz-Signature=8", SignatureError::Mismatch),
        ("&X-Amz-Signature=", "&X-Amz-Sig=", SignatureError::Incomplete),
        ("AKIDEXAMPLE", "AKIDOTHER", SignatureError::UnknownKey),
        ("name=with", "more=1&name=with", SignatureError::Mismatch),
    ] {
        let url = PRESIGNED_URLS[0].replace(from, to);
        assert_ne!(url, PRESIGNED_URLS[0], "{from}");
        let found = verified(&of_url(&url), b"", SIGNED_AT);
        assert_eq!(found, Err(expected), "{from} → {to}");
    }
    let mut elsewhere = of_url(PRESIGNED_URLS[0]);
    elsewhere.headers.insert("host", "localhost:8081".parse().unwrap());
    assert_eq!(verified(&elsewhere, b"", SIGNED_AT), Err(SignatureError::Mismatch));
}
