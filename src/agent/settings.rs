//! An agent's settings file: any of its flags by name, with the environment and the command line over it.
//!
//! A file's settings become a part of the command line, so that there is one place where each is named, read and checked.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, CommandFactory, error::ContextKind, error::ContextValue, parser::ValueSource};
use keywitness_manager::settings::{Complaint, Source};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{Cli, config::Wrong};

/// The subcommand whose settings these are.
const COMMAND: &str = "agent";

/// Flags that no file sets: where it is, what asks for help, and what is on its way out.
const NEVER: [&str; 4] = ["settings", "help", "version", "json"];

/// A command line that is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// As the command line's own words have it.
    #[error(transparent)]
    Line(#[from] clap::Error),
    /// In the file.
    #[error(transparent)]
    File(#[from] Wrong),
}

/// What a file sets: each setting's words, and its line.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    file: PathBuf,
    values: BTreeMap<String, (Vec<String>, usize)>,
}

impl Settings {
    /// The settings that are not the same in `other`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let words = |settings: &Self, name: &str| settings.values.get(name).map(|(words, _)| words.clone());
        let names = self.values.keys().chain(other.values.keys());
        let mut names: Vec<_> = names.filter(|name| words(self, name) != words(other, name)).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// These settings, but for those that wait for a restart: they are as before.
    pub(crate) fn in_force(mut self, before: &Self, at_once: &[&str]) -> Self {
        let later = |name: &String| !at_once.contains(&name.as_str());
        self.values.retain(|name, _| !later(name));
        let kept = before.values.iter().filter(|(name, _)| later(name));
        self.values.extend(kept.map(|(name, words)| (name.clone(), words.clone())));
        self
    }

    /// Where the file is.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// Reads a command line, with the settings of the file that it names for an agent.
pub(crate) fn read(line: Vec<OsString>) -> Result<(Cli, Option<Settings>), Unread> {
    let Some((file, given)) = named(&line) else { return Ok((parse(line)?, None)) };
    let settings = load(&file, &given)?;
    let added = settings.values.values().flat_map(|(words, _)| words).map(OsString::from);
    match parse(line.into_iter().chain(added).collect()) {
        Ok(cli) => Ok((cli, Some(settings))),
        Err(error) => Err(blame(error, &settings)),
    }
}

fn parse(line: Vec<OsString>) -> Result<Cli, clap::Error> {
    <Cli as clap::Parser>::try_parse_from(line)
}

/// The settings file that an agent's command line names, and what the line says.
fn named(line: &[OsString]) -> Option<(PathBuf, ArgMatches)> {
    // What is missing may be in the file.
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(line).ok()?;
    let (name, given) = matches.subcommand()?;
    if name != COMMAND || given.subcommand().is_some() {
        return None;
    }
    let file = given.try_get_one::<PathBuf>("settings").ok()??.clone();
    Some((file, given.clone()))
}

/// What is wrong with a line that a file is part of: in the file where that gave the value.
fn blame(error: clap::Error, settings: &Settings) -> Unread {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.split([' ', '=']).next().and_then(|flag| flag.strip_prefix("--")),
        _ => None,
    };
    let Some((name, (_, line))) = named.and_then(|name| settings.values.get_key_value(name)) else {
        return error.into();
    };
    let told = error.to_string();
    let why = told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Wrong(vec![Complaint { source: Source::File(settings.file.clone(), *line), setting: Some(name.clone()), why }])
        .into()
}

/// The settings of a file that neither the line nor the environment sets.
fn load(file: &Path, given: &ArgMatches) -> Result<Settings, Wrong> {
    let wrong = |line, setting: Option<&str>, why: String| Complaint {
        source: Source::File(file.to_owned(), line),
        setting: setting.map(str::to_owned),
        why,
    };
    let read = || {
        let metadata = fs::metadata(file)?;
        if metadata.mode() & 0o022 != 0 {
            return Err(std::io::Error::other("others can change it, and with it whom this HSM answers: chmod go-w"));
        }
        fs::read_to_string(file)
    };
    let text = read().map_err(|error| Wrong(vec![wrong(1, None, format!("it cannot be read: {error}"))]))?;
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(&text);
    let mut complaints: Vec<_> = errors
        .iter()
        .map(|error| wrong(error.span().map_or(1, |span| line(span.start)), None, error.message().to_owned()))
        .collect();
    let mut command = Cli::command();
    command.build();
    let flags: Vec<Arg> = command.find_subcommand(COMMAND).map(flags).unwrap_or_default();
    let mut values = BTreeMap::new();
    for (name, value) in table.get_ref() {
        let (at, name) = (line(name.span().start), name.get_ref().as_ref());
        let Some(flag) = flags.iter().find(|flag| flag.get_long() == Some(name)) else {
            complaints.push(wrong(at, Some(name), format!("there is no such setting{}", nearest(name, &flags))));
            continue;
        };
        let over = [Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)];
        match words(flag, value) {
            Ok(_) if over.contains(&given.value_source(flag.get_id().as_str())) => {}
            Ok(words) => drop(values.insert(name.to_owned(), (words, at))),
            Err(why) => complaints.push(wrong(at, Some(name), why)),
        }
    }
    if complaints.is_empty() { Ok(Settings { file: file.to_owned(), values }) } else { Err(Wrong(complaints)) }
}

/// The flags that a file can set.
fn flags(command: &clap::Command) -> Vec<Arg> {
    let known = |flag: &&Arg| flag.get_long().is_some_and(|name| !NEVER.contains(&name)) && !flag.is_hide_set();
    command.get_arguments().filter(known).cloned().collect()
}

/// A setting as the command line would have it.
fn words(flag: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let name = flag.get_long().unwrap_or_default();
    let word = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(format!("--{name}={text}")),
        DeValue::Integer(number) if number.radix() == 10 => Ok(format!("--{name}={}", number.as_str())),
        _ => Err("it is a text or a whole number".to_owned()),
    };
    match (flag.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(true)) => Ok(vec![format!("--{name}")]),
        (ArgAction::SetTrue, DeValue::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err("it is true or false".to_owned()),
        (ArgAction::Append, DeValue::Array(values)) => values.iter().map(|value| word(value.get_ref())).collect(),
        // A file alone, or a file and a token.
        (ArgAction::Append, one @ DeValue::String(_)) if name == "store" => Ok(vec![word(one)?]),
        (ArgAction::Append, _) => Err("it is a list of texts in brackets".to_owned()),
        (_, one) => Ok(vec![word(one)?]),
    }
}

fn nearest(name: &str, flags: &[Arg]) -> String {
    let likeness = |known: &&str| (strsim::jaro_winkler(name, known) * 1000.0) as u32;
    let best = flags.iter().filter_map(Arg::get_long).max_by_key(likeness).filter(|known| likeness(known) > 750);
    best.map_or_else(|| "; `keywitness agent --help` names them all".to_owned(), |best| format!("; is it {best}?"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Command;

    /// Reads an agent's line with a file of this text.
    fn with(text: &str, more: &[&str]) -> Result<(Cli, Option<Settings>), Unread> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let line = ["keywitness", "agent", "--settings", file.to_str().unwrap()];
        read(line.into_iter().chain(more.iter().copied()).map(OsString::from).collect())
    }

    fn complaints(text: &str, more: &[&str]) -> Vec<String> {
        let Err(Unread::File(Wrong(complaints))) = with(text, more) else { panic!("{text}") };
        complaints
            .iter()
            .map(|complaint| complaint.to_string().split_once("agent.toml:").unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn flags_go_before_the_file_which_sets_what_they_leave() {
        let text = "store = \"a/store\"\nhsm = \"hsm-1\"\nproving-threads = 3\nattest-at-start = true\nchannel = \"127.0.0.1:1\"\nallow-client = []\n";
        let (cli, settings) = with(text, &["--hsm", "hsm-2"]).unwrap();
        let Command::Agent(super::super::Args::Run(args)) = cli.command else { panic!() };
        assert_eq!(args.place.store.file().unwrap(), Path::new("a/store"));
        assert!(args.attest_at_start && args.channel.is_some() && args.allow_clients.is_empty());
        let settings = settings.unwrap();
        assert!(settings.values.contains_key("store") && !settings.values.contains_key("hsm"));
        let (_, other) = with(&text.replace("a/store", "b/store").replace("proving-threads = 3\n", ""), &[]).unwrap();
        let other = other.unwrap();
        assert_eq!(settings.differences(&other), ["hsm", "proving-threads", "store"]);
        let partly = other.clone().in_force(&settings, &["store"]);
        assert_eq!(
            (settings.differences(&partly), partly.differences(&other)),
            (vec!["store".to_owned()], vec!["hsm".to_owned(), "proving-threads".to_owned()])
        );
    }

    /// What is said of peers stays right where there is none any more.
    #[test]
    fn the_last_peer_can_be_taken_out() {
        for peers in ["", "peer = []\n"] {
            let text = format!("store = \"x\"\n{peers}copies-every = \"5s\"\ntake-rotations = true\n");
            let (cli, settings) = with(&text, &[]).unwrap();
            let Command::Agent(super::super::Args::Run(args)) = cli.command else { panic!() };
            assert!(args.peers.is_empty() && args.take_rotations && args.copies_every.as_secs() == 5);
            assert!(settings.unwrap().values.contains_key("copies-every"));
        }
    }

    #[test]
    fn whatever_is_wrong_is_told_with_its_line() {
        let told = complaints("stor = \"x\"\n\nallow-client = \"y\"\nattest-at-start = 1\nsettings = \"z\"\n", &[]);
        let found = |line: &str, words: &str| told.iter().any(|one| one.starts_with(line) && one.contains(words));
        assert!(found("1:", "is it store?") && found("3:", "in brackets") && found("4:", "true or false"), "{told:?}");
        assert!(found("5:", "no such setting"), "{told:?}");
        let told = complaints("store = \"x\"\nmetrics = \"nowhere\"\n", &[]);
        assert!(told.len() == 1 && told.iter().all(|one| one.starts_with("2: metrics: invalid value")), "{told:?}");
        assert!(!complaints("store = ", &[]).is_empty());
        assert!(matches!(with("", &[]), Err(Unread::Line(_))), "no store");
    }

    #[test]
    fn a_file_that_others_can_change_sets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        fs::write(&file, "store = \"x\"\n").unwrap();
        let line = || ["keywitness", "agent", "--settings", file.to_str().unwrap()].map(OsString::from).to_vec();
        for (mode, taken) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(line()).is_ok(), taken, "{mode:o}");
        }
        fs::remove_file(&file).unwrap();
        assert!(matches!(read(line()), Err(Unread::File(_))));
    }

    #[test]
    fn other_commands_and_the_doctor_have_no_settings() {
        for line in [vec!["keywitness", "agent", "doctor"], vec!["keywitness", "key", "list", "--store", "x"]] {
            assert!(read(line.into_iter().map(OsString::from).collect()).unwrap().1.is_none());
        }
    }
}
