//! Statement `tagged_key`: *I know the tags that this key computed, for this trust domain and for this beacon.*
//!
//! For an AES key that nobody can read, inside a token that computes AES-CMAC with it and nothing else. `spec.md`
//! beside this file has the relation, its argument and its limits.

pub mod halo2;
#[cfg(feature = "prove")]
mod mac;
#[cfg(test)]
mod tests;

use std::fmt;

use halo2_proofs::pasta::Fp;
use sha2::Digest as _;
use zeroize::Zeroizing;

use crate::{
    ClaimContext, Digest, Error, Fingerprint, KeyAlgorithm, Kind, Nonce, Statement, Suite, TrustDomain,
    codec::{Canonical, Reader, Writer},
    key_knowledge::symmetric::SuiteField,
    transcript::label,
};

#[cfg(feature = "prove")]
pub use mac::cmac;

/// Bytes of a tag: one AES block.
pub const TAG_LEN: usize = 16;

/// The statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaggedKey;

/// What the key must compute the CMAC of for its identifier tag T0, the same in every round.
///
/// It begins with the reserved prefix `keywitness/`: a store must compute no CMAC of such a message for a client.
pub fn identifier_message(trust_domain: &TrustDomain) -> Vec<u8> {
    message(label::TAG_IDENTIFIER, |writer| writer.value(trust_domain))
}

/// What the key must compute the CMAC of for its tag of the round that `beacon` opens, Tβ.
///
/// Reserved as [`identifier_message`] is.
pub fn round_message(trust_domain: &TrustDomain, beacon: &Nonce) -> Vec<u8> {
    message(label::TAG_ROUND, |writer| writer.value(trust_domain).bytes(&beacon.0))
}

fn message(label: &str, rest: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
    let mut writer = Writer::default();
    rest(&mut writer);
    [label.as_bytes(), &[0], &writer.into_bytes()].concat()
}

/// d0: what separates fingerprints of identifier tags from everything else that is hashed.
fn identifier_domain(trust_domain: &TrustDomain, algorithm: KeyAlgorithm) -> Fp {
    reduce(&message(label::TAG_IDENTIFIER_DOMAIN, |writer| writer.value(trust_domain).value(&algorithm)))
}

/// dβ: the same for the tags of one round.
fn round_domain(trust_domain: &TrustDomain, algorithm: KeyAlgorithm, beacon: &Nonce) -> Fp {
    reduce(&message(label::TAG_ROUND_DOMAIN, |writer| writer.value(trust_domain).value(&algorithm).bytes(&beacon.0)))
}

fn reduce(message: &[u8]) -> Fp {
    Fp::from_uniform(&sha2::Sha512::digest(message).into())
}

/// The fingerprint of a tag.
fn tag_fingerprint(domain: Fp, tag: Fp) -> Fp {
    Fp::hash(domain, tag, Fp::from_number(0))
}

/// The public part. It comes in two forms: the *enrolled* one names the key by its identifier and stays the same; that
/// of a *round* adds the beacon and its tag, and is what is proven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    algorithm: KeyAlgorithm,
    identifier: Digest,
    round: Option<Round>,
}

/// What an instance says about one round.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Round {
    beacon: Nonce,
    tag: Digest,
}

impl Instance {
    const ENROLLED: u8 = 5;
    const ROUND: u8 = 6;

    /// The enrolled form, from the CMAC of [`identifier_message`].
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an algorithm that is no CMAC.
    pub fn enrolled(trust_domain: &TrustDomain, algorithm: KeyAlgorithm, tag: &[u8; TAG_LEN]) -> Result<Self, Error> {
        if !algorithm.is_cmac() {
            return Err(Error::WitnessRefused("keys of that algorithm have no tags"));
        }
        let identifier = tag_fingerprint(identifier_domain(trust_domain, algorithm), number(tag));
        Ok(Self { algorithm, identifier: Digest(identifier.to_canonical()), round: None })
    }

    /// The enrolled form of the same key.
    #[must_use]
    pub fn identifier(&self) -> Self {
        Self { round: None, ..self.clone() }
    }

    /// The beacon, in the form of a round.
    pub fn beacon(&self) -> Option<&Nonce> {
        self.round.as_ref().map(|round| &round.beacon)
    }

    /// fβ, in the form of a round: the round's tag under the round's domain. HSMs that hold one key agree on it.
    pub fn round_tag(&self) -> Option<&Digest> {
        self.round.as_ref().map(|round| &round.tag)
    }

    /// The key's algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The kind that proves the round's form of this instance; the enrolled form alone cannot be proven.
    pub const fn kind(&self) -> Kind {
        Kind::TaggedKeyHalo2
    }

    /// f0: the identifier tag under the trust domain's domain.
    pub const fn fingerprint(&self) -> Fingerprint {
        Fingerprint { suite: Suite::Halo2PastaTag, bytes: self.identifier }
    }

    fn read_element(reader: &mut Reader<'_>) -> Result<Digest, Error> {
        let bytes: Digest = reader.value()?;
        match Fp::from_canonical(&bytes.0) {
            Some(_) => Ok(bytes),
            None => Err(reader.error("a tag's fingerprint is not a canonical field element")),
        }
    }
}

impl Canonical for Instance {
    const WHAT: &'static str = "tagged-key instance";

    fn write(&self, writer: &mut Writer) {
        let form = if self.round.is_some() { Self::ROUND } else { Self::ENROLLED };
        writer.u8(form).value(&self.algorithm).value(&self.identifier);
        if let Some(Round { beacon, tag }) = &self.round {
            writer.value(beacon).value(tag);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let form = reader.u8()?;
        if form != Self::ENROLLED && form != Self::ROUND {
            return Err(reader.error("no form of instance has this code"));
        }
        let algorithm: KeyAlgorithm = reader.value()?;
        if !algorithm.is_cmac() {
            return Err(reader.error("keys of that algorithm have no tags"));
        }
        let identifier = Self::read_element(reader)?;
        let round = match form {
            Self::ROUND => Some(Round { beacon: reader.value()?, tag: Self::read_element(reader)? }),
            _ => None,
        };
        Ok(Self { algorithm, identifier, round })
    }
}

/// The secret part: the two tags. Wiped on drop, never printed, never copied.
pub struct Witness {
    identifier: Zeroizing<[u8; TAG_LEN]>,
    round: Zeroizing<[u8; TAG_LEN]>,
}

impl Witness {
    /// Takes copies of the CMACs of [`identifier_message`] and of [`round_message`].
    pub fn from_tags(identifier: &[u8; TAG_LEN], round: &[u8; TAG_LEN]) -> Self {
        Self { identifier: Zeroizing::new(*identifier), round: Zeroizing::new(*round) }
    }

    /// Computes both tags in software.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an algorithm that is no CMAC, or a key of the wrong length.
    #[cfg(feature = "prove")]
    pub fn of_key(
        algorithm: KeyAlgorithm,
        key: &[u8],
        trust_domain: &TrustDomain,
        beacon: &Nonce,
    ) -> Result<Self, Error> {
        Ok(Self {
            identifier: cmac(algorithm, key, &identifier_message(trust_domain))?,
            round: cmac(algorithm, key, &round_message(trust_domain, beacon))?,
        })
    }

    /// The round's instance that these tags prove.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] for an algorithm that is no CMAC.
    pub fn instance(
        &self,
        trust_domain: &TrustDomain,
        algorithm: KeyAlgorithm,
        beacon: &Nonce,
    ) -> Result<Instance, Error> {
        let tag = tag_fingerprint(round_domain(trust_domain, algorithm, beacon), number(&self.round));
        let round = Round { beacon: *beacon, tag: Digest(tag.to_canonical()) };
        Ok(Instance { round: Some(round), ..Instance::enrolled(trust_domain, algorithm, &self.identifier)? })
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness(two tags, secret)")
    }
}

impl Statement for TaggedKey {
    type Instance = Instance;
    type Witness = Witness;

    fn holds(trust_domain: &TrustDomain, instance: &Instance, witness: &Witness) -> Result<(), Error> {
        let beacon = instance.beacon().ok_or(NOT_A_ROUND)?;
        if witness.instance(trust_domain, instance.algorithm, beacon)? == *instance {
            Ok(())
        } else {
            Err(Error::WitnessRefused("the tags belong to another key or to another round"))
        }
    }
}

const NOT_A_ROUND: Error = Error::WrongInstance("the enrolled form names a key; only a round's form can be proven");

/// A tag as a big-endian number.
fn number(tag: &[u8; TAG_LEN]) -> Fp {
    Fp::from_number(u128::from_be_bytes(*tag))
}

/// The tags as field elements; not yet known to be in range. Wiped on drop, as far as the library allows.
struct TagElements {
    identifier: Fp,
    round: Fp,
}

#[cfg(feature = "prove")]
impl From<&Witness> for TagElements {
    fn from(witness: &Witness) -> Self {
        Self { identifier: number(&witness.identifier), round: number(&witness.round) }
    }
}

impl Drop for TagElements {
    fn drop(&mut self) {
        self.identifier.wipe();
        self.round.wipe();
    }
}

/// The circuit's public inputs. The verifier computes every one of them itself.
#[derive(Clone, Copy, PartialEq, Debug)]
struct PublicInputs {
    /// f0.
    identifier: Fp,
    /// fβ.
    round: Fp,
    /// d0: trust domain and algorithm.
    identifier_domain: Fp,
    /// dβ: trust domain, algorithm and beacon.
    round_domain: Fp,
    /// The claim context's digest, in two halves of 128 bits.
    context: [Fp; 2],
}

impl PublicInputs {
    /// The public inputs of a claim.
    ///
    /// # Errors
    /// [`Error::WrongInstance`] for the enrolled form.
    fn new(context: &ClaimContext, instance: &Instance) -> Result<Self, Error> {
        let Some(Round { beacon, tag }) = &instance.round else { return Err(NOT_A_ROUND) };
        let element = |bytes: &Digest| {
            Fp::from_canonical(&bytes.0).ok_or(Error::WrongInstance("a fingerprint is not a canonical field element"))
        };
        Ok(Self {
            identifier: element(&instance.identifier)?,
            round: element(tag)?,
            identifier_domain: identifier_domain(&context.trust_domain, instance.algorithm),
            round_domain: round_domain(&context.trust_domain, instance.algorithm, beacon),
            context: context.digest().limbs().map(Fp::from_number),
        })
    }

    /// The inputs in the circuit's order: f0, fβ, d0, dβ, c0, c1.
    fn row(&self) -> [Fp; 6] {
        let [c0, c1] = self.context;
        [self.identifier, self.round, self.identifier_domain, self.round_domain, c0, c1]
    }

    /// The relation, natively. What the circuit accepts must be exactly this.
    ///
    /// # Errors
    /// [`Error::WitnessRefused`] names the clause that fails.
    #[cfg(any(test, feature = "prove"))]
    fn check(&self, tags: &TagElements) -> Result<(), Error> {
        let fits = |element: Fp| element.to_canonical().iter().skip(TAG_LEN).all(|byte| *byte == 0);
        let opens = |tag, domain, fingerprint| tag_fingerprint(domain, tag) == fingerprint;
        let clauses = [
            (fits(tags.identifier), "the identifier tag has more than 128 bits"),
            (fits(tags.round), "the round's tag has more than 128 bits"),
            (opens(tags.identifier, self.identifier_domain, self.identifier), "the identifier tag is another key's"),
            (opens(tags.round, self.round_domain, self.round), "the round's tag is another key's or another round's"),
        ];
        match clauses.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Error::WitnessRefused(why)),
            None => Ok(()),
        }
    }
}
