//! `keywitness audit fetch`: a manager's openings into a directory, from the first on or from a sealed state.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use keywitness_manager::audit::{Archive, archive, newest};
use keywitness_verifier::{
    client::ManagerClient,
    log::Checkpoint,
    wire::{SealInfo, Seals},
};

use crate::{
    Global,
    audit::{Wanted, entries_bar, progress_file},
    connection::patiently,
    output,
};

/// Largest snapshot that is fetched, in bytes.
const MAX_SNAPSHOT: u64 = 1 << 36;

/// Fetches what the directory has not yet, up to a checkpoint.
pub(crate) fn fetch(global: &Global, client: &ManagerClient, out: &Path, wanted: &Wanted) -> anyhow::Result<()> {
    let archive = Archive::create(out)?;
    let note = match wanted.cosignatures {
        0 => client.checkpoint()?,
        count => client.cosigned(count)?,
    };
    let checkpoint: Checkpoint = note.text().parse()?;
    let seals = patiently(|| client.seals())?;
    anyhow::ensure!(
        !wanted.from_seal || !archive.openings().exists() || archive.base()? > 0,
        "{} begins with the log's first entry already; fetch into another directory to begin with a sealed state",
        out.display()
    );
    if !archive.openings().exists() && (wanted.from_seal || seals.deleted_through > 0) {
        let seal = choose(&seals, &checkpoint, wanted.from_seal)?;
        snapshot(global, client, &archive, &seal)?;
        if !global.json {
            say!(
                "fetched the state after entry {}, which entry {} seals with root {}: what came before is not fetched, \
                 and an audit relies on that root for it",
                seal.sequence,
                seal.ordered,
                seal.root
            );
        }
    }
    let mut appender = archive.append()?;
    anyhow::ensure!(
        appender.sequence() >= seals.deleted_through || appender.sequence() >= checkpoint.size,
        "{} ends with entry {}, and the manager has deleted the openings up to entry {}: keep it, and fetch into another \
         directory, which begins with a sealed state and is linked with what you have verified",
        out.display(),
        appender.sequence(),
        seals.deleted_through
    );
    let bar = entries_bar(global.json, checkpoint.size, "fetching");
    while appender.sequence() < checkpoint.size {
        let after = appender.sequence();
        let page = patiently(|| client.openings(after))?;
        anyhow::ensure!(!page.is_empty(), "the manager has no entry {}, which its checkpoint commits to", after + 1);
        for opening in page.iter().take_while(|opening| opening.sequence <= checkpoint.size) {
            appender.push(opening)?;
        }
        appender.flush()?;
        bar.set_position(appender.sequence());
    }
    bar.finish_and_clear();
    link(global, client, &archive, &checkpoint)?;
    archive::write_whole(&archive.checkpoint(), note.to_string().as_bytes())?;
    let (size, root, base) = (checkpoint.size, checkpoint.root, archive.base()?);
    if global.json {
        return output::json(&serde_json::json!({ "entries": size, "root": root, "begins_after": base }));
    }
    say!("fetched entries {} to {size} into {}, up to the checkpoint of root {root}", base + 1, out.display());
    Ok(())
}

/// The seal to begin with: it has a snapshot, the openings after it are there, and the checkpoint commits to it.
fn choose(seals: &Seals, checkpoint: &Checkpoint, newest: bool) -> anyhow::Result<SealInfo> {
    let usable =
        |seal: &&SealInfo| seal.snapshot && seal.sequence >= seals.deleted_through && seal.ordered <= checkpoint.size;
    let mut usable = seals.seals.iter().filter(usable);
    let chosen = if newest { usable.next_back() } else { usable.next() };
    chosen.copied().with_context(|| {
        format!(
            "the log has no sealed state to begin with, of those that the checkpoint of {} entries commits to; have the \
             operator seal one (keywitness log seal), and try again once it is cosigned as you ask",
            checkpoint.size
        )
    })
}

/// Fetches a snapshot, whole or not at all.
fn snapshot(global: &Global, client: &ManagerClient, archive: &Archive, seal: &SealInfo) -> anyhow::Result<()> {
    let path = archive.snapshot();
    let draft = path.with_extension("draft");
    let failed = || format!("cannot write {}", draft.display());
    let mut file = BufWriter::new(File::create(&draft).with_context(failed)?);
    let (bar, mut length) = (output::bar(global.json), 0);
    bar.set_message("fetching the sealed state");
    loop {
        let part = patiently(|| client.snapshot(seal.sequence, length))?;
        if part.is_empty() {
            break;
        }
        file.write_all(&part).with_context(failed)?;
        length += part.len() as u64;
        anyhow::ensure!(length <= MAX_SNAPSHOT, "the state is longer than {MAX_SNAPSHOT} bytes, which none is");
        bar.set_position(length);
    }
    bar.finish_and_clear();
    file.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all()).with_context(failed)?;
    std::fs::rename(&draft, &path).with_context(failed)
}

/// Keeps a proof that the log begins with the tree that this auditor verified before, if that ends before the archive begins.
fn link(global: &Global, client: &ManagerClient, archive: &Archive, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let base = archive.base()?;
    if base == 0 {
        return Ok(());
    }
    let info = client.trust_domain()?;
    let before = newest(&progress_file(global, &info.trust_domain, &info.manager)?);
    if let Some(before) = before.filter(|before| (1..base).contains(before)) {
        let proof = client.consistency(before, checkpoint.size)?;
        archive::write_whole(&archive.consistency(), &serde_json::to_vec(&proof)?)?;
    }
    Ok(())
}
