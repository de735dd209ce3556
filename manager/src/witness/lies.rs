//! A witness and managers that lie to it, each in its own way: none gets a cosignature.

use std::cell::{Cell, RefCell};

use keywitness_circuits::{Nonce, codec::Canonical};
use keywitness_verifier::{
    log::{Algorithm, CompactRange, Node, consistency_proof, leaf_hash},
    wire::SealInfo,
};
use tempfile::TempDir;

use super::*;
use crate::{
    audit::{
        Offence,
        tests::{lies::relived, log_of, small},
    },
    ledger::{Command, Verdict, log::Submission},
    service::testing::{Caller, TestHsm, TestKey, World},
};

/// A manager that shows whatever log it likes, and signs it.
struct Liar {
    key: NoteKey,
    /// The log that its checkpoints commit to.
    log: Vec<Entry>,
    /// The log that its openings show.
    shown: Vec<Entry>,
    seals: Seals,
    /// The seal that its checkpoints name, where it is not the newest.
    state: Option<StateSeal>,
    /// After how many answers it is away.
    patience: Cell<usize>,
    taken: RefCell<Vec<Note>>,
}

impl Liar {
    fn new(log: Vec<Entry>) -> Self {
        let key = NoteKey::new("acme.example/m1", Algorithm::Ed25519, &[1; 32]).unwrap();
        let seals = Seals { deleted_through: 0, seals: seals_of(&log), pending: None };
        let (shown, taken, patience) = (log.clone(), RefCell::default(), Cell::new(usize::MAX));
        Self { key, log, shown, seals, state: None, patience, taken }
    }

    fn answers(&self) -> Result<(), String> {
        match self.patience.get() {
            0 => Err("it is away".to_owned()),
            left => {
                self.patience.set(left - 1);
                Ok(())
            }
        }
    }

    fn tree(&self) -> (CompactRange, BTreeMap<(u8, u64), Digest>) {
        let (mut range, mut nodes) = (CompactRange::default(), BTreeMap::new());
        for (number, entry) in (1..).zip(&self.log) {
            range.append(leaf_hash(&entry.opening(number).unwrap().entry().0), |Node { height, index }, hash| {
                nodes.insert((height, index), *hash);
            });
        }
        (range, nodes)
    }
}

/// The seals that a log has, each true or not.
fn seals_of(log: &[Entry]) -> Vec<SealInfo> {
    let seal = |(ordered, entry): (u64, &Entry)| match *entry.submission.command.bare() {
        Command::Seal { sequence, root } if entry.outcome == crate::ledger::Outcome::Done => {
            Some(SealInfo { sequence, root, ordered, at: entry.at, snapshot: false })
        }
        _ => None,
    };
    (1..).zip(log).filter_map(seal).collect()
}

impl LogSource for Liar {
    fn checkpoint(&self) -> Result<Note, String> {
        self.answers()?;
        let (range, _) = self.tree();
        let newest = seals_of(&self.log).last().map(|seal| StateSeal { sequence: seal.sequence, root: seal.root });
        let (size, root, state) = (range.size(), range.root(), self.state.or(newest));
        let checkpoint = Checkpoint { origin: self.key.verifier().name().to_owned(), size, root, state };
        let mut note = Note::new(checkpoint.to_string()).unwrap();
        note.add(self.key.sign(note.text(), Timestamp(1)));
        Ok(note)
    }
    fn cosigned(&self) -> Result<Option<Note>, String> {
        self.answers().map(|()| None)
    }
    fn consistency(&self, from: u64, to: u64) -> Result<Vec<Digest>, String> {
        self.answers()?;
        let (_, nodes) = self.tree();
        let read = |node: Node| nodes.get(&(node.height, node.index)).copied().ok_or(());
        consistency_proof(from, to, read).ok().flatten().ok_or_else(|| "there is none".to_owned())
    }
    fn openings(&self, after: u64) -> Result<Vec<Opening>, String> {
        self.answers()?;
        let rest = (1..).zip(&self.shown).skip(after as usize).take(5);
        Ok(rest.map(|(number, entry)| entry.opening(number).unwrap()).collect())
    }
    fn seals(&self) -> Result<Seals, String> {
        self.answers().map(|()| self.seals.clone())
    }
    fn cosign(&self, note: &Note) -> Result<(), String> {
        self.answers()?;
        self.taken.borrow_mut().push(note.clone());
        Ok(())
    }
}

/// A witness, and where it keeps what it knows.
fn witness() -> (Witness, TempDir) {
    let (home, log) = (tempfile::tempdir().unwrap(), Liar::new(Vec::new()).key.verifier().clone());
    let witness = Witness {
        key: NoteKey::new("w.example", Algorithm::CosignatureV1, &[9; 32]).unwrap(),
        policy: CheckpointPolicy::log_alone(log).unwrap(),
        directory: home.path().to_owned(),
        checker: Checker::new([]).unwrap(),
        accepted: Accepted::default(),
    };
    (witness, home)
}

/// The witness refuses, tells why, and keeps what it knew.
#[track_caller]
fn refused(witness: &Witness, liar: &Liar) -> WitnessError {
    let before = files::read_if_there(&witness.directory.join(CHECKPOINT)).unwrap();
    let why = witness.round(liar, Timestamp(7)).unwrap_err();
    assert!(liar.taken.borrow().is_empty(), "{why}");
    assert_eq!(files::read_if_there(&witness.directory.join(CHECKPOINT)).unwrap(), before);
    why
}

#[track_caller]
fn diverges(witness: &Witness, log: Vec<Entry>, offence: Offence, sequence: usize) {
    let why = refused(witness, &Liar::new(log));
    let WitnessError::Diverges(AuditError::Diverges(divergence)) = why else { panic!("{why}") };
    assert_eq!((divergence.offence, divergence.sequence), (offence, sequence as u64), "{divergence}");
}

fn scene() -> (World, TestHsm, TestKey) {
    let (world, hsm, _, key) = small();
    hsm.fail(&world, "eu", &key);
    hsm.attest(&world, "eu", &key).unwrap();
    (world, hsm, key)
}

/// The places of attestations: accepted, refused, accepted.
fn attestations(log: &[Entry]) -> Vec<usize> {
    (0..log.len()).filter(|place| log[*place].submission.command.name() == "attest").collect()
}

/// Changes an attestation, and lives with it.
fn changed(log: &[Entry], place: usize, change: impl FnOnce(&mut Vec<u8>, &mut Digest, &mut Verdict)) -> Vec<Entry> {
    let mut log = log.to_vec();
    let Command::Attest { envelope, digest, verdict, .. } = &mut log[place].submission.command else { panic!() };
    change(envelope, digest, verdict);
    relived(&log)
}

#[test]
fn no_lie_about_an_attestation_is_cosigned() {
    let (world, hsm, key) = scene();
    let (witness, _home) = witness();
    let log = log_of(&world);
    let [accepted, failed, last] = attestations(&log)[..] else { panic!() };
    // A refused envelope entered as accepted, and an accepted one as refused.
    let lie = changed(&log, failed, |_, _, verdict| *verdict = Verdict::Proven);
    diverges(&witness, lie, Offence::AcceptedBadProof, failed + 1);
    let lie = changed(&log, accepted, |_, _, verdict| *verdict = Verdict::Refused);
    diverges(&witness, lie, Offence::RefusedGoodProof, accepted + 1);
    // The same where only the outcome is made up.
    let mut lie = log.clone();
    lie[failed].outcome = log[accepted].outcome.clone();
    diverges(&witness, lie, Offence::Outcome, failed + 1);
    let mut lie = log.clone();
    lie[last].outcome = log[failed].outcome.clone();
    diverges(&witness, lie, Offence::Outcome, last + 1);
    // A record that nobody proved: the manager answers a challenge itself, with the envelope of another time.
    let challenge = hsm.challenge(&world, &key).unwrap();
    let context = hsm.context(&world, "eu", &key, &challenge);
    let mut envelope = hsm.seal(&key, context);
    envelope.signature = [0; 64];
    let command = Command::Attest {
        digest: envelope.digest(),
        envelope: envelope.to_bytes(),
        hsm: hsm.id.clone(),
        enrolment: 1,
        verdict: Verdict::Proven,
    };
    let mut lie = log_of(&world);
    let submission = Submission { salt: Nonce([3; 32]), command };
    lie.push(Entry { submission, ..lie.last().unwrap().clone() });
    diverges(&witness, relived(&lie), Offence::IdentitySignature, lie.len());
    // An entry that was never there, and one that is left out.
    let mut lie = log.clone();
    lie.remove(accepted - 1);
    diverges(&witness, lie, Offence::Outcome, accepted);
    // The log itself is cosigned.
    let honest = Liar::new(log);
    witness.round(&honest, Timestamp(8)).unwrap();
    assert_eq!(honest.taken.borrow().len(), 1);
    // Once it was seen, nothing is taken back.
    let mut dropped = honest.log.clone();
    dropped.remove(last);
    let why = refused(&witness, &Liar::new(relived(&dropped)));
    assert!(matches!(why, WitnessError::Forked { .. }), "{why}");
    world.join_token("eu", None);
    let mut grown = log_of(&world);
    grown[last].submission.salt.0[0] ^= 1;
    let why = refused(&witness, &Liar::new(grown));
    assert!(matches!(&why, WitnessError::Forked { evidence, .. } if evidence.exists()), "{why}");
}

#[test]
fn openings_that_are_not_the_logs_are_not_cosigned() {
    let (world, ..) = scene();
    let (witness, _home) = witness();
    let log = log_of(&world);
    let with = |change: &dyn Fn(&mut Liar)| {
        let mut liar = Liar::new(log.clone());
        change(&mut liar);
        refused(&witness, &liar)
    };
    // Right by itself, but what the checkpoint commits to is something else.
    let why = with(&|liar| liar.shown[0].submission.salt.0[0] ^= 1);
    assert!(matches!(why, WitnessError::Forked { .. }), "{why}");
    let why = with(&|liar| liar.shown.truncate(3));
    assert!(matches!(&why, WitnessError::Source(why) if why.contains("no opening of command 4")), "{why}");
    let stranger = NoteKey::new("acme.example/m1", Algorithm::Ed25519, &[2; 32]).unwrap();
    let why = with(&|liar| liar.key = NoteKey::new(stranger.verifier().name(), Algorithm::Ed25519, &[2; 32]).unwrap());
    assert!(matches!(why, WitnessError::NotTrusted(NotTrusted::Unsigned)), "{why}");
}

#[test]
fn a_seal_of_another_state_is_not_cosigned() {
    let (world, ..) = scene();
    let (witness, _home) = witness();
    let seal = world.manager.seal(&Caller::in_process()).unwrap();
    let log = log_of(&world);
    let forged = |root: Digest| {
        let mut log = log.clone();
        log.last_mut().unwrap().submission.command = Command::Seal { sequence: seal.sequence, root };
        log
    };
    diverges(&witness, forged(Digest([1; 32])), Offence::StateRoot, log.len());
    // A checkpoint that names another state than was sealed.
    let mut liar = Liar::new(log.clone());
    liar.state = Some(StateSeal { root: Digest([1; 32]), ..seal });
    let why = refused(&witness, &liar);
    assert!(matches!(why, WitnessError::Forked { .. }), "{why}");
    // One that was not announced cannot be made anew.
    let mut liar = Liar::new(log.clone());
    liar.seals.seals.clear();
    let why = refused(&witness, &liar);
    assert!(why.to_string().contains("no seal of that state"), "{why}");
    witness.round(&Liar::new(log), Timestamp(8)).unwrap();
}

/// A manager seals while the witness comes by: the checkpoint is after the state, and before its seal.
#[test]
fn a_seal_that_is_under_way_is_known_when_it_comes() {
    let (world, ..) = scene();
    let state = log_of(&world).len() as u64;
    let sealed = world.manager.seal(&Caller::in_process()).unwrap();
    assert_eq!(sealed.sequence, state);
    // The seal comes three commands after its state.
    let mut log = log_of(&world);
    let seal = log.pop().unwrap();
    for number in 0..3 {
        let mut more = log[1].clone();
        more.submission.command = Command::Tick { receiving_since: seal.at };
        more.submission.salt = Nonce([number; 32]);
        more.at = seal.at;
        log.push(more);
    }
    let between = relived(&log);
    log.push(seal);
    let whole = relived(&log);
    for announced in [true, false] {
        let (witness, _home) = witness();
        let mut first = Liar::new(between.clone());
        first.seals.pending = announced.then_some(state);
        witness.round(&first, Timestamp(7)).unwrap();
        let second = witness.round(&Liar::new(whole.clone()), Timestamp(8));
        assert_eq!(second.is_ok(), announced, "{second:?}");
    }
}

#[test]
fn a_manager_that_is_away_is_asked_again_and_nothing_is_lost() {
    let (world, ..) = scene();
    let (witness, home) = witness();
    let liar = Liar::new(log_of(&world));
    // However far it came: the checkpoint is kept once everything was checked.
    let needed = (0..).find(|patience| {
        liar.patience.set(*patience);
        match witness.round(&liar, Timestamp(7)) {
            Ok(_) => true,
            Err(WitnessError::Source(why)) => {
                assert_eq!(why, "it is away");
                false
            }
            Err(why) => panic!("{why}"),
        }
    });
    assert!(needed.unwrap() > 3);
    assert_eq!(liar.taken.borrow().len(), 1);
    // A restart goes on from there.
    world.join_token("eu", None);
    let longer = Liar::new(log_of(&world));
    let (again, _) = self::witness();
    let again = Witness { directory: home.path().to_owned(), ..again };
    assert_eq!(again.round(&longer, Timestamp(8)).unwrap().size, longer.log.len() as u64);
}
