//! The PROXY protocol, version 2: a header in which a load balancer names the client of a connection.
//!
//! Follows the specification of HAProxy (`proxy-protocol.txt`, section 2.2). Exactly the header is read; the rest of
//! the stream is the client's. Values after the addresses are ignored.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of every header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Maximum number of bytes after the first 16. Addresses take 36 or 216; the rest is for values that load balancers
/// add.
const REST_BYTES_MAX: u16 = 2048;

/// The reason for a missing or unusable header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The stream ended or failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The stream does not begin with the signature.
    #[error("no PROXY header of version 2")]
    Absent,
    /// The version, command, family or transport is not supported.
    #[error("a PROXY header of unknown {0} {1:#04x}")]
    Unknown(&'static str, u8),
    /// The header is too long, or too short for its addresses.
    #[error("a PROXY header with {0} bytes after the first 16")]
    Length(u16),
}

/// Reads a header. Returns `None` for a connection of the load balancer itself, or of a client without an internet
/// address.
///
/// # Errors
///
/// Returns a [`ProxyError`] at the first byte that cannot belong to a header: its sender may be waiting for an answer.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    for expected in SIGNATURE {
        if stream.read_u8().await? != expected {
            return Err(ProxyError::Absent);
        }
    }
    let version_and_command = stream.read_u8().await?;
    let family_and_transport = stream.read_u8().await?;
    let length = stream.read_u16().await?;
    if length > REST_BYTES_MAX {
        return Err(ProxyError::Length(length));
    }
    let mut rest = vec![0; usize::from(length)];
    stream.read_exact(&mut rest).await?;
    match version_and_command {
        0x20 => Ok(None), // LOCAL: the addresses must be ignored
        0x21 => source(family_and_transport, &rest, length),
        other if other >> 4 == 2 => Err(ProxyError::Unknown("command", other & 0x0F)),
        other => Err(ProxyError::Unknown("version", other >> 4)),
    }
}

/// Parses the source address: `rest` has it first, then the destination address, then both ports.
fn source(family_and_transport: u8, rest: &[u8], length: u16) -> Result<Option<SocketAddr>, ProxyError> {
    let (address, port) = match family_and_transport {
        0x11 => {
            let Some([a, b, c, d, _, _, _, _, high, low, _, _]) = rest.first_chunk() else {
                return Err(ProxyError::Length(length));
            };
            (IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)), [*high, *low])
        }
        0x21 => {
            let (Some(address), Some([.., high, low, _, _])) = (rest.first_chunk::<16>(), rest.first_chunk::<36>())
            else {
                return Err(ProxyError::Length(length));
            };
            (IpAddr::V6(Ipv6Addr::from(*address)), [*high, *low])
        }
        0x00 | 0x31 => return Ok(None), // unspecified, or a Unix socket
        other => return Err(ProxyError::Unknown("family or transport", other)),
    };
    Ok(Some(SocketAddr::new(address.to_canonical(), u16::from_be_bytes(port))))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x07, 0x5B];
    const V6: [u8; 36] = {
        let mut bytes = [0; 36];
        (bytes[0], bytes[1], bytes[15]) = (0x20, 0x01, 9);
        (bytes[31], bytes[32], bytes[33], bytes[34], bytes[35]) = (1, 0xFF, 0xFE, 0x07, 0x5B);
        bytes
    };

    fn header(version_and_command: u8, family_and_transport: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family_and_transport], &length, rest].concat()
    }

    /// Returns the outcome for `bytes`. Asserts that exactly the tail is left unread.
    async fn outcome(bytes: &[u8]) -> String {
        let stream = [bytes, b"tail"].concat();
        let mut left = stream.as_slice();
        match read(&mut left).await {
            Ok(address) => {
                assert_eq!(left, b"tail", "no byte too many, none too few");
                address.map_or_else(|| "none".to_owned(), |address| address.to_string())
            }
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn parses_headers() {
        let with_values = [&V4[..], &[0x20; 100]].concat();
        for (bytes, expected) in [
            (header(0x21, 0x11, &V4), "192.0.2.7:4660"),
            (header(0x21, 0x11, &with_values), "192.0.2.7:4660"),
            (header(0x21, 0x21, &V6), "[2001::9]:65534"),
            (header(0x20, 0x11, &V4), "none"),
            (header(0x20, 0xFF, &[]), "none"),
            (header(0x21, 0x00, &[]), "none"),
            (header(0x21, 0x31, &[0; 216]), "none"),
            (header(0x20, 0x00, &[7; 2048]), "none"),
            (header(0x20, 0x00, &[7; 2049]), "a PROXY header with 2049 bytes after the first 16"),
            (header(0x21, 0x11, &V4[..11]), "a PROXY header with 11 bytes after the first 16"),
            (header(0x21, 0x21, &V4), "a PROXY header with 12 bytes after the first 16"),
            (header(0x21, 0x12, &V4), "a PROXY header of unknown family or transport 0x12"),
            (header(0x22, 0x11, &V4), "a PROXY header of unknown command 0x02"),
            (header(0x31, 0x11, &V4), "a PROXY header of unknown version 0x03"),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), "no PROXY header of version 2"),
            (b"\x10\x0c\x00\x04MQTT".to_vec(), "no PROXY header of version 2"),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), "no PROXY header of version 2"),
            (Vec::new(), "no PROXY header of version 2"),
        ] {
            assert_eq!(outcome(&bytes).await, expected, "{bytes:02x?}");
        }
    }

    /// A stream without a header is refused at its first wrong byte.
    #[tokio::test]
    async fn refuses_a_stream_at_its_first_wrong_byte() {
        let (mut near, mut far) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"\r\nX").await.unwrap();
        assert!(matches!(read(&mut near).await, Err(ProxyError::Absent)));
    }

    #[tokio::test]
    async fn fails_on_a_truncated_header() {
        let whole = header(0x21, 0x21, &V6);
        for end in 0..whole.len() {
            let mut part = whole.get(..end).unwrap();
            assert!(matches!(read(&mut part).await, Err(ProxyError::Stream(_))), "cut at {end}");
        }
    }
}
