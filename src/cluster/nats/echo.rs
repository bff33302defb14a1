//! Notices a connection that passes nothing on, though it still delivers.
//!
//! The client sends its pings only while nothing arrives, and the records of the log arrive all the time. So this node sends itself a
//! message now and then, and changes the server if it does not come back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{NatsLog, RETRY_PAUSE};

/// The interval of messages.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest time until one comes back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);

impl NatsLog {
    /// Watches the connection until it is closed for ever.
    pub(crate) async fn watch(&self) {
        let client = &self.shared.client;
        let subject = client.new_inbox();
        let Ok(mut echoes) = client.subscribe(subject.clone()).await else { return };
        for number in 0_u64.. {
            sleep(INTERVAL).await;
            self.connected().await;
            let message = Bytes::copy_from_slice(&number.to_be_bytes());
            let echoed = async {
                // A failure is seen by the missing echo.
                let _ = client.publish(subject.clone(), message.clone()).await;
                while let Some(echo) = echoes.next().await {
                    if echo.payload == message {
                        return true;
                    }
                }
                false
            };
            match timeout(ECHO_TIMEOUT, echoed).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    tracing::warn!("the NATS server passes nothing on; trying another");
                    let _ = timeout(RETRY_PAUSE, client.force_reconnect()).await;
                }
            }
        }
    }
}
