//! Giving many challenges at once.

use std::collections::{BTreeMap, btree_map::Entry};

use keywitness_circuits::Nonce;
use keywitness_verifier::wire::{ChallengeRequest, Problem, ProblemKind, Revocation};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::{
    Apply,
    challenge::{Denied, claimable},
    revocation,
};
use crate::ledger::{
    command::{ChallengesGiven, Outcome},
    fraud,
    state::HsmRow,
    tables::Fault,
};

/// The challenges of a batch, in the order of its items: 32 bytes each of the key stream of ChaCha20 (20 rounds, the key
/// is the seed, counter and stream zero). As nobody foresees the seed, nobody foresees a challenge.
pub(crate) fn nonces(seed: &Nonce) -> impl Iterator<Item = Nonce> + use<> {
    let mut stream = ChaCha20Rng::from_seed(seed.0);
    std::iter::repeat_with(move || {
        let mut nonce = [0; 32];
        stream.fill_bytes(&mut nonce);
        Nonce(nonce)
    })
}

/// Refusals of items, the same reason once.
#[derive(Default)]
struct Refused {
    places: BTreeMap<String, usize>,
    reasons: Vec<(ProblemKind, String, Vec<u32>)>,
}

impl Refused {
    fn add(&mut self, item: u32, problem: Problem) {
        let kind = problem.kind().unwrap_or(ProblemKind::Internal);
        match self.places.entry(format!("{kind}: {}", problem.detail)) {
            Entry::Occupied(place) => {
                if let Some((_, _, items)) = self.reasons.get_mut(*place.get()) {
                    items.push(item);
                }
            }
            Entry::Vacant(place) => {
                place.insert(self.reasons.len());
                self.reasons.push((kind, problem.detail, vec![item]));
            }
        }
    }
}

impl Apply<'_> {
    /// A challenge for each item, or why there is none: no item's refusal touches another. A request of a revoked HSM is
    /// refused as a whole.
    pub(super) fn issue_challenges(
        &mut self,
        hsm: &HsmRow,
        items: &[ChallengeRequest],
        seed: &Nonce,
        next_beacon: &Nonce,
    ) -> Result<Outcome, Fault> {
        if let Some(revocation) = self.state().revocation(hsm, [])? {
            fraud::revoked_attempt(self, &hsm.hsm, &revocation)?;
            return Ok(Outcome::Refused(revocation::problem(&revocation)));
        }
        let configuration = self.state().configuration()?;
        let at = self.moment.at;
        let (mut refused, mut revocations, mut beacon) = (Refused::default(), Vec::<Revocation>::new(), None);
        for ((item, place), nonce) in items.iter().zip(0..).zip(nonces(seed)) {
            match claimable(self.state(), &configuration, hsm, &item.statement, &item.keys)? {
                Ok(kind) => {
                    let row = self.give_challenge(&configuration, (hsm, kind, &item.keys), &nonce, next_beacon)?;
                    beacon = beacon.or(row.round.map(|round| round.beacon));
                }
                Err(Denied { problem, revocations: hit }) => {
                    refused.add(place, problem);
                    for revocation in hit {
                        if !revocations.contains(&revocation) {
                            revocations.push(revocation);
                        }
                    }
                }
            }
        }
        // One request is one attempt, however many of its items use what is revoked.
        for revocation in &revocations {
            fraud::revoked_attempt(self, &hsm.hsm, revocation)?;
        }
        let (expires_at, not_after) = (at.plus(configuration.challenge_ttl), at.plus(configuration.record_ttl));
        let refused = refused.reasons;
        Ok(Outcome::Challenges(ChallengesGiven { seed: *seed, at, expires_at, not_after, beacon, refused }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: answers that are given again, and replays of the log, derive the same challenges for ever.
    #[test]
    fn challenges_follow_from_the_seed_as_rfc_8439_says() {
        // RFC 8439, appendix A.1, test vector 1: key, nonce and counter zero.
        let expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
                        da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586";
        let stream: Vec<u8> = nonces(&Nonce([0; 32])).take(2).flat_map(|nonce| nonce.0).collect();
        assert_eq!(data_encoding::HEXLOWER.encode(&stream), expected);
    }
}
