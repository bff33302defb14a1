//! The way into the broker for a stream, whatever it came over.

use std::{sync::Arc, time::Instant};

use crate::{
    mqtt::{broker::Broker, connection::handshake},
    net::{ConnectionHandler, Peer, handler::Stream},
};

/// What clients may ask for by ALPN; AWS's name for MQTT on its port for everything is among them.
pub const PROTOCOLS: &[&[u8]] = &[b"mqtt", b"x-amzn-mqtt-ca"];

/// Serves MQTT.
#[derive(Clone)]
pub struct MqttHandler(Arc<Broker>);

impl MqttHandler {
    /// The door of `broker`.
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
