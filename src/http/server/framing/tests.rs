//! Tests of the bytes that pass the stream, for all sizes of reads. `tests/transport/framing.rs` has those over hyper
//! and a socket.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::{collection, prelude::*, sample::Index};
use tokio::io::{AsyncRead, ReadBuf};

use crate::http::server::framing::FramingStream;

/// A stream that returns one piece per read, then ends.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Eof,
    /// No more input until the response.
    Pending,
    Fault(String),
}

/// Reads all of `pieces` with reads of at most `read_bytes`. Returns the bytes, the end, and the refusal of a head.
fn read(pieces: Vec<Vec<u8>>, read_bytes: usize) -> (Vec<u8>, End, Option<String>) {
    let mut stream = FramingStream::new(Pieces(pieces.into_iter().filter(|piece| !piece.is_empty()).collect()));
    let refusal = stream.refusal();
    let mut passed = Vec::new();
    let mut memory = vec![0; read_bytes];
    let end = loop {
        let mut buffer = ReadBuf::new(&mut memory);
        match Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Pending => break End::Pending,
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                break End::Fault(error.to_string());
            }
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => break End::Eof,
            Poll::Ready(Ok(())) => passed.extend_from_slice(buffer.filled()),
        }
    };
    (passed, end, refusal.0.get().map(ToString::to_string))
}

fn whole(bytes: &[u8]) -> (Vec<u8>, End, Option<String>) {
    read(vec![bytes.to_vec()], 16 * 1024)
}

const HEAD: &str = "POST /x HTTP/1.1\r\nHost: a\r\n";
const CHUNKED: &str = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn passes_chunked_bodies() {
    let long = |count| "x".repeat(count);
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n",
        "5;a\r\nhello\r\n0;b=c\r\n\r\n",
        "5 \t; a = b ; c=\"d;\\\"\\\\ \t\u{e9}\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\"\r\nhello\r\n0\r\n\r\n",
        "5;a ;b\r\nhello\r\n0\r\n\r\n",
        "0\r\nA: b\r\nC:\r\nD: \t\u{e9}\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        &format!("0;a={}\r\n\r\n", long(4000)),
        &format!("0\r\nA: {}\r\n\r\n", long(8000)),
    ] {
        let bytes = format!("{CHUNKED}{body}").into_bytes();
        assert_eq!(whole(&bytes), (bytes, End::Eof, None), "{body:?}");
    }
}

/// A malformed body passes up to the octet at fault, which the error describes.
#[test]
fn fails_at_the_fault_of_a_chunked_body() {
    let long = |count| "x".repeat(count);
    // body, bytes of it that pass, part of the error
    for (body, passes, fault) in [
        // sizes
        ("\r\n", 0, "expected a hexadecimal chunk size, found '\\r' after ''"),
        (" 5\r\nhello", 0, "found ' ' after ''"),
        ("0x5\r\nhello", 1, "found 'x' after '0'"),
        ("+5\r\nhello", 0, "found '+'"),
        ("-5\r\nhello", 0, "found '-'"),
        ("5_0\r\nhello", 1, "found '_' after '5'"),
        ("5\nhello\r\n", 1, "found '\\n' after '5'"),
        ("5\rhello\r\n", 2, "expected a line feed, found 'h' after '5\\r'"),
        ("5 \r\nhello", 2, "expected ';' after whitespace, found '\\r' after '5 '"),
        ("5\t5\r\nhello", 2, "found '5' after '5\\t'"),
        ("5\0\r\nhello", 1, "found '\\x00'"),
        ("00000000000000005\r\nhello", 16, "a size of at most 16 digits"),
        ("fffffffffffffffff\r\n", 16, "a size of at most 16 digits"),
        // extensions
        ("5;\r\nhello", 2, "expected the name of a chunk extension, found '\\r' after '5;'"),
        ("5;;a\r\nhello", 2, "found ';' after '5;'"),
        ("5;=a\r\nhello", 2, "found '='"),
        ("5;a=\r\nhello", 4, "expected a token or a quoted string, found '\\r' after '5;a='"),
        ("5;a \r\nhello", 4, "expected '=' or ';' after whitespace"),
        ("5;a=b \r\nhello", 6, "expected ';' after whitespace"),
        ("5;a=b c\r\nhello", 6, "found 'c'"),
        ("5;a b\r\nhello", 4, "found 'b'"),
        ("5;a=b=c\r\nhello", 5, "found '='"),
        ("5;a\nb\r\nhello", 3, "found '\\n'"),
        ("5;a\rb\r\nhello", 4, "found 'b' after '5;a\\r'"),
        ("5;a\0\r\nhello", 3, "found '\\x00'"),
        ("5;a\u{7f}\r\nhello", 3, "found '\\x7f'"),
        ("5;\u{e9}\r\nhello", 2, "found '\\xc3'"),
        ("5;a=\"b\r\nhello", 6, "expected text or a closing quote, found '\\r'"),
        ("5;a=\"b\\\r\nhello", 7, "found '\\r'"),
        ("5;a=\"b\"c\r\nhello", 7, "expected ';' or CR LF, found 'c'"),
        ("5;a=\"\x01\"\r\nhello", 5, "found '\\x01'"),
        (&format!("0;a={}\r\n\r\n", long(5000)), 4096, "a line of at most 4096 bytes"),
        (&format!("5{};a\r\nhello", " ".repeat(5000)), 4096, "a line of at most 4096 bytes"),
        // data
        ("5\r\nhello0\r\n\r\n", 8, "expected CR LF after the data of the chunk, found '0'"),
        ("5\r\nhello\n0\r\n\r\n", 8, "invalid chunk: expected CR LF"),
        ("5\r\nhello\rx", 9, "invalid chunk: expected CR LF"),
        // trailers
        ("0\r\n\n", 3, "expected the name of a field or CR LF, found '\\n'"),
        ("0\r\nA\r\n\r\n", 4, "invalid trailer field: expected a token and ':', found '\\r' after 'A'"),
        ("0\r\nA : b\r\n\r\n", 4, "found ' ' after 'A'"),
        ("0\r\n: b\r\n\r\n", 3, "found ':'"),
        ("0\r\nA: b\r\n c\r\n\r\n", 9, "found ' '"),
        ("0\r\nA: b\nC: d\r\n\r\n", 7, "expected text or CR LF, found '\\n' after 'A: b'"),
        ("0\r\nA: b\rC: d\r\n\r\n", 8, "expected a line feed, found 'C'"),
        ("0\r\nA: \0\r\n\r\n", 6, "found '\\x00'"),
        ("0\r\n\rx", 4, "expected a line feed, found 'x'"),
        ("5;a=0123456789012345678901234567890123456789\0\r\n", 44, "after '5;a=0123456789012345678901234567...'"),
    ] {
        let (passed, end, refused) = whole(format!("{CHUNKED}{body}").as_bytes());
        assert_eq!(passed.get(CHUNKED.len()..), body.as_bytes().get(..passes), "{body:?}: {end:?}");
        assert!(matches!(&end, End::Fault(found) if found.contains(fault)), "{body:?}: {end:?}");
        assert_eq!(refused, None);
    }
}

/// A refused head passes with its framing fields renamed. Nothing after it passes.
#[test]
fn checks_heads() {
    // head, head as it passes if changed, part of the refusal
    for (head, renamed, refusal) in [
        ("Content-Length: 0", None, ""),
        ("content-length:5", None, ""),
        ("TRANSFER-ENCODING: \t Chunked \t", None, ""),
        ("X-Transfer-Encoding: gzip\r\nX: content-length: +1", None, ""),
        ("Transfer-Encoding : gzip", None, ""), // hyper refuses it
        ("Content-Length: 1\r\n 2", None, ""),  // and this
        ("Transfer-Encoding: gzip", Some("x-refused-codings: gzip"), "Unsupported Transfer-Encoding 'gzip'"),
        ("Transfer-Encoding: gzip, chunked", Some("x-refused-codings: gzip, chunked"), "Unsupported"),
        ("Transfer-Encoding: chunked, chunked", Some("x-refused-codings: chunked, chunked"), "Unsupported"),
        ("Transfer-Encoding: chunked;a=b", Some("x-refused-codings: chunked;a=b"), "'chunked;a=b'"),
        ("Transfer-Encoding: \"chunked\"", Some("x-refused-codings: \"chunked\""), "Unsupported"),
        ("Transfer-Encoding: chunked,", Some("x-refused-codings: chunked,"), "Unsupported"),
        ("Transfer-Encoding:", Some("x-refused-codings:"), "Unsupported Transfer-Encoding ''"),
        (
            "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
            Some("x-refused-codings: chunked\r\nx-refused-codings: chunked"),
            "Unsupported",
        ),
        (
            "Content-Length: 4\nTransfer-Encoding: chunked",
            Some("x-extra-length: 4\nx-refused-codings: chunked"),
            "Content-Length beside Transfer-Encoding",
        ),
        (
            "Transfer-Encoding: gzip\r\nContent-Length: 4",
            Some("x-refused-codings: gzip\r\nx-extra-length: 4"),
            "Content-Length beside Transfer-Encoding",
        ),
        (
            "Content-Length: 4\r\nContent-Length: 4",
            Some("x-extra-length: 4\r\nx-extra-length: 4"),
            "More than one Content-Length",
        ),
        ("Content-Length: +5", Some("x-extra-length: +5"), "Invalid Content-Length '+5'"),
        ("Content-Length: -5", Some("x-extra-length: -5"), "Invalid"),
        ("Content-Length: 0x5", Some("x-extra-length: 0x5"), "Invalid"),
        ("Content-Length: 5, 5", Some("x-extra-length: 5, 5"), "Invalid Content-Length '5, 5'"),
        ("Content-Length: 5 5", Some("x-extra-length: 5 5"), "Invalid"),
        ("Content-Length:", Some("x-extra-length:"), "Invalid Content-Length ''"),
        ("Content-Length: 18446744073709551616", Some("x-extra-length: 18446744073709551616"), "Invalid"),
    ] {
        let bytes = format!("{HEAD}{head}\r\n\r\n");
        let (passed, end, refused) = whole(format!("{bytes}0\r\n\r\n").as_bytes());
        match renamed {
            None => {
                assert_eq!((passed, end), (format!("{bytes}0\r\n\r\n").into_bytes(), End::Eof), "{head}");
                assert_eq!(refused, None, "{head}");
            }
            Some(renamed) => {
                let renamed = format!("{HEAD}{renamed}\r\n\r\n");
                assert_eq!((String::from_utf8(passed).unwrap(), end), (renamed, End::Pending), "{head}");
                assert!(refused.as_deref().is_some_and(|found| found.contains(refusal)), "{head}: {refused:?}");
            }
        }
    }
    for head in [
        "POST /x HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", // RFC 9112 section 6.1: hyper answers 400
        "\x02\x05hello Transfer-Encoding: gzip\r\n\r\n",
    ] {
        assert_eq!(whole(head.as_bytes()), (head.as_bytes().to_vec(), End::Eof, None), "{head:?}");
    }
}

/// hyper answered these without a body, so that a client could not see what was wrong.
#[test]
fn a_head_that_is_too_large_is_replaced() {
    let long = format!("{HEAD}X: {}\r\nContent-Length: +1\r\n\r\n", "x".repeat(16 * 1024));
    for (head, refusal) in [
        (long.clone(), "exceed 16384 bytes"),
        (long.replace("\r\n\r\n", ""), "exceed 16384 bytes"),
        (format!("{HEAD}{}\r\n", "X: x\r\n".repeat(100)), "more than 64 header fields"),
    ] {
        let (passed, end, refused) = whole(head.as_bytes());
        let replacement = "GET / HTTP/1.1\r\nx-refused-codings:\r\n\r\n";
        assert_eq!((std::str::from_utf8(&passed).unwrap(), end), (replacement, End::Pending), "{refusal}");
        assert!(refused.as_deref().is_some_and(|found| found.contains(refusal)), "{refused:?}");
    }
}

/// An incomplete head does not pass, and is returned with the stream.
#[test]
fn keeps_partial_heads() {
    let requests = format!("{HEAD}Content-Length: 2\r\n\r\nab\r\n{HEAD}");
    let mut stream = FramingStream::new(Pieces([requests.clone().into_bytes()].into()));
    let mut memory = [0; 1024];
    let mut buffer = ReadBuf::new(&mut memory);
    assert!(Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer).is_ready());
    let (passed, kept) = requests.split_at(requests.len() - HEAD.len() - 2);
    assert_eq!(buffer.filled(), passed.as_bytes());
    assert_eq!(stream.into_parts().1, kept.as_bytes());
    // At the end of the stream it passes.
    assert_eq!(whole(requests.as_bytes()), (requests.into_bytes(), End::Eof, None));
}

/// A strategy for a part of a connection's input.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let fixed = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nyo",
        "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"\\\"\"\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n10;a\r\n0123456789abcdef\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;\0\r\nhello\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\nC: d\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
        "no HTTP\r\n\r\n",
        "GET / HTTP/1.1\r\nX: ",
    ];
    let long = (16_300_usize..16_400).prop_map(|count| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(count)));
    prop_oneof![
        9 => prop::sample::select(fixed.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => long.prop_map(String::into_bytes),
        1 => collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn is_independent_of_read_sizes(
        messages in collection::vec(message(), 0..6),
        cuts in collection::vec(any::<Index>(), 0..12),
        read_bytes in prop_oneof![Just(1_usize), 2_usize..40, Just(16 * 1024)],
    ) {
        let bytes = messages.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.iter().scan(0, |from, to| bytes.get(std::mem::replace(from, *to)..*to).map(<[u8]>::to_vec));
        prop_assert_eq!(read(pieces.collect(), read_bytes), whole(&bytes));
    }
}
