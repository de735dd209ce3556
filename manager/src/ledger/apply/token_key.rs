//! Token keys: one takes over from another after an overlap.

use keywitness_verifier::wire::TokenAlgorithm;

use super::Apply;
use crate::ledger::{
    command::Outcome,
    state::{key, token_key::TokenKeyRow},
    tables::Fault,
};

impl Apply<'_> {
    /// Publishes a key. It signs from the end of the `overlap` on, in place of the newest of its algorithm, which stays
    /// published for `keep` seconds after that; the first of an algorithm signs at once. A key is never added twice.
    pub(super) fn add_token_key(
        &mut self,
        kid: &str,
        algorithm: TokenAlgorithm,
        public: &[u8],
        (overlap, keep): (u64, u64),
    ) -> Result<Outcome, Fault> {
        let rows = self.state().entries::<TokenKeyRow>(&[])?;
        if rows.iter().any(|(_, row)| row.kid == kid) {
            return Ok(Outcome::Done);
        }
        let at = self.moment.at;
        let mut signs_from = at;
        for (place, mut row) in rows {
            if row.algorithm == algorithm && row.signs_until.is_none() {
                signs_from = at.plus(overlap).max(row.signs_from);
                row.signs_until = Some(signs_from);
                row.published_until = Some(signs_from.plus(keep));
                self.put(&place, &row)?;
            }
        }
        let (kid, public) = (kid.to_owned(), public.to_vec());
        let row = TokenKeyRow { kid, algorithm, public, signs_from, signs_until: None, published_until: None };
        self.put(&key::number(self.moment.sequence), &row)?;
        Ok(Outcome::Done)
    }
}
