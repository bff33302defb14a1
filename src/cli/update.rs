//! `umbrad update`

use std::{
    fs,
    io::{self, Read},
};

use clap::Args;
use serde_json::Value;

use super::{
    Exit, command_failure::CommandFailure, connect_args::BrokerArgs, output::complain, request, shadow_args::ShadowArgs,
};

/// Change the shadow of a device: objects merge, null removes, arrays are replaced whole.
#[derive(Debug, Args)]
#[command(override_usage = "umbrad update [OPTIONS] <DEVICE> <STATE|@FILE|->
       umbrad update [OPTIONS] <DEVICE> [--desired <JSON>] [--reported <JSON>] [--tags <JSON>]")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct Update {
    #[command(flatten)]
    shadow: ShadowArgs,
    /// Sections to change, {"desired": {…}, "reported": {…}, "tags": {…}}, or @FILE, or - for standard input.
    #[arg(group = "what", conflicts_with_all = ["desired", "reported", "tags"])]
    state: Option<String>,
    /// Desired state of the device as JSON, instead of STATE.
    #[arg(long, value_name = "JSON", group = "what")]
    desired: Option<String>,
    /// Reported state of the device as JSON, instead of STATE.
    #[arg(long, value_name = "JSON", group = "what")]
    reported: Option<String>,
    /// Notes that the device does not see as JSON, instead of STATE.
    #[arg(long, value_name = "JSON", group = "what")]
    tags: Option<String>,
    /// Update only if this is the current version; 0: only if there is no shadow.
    #[arg(long, value_name = "VERSION")]
    version: Option<u64>,
    /// Replace each given section whole instead of merging.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

impl Update {
    pub(super) async fn run(self) -> Exit {
        match self.payload() {
            Ok(payload) => request::run(&self.broker, &self.shadow.topic("update"), payload).await,
            Err(failure) => complain(&failure, failure.exit),
        }
    }

    fn payload(&self) -> Result<String, CommandFailure> {
        let mut payload = format!("{{\"state\":{}", self.state()?);
        if let Some(version) = self.version {
            payload.push_str(&format!(",\"version\":{version}"));
        }
        if self.replace {
            payload.push_str(",\"replace\":true");
        }
        payload.push('}');
        Ok(payload)
    }

    /// Returns the JSON of `state` in the user's own spelling. Its peculiarities (a duplicate key, a number beyond a
    /// double) are for the service to refuse, and must not be repaired on the way.
    fn state(&self) -> Result<String, CommandFailure> {
        match self.state.as_deref() {
            Some("-") => checked("standard input", read_input()?),
            Some(text) => match text.strip_prefix('@') {
                Some(path) => checked(path, fs::read_to_string(path).map_err(|error| unreadable(path, &error))?),
                None => checked("the state", text.to_owned()),
            },
            None => {
                let sections = [("desired", &self.desired), ("reported", &self.reported), ("tags", &self.tags)];
                let given = sections.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
                let members = given.map(|(name, text)| {
                    let value = checked(&format!("--{name}"), text.clone())?;
                    Ok(format!("\"{name}\":{value}"))
                });
                Ok(format!("{{{}}}", members.collect::<Result<Vec<_>, CommandFailure>>()?.join(",")))
            }
        }
    }
}

fn read_input() -> Result<String, CommandFailure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|error| unreadable("standard input", &error))?;
    Ok(text)
}

fn unreadable(place: &str, error: &io::Error) -> CommandFailure {
    CommandFailure::failed(format!("cannot read {place}: {error}"))
}

/// Returns `text` if it is one JSON value, so that it remains one inside the payload.
fn checked(place: &str, text: String) -> Result<String, CommandFailure> {
    match serde_json::from_str::<Value>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(CommandFailure::usage(format!("{place} is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    /// Returns the payload of `umbrad update d ARGUMENTS`.
    fn payload(arguments: &[&str]) -> Result<String, String> {
        let line = ["update", "d"].iter().chain(arguments);
        let parsed = Line::try_parse_from(line).map_err(|error| error.kind().to_string())?;
        parsed.update.payload().map_err(|failure| failure.message)
    }

    #[test]
    fn builds_payloads() {
        let table: [(&[&str], Result<&str, &str>); 10] = [
            (&["{\"desired\":{\"a\":1}}"], Ok("{\"state\":{\"desired\":{\"a\":1}}}")),
            (
                &["{\"desired\":{\"a\":1,\"a\":1e999}}"],
                Err("the state is not JSON: number out of range at line 1 column 27"),
            ),
            (&["{\"desired\":{\"a\":1,\"a\":2}}"], Ok("{\"state\":{\"desired\":{\"a\":1,\"a\":2}}}")),
            (&["null", "--version", "0"], Ok("{\"state\":null,\"version\":0}")),
            (
                &["--desired", "{}", "--tags", "null", "--version", "7", "--replace"],
                Ok("{\"state\":{\"desired\":{},\"tags\":null},\"version\":7,\"replace\":true}"),
            ),
            (&["--reported", "{}} ,"], Err("--reported is not JSON: trailing characters at line 1 column 3")),
            (&["@/nonexistent"], Err("cannot read /nonexistent: No such file or directory (os error 2)")),
            (&[], Err("one or more required arguments were not provided")),
            (
                &["{}", "--desired", "{}"],
                Err("an argument cannot be used with one or more of the other specified arguments"),
            ),
            (&["{}", "--version", "-1"], Err("unexpected argument found")),
        ];
        for (arguments, expected) in table {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(payload(arguments), expected, "{arguments:?}");
        }
    }

    /// A file that cannot be read once ended the command as wrong arguments do.
    #[test]
    fn an_unreadable_file_is_no_wrong_argument() {
        for (state, exit) in [("@/nonexistent", Exit::Failed), ("@/dev", Exit::Failed), ("{", Exit::Usage)] {
            let update = Line::try_parse_from(["update", "d", state]).expect("arguments").update;
            assert_eq!(update.payload().expect_err("no payload").exit, exit, "{state}");
        }
    }
}
