//! The replay: commands in, the state that they come to out, and what each attestation must answer for.

use std::collections::{BTreeMap, BTreeSet};

use keywitness_circuits::{Digest, Envelope, codec::Canonical};
use keywitness_custody::{Complaint, Dealing};
use keywitness_verifier::wire::StatementInfo;

use super::{
    divergence::{Divergence, Offence},
    proofs::Attestation,
    scratch::Scratch,
    tally::Tally,
};
use crate::{
    ledger::{
        Command, Outcome,
        apply::evidence::asked,
        log::{Entry, execute},
        seal::state_root,
        state::{HsmRow, SharingRow, State, key},
        tables::Fault,
    },
    service::verdict_of_complaint,
};

/// What the replay holds a log against beside itself.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The manager that the log must be of; any where left out.
    pub audience: Option<keywitness_verifier::identity::Audience>,
    /// The verifying keys that may be in force; any where empty.
    pub verifying_keys: Vec<Digest>,
}

/// Applies entries one by one, in the log's order, to a state of its own.
pub struct Replayer {
    tables: Scratch,
    accepted: Accepted,
    /// The entries after which the log has a seal of the state, further on.
    sealed: BTreeSet<u64>,
    /// State roots that seals further on must name.
    roots: BTreeMap<u64, Digest>,
}

impl Replayer {
    /// From the beginning of a log.
    pub fn new(accepted: Accepted) -> Self {
        Self::resume(Scratch::default(), accepted, BTreeMap::new())
    }

    /// From a state that was verified before.
    pub(crate) const fn resume(tables: Scratch, accepted: Accepted, roots: BTreeMap<u64, Digest>) -> Self {
        Self { tables, accepted, sealed: BTreeSet::new(), roots }
    }

    /// Says which states are sealed further on in the log: a seal is entered some commands after the state that it is of. The
    /// state here may be one of them.
    pub(crate) fn expect_seals(&mut self, sealed: BTreeSet<u64>) -> Result<(), Fault> {
        self.sealed = sealed;
        self.remember_root(self.sequence()?)
    }

    fn remember_root(&mut self, sequence: u64) -> Result<(), Fault> {
        if self.sealed.contains(&sequence) && !self.roots.contains_key(&sequence) {
            self.roots.insert(sequence, state_root(&self.tables)?.root);
        }
        Ok(())
    }

    /// State roots that seals further on must name.
    pub(crate) const fn roots(&self) -> &BTreeMap<u64, Digest> {
        &self.roots
    }

    /// The state so far.
    pub(crate) const fn tables(&self) -> &Scratch {
        &self.tables
    }

    /// How many entries were applied.
    ///
    /// # Errors
    /// [`Fault`] where the state cannot be read.
    pub fn sequence(&self) -> Result<u64, Fault> {
        Ok(State(&self.tables).head()?.sequence)
    }

    /// Applies one entry. Gives what it must answer for, if it is an attestation of an HSM that was enrolled then.
    ///
    /// # Errors
    /// [`Divergence`] where the entry is not what an honest manager writes after the entries before it.
    pub(crate) fn step(&mut self, entry: &Entry, tally: &mut Tally) -> Result<Option<Attestation>, Box<Divergence>> {
        let place = self.place(entry).map_err(|fault| inapplicable(entry, 0, &fault))?;
        let sequence = place.sequence;
        let fault = |fault: Fault| inapplicable(entry, sequence, &fault);
        let head = State(&self.tables).head().map_err(fault)?;
        let accuse = |offence, expected: String, found: String| {
            Box::new(Divergence { offence, expected, found, ..place.clone() })
        };
        if entry.at < head.at {
            return Err(accuse(Offence::TimeWentBack, format!("{} or later", head.at.0), entry.at.0.to_string()));
        }
        let command = entry.submission.command.bare();
        self.accept(command, &accuse)?;
        let attestation = self.attestation(entry, &place).map_err(fault)?;
        let wrong = match self.evidence(command, entry).map_err(fault)? {
            None => self.judgement(command, &entry.outcome).map_err(fault)?,
            wrong => wrong,
        };
        let (outcome, _) = execute(&mut self.tables, entry.submission.clone(), entry.at).map_err(fault)?;
        if outcome != entry.outcome {
            return Err(accuse(Offence::Outcome, format!("{outcome:?}"), format!("{:?}", entry.outcome)));
        }
        if let Some((offence, expected, found)) = wrong {
            return Err(accuse(offence, expected, found));
        }
        if let Command::Seal { sequence: of, root } = command
            && entry.outcome == Outcome::Done
        {
            match self.roots.remove(of) {
                Some(expected) if expected == *root => tally.seals += 1,
                expected => {
                    let expected = expected.map_or_else(|| "no seal of that state".to_owned(), |root| root.to_string());
                    return Err(accuse(Offence::StateRoot, expected, root.to_string()));
                }
            }
        }
        self.remember_root(sequence).map_err(fault)?;
        *tally.commands.entry(command.name().to_owned()).or_default() += 1;
        tally.refusals += u64::from(matches!(entry.outcome, Outcome::Refused(_)));
        tally.first = tally.first.or(Some(entry.at));
        tally.last = Some(entry.at);
        Ok(attestation)
    }

    /// What a divergence at this entry would say, but for the offence.
    fn place(&self, entry: &Entry) -> Result<Divergence, Fault> {
        Ok(Divergence {
            sequence: self.sequence()? + 1,
            at: entry.at,
            command: entry.submission.command.name().to_owned(),
            offence: Offence::Outcome,
            expected: String::new(),
            found: String::new(),
        })
    }

    /// Whether the trust anchors accept the configuration of a state that an audit begins with.
    ///
    /// # Errors
    /// [`Divergence`], as for the entry that put it in force.
    pub(crate) fn accept_state(&self) -> Result<(), Box<Divergence>> {
        let read = || Ok::<_, Fault>((State(&self.tables).head()?, State(&self.tables).configuration()?));
        let place = |offence, expected, found| Divergence {
            sequence: self.sequence().unwrap_or_default(),
            at: State(&self.tables).head().unwrap_or_default().at,
            command: "the sealed state".to_owned(),
            offence,
            expected,
            found,
        };
        let unreadable = |fault: Fault| {
            let expected = "a state that can be read".to_owned();
            Box::new(place(Offence::Inapplicable, expected, fault.to_string()))
        };
        let (_, configuration) = read().map_err(unreadable)?;
        let accuse = |offence, expected, found| Box::new(place(offence, expected, found));
        self.accept(&Command::Configure(configuration), &accuse)
    }

    /// Whether the trust anchors accept what a configuration puts in force.
    fn accept(
        &self,
        command: &Command,
        accuse: &dyn Fn(Offence, String, String) -> Box<Divergence>,
    ) -> Result<(), Box<Divergence>> {
        let Command::Configure(configuration) = command else { return Ok(()) };
        let Accepted { audience, verifying_keys } = &self.accepted;
        if let Some(expected) = audience
            && *expected != configuration.audience
        {
            let name = |audience: &keywitness_verifier::identity::Audience| {
                format!("manager {} of {}", audience.manager, audience.trust_domain)
            };
            return Err(accuse(Offence::Audience, name(expected), name(&configuration.audience)));
        }
        let stranger =
            |info: &&StatementInfo| !verifying_keys.is_empty() && !verifying_keys.contains(&info.verifying_key);
        match configuration.statements.iter().find(stranger) {
            Some(StatementInfo { kind, verifying_key }) => {
                let expected = "one of the anchors' verifying keys".to_owned();
                Err(accuse(Offence::VerifyingKey, expected, format!("{verifying_key} for {kind}")))
            }
            None => Ok(()),
        }
    }

    /// What an attestation must answer for. A command that names an enrolment which is not in force changes nothing, and
    /// so does an envelope that is not the one it says: `apply` refuses both, and the outcome is compared.
    fn attestation(&self, entry: &Entry, place: &Divergence) -> Result<Option<Attestation>, Fault> {
        let Command::Attest { envelope, digest, hsm, enrolment, verdict } = entry.submission.command.bare() else {
            return Ok(None);
        };
        let Some(row) = State(&self.tables).hsm(hsm)?.filter(|row| row.revision == *enrolment) else {
            return Ok(None);
        };
        let Ok(envelope) = Envelope::from_bytes(envelope) else { return Ok(None) };
        if envelope.digest() != *digest || envelope.context.hsm != *hsm {
            return Ok(None);
        }
        let (place, verdict) = (place.clone(), verdict.clone());
        Ok(Some(Attestation { place, identity: row.identity_key()?, envelope, verdict }))
    }

    /// Evidence that counted, for or against an HSM, appraised again.
    fn evidence(&self, command: &Command, entry: &Entry) -> Result<Option<(Offence, String, String)>, Fault> {
        let Command::PresentEvidence { hsm, enrolment, nonce, evidence, verdict, .. } = command else {
            return Ok(None);
        };
        let state = State(&self.tables);
        let Some(row) = state.hsm(hsm)?.filter(|row| row.revision == *enrolment) else { return Ok(None) };
        // What is not asked for changes nothing: `apply` refuses it, and the outcome is compared.
        let Ok(asked) = asked(state, &row, nonce, entry.at)? else { return Ok(None) };
        let judged = asked.appraise(evidence, verdict.at);
        // Words are a library's, which may choose others.
        let same = match (&judged.found, &verdict.found) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(ours), Err(theirs)) => ours.measured.is_some() == theirs.measured.is_some(),
            _ => false,
        };
        let taken = judged.against == verdict.against && !same;
        Ok(taken.then(|| (Offence::Evidence, format!("{:?}", judged.found), format!("{:?}", verdict.found))))
    }

    /// Dealings and complaints, judged again: few, so that each is checked as it comes.
    fn judgement(&self, command: &Command, outcome: &Outcome) -> Result<Option<(Offence, String, String)>, Fault> {
        let state = State(&self.tables);
        match command {
            Command::EnrolSharing { hsm, dealing, .. } if *outcome == Outcome::Done => {
                let dealer = state.need::<HsmRow>(&key::hsm(hsm))?.identity_key()?;
                let checked = Dealing::from_bytes(dealing)
                    .map_err(|error| error.to_string())
                    .and_then(|dealing| dealing.check(&dealer).map_err(|error| error.to_string()));
                Ok(checked.err().map(|error| (Offence::Dealing, "a refusal".to_owned(), error)))
            }
            Command::Complain { hsm, enrolment, sharing, complaint, verdict, .. } => {
                let row: Option<SharingRow> = state.get(&key::sharing(&sharing.cluster, &sharing.key))?;
                let holder = state.hsm(hsm)?.filter(|row| row.revision == *enrolment);
                let (Some(row), Some(holder)) = (row, holder) else { return Ok(None) };
                let dealer = state.need::<HsmRow>(&key::hsm(&row.dealer))?.identity_key()?;
                let holder = holder.identity_key()?;
                let judge = |complaint: &Complaint, dealing: &Dealing| {
                    let verdict = complaint.judge(dealing, &dealer, &holder);
                    verdict.map(verdict_of_complaint).map_err(|error| error.to_string())
                };
                let judged = match (Complaint::from_bytes(complaint), Dealing::from_bytes(&row.dealing)) {
                    (Ok(complaint), Ok(dealing)) => judge(&complaint, &dealing),
                    (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
                };
                let same = judged.as_ref().is_ok_and(|judged| judged == verdict);
                let expected = judged.map_or_else(|error| error, |judged| format!("{judged:?}"));
                Ok((!same).then(|| (Offence::Complaint, expected, format!("{verdict:?}"))))
            }
            _ => Ok(None),
        }
    }
}

fn inapplicable(entry: &Entry, sequence: u64, fault: &Fault) -> Box<Divergence> {
    Box::new(Divergence {
        sequence,
        at: entry.at,
        command: entry.submission.command.name().to_owned(),
        offence: Offence::Inapplicable,
        expected: "a command that can be applied".to_owned(),
        found: fault.to_string(),
    })
}
