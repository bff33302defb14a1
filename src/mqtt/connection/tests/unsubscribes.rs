//! UNSUBSCRIBE packets with many filters.

use super::*;

/// Returns an UNSUBSCRIBE with packet identifier 2 and `filters`.
fn unsubscribe(filters: &[String]) -> Vec<u8> {
    let mut body = vec![0, 2];
    for filter in filters {
        body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend(filter.as_bytes());
    }
    let (low, high) = (u8::try_from(body.len() % 128).unwrap(), u8::try_from(body.len() / 128).unwrap());
    assert!(high < 128, "two bytes have its length");
    [&[0xa2, low | 0x80, high], body.as_slice()].concat()
}

/// An UNSUBSCRIBE wrote the removal of a row for each of its filters, also for those that the session did not have. One
/// packet may have more than 300,000.
#[tokio::test]
async fn only_the_filters_that_a_session_has_are_removed_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let broker = recording_broker(directory.path());
    let mut client = connect(&broker, 0).await;
    client.write_all(b"\x82\x06\x00\x01\x00\x01t\x01").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    let before = broker.service.health().row_log_bytes;
    let mut filters: Vec<String> = (0..2_000).map(|number| format!("{number:04}")).collect();
    filters.insert(1_000, "t".to_owned());
    client.write_all(&unsubscribe(&filters)).await.unwrap();
    assert_eq!(read(&mut client).await, [0xb0, 2, 0, 2]);
    let written = broker.service.health().row_log_bytes - before;
    assert!((1..1_000).contains(&written), "{written} bytes for one row");
}
