//! What stays of a contribution in the ceremony's file, and the chain that all of them form.

use ark_bn254::{G1Affine, G2Affine};

use super::{
    CeremonyError, Phase, Progress,
    beacon::Beacon,
    key,
    knowledge::{self, Secret, Share},
    points, powers,
};
use crate::{
    Digest,
    codec::{Reader, Writer},
    transcript::label,
};

/// Longest name of a contributor, in bytes.
const MAX_NAME: usize = 64;

/// One contribution: who made it, and what it shows of each secret.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Contribution {
    pub(super) name: String,
    /// Present where the secrets come from a public value.
    pub(super) beacon: Option<Beacon>,
    /// One for each secret of the phase.
    pub(super) shares: Vec<Share>,
}

/// A name of 1 to 64 bytes, without what a terminal would take for commands.
pub(super) fn check_name(name: &str) -> Result<(), CeremonyError> {
    if name.is_empty() || name.len() > MAX_NAME || name.trim() != name || name.chars().any(char::is_control) {
        return Err(CeremonyError::Order("a contributor's name has 1 to 64 printable bytes"));
    }
    Ok(())
}

/// The names of a phase's secrets, in the order of its shares.
pub(super) const fn secrets(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::Powers => &powers::SECRETS,
        Phase::Circuit | Phase::Closed => &key::SECRETS,
    }
}

impl Contribution {
    /// A contribution of `secrets` to `phase`, built on `heads`, after `before`.
    pub(super) fn new(
        name: &str,
        beacon: Option<Beacon>,
        phase: Phase,
        before: &Digest,
        heads: &[G1Affine],
        secrets: &[Secret],
    ) -> Self {
        let shares = secrets.iter().zip(heads).map(|(secret, head)| Share::unproven(secret, *head)).collect();
        let mut contribution = Self { name: name.to_owned(), beacon, shares };
        let bases = contribution.bases(phase, before);
        for ((share, secret), base) in contribution.shares.iter_mut().zip(secrets).zip(bases) {
            share.prove(secret, base);
        }
        contribution
    }

    /// All but the proofs of knowledge, in one encoding.
    fn statement(&self, phase: Phase, before: &Digest) -> Writer {
        let mut writer = Writer::default();
        writer.bytes(b"contribution").value(before).u8(phase.number());
        self.write_head(&mut writer);
        for share in &self.shares {
            points::write(&mut writer, &[share.in_g1, share.after]);
            points::write(&mut writer, &[share.in_g2]);
        }
        writer
    }

    /// The base of each proof of knowledge: a hash of all that came before, of all this contribution says,
    /// and of which secret it is.
    fn bases(&self, phase: Phase, before: &Digest) -> Vec<G2Affine> {
        let statement = self.statement(phase, before).into_bytes();
        let base = |name: &&str| {
            let mut writer = Writer::default();
            writer.bytes(&statement).bytes(name.as_bytes());
            knowledge::base(&Digest::of(label::CEREMONY_KNOWLEDGE, &writer.into_bytes()).0)
        };
        secrets(phase).iter().map(base).collect()
    }

    /// The digest of this contribution and of everything before it, which its author publishes.
    pub(super) fn digest(&self, phase: Phase, before: &Digest) -> Digest {
        let mut writer = self.statement(phase, before);
        for share in &self.shares {
            points::write(&mut writer, &[share.knowledge]);
        }
        Digest::of(label::CEREMONY, &writer.into_bytes())
    }

    /// What the accumulated points are after this contribution.
    pub(super) fn heads(&self) -> Vec<G1Affine> {
        self.shares.iter().map(|share| share.after).collect()
    }

    /// Checks this contribution, the `number`-th, in its place.
    pub(super) fn check(
        &self,
        number: usize,
        phase: Phase,
        before: &Digest,
        heads: &[G1Affine],
        progress: Progress<'_>,
    ) -> Result<(), CeremonyError> {
        let contribution = number;
        let bases = self.bases(phase, before);
        let places = secrets(phase).iter().zip(&self.shares).zip(heads.iter().zip(bases));
        for ((&secret, share), (head, base)) in places {
            if !share.is_one_secret() {
                return Err(CeremonyError::Groups { contribution, secret });
            }
            if !share.is_known(base) {
                return Err(CeremonyError::Knowledge { contribution, secret });
            }
            if !share.builds_on(*head) {
                return Err(CeremonyError::Chain { contribution, secret });
            }
        }
        match &self.beacon {
            Some(beacon) => self.check_beacon(beacon, contribution, phase, before, heads, progress),
            None => Ok(()),
        }
    }

    fn check_beacon(
        &self,
        beacon: &Beacon,
        contribution: usize,
        phase: Phase,
        before: &Digest,
        heads: &[G1Affine],
        progress: Progress<'_>,
    ) -> Result<(), CeremonyError> {
        let derived: Vec<Secret> = match phase {
            Phase::Powers => beacon.secrets(&powers::SECRETS, before, progress)?.into(),
            Phase::Circuit | Phase::Closed => beacon.secrets(&key::SECRETS, before, progress)?.into(),
        };
        // The proofs are deterministic, so that a beacon's contribution has one form.
        let expected = Self::new(&self.name, self.beacon.clone(), phase, before, heads, &derived);
        if *self == expected { Ok(()) } else { Err(CeremonyError::Beacon { contribution }) }
    }

    fn write_head(&self, writer: &mut Writer) {
        writer.bytes(self.name.as_bytes()).u8(u8::from(self.beacon.is_some()));
        if let Some(beacon) = &self.beacon {
            beacon.write(writer);
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        self.write_head(writer);
        for share in &self.shares {
            points::write(writer, &[share.in_g1, share.after]);
            points::write(writer, &[share.in_g2, share.knowledge]);
        }
    }

    /// Reads a contribution to `phase`.
    pub(super) fn read(reader: &mut Reader<'_>, phase: Phase) -> Result<Self, CeremonyError> {
        let malformed = |why| CeremonyError::from(Reader::new("ceremony file", &[]).error(why));
        let name = std::str::from_utf8(reader.bytes(MAX_NAME)?).map_err(|_| malformed("a name is not text"))?;
        check_name(name)?;
        let beacon = match reader.u8()? {
            0 => None,
            1 => Some(Beacon::read(reader)?),
            _ => return Err(malformed("a contribution is neither a party's nor a beacon's")),
        };
        let share = |_| {
            let g1 = points::read::<ark_bn254::g1::Config>(reader, "a contribution in G1", 2)?;
            let g2 = points::read::<ark_bn254::g2::Config>(reader, "a contribution in G2", 2)?;
            match (g1.as_slice(), g2.as_slice()) {
                (&[in_g1, after], &[in_g2, knowledge]) => Ok(Share { in_g1, in_g2, after, knowledge }),
                _ => Err(malformed("a contribution lacks points")),
            }
        };
        let shares = secrets(phase).iter().map(share).collect::<Result<_, CeremonyError>>()?;
        Ok(Self { name: name.to_owned(), beacon, shares })
    }
}
