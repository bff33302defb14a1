//! Commands for the store, for the benchmarks.

use umbrad::{
    observability::request_id::RequestId,
    shadow::{Command, DeviceId, Scope, Sender, SenderLogin, ShadowKey, Update},
    store::{Envelope, QueuedCommand},
};

/// Returns the key of the classic shadow of the device `name`.
pub(crate) fn key(name: &str) -> ShadowKey {
    ShadowKey::classic(DeviceId::new(name).expect("a valid id"))
}

/// Returns `update` of a sender with all rights, as it enters the queue.
pub(crate) fn queued(key: &ShadowKey, update: Update) -> QueuedCommand<()> {
    QueuedCommand {
        envelope: Envelope {
            key: key.clone(),
            command: Command::Update(update),
            author: Sender { by: "app-1".into(), scope: Scope::ALL, login: SenderLogin::default() },
            id: RequestId::next(),
            client: "client-1".into(),
            is_of_session: false,
            client_token: None,
            may_create: true,
            row: None,
            shared_row: None,
        },
        context: (),
    }
}
