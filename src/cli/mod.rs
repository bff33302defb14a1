//! The command line: `serve` runs the server, `passwd` manages its users file, and `backup`, `restore` and `check` work
//! on its store. Most other commands are clients for people and scripts, built on the library `umbra-client`.
//!
//! Results go to standard output, everything else to standard error. Results are JSON, with these exceptions: `auth
//! explain`, `check-config`, `cluster check`, `context list`, `watch`, `trace`, `sub`, `list`, `search`, `aggregate`, `history`, `sessions list`, `queries list`, `rollout list`
//! and `rollout devices` without `--json`, `rollout watch` and `bulk` on a terminal, the texts of `manual`, and the `listening` lines of `serve`.
//! A subcommand returns an [`Exit`] after it has reported any failure.
//!
//! `connect_args` are the arguments that name a broker, and one command's connection; `contexts` keeps such arguments
//! under names. `request` sends a request and waits for its reply, `shadow_args` are the arguments that name a shadow,
//! `part` is a file in the making, `terminal` asks for passwords, `user_list` reads many. The client commands know the
//! library `umbra-client` and the spelling of names, and nothing else of the server.

mod aggregate;
mod auth;
mod backup;
mod cautions;
mod cluster;
mod command_failure;
mod connect_args;
mod context;
mod contexts;
mod delete;
mod free_space;
mod get;
mod kick;
mod list;
mod manual;
mod output;
mod part;
mod passwd;
mod purge;
mod queries;
mod request;
mod rollout;
mod search;
mod serve;
mod sessions;
mod shadow_args;
mod terminal;
mod topics;
mod trace;
mod update;
mod user_list;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed: no connection, no reply in time, a file cannot be used, or the server ended on an error. cluster check:
     something is wrong
  2  usage: arguments, configuration, or a file of users, keys or TLS that it names are wrong
  3  the service rejected the request; standard error says why. auth explain: not allowed
  4  the store or backup cannot be used: unknown format, damaged, or in use
  5  backup --readable-part: the backup was written, and lacks what is damaged; standard error lists it";

/// A self-hosted MQTT broker that keeps the shadow of every device under optimistic concurrency.
#[derive(Debug, Parser)]
#[command(name = "umbrad", version, about, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    CheckConfig(serve::CheckConfig),
    Auth(auth::Auth),
    Passwd(passwd::Passwd),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Check(backup::Check),
    Get(get::Get),
    Update(update::Update),
    Delete(delete::Delete),
    Watch(watch::Watch),
    Trace(trace::Trace),
    List(list::List),
    Search(search::Search),
    Aggregate(aggregate::Aggregate),
    History(list::History),
    Kick(kick::Kick),
    Purge(purge::Purge),
    Queries(queries::Queries),
    Rollout(rollout::Rollout),
    Bulk(rollout::Bulk),
    Sessions(sessions::Sessions),
    Cluster(cluster::Cluster),
    Pub(topics::Publish),
    Sub(topics::Subscribe),
    Context(context::Context),
    Completions(manual::Completions),
    Man(manual::Manual),
    DefaultConfig(manual::DefaultConfig),
}

/// The result of a subcommand; the number is the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done = 0,
    /// A failed connection, a missing reply, an unusable file, an error of the running server, or a fault of a cluster.
    Failed = 1,
    /// Wrong arguments (clap exits with the same code) or configuration.
    Usage = 2,
    /// The service rejected the request.
    Rejected = 3,
    /// The store cannot be opened.
    Store = 4,
    /// A backup lacks the damaged part of its store.
    Partial = 5,
}

impl Cli {
    /// Runs the subcommand.
    pub async fn run(self) -> Exit {
        match self.command {
            Command::Serve(serve) => serve.run().await,
            Command::CheckConfig(check) => check.run(),
            Command::Auth(auth) => auth.run(),
            Command::Passwd(passwd) => passwd.run(),
            Command::Backup(backup) => backup.run().await,
            Command::Restore(restore) => restore.run(),
            Command::Check(check) => check.run(),
            Command::Get(get) => get.run().await,
            Command::Update(update) => update.run().await,
            Command::Delete(delete) => delete.run().await,
            Command::Watch(watch) => watch.run().await,
            Command::Trace(trace) => trace.run().await,
            Command::List(list) => list.run().await,
            Command::Search(search) => search.run().await,
            Command::Aggregate(aggregate) => aggregate.run().await,
            Command::History(history) => history.run().await,
            Command::Kick(kick) => kick.run().await,
            Command::Purge(purge) => purge.run().await,
            Command::Queries(queries) => queries.run().await,
            Command::Rollout(rollout) => rollout.run().await,
            Command::Bulk(bulk) => bulk.run().await,
            Command::Sessions(sessions) => sessions.run().await,
            Command::Cluster(cluster) => cluster.run().await,
            Command::Pub(publish) => publish.run().await,
            Command::Sub(subscribe) => subscribe.run().await,
            Command::Context(context) => context.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(manual) => manual.run(),
            Command::DefaultConfig(config) => config.run(),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
