//! `keywitness config`: the manager's settings, before it runs.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use comfy_table::{Table, presets};
use keywitness_manager::{
    Settings,
    settings::{Complaint, Loaded, Source},
};

use crate::{Global, data, manager, output};

/// Check the manager's settings, show what is in force, or print a file with every setting
///
/// A manager reads DATA/manager.toml where it is there, or the file that --config or KEYWITNESS_CONFIG names. The
/// environment goes before it (KEYWITNESS_MANAGER_RECORDS_TTL=5m), and flags before both (--set records.ttl=5m).
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness config example > manager.toml && keywitness config check manager.toml")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say everything that is wrong with the settings; exit code 2 where something is
    #[command(after_help = "Example: keywitness config check manager.toml")]
    Check {
        /// The file; what the manager would read when left out
        file: Option<PathBuf>,
        #[command(flatten)]
        over: Over,
    },
    /// Show every setting, and where its value comes from
    #[command(after_help = "Example: keywitness config show --set records.ttl=5m")]
    Show {
        /// The file; what the manager would read when left out
        file: Option<PathBuf>,
        #[command(flatten)]
        over: Over,
    },
    /// Print a commented file with every setting and its default
    #[command(after_help = "Example: keywitness config example > manager.toml")]
    Example,
}

/// Settings on the command line.
#[derive(clap::Args, Default)]
pub(crate) struct Over {
    /// Set one thing, before the file and the environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

impl Over {
    /// The settings, in their order.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.set.clone()
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write SECTION.NAME=VALUE, such as records.ttl=5m")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// The settings are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub(crate) struct Wrong(pub(crate) Vec<Complaint>);

fn lines(complaints: &[Complaint]) -> String {
    let lines: Vec<_> = complaints.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Reads the settings of a manager: of `file`, or of DATA/manager.toml where that is there; the environment; `flags`.
pub(crate) fn load(global: &Global, file: Option<PathBuf>, flags: &[(String, String)]) -> anyhow::Result<Loaded> {
    let paths = data::Data(&global.data);
    let file = file.or_else(|| Some(paths.manager_settings()).filter(|path| path.exists()));
    let text = match &file {
        Some(path) => Some(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => None,
    };
    // A name or a value that is no Unicode cannot be one of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let file = file.as_deref().zip(text.as_deref());
    Settings::load(&paths.manager(), file, environment, flags).map_err(|complaints| Wrong(complaints).into())
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Check { file, over } => {
            let given = file.clone().or_else(named);
            let settings = load(global, given.clone(), &over.pairs())?.settings;
            manager::check(global, &settings).map_err(|error| {
                Wrong(vec![Complaint { source: Source::Together, setting: None, why: format!("{error:#}") }])
            })?;
            let file = given.unwrap_or_else(|| data::Data(&global.data).manager_settings());
            if global.json {
                output::json(&serde_json::json!({ "problems": [] }))?;
            } else if file.exists() {
                say!("the settings of {} are sound", file.display());
            } else {
                say!("there is no {}: the defaults, the environment and flags are sound", file.display());
            }
        }
        Command::Show { file, over } => {
            let loaded = load(global, file.clone().or_else(named), &over.pairs())?;
            if global.json {
                output::json(&loaded.effective)?;
            } else {
                let mut table = Table::new();
                table.load_preset(presets::NOTHING).set_header(["setting", "value", "from"]);
                for effective in &loaded.effective {
                    table.add_row([&effective.setting, &effective.value, &effective.source.to_string()]);
                }
                say!("{}", table.trim_fmt());
            }
        }
        Command::Example => output::print(format_args!("{}", Settings::example().trim_end())),
    }
    Ok(())
}

/// The file that the environment names.
fn named() -> Option<PathBuf> {
    std::env::var_os(FILE_VARIABLE).map(PathBuf::from)
}

/// Names the file with a manager's settings.
pub(crate) const FILE_VARIABLE: &str = "KEYWITNESS_CONFIG";

/// Prints what is wrong, and gives the exit code of a wrong command line.
pub(crate) fn refuse(json: bool, wrong: &Wrong) -> ExitCode {
    if json {
        eprintln!("{}", serde_json::json!({ "problems": wrong.0 }));
    } else {
        eprintln!("keywitness: {}", output::printable(&wrong.to_string()));
    }
    ExitCode::from(2)
}
