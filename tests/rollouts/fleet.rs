//! Simulated devices: one MQTT client answers the deltas of all of them, as each would.

use std::{
    net::{Shutdown, TcpStream},
    thread::{self, JoinHandle},
};

use serde_json::json;

use crate::harness::{
    client::Client,
    packet::Packet,
    server::Server,
    wire::{self, Publish, V5},
};

/// The devices of a fleet. Those that are stuck get their deltas, and report nothing.
pub(crate) struct Fleet {
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts a fleet on the connection of one client.
    pub(crate) fn start(server: &Server, is_stuck: impl Fn(&str) -> bool + Send + 'static) -> Self {
        Self::named("fleet", server, is_stuck)
    }

    /// Starts a fleet on the connection of the client with this id.
    pub(crate) fn named(client: &str, server: &Server, is_stuck: impl Fn(&str) -> bool + Send + 'static) -> Self {
        let mut client = Client::connect(server, V5, client);
        client.subscribe(&[("shadow/+/delta", 1)]);
        let socket = client.writer();
        let thread = thread::spawn(move || {
            // It ends with its connection, also by a kill of the server.
            while let Some(packet) = client.try_recv() {
                let Packet::Publish(message) = packet else { continue };
                if client.try_send(wire::ack(0x40, message.id)).is_err() {
                    return;
                }
                let device = message.topic.split('/').nth(1).unwrap();
                if message.payload.is_empty() || is_stuck(device) {
                    continue;
                }
                let update = json!({"state": {"reported": message.json()["state"]}}).to_string();
                let publish = Publish::new(&format!("shadow/{device}/update"), update).encode(V5, 0, 0);
                if client.try_send(publish).is_err() {
                    return;
                }
            }
        });
        Self { socket, thread: Some(thread) }
    }

    /// Waits until the devices have ended.
    pub(crate) fn end(mut self) {
        self.close();
    }

    fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.close();
    }
}
