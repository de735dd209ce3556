//! Backups: a copy of every table, as it was after one command, in a file of its own.
//!
//! A backup is a database like the one it was taken of, whole and dense. It holds no secret key: token and log keys
//! are files of their own, and credentials are in it by their digests only.

use std::{
    fs::{self, File, OpenOptions, rename},
    io,
    ops::ControlFlow,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt, PermissionsExt as _},
    path::{Path, PathBuf},
};

use keywitness_circuits::{Nonce, Timestamp};
use keywitness_verifier::wire::{Backup, Event};

use super::{Redb, draft_of, quiet::guarded};
use crate::ledger::{
    Command, Fault, Rows, Store, Table,
    log::{Entry, Submission, execute, leaf},
    state::{State, check_row, corrupt, decode, key},
};

/// How many bytes of a copy are held in memory.
const CACHE: usize = 64 << 20;

/// Name of the directory of backups in a data directory.
pub const DIRECTORY: &str = "backups";

/// The end of a backup's name.
const ENDING: &str = ".backup.redb";

/// Is told how many rows are done.
pub type Progress<'a> = dyn FnMut(u64) + 'a;

fn failed(path: &Path) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::Storage(format!("{}: {error}", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty private file beside `path`, where a copy is made before it takes that name.
fn draft(path: &Path) -> Result<PathBuf, Fault> {
    let draft = draft_of(path);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&draft)(error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed(&draft))?;
    Ok(draft)
}

/// Gives a finished copy its name, for good.
fn publish(draft: &Path, path: &Path) -> Result<(), Fault> {
    let publish = || {
        File::open(draft)?.sync_all()?;
        rename(draft, path)?;
        File::open(parent(path))?.sync_all()
    };
    publish().map_err(failed(path))
}

/// Copies `rows`, which do not change while they are held, to a new file in `directory`, named after the newest
/// command. Needs little memory, however many rows there are, and holds up no writer.
///
/// # Errors
/// [`Fault`]; then there is no new file.
pub fn write(rows: &dyn Rows, directory: &Path, progress: &mut Progress<'_>) -> Result<Backup, Fault> {
    let head = State(rows).head()?;
    let path = directory.join(format!("{:020}{ENDING}", head.sequence));
    let draft = draft(&path)?;
    let copied = copy(rows, &draft, progress).and_then(|rows| publish(&draft, &path).map(|()| rows));
    if copied.is_err() {
        let _left = fs::remove_file(&draft);
    }
    let bytes = fs::metadata(&path).map_err(failed(&path)).map(|file| file.len());
    Ok(Backup { rows: copied?, file: path.display().to_string(), sequence: head.sequence, at: head.at, bytes: bytes? })
}

fn copy(rows: &dyn Rows, to: &Path, progress: &mut Progress<'_>) -> Result<u64, Fault> {
    let copy = Redb::over(to, &to.display().to_string(), CACHE)?;
    let mut done = 0;
    copy.write(&mut |tables| {
        for table in Table::ALL {
            rows.visit(*table, &[], &[], &mut |key, value| {
                tables.put(*table, key, value)?;
                done += 1;
                if done % 1024 == 0 {
                    progress(done);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    })?;
    Ok(done)
}

/// Writes the database at `path` anew, checked in full, each table in order: as small as it can be, and with as many rows in each
/// page that is held in memory. Owner and mode stay. Returns how many rows it has. Until all of the new file is on disk, the old
/// one is what it was.
///
/// # Errors
/// [`Fault`], as while another process has it open, where it is damaged, or where there is no room for both.
pub fn compact(path: &Path, progress: &mut Progress<'_>) -> Result<u64, Fault> {
    let path = &fs::canonicalize(path).map_err(failed(path))?;
    // Open until it is replaced: nobody writes what would be lost.
    let mut store = Redb::open(path)?;
    let draft = draft(path)?;
    let replaced = guarded(|| renewed(&mut store, &draft, progress)).unwrap_or_else(|| Err(store.damaged()));
    let replaced = replaced.and_then(|rows| {
        like(path, &draft).map_err(failed(&draft))?;
        publish(&draft, path).map(|()| rows)
    });
    if replaced.is_err() {
        let _left = fs::remove_file(&draft);
    }
    replaced
}

/// What is copied gets new checksums: the old ones are looked at before.
fn renewed(store: &mut Redb, draft: &Path, progress: &mut Progress<'_>) -> Result<u64, Fault> {
    if !store.check_integrity()? {
        return Err(store.damaged());
    }
    let rows = store.view()?;
    let checked = check(rows.as_ref(), progress)?;
    let copied = copy(rows.as_ref(), draft, progress)?;
    if copied == checked { Ok(copied) } else { Err(store.damaged()) }
}

/// Gives `to` the owner and mode of `from`. Who is not root may give a file to a group of his own only: another group gets no
/// rights then.
fn like(from: &Path, to: &Path) -> io::Result<()> {
    let (of, is) = (fs::metadata(from)?, fs::metadata(to)?);
    let given = std::os::unix::fs::chown(to, Some(of.uid()), Some(of.gid()));
    if given.is_err() && of.uid() != is.uid() {
        return given;
    }
    let rights = if given.is_ok() { 0o777 } else { 0o700 };
    fs::set_permissions(to, fs::Permissions::from_mode(of.mode() & rights))
}

/// Removes all backups of a directory but the `keep` newest.
///
/// # Errors
/// Where the directory cannot be read, or a file not removed.
pub fn prune(directory: &Path, keep: usize) -> io::Result<()> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ENDING)) {
            backups.push(path);
        }
    }
    // Names have as many digits as any number: their order is that of the commands.
    backups.sort_unstable();
    backups.iter().rev().skip(keep).try_for_each(fs::remove_file)
}

/// Checks everything that can be checked without the proofs: that every row decodes, that the log has a leaf for each
/// command and each opening hashes to its leaf, and that events have no gap.
///
/// # Errors
/// [`Fault::Corrupt`], which names the table.
pub fn check(rows: &dyn Rows, progress: &mut Progress<'_>) -> Result<u64, Fault> {
    let head = State(rows).head()?;
    let (mut done, mut leaves, mut events) = (0, 0, 0);
    for table in Table::ALL {
        rows.visit(*table, &[], &[], &mut |key, value| {
            match table {
                Table::Leaves => {
                    leaves += 1;
                    if *key != key::number(leaves) || value.len() != 32 {
                        return Err(corrupt(*table, format!("leaf {leaves} is missing")));
                    }
                }
                Table::Commands => opening(rows, key, value)?,
                Table::Events => {
                    events += 1;
                    let event: Event = serde_json::from_slice(value).map_err(|error| corrupt(*table, error))?;
                    if event.number != events || *key != key::number(events) {
                        return Err(corrupt(*table, format!("event {events} is missing")));
                    }
                }
                _ => check_row(*table, value)?,
            }
            done += 1;
            if done % 1024 == 0 {
                progress(done);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    if (leaves, events) != (head.sequence, head.events) {
        let why = format!("{leaves} leaves and {events} events, and not {} and {}", head.sequence, head.events);
        return Err(corrupt(Table::Head, why));
    }
    Ok(done)
}

/// That an opening is the one of its leaf.
fn opening(rows: &dyn Rows, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let entry: Entry = decode(Table::Commands, value)?;
    let number = key.try_into().map(u64::from_be_bytes).map_err(|error| corrupt(Table::Commands, error))?;
    let found = rows.get(Table::Leaves, key)?;
    if found.as_deref() != Some(leaf(number, &entry)?.0.as_slice()) {
        return Err(corrupt(Table::Commands, format!("command {number} is not what its leaf says")));
    }
    Ok(())
}

/// Makes the database `to` from the backup `from`, checked in full, and enters into its log that it was restored.
/// Every challenge and join token that was open in the backup is void.
///
/// # Errors
/// [`Fault`], and where there is a file at `to` already; then nothing is there that was not before.
pub fn restore(from: &Path, to: &Path, now: Timestamp, progress: &mut Progress<'_>) -> Result<Backup, Fault> {
    if fs::exists(to).map_err(failed(to))? {
        let why = "is there already: move it away, or restore into another data directory";
        return Err(Fault::Storage(format!("{} {why}", to.display())));
    }
    let draft = draft(to)?;
    // redb panics at what it does not expect in a file.
    let renewed = guarded(|| renew(from, &draft, now, progress)).unwrap_or_else(|| Err(damaged(from)));
    let restored = renewed.and_then(|summary| publish(&draft, to).map(|()| summary));
    if restored.is_err() {
        let _left = fs::remove_file(&draft);
    }
    let summary = restored?;
    Ok(Backup { file: to.display().to_string(), ..summary })
}

fn damaged(backup: &Path) -> Fault {
    Fault::Storage(format!("{} is damaged: take another backup", backup.display()))
}

fn renew(from: &Path, draft: &Path, now: Timestamp, progress: &mut Progress<'_>) -> Result<Backup, Fault> {
    let bytes = fs::copy(from, draft).map_err(failed(from))?;
    // Errors name the backup, and not the copy that is made of it.
    let mut store = Redb::over(draft, &from.display().to_string(), CACHE)?;
    if !store.check_integrity()? {
        return Err(damaged(from));
    }
    let rows = check(store.view()?.as_ref(), progress)?;
    let salt = Nonce::random();
    store.write(&mut |tables| {
        execute(tables, Submission { salt, command: Command::Restored }, now)?;
        Ok(())
    })?;
    let head = State(store.view()?.as_ref()).head()?;
    Ok(Backup { file: String::new(), sequence: head.sequence, at: head.at, rows, bytes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keywitness_verifier::wire::{KeyQuery, ProblemKind};

    use super::*;
    use crate::{
        service::testing::{Caller, TestHsm, TestKey, World, refused, submit},
        store::FILE,
    };

    fn all(rows: &dyn Rows) -> Vec<Vec<crate::ledger::tables::Row>> {
        Table::ALL.iter().map(|table| rows.range(*table, &[], &[], usize::MAX).unwrap()).collect()
    }

    #[test]
    fn a_restored_ledger_has_every_row_and_nothing_that_can_be_used_twice() {
        let world = World::on_disk();
        let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        let (challenge, token) = (hsm.challenge(&world, &key).unwrap(), world.join_token("eu", None));
        let view = world.store.view().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let backup = write(view.as_ref(), elsewhere.path(), &mut |_| ()).unwrap();
        // Writes go on meanwhile, and are not in it: the challenge is answered, and the token used.
        let answer = hsm.answer(&world, "eu", &key, &challenge);
        submit(&world, &answer).unwrap();
        TestHsm::new("hsm-2").enrol(&world, &token).unwrap();
        let copy = Redb::open(Path::new(&backup.file)).unwrap();
        assert_eq!(all(copy.view().unwrap().as_ref()), all(view.as_ref()));
        drop((copy, view));

        let to = elsewhere.path().join(FILE);
        let restored = restore(Path::new(&backup.file), &to, world.now(), &mut |_| ()).unwrap();
        assert_eq!(restored.sequence, backup.sequence + 1);
        assert!(restore(Path::new(&backup.file), &to, world.now(), &mut |_| ()).is_err(), "it was there already");
        let world = world.over_file(&to);
        world.advance(1);
        refused(submit(&world, &answer), ProblemKind::ChallengeExpired);
        refused(TestHsm::new("hsm-3").enrol(&world, &token), ProblemKind::JoinTokenRefused);
        assert!(world.alerts().is_empty(), "nobody is blamed for a restoration");
        hsm.attest(&world, "eu", &key).unwrap();
        check(world.store.view().unwrap().as_ref(), &mut |_| ()).unwrap();
    }

    #[test]
    fn who_answers_a_challenge_that_a_restoration_forgot_is_not_blamed() {
        let world = World::on_disk();
        let (hsm, key) = (world.hsm("hsm-1", "eu"), TestKey::ed25519("k", 1));
        hsm.enrol_key(&world, &key).unwrap();
        hsm.attest(&world, "eu", &key).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let backup = write(world.store.view().unwrap().as_ref(), elsewhere.path(), &mut |_| ()).unwrap();
        world.advance(1);
        let answer = |world: &World| hsm.answer(world, "eu", &key, &hsm.challenge(world, &key).unwrap());
        let answers: Vec<_> = (0..6).map(|_| answer(&world)).collect();
        answers.iter().for_each(|answer| drop(submit(&world, answer).unwrap()));
        world.advance(1);
        let to = elsewhere.path().join(FILE);
        restore(Path::new(&backup.file), &to, world.now(), &mut |_| ()).unwrap();
        let world = world.over_file(&to);
        let query = KeyQuery { key: key.key.key.clone(), cluster: None, hsm: None, max_age: None };
        let status = || world.manager.attested(&Caller::in_process(), &query).unwrap().hsms;
        let before = status();
        for answer in &answers {
            refused(submit(&world, answer), ProblemKind::UnknownChallenge);
        }
        assert_eq!(status(), before);
        assert_eq!(world.alerts(), []);
        // What was never given is still the sender's: its time began after the restoration.
        world.advance(1);
        let mut challenge = hsm.challenge(&world, &key).unwrap();
        challenge.nonce = Nonce::random();
        refused(submit(&world, &hsm.answer(&world, "eu", &key, &challenge)), ProblemKind::UnknownChallenge);
        assert_ne!(status(), before);
    }

    #[test]
    fn a_damaged_backup_is_refused_and_leaves_nothing_behind() {
        let world = World::new();
        world.hsm("hsm-1", "eu");
        let directory = tempfile::tempdir().unwrap();
        let backup = write(world.store.view().unwrap().as_ref(), directory.path(), &mut |_| ()).unwrap();
        let (file, to) = (Path::new(&backup.file), directory.path().join(FILE));
        let whole = fs::read(file).unwrap();
        type Damage = fn(&mut dyn crate::ledger::Tables) -> Result<(), Fault>;
        let damage: [Damage; 5] = [
            |tables| tables.put(Table::Leaves, &key::number(1), &[7; 32]),
            |tables| tables.remove(Table::Leaves, &key::number(1)),
            |tables| tables.remove(Table::Events, &key::number(1)),
            |tables| tables.put(Table::Hsms, b"hsm-9\0", &[0xff; 40]),
            |tables| tables.remove(Table::Head, key::ONLY),
        ];
        for change in damage {
            fs::write(file, &whole).unwrap();
            Redb::open(file).unwrap().write(&mut |tables| change(tables)).unwrap();
            let fault = restore(file, &to, world.now(), &mut |_| ()).unwrap_err();
            assert!(matches!(fault, Fault::Corrupt { .. }), "{fault}");
            assert!(!to.exists() && !draft_of(&to).exists());
        }
        fs::write(file, whole.get(..whole.len() / 2).unwrap()).unwrap();
        let fault = restore(file, &to, world.now(), &mut |_| ()).unwrap_err().to_string();
        assert!(!fault.contains(".draft") && !to.exists(), "{fault}");
    }

    /// One byte of the file is wrong: either nothing rests on it, or the backup is refused.
    #[test]
    fn wherever_a_backup_is_damaged_it_is_refused_or_whole() {
        let world = World::new();
        let hsm = world.hsm("hsm-1", "eu");
        hsm.enrol_key(&world, &TestKey::ed25519("k", 1)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let backup = write(world.store.view().unwrap().as_ref(), directory.path(), &mut |_| ()).unwrap();
        let (file, to) = (Path::new(&backup.file), directory.path().join(FILE));
        let whole = fs::read(file).unwrap();
        let restored = || {
            let restored = restore(file, &to, world.now(), &mut |_| ());
            assert!(!draft_of(&to).exists() && to.exists() == restored.is_ok());
            restored.is_ok().then(|| {
                let rows = all(Redb::open(&to).unwrap().view().unwrap().as_ref());
                fs::remove_file(&to).unwrap();
                rows
            })
        };
        // The restoration itself is a command, with another salt each time: its tables differ.
        let (expected, again) = (restored().unwrap(), restored().unwrap());
        let alike: Vec<bool> = expected.iter().zip(&again).map(|(one, other)| one == other).collect();
        assert!(alike.iter().filter(|alike| !**alike).count() < 6);
        let mut refused = 0;
        for at in (0..whole.len()).step_by(1021) {
            let mut bytes = whole.clone();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x41;
            }
            fs::write(file, &bytes).unwrap();
            match restored() {
                None => refused += 1,
                Some(rows) => {
                    let same =
                        rows.iter().zip(&expected).zip(&alike).all(|((row, other), alike)| !alike || row == other);
                    assert!(same, "byte {at}");
                }
            }
        }
        assert!(refused > 5, "{refused}");
    }

    #[test]
    fn the_newest_backups_are_kept_and_other_files_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let name = |number: u64| directory.path().join(format!("{number:020}{ENDING}"));
        for number in [9, 10, 100] {
            fs::write(name(number), b"").unwrap();
        }
        fs::write(directory.path().join("notes"), b"").unwrap();
        prune(directory.path(), 2).unwrap();
        assert!(!name(9).exists() && name(10).exists() && name(100).exists());
        assert!(directory.path().join("notes").exists());
    }

    #[test]
    fn compaction_gives_back_what_is_free_and_changes_no_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let store = Redb::open(&path).unwrap();
        let fill = |store: &Redb, keep: u64| {
            store.write(&mut |tables| {
                for number in 0..2000 {
                    match number < keep {
                        true => tables.put(Table::Due, &key::number(number), &[7; 4000])?,
                        false => tables.remove(Table::Due, &key::number(number))?,
                    }
                }
                Ok(())
            })
        };
        fill(&store, 2000).unwrap();
        fill(&store, 100).unwrap();
        let before = all(store.view().unwrap().as_ref());
        let length = || fs::metadata(&path).unwrap().len();
        let long = length();
        assert!(matches!(compact(&path, &mut |_| ()), Err(Fault::Storage(why)) if why.contains("in use")));
        drop(store);
        let rows = compact(&path, &mut |_| ()).unwrap();
        assert!(length() < long / 2, "{long} became {}", length());
        let after = all(Redb::open(&path).unwrap().view().unwrap().as_ref());
        assert_eq!((rows, &after), (100, &before));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the draft is gone");
        // By another name, and shared with a group: it stays so.
        let (link, mode) = (directory.path().join("link"), fs::Permissions::from_mode(0o640));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::set_permissions(&path, mode.clone()).unwrap();
        compact(&link, &mut |_| ()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        // What is damaged is not made to look whole.
        let mut damaged = fs::read(&path).unwrap();
        for page in damaged.chunks_mut(4096).filter(|page| page.iter().filter(|byte| **byte == 7).count() > 2048) {
            page.iter_mut().for_each(|byte| *byte ^= u8::from(*byte == 7));
        }
        fs::write(&path, &damaged).unwrap();
        let refused = compact(&path, &mut |_| ());
        assert!(matches!(refused, Err(Fault::Storage(_))), "{refused:?}");
        assert!(!draft_of(&path).exists() && path.exists());
    }
}
