//! A proxy between a node and a NATS server, which delays, cuts one way, or refuses.
//!
//! The unit tests of `src/cluster/nats` use this file too.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// The fault of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Bytes arrive later, in both directions.
    Delay(Duration),
    /// Nothing from the node arrives.
    NothingSent,
    /// Nothing from the server arrives.
    NothingReceived,
    /// Connections end, and new ones too.
    Refused,
}

/// The proxy; dropped, it ends with its connections.
pub struct Proxy {
    pub port: u16,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (fault, faults) = watch::channel(Fault::None);
        Self { port, fault, task: tokio::spawn(serve(listener, server, faults)) }
    }

    /// Sets the fault of present and future connections. A connection that was cut stays so.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, server: u16, faults: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    while let Ok((node, _)) = listener.accept().await {
        if *faults.borrow() == Fault::Refused {
            continue;
        }
        let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { continue };
        let ((from_node, to_node), (from_server, to_server)) = (node.into_split(), upstream.into_split());
        let (sent, received) = (faults.clone(), faults.clone());
        connections.spawn(async move {
            tokio::select! {
                () = copy(from_node, to_server, Fault::NothingSent, sent) => {}
                () = copy(from_server, to_node, Fault::NothingReceived, received) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Copies bytes until one side ends, or forever nothing once it was `cut`.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Fault, mut faults: watch::Receiver<Fault>) {
    let mut buffer = vec![0; 64 << 10];
    let mut is_cut = false;
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(count) if count > 0 => count,
                _ => return,
            },
            changed = faults.changed() => match changed {
                Ok(()) if *faults.borrow() == Fault::Refused => return,
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let fault = *faults.borrow();
        is_cut |= fault == cut;
        match fault {
            Fault::Refused => return,
            _ if is_cut => continue,
            Fault::Delay(delay) => sleep(delay).await,
            _ => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
