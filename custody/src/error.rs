//! What can be wrong with a dealing, a share or a complaint, and whose fault it is.

use keywitness_circuits::HsmId;

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An encoding, a commitment or a proof was refused.
    #[error(transparent)]
    Refused(#[from] keywitness_circuits::Error),
    /// The terms of a sharing contradict themselves.
    #[error("the terms of the sharing are refused: {0}")]
    Terms(&'static str),
    /// A signature is not the one of the party that is named. Nothing follows about that party.
    #[error("the signature is not {0}'s")]
    NotAuthentic(HsmId),
    /// The dealer does not know the ephemeral key of a sealed share: it may have copied another's ciphertext.
    #[error("the dealer has not proven that it sealed the share of index {0}")]
    NotSealedByDealer(u16),
    /// The commitments of a public dealing are of a polynomial of a higher degree than the threshold allows.
    #[error("the public shares do not lie on one polynomial of the degree that the threshold says")]
    WrongDegree,
    /// Encrypted shares that are not the committed ones.
    #[error("the dealing's encrypted shares with the indices {0:?} are not the committed ones")]
    WrongEncryptedShares(Vec<u16>),
    /// No member of the sharing has this index or this key.
    #[error("the sharing has no such member")]
    NotAMember,
    /// The complaint, or the decrypted share, speaks of another dealing.
    #[error("it speaks of another dealing")]
    OtherDealing,
    /// The sealed share does not open to what the commitments fix. A complaint follows.
    #[error("the share that was dealt to index {0} is bad")]
    BadShare(u16),
    /// Of shares that were checked together, those that their dealings do not fix.
    #[error("the shares in the places {0:?} are not those that their dealings fix")]
    WrongShares(Vec<usize>),
    /// The share is good: there is nothing to complain about.
    #[error("the share of index {0} is good; a complaint would only publish it")]
    NothingToComplainAbout(u16),
    /// Two shares have one index.
    #[error("two shares have the index {0}")]
    DuplicateIndex(u16),
    /// Fewer good shares than the threshold.
    #[error("{have} good shares are too few, {need} are needed; the shares with the indices {culprits:?} are wrong")]
    TooFewShares {
        /// How many there are.
        have: usize,
        /// The threshold.
        need: u16,
        /// The indices of those that were refused.
        culprits: Vec<u16>,
    },
    /// Shares of different commitment schemes.
    #[error("the shares are not of one commitment scheme")]
    MixedSchemes,
}
