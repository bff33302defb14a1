//! The sockets of the listeners. Some of a node of a cluster are bound before it serves ([`EarlyListeners`]).

use std::{net::SocketAddr, sync::Arc};

use crate::{
    config::{Config, ListenerConfig},
    net::{Listener, Tls, inherited::InheritedSockets},
    server::{ServeError, seeding::EarlyListeners},
};

/// A listener and its address.
pub(super) type Bound = (Listener, SocketAddr);

/// Binds the listener at a place of the configuration.
pub(super) fn bind(
    config: &Config,
    index: usize,
    (settings, tls): (&ListenerConfig, Option<Arc<Tls>>),
    inherited: &mut InheritedSockets,
) -> Result<Bound, ServeError> {
    let failed = |error| {
        let advice = config.written.bind_advice(index).to_owned();
        ServeError::Bind { name: settings.name.clone(), address: settings.bind, advice, error }
    };
    let listener = Listener::bind(settings.clone(), tls, inherited).map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok((listener, address))
}

/// Binds the listeners that are not among the `early` ones, for which the result has `None`.
pub(super) fn bind_others(
    config: &Config,
    tls: Vec<Option<Arc<Tls>>>,
    inherited: &mut InheritedSockets,
    early: Option<&EarlyListeners>,
) -> Result<Vec<Option<Bound>>, ServeError> {
    let listeners = config.listeners.iter().zip(tls).enumerate();
    let bound = listeners.map(|(index, listener)| match early.is_some_and(|early| early.has(index)) {
        true => Ok(None),
        false => bind(config, index, listener, inherited).map(Some),
    });
    bound.collect()
}

/// Returns all listeners, in the order of the configuration, once the `early` ones serve nobody any more.
pub(super) async fn with_early(others: Vec<Option<Bound>>, early: Option<EarlyListeners>) -> Vec<Bound> {
    let mut early = match early {
        Some(early) => early.stop().await,
        None => Default::default(),
    };
    others.into_iter().enumerate().filter_map(|(index, bound)| bound.or_else(|| early.remove(&index))).collect()
}
