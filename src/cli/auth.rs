//! `umbrad auth explain`.

use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Exit,
    output::{complain, say},
    serve::Source,
};
use crate::{
    auth::{self, Access, Administration, Operation, Policy, Principal, authz::explain::Question},
    config::{Arguments, Config},
    mqtt::{
        protocol::topic::TopicName,
        shadow::topics::{self, Destination},
    },
    shadow::{DeviceId, Pointer, ShadowKey, ShadowName, name::NameError},
};

/// Explain the access rights of clients.
#[derive(Debug, Args)]
pub(super) struct Auth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Explain(Explain),
}

/// Print whether a principal may do something, and by which rule.
#[derive(Debug, Args)]
struct Explain {
    /// Name of the principal: a user, the common name of a certificate, or the subject of a token.
    principal: String,
    /// One of get, update, delete, subscribe, history for a shadow; publish or receive for a topic; administer.
    operation: String,
    /// The shadow as DEVICE or DEVICE~NAME, the topic without wildcards, or the administrative operation.
    subject: String,
    /// Path in the shadow, such as /desired/mode; without it, any path.
    path: Option<Pointer>,
    /// Authentication method of the principal.
    #[arg(long, value_enum, default_value = "password")]
    by: Method,
    /// Client id, for rules with {client}.
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// Name of the listener, which may assign a role; without it, the first one.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    Anonymous,
    Certificate,
    Password,
    Token,
    AccessKey,
}

impl Auth {
    pub(super) fn run(self) -> Exit {
        let Command::Explain(explain) = self.command;
        explain.run()
    }
}

impl Explain {
    /// Prints the answer. Returns [`Exit::Rejected`] if access is not allowed.
    fn run(self) -> Exit {
        let (config, policy) = match self.source.load(&Arguments::default()) {
            Ok(loaded) => loaded,
            Err(error) => return complain(&error, Exit::Usage),
        };
        let (question, access) =
            match self.question().and_then(|question| Ok((question, self.access(&config, &policy)?))) {
                Ok(both) => both,
                Err(error) => return complain(&error, Exit::Usage),
            };
        let answer = question.ask(&access);
        say(&answer, if answer.is_allowed() { Exit::Done } else { Exit::Rejected })
    }

    fn question(&self) -> Result<Question, String> {
        match (self.operation.as_str(), &self.path) {
            ("publish" | "receive", Some(path)) => Err(format!("'{path}': a topic has no paths")),
            ("administer", Some(path)) => Err(format!("'{path}': an administrative operation has no paths")),
            ("administer", None) => administer(&self.subject),
            ("publish", None) => publish(&self.subject),
            ("receive", None) => receive(&self.subject),
            (name, path) => {
                let known = Operation::NAMED.map(|(name, _)| name).join(", ");
                let operation = Operation::of(name).ok_or_else(|| {
                    format!("unknown operation '{name}': use {known}, publish or receive for topics, or administer")
                })?;
                Ok(Question::Shadow(operation, shadow(&self.subject)?, path.clone()))
            }
        }
    }

    fn access(&self, config: &Config, policy: &Policy) -> Result<Access, String> {
        let listener = match &self.listener {
            None => config.listeners.first(),
            Some(name) => config.listeners.iter().find(|listener| listener.name == *name),
        };
        let listener = listener.ok_or_else(|| {
            let known = config.listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>().join(", ");
            format!(
                "unknown listener '{}': the configuration has {known}",
                self.listener.as_deref().unwrap_or_default()
            )
        })?;
        let (method, role) = match self.by {
            Method::Anonymous => (auth::Method::Anonymous, listener.anonymous_role.as_deref()),
            Method::Certificate => (auth::Method::Certificate, listener.certificate_role.as_deref()),
            Method::Password => (auth::Method::Password, None),
            Method::Token => (auth::Method::Token, None),
            Method::AccessKey => (auth::Method::AccessKey, None),
        };
        let principal = match self.by {
            Method::Anonymous => Principal::anonymous(&self.principal),
            _ => Principal::named(&self.principal)
                .map_err(|error| format!("{error}; for an anonymous client give its client id and --by anonymous"))?,
        };
        let client: Arc<str> = self.client_id.as_str().into();
        Ok(policy.access(&principal, method, role, &client))
    }
}

fn administer(name: &str) -> Result<Question, String> {
    let operation = Administration::of(name);
    let operation = operation.ok_or_else(|| {
        let known = Administration::names();
        format!("unknown administrative operation '{name}': use {known}")
    })?;
    Ok(Question::Administer(operation))
}

/// Returns the question for a publication. For the authors of rules, a request to a shadow is its operation and no
/// publication.
fn publish(topic: &str) -> Result<Question, String> {
    match Destination::of(&topic_name(topic)?) {
        Destination::Ordinary => Ok(Question::Publish(topic.to_owned())),
        Destination::Request(key, operation, _) => Ok(Question::Shadow(operation.into(), key, None)),
        Destination::Reserved(reserved) => Err(format!("{topic}: {reserved}")),
    }
}

/// Returns the question for receiving `topic`. Events of a shadow need the right to subscribe to the shadow, those of a named query
/// the right to read some device.
fn receive(topic: &str) -> Result<Question, String> {
    let name = topic_name(topic)?;
    if topics::is_of_a_query(&name) {
        return Ok(Question::ReceiveOfQuery(topic.to_owned()));
    }
    match (Destination::of(&name), topics::shadow_of(topic)) {
        (Destination::Ordinary, _) => Ok(Question::Receive(topic.to_owned())),
        (_, Some(key)) => Ok(Question::Shadow(Operation::Subscribe, key, None)),
        (_, None) => Err(format!("{topic}: the service publishes nothing there; for a shadow use 'subscribe'")),
    }
}

fn topic_name(text: &str) -> Result<TopicName, String> {
    TopicName::new(text).map_err(|error| format!("'{text}' is not a topic name: {error}"))
}

/// Parses `DEVICE` or `DEVICE~NAME`, the form of shadows in messages.
fn shadow(text: &str) -> Result<ShadowKey, String> {
    let explained =
        |error: NameError| format!("{error}; a shadow is DEVICE or DEVICE~NAME, topics are for publish and receive");
    Ok(match text.split_once('~') {
        None => ShadowKey::classic(DeviceId::new(text).map_err(explained)?),
        Some((device, name)) => {
            ShadowKey::named(DeviceId::new(device).map_err(explained)?, ShadowName::new(name).map_err(explained)?)
        }
    })
}
