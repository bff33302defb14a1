//! From an accepted socket to a connection: CONNECT, who it is, which session it gets, CONNACK.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    auth::{
        Shown,
        login::{Credentials, Denied},
    },
    mqtt::{
        broker::Broker,
        catch_up::CatchUp,
        codec,
        connection::Connection,
        pace::Pace,
        packet::{ConnAck, Connect, Protocol, Reason, ServerPacket},
        permit, presence,
        sessions::{Refusal, SessionKey},
        transport::{Transport, Turn},
    },
    net::Peer,
};

/// Serves a client on `stream` from its CONNECT to its end. Its CONNECT must be whole by `deadline`.
///
/// What is needed for the time of the handshake alone is in a box of its own, so that a connected client does not pay
/// for it.
pub(super) async fn serve<S>(stream: S, peer: Peer, broker: Arc<Broker>, deadline: Instant)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(connection) = Box::pin(accept(stream, peer, broker, deadline)).await {
        connection.run().await;
    }
}

/// Takes the CONNECT. `None`: the connection is over.
pub(super) async fn accept<S>(
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
        connect = tokio::time::timeout_at(deadline.into(), read_connect(&mut transport, &broker)) => connect,
        _ = closing.wait_for(|closing| *closing) => return None,
    };
    match connect {
        Ok(Some(connect)) => establish(transport, peer, *connect, broker).await,
        nothing => {
            let in_time = nothing.is_ok();
            tracing::debug!(peer = %peer.address, in_time, "no CONNECT"); // [MQTT-3.1.4-1]
            broker.service.quotas().addresses.handshake_failed(peer.address.ip(), Instant::now());
            None
        }
    }
}

/// Reads a whole CONNECT; refuses what is none. `None`: the connection is over.
async fn read_connect<S>(transport: &mut Transport<S>, broker: &Broker) -> Option<Box<Connect>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match codec::split_frame(&mut transport.input, broker.limits.frame) {
            Ok(Some(frame)) => match codec::decode_connect(frame) {
                Ok(connect) => return Some(Box::new(connect)),
                Err(refusal) => {
                    refusal.answer(transport.output());
                    let _ = tokio::time::timeout(TAKE_OVER_TIMEOUT, transport.finish()).await;
                    return None;
                }
            },
            Ok(None) => match transport.turn(true).await {
                Ok(Turn::Input) => {}
                Ok(Turn::Flushed | Turn::End) | Err(_) => return None,
            },
            Err(_) => return None, // not MQTT, or too large: there is no version to answer in
        }
    }
}

/// Finds or makes the client's session and says CONNACK. `None`: it was refused.
async fn establish<S>(
    mut transport: Transport<S>,
    peer: Peer,
    mut connect: Connect,
    broker: Arc<Broker>,
) -> Option<Box<Connection<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Err((reason, text)) = check(&connect) {
        refuse(&mut transport, connect.protocol, reason, text).await;
        return None;
    }
    let assigned = connect.client_id.is_empty().then(|| broker.unique_client_id());
    let client_id = assigned.as_deref().unwrap_or(&connect.client_id);
    let client_id: Arc<str> = client_id.into();
    let shown = Shown {
        address: peer.address.ip(),
        listener: &peer.listener,
        proof: &peer.proof,
        credentials: Credentials::of(connect.username.as_deref(), connect.password.as_deref()),
    };
    let let_in = broker.authority.let_in_again(peer.signed_in.as_deref(), shown, &client_id).await;
    let (standing, access) = match let_in {
        Ok(both) => both,
        Err(denied) => {
            refuse(&mut transport, connect.protocol, reason_of(denied), &denied.to_string()).await;
            return None;
        }
    };
    let principal = standing.identity.principal.clone();
    if let Err(text) = permit::may_connect(&access, connect.will.as_ref()) {
        tracing::debug!(peer = %peer.address, principal = %principal.name(), text, "refused");
        refuse(&mut transport, connect.protocol, Reason::NOT_AUTHORIZED, text).await;
        return None;
    }
    let key = SessionKey { principal, client_id: client_id.clone() };

    let attached = broker.sessions.attach(&key, &standing, connect.clean_start, || broker.new_session(&access));
    let mut attached = match tokio::time::timeout(TAKE_OVER_TIMEOUT, attached).await {
        Ok(Ok(attached)) => attached,
        Ok(Err(Refusal::Quota(cause))) => {
            broker.service.quotas().count(cause);
            let text = format!("there are as many {} as there may be", cause.what());
            refuse(&mut transport, connect.protocol, Reason::QUOTA_EXCEEDED, &text).await;
            return None;
        }
        Ok(Err(Refusal::Closing)) => {
            refuse(&mut transport, connect.protocol, Reason::SERVER_UNAVAILABLE, "the server is ending").await;
            return None;
        }
        Err(_) => {
            refuse(
                &mut transport,
                connect.protocol,
                Reason::SERVER_BUSY,
                "the session's other connection does not end",
            )
            .await;
            return None;
        }
    };
    if let Some(replaced) = attached.replaced.take() {
        broker.dispose(replaced).await;
    }
    // Rights may have been read anew since the client was let in. From here on its session is in the table, and reviewed.
    let Some(access) = broker.authority.review(&standing) else {
        let ended = broker.sessions.release(&key, attached.client, 0, None);
        broker.dispose(ended).await;
        refuse(&mut transport, connect.protocol, Reason::NOT_AUTHORIZED, "this client is no longer let in").await;
        return None;
    };
    let device = presence::device_of(&access);
    attached.client.outbox.set_access(access);
    if let Some(device) = &device {
        broker.presence.opened(device, peer.address.ip(), connect.protocol, broker.service.now());
    }
    tracing::debug!(peer = %peer.address, client = %client_id, protocol = ?connect.protocol, present = attached.present, "connected");

    let keep_alive = broker.limits.keep_alive(connect.keep_alive);
    let connack = ConnAck {
        session_present: attached.present,
        reason: Reason::SUCCESS,
        reason_string: None,
        assigned_client_id: assigned,
        limits: Some(broker.limits.connack(connect.session_expiry, connect.keep_alive)),
    };
    codec::encode(connect.protocol, &ServerPacket::ConnAck(Box::new(connack)), transport.output());
    let now = Instant::now();
    attached.client.session.attach(&connect, now, transport.output());
    attached.client.outbox.attach();
    let pace = Pace::new(attached.client.filters.allowance().clone(), now);
    Some(Box::new(Connection {
        transport,
        key,
        address: peer.address.ip(),
        device,
        protocol: connect.protocol,
        catch_up: CatchUp::default(),
        client: attached.client,
        will: connect.will.take(),
        session_expiry: connect.session_expiry.min(broker.limits.session_expiry_max),
        silence_max: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500)), // [MQTT-3.1.2-22]
        kicked: attached.kicked,
        stalled: None,
        pace,
        until: standing.identity.until.map(|until| until.deadline),
        leaving: None,
        heard: now,
        broker,
    }))
}

/// How a client is told that it is not let in.
fn reason_of(denied: Denied) -> Reason {
    match denied {
        Denied::Bad => Reason::BAD_USER_NAME_OR_PASSWORD,
        Denied::Missing => Reason::NOT_AUTHORIZED,
        Denied::TooMany { .. } => Reason::QUOTA_EXCEEDED,
        Denied::Busy => Reason::SERVER_BUSY,
    }
}

fn check(connect: &Connect) -> Result<(), (Reason, &'static str)> {
    if connect.authentication_method.is_some() {
        return Err((Reason::BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")); // [MQTT-4.12.0-1]
    }
    if connect.protocol == Protocol::V4 && connect.client_id.is_empty() && !connect.clean_start {
        return Err((Reason::CLIENT_IDENTIFIER_NOT_VALID, "a session that is to be kept needs a client id")); // [MQTT-3.1.3-8]
    }
    Ok(())
}

async fn refuse<S>(transport: &mut Transport<S>, protocol: Protocol, reason: Reason, text: &str)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connack = ConnAck {
        session_present: false,
        reason,
        reason_string: Some(text.to_owned()),
        assigned_client_id: None,
        limits: None,
    };
    codec::encode(protocol, &ServerPacket::ConnAck(Box::new(connack)), transport.output());
    let _ = tokio::time::timeout(TAKE_OVER_TIMEOUT, transport.finish()).await;
}

/// How long a client waits for the end of the connection whose session it takes over.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
