//! The CONNECT handshake: from an accepted socket through authentication and session to CONNACK.

use std::{
    borrow::Cow,
    mem,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    admission::{PrincipalQuota, QuotaKind, work},
    auth::{
        Access, AuthContext, LoginRequest,
        authn::login::{AuthenticationError, Credentials},
    },
    config::CONNECTIONS_TARGET,
    mqtt::{
        broker::{
            Broker,
            presence::{self, PresenceTable},
            rights,
            session_view::LastConnection,
            sessions::{Arrival, Attached, NotAttached, Refusal, SessionKey},
        },
        connection::{
            Connection, GRACEFUL_CLOSE_TIMEOUT, Intake,
            rate_limit::ConnectionRateLimit,
            transport::{Transport, TransportEvent},
        },
        protocol::{
            codec::{self, FrameLimits, bytes_max},
            packet::{ConnAck, Connect, Protocol, Reason, ServerPacket, Will},
        },
    },
    net::Peer,
    observability::logging::{Shortened, limited},
};

/// A client that is authenticated and has its session.
struct AcceptedClient {
    auth_context: Arc<AuthContext>,
    key: SessionKey,
    attached: Attached,
}

/// Reason and text sent to a client whose CONNECT is refused.
struct ConnectRefused(Reason, Cow<'static, str>);

/// Serves a client on `stream` from its CONNECT to its end. The whole CONNECT must arrive by `deadline`.
///
/// The state of the handshake alone is boxed, so that a connected client does not pay for it.
pub(in crate::mqtt) fn serve<S>(
    stream: S,
    peer: Peer,
    broker: Arc<Broker>,
    deadline: Instant,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = Box::pin(accept(stream, peer, broker, deadline));
    async {
        if let Some(connection) = handshake.await {
            connection.run().await;
        }
    }
}

/// Reads and answers the CONNECT. Returns `None` if the connection is over.
pub(in crate::mqtt) async fn accept<S>(
    stream: S,
    peer: Peer,
    broker: Arc<Broker>,
    deadline: Instant,
) -> Option<Box<Connection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut transport = Transport::new(stream);
    let mut closing = broker.closing();
    let connect = tokio::select! {
        connect = tokio::time::timeout_at(deadline.into(), read_connect(&mut transport, &peer, &broker)) => connect,
        _ = closing.wait_for(|closing| *closing) => return None,
    };
    match connect {
        Ok(Some(connect)) => establish(transport, peer, connect, broker).await,
        no_connect => {
            let in_time = no_connect.is_ok();
            tracing::debug!(peer = %peer.address, in_time, "no CONNECT"); // [MQTT-3.1.4-1]
            broker.service.quotas().addresses.handshake_failed(peer.address.ip(), Instant::now());
            None
        }
    }
}

/// Reads a whole CONNECT and refuses any other packet. Returns `None` if the connection is over.
async fn read_connect<S>(transport: &mut Transport<S>, peer: &Peer, broker: &Broker) -> Option<Box<Connect>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let packet_bytes_max = broker.limits.frame.packet_bytes_max.min(CONNECT_BYTES_MAX);
    loop {
        match codec::split_frame(&mut transport.input, FrameLimits { packet_bytes_max, dup_on_control: false }) {
            Ok(Some(frame)) => match codec::decode_connect(frame) {
                Ok(connect) => return Some(Box::new(connect)),
                Err(refusal) => {
                    refusal.answer(transport.output());
                    close_gracefully(transport, peer).await;
                    return None;
                }
            },
            Ok(None) => match transport.turn(true).await {
                Ok(TransportEvent::Input) => {}
                Ok(TransportEvent::End) => {
                    close_gracefully(transport, peer).await;
                    return None;
                }
                Ok(TransportEvent::Flushed) | Err(_) => return None,
            },
            Err(_) => return None, // not MQTT, or too large: there is no version to answer in
        }
    }
}

/// Authenticates the client and sends CONNACK. Returns `None` if it was refused.
async fn establish<S>(
    mut transport: Transport<S>,
    peer: Peer,
    connect: Box<Connect>,
    broker: Arc<Broker>,
) -> Option<Box<Connection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let assigned = connect.client_id.is_empty().then(|| broker.unique_client_id());
    let client_id = assigned.as_deref().unwrap_or(&connect.client_id).into();
    let client = match check_size(&connect, assigned.as_deref(), &broker) {
        Ok(()) => admit(&mut transport, &peer, &connect, client_id, &broker).await,
        Err(refused) => Err(refused),
    };
    match client {
        Ok(client) => Some(Box::new(open_connection(transport, &peer, *connect, assigned, client, broker))),
        Err(ConnectRefused(reason, text)) => {
            let (protocol, bytes_max) = (connect.protocol, bytes_max(connect.maximum_packet_size));
            drop(connect);
            refuse(&mut transport, &peer, (protocol, bytes_max), reason, &text).await;
            None
        }
    }
}

/// Authenticates the client, and finds or creates its session.
async fn admit<S>(
    transport: &mut Transport<S>,
    peer: &Peer,
    connect: &Connect,
    client_id: Arc<str>,
    broker: &Arc<Broker>,
) -> Result<AcceptedClient, ConnectRefused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    check_options(connect).inspect_err(|_| {
        broker.service.quotas().addresses.handshake_failed(peer.address.ip(), Instant::now());
    })?;
    let (auth_context, access) = tokio::select! {
        biased;
        authenticated = authenticate(peer, connect, &client_id, broker) => authenticated?,
        () = closed(transport) => return Err(ConnectRefused(Reason::UNSPECIFIED, "the client has closed its side".into())),
    };
    peer.preauth_permit.settle();
    let quota = broker.quota(&access);
    wait_for_work(&quota, broker).await?;
    let key = SessionKey { principal: auth_context.identity.principal.clone(), client_id };
    if let work @ 1.. = broker.work_of_move(&key)
        && let Some(wait) = quota.charge_work(work, Instant::now())
    {
        tokio::time::sleep(wait.min(WORK_WAIT_MAX)).await;
    }
    let arrival = Arrival {
        key: &key,
        auth_context: &auth_context,
        clean_start: connect.clean_start,
        quota: &quota,
        will_bytes: connect.will.as_ref().map_or(0, Will::bytes),
    };
    let mut attached = attach(&arrival, connect, peer.address.ip(), broker).await?;
    let marks = work::times(attached.client.filters.count(), work::FILTER_MARK);
    let _delays_its_packets = quota.charge_work(marks, Instant::now());
    let ended = mem::take(&mut attached.ended);
    // No connection owns the session yet, so it must be released here on a panic.
    let refusal = match catch_unwind(AssertUnwindSafe(|| broker.dispose_for(&key, ended))) {
        // After the CONNACK, a former session must not come back, whatever happens to the server.
        Ok(()) if attached.present || Box::pin(broker.recorder.removed(&key)).await => {
            return Ok(AcceptedClient { auth_context, key, attached });
        }
        Ok(()) => "the disk is too slow",
        Err(_panic) => "internal error",
    };
    drop(attached.announced);
    let closed = broker.sessions.release(&key, attached.client, 0, None, &broker.authority);
    broker.dispose(closed);
    Err(ConnectRefused(Reason::SERVER_UNAVAILABLE, refusal.into()))
}

/// Waits until the client closes its side without having sent anything after its CONNECT, as it may.
async fn closed<S>(transport: &mut Transport<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if transport.input.is_empty() && !matches!(transport.turn(true).await, Ok(TransportEvent::Input)) {
        return;
    }
    std::future::pending().await
}

/// Authenticates the client and checks its right to leave its will.
async fn authenticate(
    peer: &Peer,
    connect: &Connect,
    client_id: &Arc<str>,
    broker: &Broker,
) -> Result<(Arc<AuthContext>, Access), ConnectRefused> {
    let login = LoginRequest {
        address: peer.address.ip(),
        listener: &peer.listener,
        proof: &peer.proof,
        credentials: Credentials::of(connect.username.as_deref(), connect.password.as_deref()),
    };
    let authenticate = broker.authority.authenticate_again(peer.signed_in.as_deref(), login, client_id).await;
    let (auth_context, access) =
        authenticate.map_err(|denied| ConnectRefused(reason_of(denied), denied.to_string().into()))?;
    match rights::check_will(&access, connect.will.as_ref()) {
        Ok(()) => Ok((auth_context, access)),
        Err((reason, text)) => {
            let principal = auth_context.identity.principal.name();
            limited!(info,
                broker.refusals, address = %peer.address, %principal, client = %Shortened(client_id), reason = %Shortened(&text),
                "will refused"
            );
            Err(ConnectRefused(reason, text))
        }
    }
}

/// Charges the work of a CONNECT. Waits while the principal is above its rate.
async fn wait_for_work(quota: &PrincipalQuota, broker: &Broker) -> Result<(), ConnectRefused> {
    let Some(wait) = quota.charge_work(work::CONNECT, Instant::now()) else { return Ok(()) };
    broker.service.quotas().count_for(QuotaKind::PrincipalWork, quota.name());
    if wait > WORK_WAIT_MAX {
        return Err(ConnectRefused(Reason::QUOTA_EXCEEDED, QuotaKind::PrincipalWork.full().into()));
    }
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Returns the client's session, once no other connection has it.
async fn attach(
    arrival: &Arrival<'_>,
    connect: &Connect,
    address: IpAddr,
    broker: &Arc<Broker>,
) -> Result<Attached, ConnectRefused> {
    if broker.has_left() {
        return Err(ConnectRefused(Reason::USE_ANOTHER_SERVER, "this node has left its cluster".into()));
    }
    let make = |access: &Access| broker.new_session(access);
    let opening = broker.begin_opening(arrival.key);
    let attached = broker.sessions.attach(arrival, &broker.authority, make);
    let refusal = match tokio::time::timeout(TAKE_OVER_TIMEOUT, attached).await {
        Ok(Ok(mut attached)) => {
            if let Some(opening) = opening {
                let expiry = connect.session_expiry.min(broker.limits.session_expiry_max);
                let (key, auth_context, will) = (arrival.key, arrival.auth_context, connect.will.as_ref());
                let row = broker.opened_row(key, auth_context, &attached.client, expiry, will);
                // If it is refused, an edit that follows its opening in the log removes it.
                attached.client.is_recorded |= row.is_some();
                broker.publish_wills(&mut attached.ended);
                let access = attached.client.outbox.access();
                attached.announced = PresenceTable::announce(broker, &access, address, connect.protocol);
                if !Box::pin(opening.share(arrival, &mut attached, row)).await {
                    // Before the client can connect again, which comes later in the log then.
                    drop(attached.announced);
                    let (client, previous) = (attached.client, attached.previous);
                    let released = broker.sessions.put_back(key, client, previous, &broker.authority);
                    broker.dispose_for(key, attached.ended);
                    broker.dispose(released);
                    let text = "the log of the cluster, which knows the session, does not answer";
                    return Err(ConnectRefused(Reason::SERVER_UNAVAILABLE, text.into()));
                }
            }
            broker.router.narrow_session_again(attached.client.outbox.id()); // its rights may differ from before
            return Ok(attached);
        }
        Ok(Err(NotAttached { refusal, ended })) => {
            broker.dispose_for(arrival.key, ended);
            Ok(refusal)
        }
        Err(elapsed) => Err(elapsed),
    };
    match refusal {
        Ok(Refusal::Quota(cause)) => {
            broker.service.quotas().count_for(cause, arrival.quota.name());
            Err(ConnectRefused(Reason::QUOTA_EXCEEDED, cause.full().into()))
        }
        Ok(Refusal::NoRights) => {
            Err(ConnectRefused(Reason::NOT_AUTHORIZED, "the client has no rights any more".into()))
        }
        Ok(Refusal::Closing) => Err(ConnectRefused(Reason::SERVER_UNAVAILABLE, "the server is shutting down".into())),
        Err(_) => {
            Err(ConnectRefused(Reason::SERVER_BUSY, "the other connection of this session does not close".into()))
        }
    }
}

/// Sends CONNACK and builds the connection.
fn open_connection<S>(
    mut transport: Transport<S>,
    peer: &Peer,
    mut connect: Connect,
    assigned: Option<String>,
    client: AcceptedClient,
    broker: Arc<Broker>,
) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let AcceptedClient { auth_context, key, mut attached } = client;
    let session_expiry = connect.session_expiry.min(broker.limits.session_expiry_max);
    broker.record_connected(&key, &auth_context, &mut attached.client, session_expiry, connect.will.as_ref());
    attached.client.filters.view().set_connection(LastConnection {
        address: peer.address.ip(),
        protocol: connect.protocol,
        since_ms: broker.recorder.now().date_ms,
        session_expiry,
    });
    let device = presence::device_of(&attached.client.outbox.access());
    if let Some(device) = &device {
        let (address, now) = (peer.address.ip(), broker.service.now());
        broker.presence.opened(device, address, connect.protocol, now, attached.announced.as_mut());
    }
    drop(attached.announced.take());
    limited!(
        info, attached.client.filters.quota().connection_lines(),
        target: CONNECTIONS_TARGET, principal = %key.principal, client = %key.client_id,
        address = %peer.address.ip(), listener = &*peer.listener, protocol = connect.protocol.name(),
        resumed = attached.present, "connected"
    );
    let keep_alive = broker.limits.keep_alive(connect.keep_alive);
    let connack = accepted(&connect, attached.present, assigned, &broker);
    let bytes_max = bytes_max(connect.maximum_packet_size);
    codec::encode(connect.protocol, &connack, bytes_max, transport.output()).expect("its size was checked");
    let now = Instant::now();
    attached.client.session.attach(&connect, now, transport.output());
    broker.router.set_connected(attached.client.outbox.id(), attached.client.filters.iter(), true);
    attached.client.outbox.attach(attached.client.session.window());
    peer.preauth_permit.know(attached.client.filters.quota());
    let rate_limit = ConnectionRateLimit::new(attached.client.filters.quota().clone(), now);
    Connection {
        transport,
        key,
        address: peer.address.ip(),
        listener: peer.listener.clone(),
        device,
        protocol: connect.protocol,
        bridge: connect.bridge,
        frame: FrameLimits { dup_on_control: connect.is_3_1, ..broker.limits.frame },
        client: attached.client,
        will: connect.will.take(),
        session_expiry,
        silence_max: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500)), // [MQTT-3.1.2-22]
        disconnect_signal: attached.disconnect_signal,
        awaiting_permit: None,
        rate_limit,
        intake: Intake::new(peer.preauth_permit.clone()),
        auth_expires_at: auth_context.identity.until.map(|until| until.deadline),
        // Those of an earlier connection may be unacknowledged.
        is_delivering: true,
        draining_until: None,
        last_received: now,
        broker,
    }
}

/// Returns the CONNACK of an accepted client.
fn accepted(connect: &Connect, session_present: bool, assigned: Option<String>, broker: &Broker) -> ServerPacket {
    ServerPacket::ConnAck(Box::new(ConnAck {
        session_present,
        reason: Reason::SUCCESS,
        reason_string: None,
        assigned_client_id: assigned,
        limits: Some(broker.limits.connack(connect.session_expiry, connect.keep_alive)),
    }))
}

/// Refuses a client whose maximum packet size is below that of its CONNACK, before its session is touched.
fn check_size(connect: &Connect, assigned: Option<&str>, broker: &Broker) -> Result<(), ConnectRefused> {
    if connect.maximum_packet_size.is_none() {
        return Ok(());
    }
    let connack = accepted(connect, false, assigned.map(str::to_owned), broker);
    let fits = codec::encode(connect.protocol, &connack, bytes_max(connect.maximum_packet_size), &mut Vec::new());
    fits.map_err(|error| ConnectRefused(Reason::PACKET_TOO_LARGE, error.to_string().into()))
}

/// Returns the reason code of a failed authentication.
fn reason_of(denied: AuthenticationError) -> Reason {
    match denied {
        AuthenticationError::Bad | AuthenticationError::LongToken { .. } => Reason::BAD_USER_NAME_OR_PASSWORD,
        AuthenticationError::Banned => Reason::BANNED,
        AuthenticationError::Missing | AuthenticationError::NoRole => Reason::NOT_AUTHORIZED,
        AuthenticationError::TooMany { .. } => Reason::QUOTA_EXCEEDED,
        AuthenticationError::Busy => Reason::SERVER_BUSY,
    }
}

fn check_options(connect: &Connect) -> Result<(), ConnectRefused> {
    if connect.authentication_method.is_some() {
        let text = "enhanced authentication is not supported".into();
        return Err(ConnectRefused(Reason::BAD_AUTHENTICATION_METHOD, text)); // [MQTT-4.12.0-1]
    }
    Ok(())
}

async fn refuse<S>(
    transport: &mut Transport<S>,
    peer: &Peer,
    (protocol, bytes_max): (Protocol, usize),
    reason: Reason,
    text: &str,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connack = ConnAck {
        session_present: false,
        reason,
        reason_string: Some(text.to_owned()),
        assigned_client_id: None,
        limits: None,
    };
    let _ = codec::encode(protocol, &ServerPacket::ConnAck(Box::new(connack)), bytes_max, transport.output());
    close_gracefully(transport, peer).await;
}

/// Sends the remaining output and waits for the client to close its side; its further input is dropped.
async fn close_gracefully<S>(transport: &mut Transport<S>, peer: &Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    peer.preauth_permit.settle();
    let _ = tokio::time::timeout(GRACEFUL_CLOSE_TIMEOUT, transport.finish()).await;
}

/// Bytes of a CONNECT. Its will is kept for as long as the connection; this fits the longest user name and password.
const CONNECT_BYTES_MAX: usize = 128 * 1024;

/// Longest time that a CONNECT waits because its principal is above its rate of work.
const WORK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time that a client waits for the end of the connection whose session it takes over.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
