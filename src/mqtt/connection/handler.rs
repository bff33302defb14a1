//! The handler of MQTT connections, independent of their transport.

use std::{sync::Arc, time::Instant};

use crate::{
    mqtt::{broker::Broker, connection::handshake},
    net::{ConnectionHandler, Peer, handler::Stream},
};

/// ALPN names that clients may request, among them AWS's name for MQTT on its shared port.
pub const PROTOCOLS: &[&[u8]] = &[b"mqtt", b"x-amzn-mqtt-ca"];

/// Serves MQTT.
#[derive(Clone)]
pub struct MqttHandler(Arc<Broker>);

impl MqttHandler {
    /// Creates a handler for clients of `broker`.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        Self(broker)
    }
}

impl ConnectionHandler for MqttHandler {
    fn serve<S: Stream>(self, stream: S, peer: Peer, deadline: Instant) -> impl Future<Output = ()> + Send {
        handshake::serve(stream, peer, self.0, deadline)
    }
}
