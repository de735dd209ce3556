//! Bundles: what a token rests on, for whoever will check it without the manager.

use data_encoding::BASE64URL_NOPAD;
use keywitness_verifier::{
    bundle::{Bundle, BundleRequest, BundledEntry, FORMAT},
    log::{Note, TlogProof},
    token::{self, Claims, Expected, status::ENTRIES},
    wire::{Base64, Problem, ProblemKind},
};
use serde::Deserialize;

use super::{Manager, access::Caller};
use crate::{
    audit::bundle::{Missing, gather},
    ledger::{log::entries, merkle::Tree, state::State},
};

/// How many bundles are made at once: each looks through the log for what its token rests on.
pub(super) const AT_ONCE: usize = 4;

/// How many of them for one credential.
const FOR_ONE: usize = 2;

impl Manager {
    /// Makes a bundle of a token that is in force. Client or auditor.
    ///
    /// # Errors
    /// `malformed` for what is no token of this manager in force; `forbidden` for a cluster out of the caller's scope;
    /// `not-found` where the openings were deleted; `unavailable` where the log's checkpoint does not cover it yet, or too
    /// many bundles are being made; `too-many-requests`.
    pub fn bundle(&self, caller: &Caller, request: &BundleRequest) -> Result<Bundle, Problem> {
        self.spend_overview(caller)?;
        let by: Vec<_> = caller.source().map(|source| (source, FOR_ONE)).into_iter().collect();
        let _place = self.bundling.take(&by, "other bundles are being made; try again shortly")?;
        let rows = self.ledger.view()?;
        let now = self.now(State(rows.as_ref()))?;
        let claims = self.own_token(&request.token, now)?;
        for appraisal in claims.submods.values() {
            caller.must_reach(&appraisal.attestation.cluster)?;
        }
        let sequences = gather(rows.as_ref(), &claims).map_err(|missing| match missing {
            Missing::Fault(fault) => fault.into(),
            missing => Problem::new(ProblemKind::NotFound, missing.to_string()),
        })?;
        let checkpoint = match request.cosignatures {
            0 => self.checkpoint()?,
            count => self.cosigned(count)?,
        };
        let covered = checkpoint.text().parse().map_or(0, |read: keywitness_verifier::log::Checkpoint| read.size);
        if sequences.last().is_some_and(|last| *last > covered) {
            let why = "no checkpoint that is cosigned so covers this token yet; try again after the witnesses came by";
            return Err(Problem::new(ProblemKind::Unavailable, why).after(30));
        }
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let status_list = self.status_list_of(state, &claims)?;
        let as_of = self.now(state)?;
        let bundled = |sequence: u64| {
            let gone = || Problem::new(ProblemKind::NotFound, format!("the opening of entry {sequence} was deleted"));
            let hashes = Tree(rows.as_ref()).inclusion(sequence - 1, covered)?.ok_or_else(gone)?;
            let entry = entries(rows.as_ref(), sequence - 1, 1)?.pop().ok_or_else(gone)?;
            let proof = proof(sequence - 1, hashes, &checkpoint);
            Ok(BundledEntry { opening: Base64(entry.opening(sequence)?.to_bytes()), proof })
        };
        let entries = sequences.into_iter().map(bundled).collect::<Result<_, Problem>>()?;
        let (format, token, keys) = (FORMAT.to_owned(), request.token.clone(), self.jwks()?);
        Ok(Bundle { format, as_of, token, keys, status_list, entries })
    }

    /// The list that says how a token stands, signed after the token was issued.
    fn status_list_of(&self, state: State<'_>, claims: &Claims) -> Result<String, Problem> {
        let named = claims.status.as_ref().and_then(|claim| {
            let number = claim.status_list.uri.rsplit_once('/')?.1.parse().ok()?;
            (self.status_list_uri(number) == claim.status_list.uri && claim.status_list.idx < ENTRIES).then_some(number)
        });
        let why =
            "the token names no status list of this manager, whose address may have changed; ask for another token";
        let number = named.ok_or_else(|| Problem::new(ProblemKind::Malformed, why))?;
        self.status_list_in(state, number, None, claims.iat)
    }

    /// The claims of a token of this manager that is in force, whoever it was issued to.
    fn own_token(&self, token: &str, now: keywitness_circuits::Timestamp) -> Result<Claims, Problem> {
        let malformed = |why: String| Problem::new(ProblemKind::Malformed, why);
        let audience = audience(token).ok_or_else(|| malformed("this is no verification token".to_owned()))?;
        let trust_domain = &self.audience().trust_domain;
        let expected = Expected { trust_domain, audience: &audience, nonce: None };
        let verified =
            token::verify(token, &self.jwks()?, &expected, now).map_err(|error| malformed(error.to_string()))?;
        Ok(verified.claims().clone())
    }
}

/// Whom a token says that it is for; nothing of it is believed before the token is verified.
fn audience(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct For {
        aud: String,
    }
    let body = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    Some(serde_json::from_slice::<For>(&body).ok()?.aud)
}

fn proof(index: u64, hashes: Vec<keywitness_circuits::Digest>, checkpoint: &Note) -> String {
    TlogProof { extra: None, index, hashes, checkpoint: checkpoint.clone() }.to_string()
}
