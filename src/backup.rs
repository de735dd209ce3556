//! `keywitness backup`, `keywitness restore`, `keywitness compact`: the manager's store on disk.

use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::ProgressBar;
use keywitness_manager::{
    ledger::Store,
    store::{self, Redb, backup},
};
use keywitness_verifier::wire::Backup;

use crate::{Global, connection::Connection, data, output};

/// Back up a manager's store (operator).
///
/// A manager that runs copies its own store, and goes on serving. Where none runs on the data directory, the copy is
/// made here. It lands in DATA/manager/backups, named after the newest change. It does not hold the keys that sign
/// tokens and the log (DATA/signer), those of the TLS authority (DATA/manager/*.pem), nor DATA/manager/snapshots: copy them too.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness --data /var/lib/keywitness backup")]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    connection: Connection,
}

/// Make a manager's store from a backup.
///
/// Checks the whole backup first, and writes into the log that it was restored. Challenges and join tokens that were
/// open in the backup are void. What happened after the backup is lost, decisions about security too: docs/storage.md says what to
/// do again, and when the log needs a new key.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness --data /var/lib/keywitness restore --from 00000000000000001234.backup.redb"
)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

/// Write a manager's store anew, as small as it can be: on disk, and in memory. No manager may run meanwhile.
///
/// Needs room for both files. Until the new one is whole, the old one stays what it is.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness --data /var/lib/keywitness compact")]
pub(crate) struct CompactArgs {}

pub(crate) fn backup(global: &Global, args: &BackupArgs) -> anyhow::Result<()> {
    let paths = data::Data(&global.data);
    let file = paths.manager().join(store::FILE);
    let made = if file.exists() && !data::is_locked(&paths.manager_lock()) {
        data::ensure_own(&paths.manager())?;
        let _lock = data::lock(&paths.manager_lock())?;
        let directory = paths.manager().join(backup::DIRECTORY);
        data::make_dir(&directory)?;
        let bar = output::spinner(global.json, "copying");
        let made = backup::write(Redb::open(&file)?.view()?.as_ref(), &directory, &mut told(&bar))?;
        bar.finish_and_clear();
        made
    } else {
        let bar = output::spinner(global.json, "the manager makes a backup");
        let made = args.connection.operator(global)?.back_up()?;
        bar.finish_and_clear();
        made
    };
    tell(global, "backed up to", &made)
}

pub(crate) fn restore(global: &Global, args: &RestoreArgs) -> anyhow::Result<()> {
    data::make_dir(&global.data)?;
    data::ensure_own(&global.data)?;
    let paths = data::Data(&global.data);
    let _lock = data::lock(&paths.manager_lock())?;
    data::make_dir(&paths.manager())?;
    let bar = output::spinner(global.json, "checking the backup");
    let file = paths.manager().join(store::FILE);
    let made = backup::restore(&args.from, &file, data::now(), &mut told(&bar))
        .with_context(|| format!("{} was not restored", args.from.display()))?;
    bar.finish_and_clear();
    tell(global, "restored", &made)?;
    if !global.json {
        say!("open challenges and join tokens are void; credentials are those of the backup");
        say!(
            "do again what was decided since the backup: revocations and suspensions, credentials withdrawn, HSMs enrolled afresh,"
        );
        say!(
            "token keys rotated. Copy the old manager's snapshots/; and if anything newer was lost, begin a new log, without the"
        );
        say!("old log-key.pem and log-checkpoint (docs/storage.md, Restore)");
    }
    Ok(())
}

pub(crate) fn compact(global: &Global, _args: &CompactArgs) -> anyhow::Result<()> {
    let paths = data::Data(&global.data);
    let file = paths.manager().join(store::FILE);
    let length = |path: &Path| std::fs::metadata(path).map(|file| file.len());
    let before = length(&file).with_context(|| format!("there is no store at {}", file.display()))?;
    data::ensure_own(&paths.manager())?;
    let _lock = data::lock(&paths.manager_lock())?;
    let bar = output::spinner(global.json, "compacting");
    let rows = backup::compact(&file, &mut told(&bar))?;
    bar.finish_and_clear();
    let after = length(&file)?;
    if global.json {
        return output::json(&serde_json::json!({ "before": before, "after": after, "rows": rows }));
    }
    say!("{before} bytes became {after}: {rows} rows");
    Ok(())
}

fn told(bar: &ProgressBar) -> impl FnMut(u64) + '_ {
    |rows| bar.set_message(format!("{rows} rows"))
}

fn tell(global: &Global, what: &str, made: &Backup) -> anyhow::Result<()> {
    if global.json {
        return output::json(made);
    }
    let Backup { file, sequence, rows, bytes, .. } = made;
    say!("{what} {file}: {sequence} changes, {rows} rows, {bytes} bytes");
    Ok(())
}
