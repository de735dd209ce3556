//! `keywitness log`: seals of the manager's state, and the deletion of openings behind them.

use clap::Subcommand;
use comfy_table::{Table, presets};

use crate::{Global, connection::Connection, output};

/// Seal the manager's state into its log, or delete openings that are old enough (operator).
///
/// An audit can begin with a sealed state. Entries, tiles and proofs stay whatever is deleted.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness log seal")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write a snapshot of the state, and its root into the log
    #[command(after_help = "Example: keywitness log seal")]
    Seal {
        #[command(flatten)]
        connection: Connection,
    },
    /// List the seals, and up to where openings were deleted
    #[command(after_help = "Example: keywitness log seals")]
    Seals {
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete the openings behind the newest seal that is older than the setting log.retention
    #[command(after_help = "Example: keywitness log retain")]
    Retain {
        #[command(flatten)]
        connection: Connection,
    },
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Seal { connection } => {
            let seal = connection.operator(global)?.seal()?;
            if global.json {
                return output::json(&seal);
            }
            say!("sealed the state after entry {}: root {}", seal.sequence, seal.root);
        }
        What::Seals { connection } => {
            let seals = connection.operator(global)?.seals()?;
            if global.json {
                return output::json(&seals);
            }
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(["state after", "named by entry", "at", "snapshot", "root"]);
            for seal in &seals.seals {
                let kept = if seal.snapshot { "kept" } else { "-" };
                let (sequence, ordered) = (seal.sequence.to_string(), seal.ordered.to_string());
                table.add_row([sequence, ordered, output::time(seal.at), kept.to_owned(), seal.root.to_string()]);
            }
            say!("{}", table.trim_fmt());
            say!("openings are deleted up to entry {}", seals.deleted_through);
        }
        What::Retain { connection } => {
            let retained = connection.operator(global)?.retain()?;
            if global.json {
                return output::json(&retained);
            }
            say!("openings are deleted up to entry {}", retained.deleted_through);
        }
    }
    Ok(())
}
