//! The program `keywitness`: one file for each subcommand, and nothing that a library should do.

#[macro_use]
mod output;

mod agent;
mod alerts;
mod archive;
mod attest;
mod audit;
mod backup;
mod bundle;
mod ceremony;
mod cluster;
mod config;
mod connection;
mod credential;
mod data;
mod doctor;
mod evidence;
mod invite;
mod key;
mod log;
mod manager;
mod proof;
mod prover;
mod revoke;
mod sharing;
mod sign;
mod signer;
mod status;
mod store;
mod token;
mod token_key;
mod up;
mod verify;
mod webhook;
mod witness;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use connection::Asked;

/// Zero-knowledge attestation of the keys that HSMs hold.
///
/// HSMs of a cluster copy keys among themselves. Keywitness lets each of them prove, again and again,
/// that it knows the keys it says it holds, without showing one. A manager checks the proofs, keeps
/// records with a time to live, and hands out tokens that anyone checks offline.
///
/// Begin with `keywitness up`: a manager and three HSMs on this machine, with keys that attest.
#[derive(Parser)]
#[command(name = "keywitness", version, max_term_width = 100, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and the answer is yes
  1  the answer is no: refused, not attested, does not verify
  2  the command line is wrong
  3  nobody answered at the address
  4  something on this machine failed: a file, a key store, a port
An agent ends with 5 to 8 where it cannot begin (keywitness agent --help).

Environment: KEYWITNESS_DATA, KEYWITNESS_MANAGER, KEYWITNESS_CA, KEYWITNESS_CREDENTIAL_FILE, KEYWITNESS_PASSPHRASE,
KEYWITNESS_PKCS11_PIN, KEYWITNESS_CONFIG and KEYWITNESS_MANAGER_<SECTION>_<NAME> for a manager's settings, and
KEYWITNESS_LOG for what is logged (such as info or debug).";

/// What every subcommand understands.
#[derive(clap::Args)]
struct Global {
    /// Print JSON for scripts instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// Where this machine's Keywitness keeps its files
    #[arg(long, global = true, value_name = "DIR", env = "KEYWITNESS_DATA", default_value = "keywitness-data")]
    data: std::path::PathBuf,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    Manager(manager::Args),
    Config(config::Args),
    JoinToken(invite::JoinTokenArgs),
    Credential(credential::Args),
    Agent(agent::Args),
    Key(key::Args),
    Attest(attest::Args),
    Status(status::Args),
    Cluster(cluster::Args),
    Evidence(evidence::Args),
    Alerts(alerts::AlertsArgs),
    Events(alerts::EventsArgs),
    Migration(Asked<alerts::Migrations>),
    Token(token::Args),
    TokenKey(Asked<token_key::TokenKeys>),
    Sign(sign::Args),
    Revoke(revoke::Args),
    Suspend(revoke::SuspendArgs),
    Reinstate(revoke::ReinstateArgs),
    Sharing(sharing::Args),
    Verify(verify::Args),
    Audit(audit::Args),
    Webhook(Asked<webhook::Webhooks>),
    Witness(witness::Args),
    Log(log::Args),
    Signer(signer::Args),
    Proof(proof::Args),
    Prover(prover::Args),
    Ceremony(ceremony::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Compact(backup::CompactArgs),
}

fn main() -> ExitCode {
    let (cli, settings) = match agent::settings::read(std::env::args_os().collect()) {
        Ok(read) => read,
        Err(agent::settings::Unread::Line(error)) => error.exit(),
        Err(agent::settings::Unread::File(wrong)) => return config::refuse(false, &wrong),
    };
    let global = &cli.global;
    // A manager begins its log when it knows its settings.
    if !matches!(cli.command, Command::Manager(_)) {
        let filter = if let Command::Agent(args) = &cli.command { args.log() } else { None };
        output::init_logging(global.json, filter);
    }
    keywitness_isolation::confine::conceal().warn("this process");
    let result = match &cli.command {
        Command::Up(args) => up::run(global, args),
        Command::Manager(args) => manager::run(global, args),
        Command::Config(args) => config::run(global, args),
        Command::JoinToken(args) => invite::join_token(global, args),
        Command::Credential(args) => credential::run(global, args),
        Command::Agent(args) => agent::run(global, args, settings),
        Command::Key(args) => key::run(global, args),
        Command::Attest(args) => attest::run(global, args),
        Command::Status(args) => status::run(global, args),
        Command::Cluster(args) => cluster::run(global, args),
        Command::Evidence(args) => evidence::run(global, args),
        Command::Alerts(args) => alerts::alerts(global, args),
        Command::Events(args) => alerts::events(global, args),
        Command::Migration(args) => alerts::migration(global, args),
        Command::Token(args) => token::run(global, args),
        Command::TokenKey(args) => token_key::run(global, args),
        Command::Sign(args) => sign::run(global, args),
        Command::Revoke(args) => revoke::run(global, args),
        Command::Suspend(args) => revoke::suspend(global, args),
        Command::Reinstate(args) => revoke::reinstate(global, args),
        Command::Sharing(args) => sharing::run(global, args),
        Command::Verify(args) => verify::run(global, args),
        Command::Audit(args) => audit::run(global, args),
        Command::Webhook(args) => webhook::run(global, args),
        Command::Witness(args) => witness::run(global, args),
        Command::Log(args) => log::run(global, args),
        Command::Signer(args) => signer::run(global, args),
        Command::Proof(args) => proof::run(global, args),
        Command::Prover(args) => prover::run(global, args),
        Command::Ceremony(args) => ceremony::run(global, args),
        Command::Backup(args) => backup::backup(global, args),
        Command::Restore(args) => backup::restore(global, args),
        Command::Compact(args) => backup::compact(global, args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match (error.downcast_ref::<config::Wrong>(), error.downcast_ref::<agent::Ended>()) {
            (Some(wrong), _) => config::refuse(global.json, wrong),
            (None, Some(ended)) => {
                output::fail(global.json, &ended.error);
                ExitCode::from(ended.code)
            }
            (None, None) => output::fail(global.json, &error),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The commands that do something, with the words that call each, below `command`.
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
        let words = format!("{words}{} ", command.get_name());
        let below: Vec<_> = command.get_subcommands().collect();
        if below.is_empty() {
            found.push((words.trim().to_owned(), command.clone()));
        }
        below.into_iter().for_each(|one| leaves(one, &words, found));
    }

    #[test]
    fn every_command_shows_an_example_that_the_command_line_takes() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&cli, "", &mut found);
        assert!(found.len() >= 50, "{}", found.len());
        for (words, leaf) in found {
            let help = leaf.get_after_help().or(leaf.get_after_long_help()).map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{words} --help has no example"));
            let example = help.strip_prefix("Example: ").unwrap_or_else(|| panic!("{words}: {help}"));
            let name = words.split(' ').next_back().unwrap();
            assert!(example.split(' ').any(|word| word == name), "{words}: {example}");
            // What the shell makes of the others is not for us to say.
            if !example.contains(['"', '\'', '$']) && !example.contains("DIGEST") {
                let typed = example.split(' ').take_while(|word| ![">", "&&", "|"].contains(word));
                Cli::try_parse_from(typed).map(drop).unwrap_or_else(|error| panic!("{words}: {error}"));
            }
        }
    }
}
