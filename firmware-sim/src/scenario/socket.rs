//! The way to the service: TCP or TLS.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use umbra_client::{Address, ConnectOptions, Credentials, Transport};

/// The address of the service, with the TLS settings and the login of all devices.
pub(crate) struct Endpoint {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    credentials: Option<Credentials>,
}

/// A socket, encrypted or not.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Endpoint {
    /// Reads the files named in `options`, once for all devices.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the address is that of a WebSocket.
    pub(crate) fn new(options: &ConnectOptions) -> anyhow::Result<Self> {
        let address = options.address();
        let tls = match address.transport() {
            Transport::Tcp => None,
            Transport::Tls => {
                let name = ServerName::try_from(address.host().to_owned()).context("the host of the broker")?;
                Some((TlsConnector::from(options.tls()?.config()), name))
            }
            _ => bail!("{address}: the devices of a scenario speak MQTT over TCP or TLS; use mqtt:// or mqtts://"),
        };
        Ok(Self { address, tls, credentials: options.credentials()? })
    }

    /// Returns the login.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// There is none within five seconds.
    pub(crate) async fn dial(self: &Arc<Self>) -> anyhow::Result<Box<dyn Socket>> {
        timeout(DIAL, self.open()).await.context("no connection within five seconds")?
    }

    async fn open(&self) -> anyhow::Result<Box<dyn Socket>> {
        let stream = TcpStream::connect((self.address.host(), self.address.port())).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
        })
    }
}

const DIAL: Duration = Duration::from_secs(5);
