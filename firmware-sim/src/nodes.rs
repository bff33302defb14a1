//! The comparison of the nodes of a cluster: at the end, each must have the shadows that the devices have read.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout_at};
use umbra_client::{Address, Client, ConnectOptions, DeviceId, Document, Version};

use crate::{oracle::Violation, report::Recorder};

/// The pause before a shadow is read again.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads all shadows at the node of `connect` and at each of `others`. A node may be behind, or just start: it has until `deadline`, or
/// some seconds.
///
/// # Errors
///
/// The connection options cannot be used.
pub(crate) async fn compare(
    connect: &ConnectOptions,
    others: &[Address],
    finals: &BTreeMap<DeviceId, Result<Document, String>>,
    deadline: Instant,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let deadline = deadline.max(Instant::now() + LEAST);
    for node in [connect.address()].iter().chain(others) {
        let mut options = connect.clone();
        options.url = Some(node.clone());
        let client = Client::start(options.options(&format!("reader-{:08x}", rand::random::<u32>()))?);
        let mut equal = 0;
        for (device, expected) in finals {
            let Ok(expected) = expected else { continue };
            match difference(&client, device, expected, deadline).await {
                None => equal += 1,
                Some(found) => {
                    let (device, node) = (device.clone(), node.to_string());
                    recorder.add_violation(Violation::NodeDiffers { device, node, version: expected.version, found });
                }
            }
        }
        recorder.log(&format!("{node} has {equal} of {} shadows as the devices have read them", finals.len()));
        client.close().await;
    }
    Ok(())
}

/// Returns what a node has instead of `expected`; `None` if it has that.
async fn difference(client: &Client, device: &DeviceId, expected: &Document, deadline: Instant) -> Option<String> {
    let shadow = client.shadow(device.clone());
    loop {
        let found = match timeout_at(deadline, shadow.get()).await {
            Ok(Ok(found)) if content(&found) == content(expected) => return None,
            Ok(Ok(found)) => format!("version {}: {}", found.version, Value::Object(found.state)),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            return Some(found);
        }
        sleep(PAUSE).await;
    }
}

/// Returns what a shadow has at every node; the time at which it was sent is another.
fn content(document: &Document) -> (&Map<String, Value>, &Value, Version, Option<&str>) {
    let Document { state, metadata, version, etag, .. } = document;
    (state, metadata, *version, etag.as_deref())
}

/// The least time for the comparison.
const LEAST: Duration = Duration::from_secs(10);
