//! Issuing verification tokens.

use std::collections::BTreeMap;

use keywitness_circuits::{ClusterId, Fingerprint, HsmId, Instance, KeyAlgorithm, KeyId, Nonce, Suite, Timestamp};
use keywitness_verifier::{
    token::{
        Appraisal, ChannelJwk, Claims, Confirmation, DerivedFrom, KeyAttestation, PROFILE, ProvenStatement,
        PublicKeyClaim, TYPE, Tier, VerifierId, issuer, profile,
    },
    wire::{AttestationState, Base64, KeyQuery, KeyRef, Problem, ProblemKind, TokenRequest, TokenResponse},
};
use sha2::{Digest as _, Sha256};

use super::{Manager, access::Caller, status::Evidence};
use crate::{
    config::development_parameters,
    ledger::{
        apply::revocation,
        state::{KeyRow, RecordRow, State, key},
    },
    signer::{compact, signing_input},
};

/// The policies that an appraisal names: of a key that was proven to be known, and of one that signed.
const KNOWLEDGE_POLICY: &str = "urn:keywitness:policy:key-knowledge/1";
const POSSESSION_POLICY: &str = "urn:keywitness:policy:key-possession/1";

/// Longest audience, in characters.
const MAX_AUDIENCE: usize = 256;

/// A token that waits for its signature.
pub(crate) struct UnsignedToken {
    kid: String,
    input: String,
    /// All of the answer but the token.
    answer: TokenResponse,
}

impl UnsignedToken {
    fn signed(self, signature: &[u8; 64]) -> TokenResponse {
        TokenResponse { token: compact(self.input, signature), ..self.answer }
    }
}

impl Manager {
    /// Issues a verification token for a key that is attested now: by the HSM that was named, or else by
    /// the one whose proofs are freshest, of those that agree. For clients.
    ///
    /// The token never outlives the records it rests on, nor the greatest age that was asked for.
    ///
    /// # Errors
    /// `not-attested`, `key-revoked`, `hsm-revoked`, `ambiguous-key`, `disputed-key`, `not-found`; `malformed` for an
    /// audience that is empty or overlong.
    pub fn issue_token(&self, caller: &Caller, request: &TokenRequest) -> Result<TokenResponse, Problem> {
        self.sign_token(self.unsigned_token(caller, request)?)
    }

    /// Signs what [`Self::unsigned_token`] gave.
    ///
    /// # Errors
    /// `unavailable` where the signer is away.
    pub(crate) fn sign_token(&self, token: UnsignedToken) -> Result<TokenResponse, Problem> {
        let signature = self.signer.sign(&token.kid, token.input.as_bytes())?;
        Ok(token.signed(&signature))
    }

    /// As [`Self::sign_token`], for a caller that may not wait: the token itself where the signer takes more than a moment.
    pub(crate) fn sign_token_at_once(&self, token: UnsignedToken) -> Result<TokenResponse, Box<UnsignedToken>> {
        match self.signer.sign_at_once(&token.kid, token.input.as_bytes()) {
            Some(signature) => Ok(token.signed(&signature)),
            None => Err(Box::new(token)),
        }
    }

    /// All of [`Self::issue_token`] but the signature.
    ///
    /// # Errors
    /// As [`Self::issue_token`].
    pub(crate) fn unsigned_token(&self, caller: &Caller, request: &TokenRequest) -> Result<UnsignedToken, Problem> {
        let audience = &request.audience;
        if audience.is_empty() || audience.chars().count() > MAX_AUDIENCE || audience.chars().any(char::is_control) {
            let why = format!("name the audience in 1 to {MAX_AUDIENCE} characters: whoever will check the token");
            return Err(Problem::new(ProblemKind::Malformed, why));
        }
        let rows = self.ledger.view()?;
        let state = State(rows.as_ref());
        let now = self.now(state)?;
        let (cluster, mut evidence) = self.evidence(state, caller.scope(), &request.query, now)?;
        if request.query.hsm.is_none() {
            // The greatest age that was asked for plays no part: it must not hide those who differ.
            let ageless = match request.query.max_age {
                None => None,
                Some(_) => {
                    let query = KeyQuery { max_age: None, ..request.query.clone() };
                    Some(self.evidence(state, caller.scope(), &query, now)?.1)
                }
            };
            let holders = ageless.as_ref().unwrap_or(&evidence);
            if let Some(epoch) = undisputed_epoch(state, (&cluster, &request.query.key), holders)? {
                evidence.retain(|evidence| evidence.key.key.epoch == epoch);
            }
        }
        let freshness = |evidence: &&Evidence| {
            (!evidence.residence.missing, evidence.records.iter().map(|record| record.proven_at).min())
        };
        let attested = evidence.iter().filter(|evidence| evidence.status.state == AttestationState::Attested);
        let Some(best) = attested.max_by_key(freshness) else { return Err(refusal(&evidence)) };
        let expires_at = self.expiry(best, request.query.max_age, now);
        if expires_at <= now {
            let why = "the token would expire at once: ask for a greater age, or after the next attestation";
            return Err(Problem::new(ProblemKind::NotAttested, why));
        }
        let claims = self.claims(state, best, request, (now, expires_at))?;
        let written = serde_json::to_value(&claims).map(|claims| profile::write(claims, request.form.profile));
        let written = written.map_err(|error| {
            tracing::error!(%error, "a token cannot be written");
            Problem::new(ProblemKind::Internal, "the manager's log has the reason")
        })?;
        let kid = self.signing_key(state, request.form.alg)?;
        let input = signing_input((&kid, request.form.alg), TYPE, &written)?;
        let (hsm, channel_url) = (best.hsm.hsm.clone(), best.hsm.channel_url.clone());
        Ok(UnsignedToken { kid, input, answer: TokenResponse { token: String::new(), expires_at, hsm, channel_url } })
    }

    fn expiry(&self, evidence: &Evidence, max_age: Option<u64>, now: Timestamp) -> Timestamp {
        let agreed = evidence.agreed_until.into_iter().fold(now.plus(self.config.token_ttl), Ord::min);
        let agreed = evidence.residence.counts.as_ref().map_or(agreed, |found| agreed.min(found.expires_at));
        let masters = evidence.master.iter().flat_map(|master| &master.records);
        evidence.records.iter().chain(masters).fold(agreed, |expiry, record| {
            let stale_at = max_age.map_or(record.expires_at, |age| record.proven_at.plus(age));
            expiry.min(record.expires_at).min(stale_at)
        })
    }

    fn claims(
        &self,
        state: State<'_>,
        evidence: &Evidence,
        request: &TokenRequest,
        (now, expires_at): (Timestamp, Timestamp),
    ) -> Result<Claims, Problem> {
        let masters = evidence.master.iter().flat_map(|master| &master.records);
        let used = evidence.records.iter().chain(masters).map(|record| record.verifying_key);
        let status = self.status_claim(state, (&evidence.hsm, &evidence.key), used)?;
        let audience = self.audience();
        let development = development_parameters(&self.parameters);
        let proven = |evidence: &Evidence| {
            let statements = evidence.records.iter().map(|record| ProvenStatement {
                kind: record.statement,
                shows: record.statement.shows(),
                development_parameters: development && record.fingerprint.suite == Suite::Groth16Bn254,
                verifying_key: record.verifying_key,
                fingerprint: record.fingerprint,
                envelope: record.envelope,
                proven_at: record.proven_at,
                expires_at: record.expires_at,
            });
            statements.collect()
        };
        let agreement = evidence.status.statements.iter().find_map(|statement| statement.agreement);
        let attestation = KeyAttestation {
            trust_domain: audience.trust_domain.clone(),
            manager: audience.manager.clone(),
            cluster: evidence.hsm.cluster.clone(),
            hsm: evidence.hsm.hsm.clone(),
            enrolment: evidence.hsm.revision,
            key: evidence.key.key.clone(),
            algorithm: evidence.key.attributes.algorithm,
            statements: proven(evidence),
            agreement,
            derived_from: evidence
                .master
                .as_ref()
                .map(|master| DerivedFrom { key: master.key.key.clone(), statements: proven(master) }),
            residence: evidence.residence.name().to_owned(),
            evidence: evidence.residence.claim(),
            evidence_missing: evidence.residence.missing,
        };
        let knowledge = evidence.records.iter().all(|record| record.statement.shows().is_knowledge());
        let policy = if knowledge { KNOWLEDGE_POLICY } else { POSSESSION_POLICY };
        let vector = evidence.residence.vector();
        let appraisal = Appraisal {
            // Nobody else vouches that the tags are a key's.
            ear_status: match agreement {
                Some(agreement) if agreement.is_self_asserted() && vector.tier() == Tier::Affirming => Tier::Warning,
                _ => vector.tier(),
            },
            ear_trustworthiness_vector: vector.claims(),
            ear_appraisal_policy_ids: vec![policy.to_owned()],
            ear_veraison_key_attestation: public_key(evidence)?,
            attestation,
        };
        Ok(Claims {
            iss: issuer(&audience.trust_domain, &audience.manager),
            aud: request.audience.clone(),
            iat: now,
            exp: expires_at,
            jti: Nonce::random().to_string(),
            eat_profile: PROFILE.to_owned(),
            eat_nonce: request.nonce,
            ear_verifier_id: VerifierId {
                developer: "keywitness".to_owned(),
                build: concat!("keywitness-manager ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            cnf: Confirmation { jwk: ChannelJwk::new(&evidence.hsm.channel_key.0) },
            status: Some(status),
            submods: BTreeMap::from([(evidence.key.key.key.to_string(), appraisal)]),
        })
    }
}

/// The epoch of which a token may speak that names no HSM: that no single member of a cluster can decide.
///
/// The highest attested one, once two HSMs attest it or nobody attests another; while a cluster rotates, the one
/// before. None where nobody attests the key.
fn undisputed_epoch(
    state: State<'_>,
    (cluster, key): (&ClusterId, &KeyId),
    holders: &[Evidence],
) -> Result<Option<u32>, Problem> {
    let mut attested: BTreeMap<u32, usize> = BTreeMap::new();
    for holder in holders.iter().filter(|holder| holder.status.state == AttestationState::Attested) {
        *attested.entry(holder.key.key.epoch).or_default() += 1;
    }
    let Some((highest, by)) = attested.pop_last() else { return Ok(None) };
    let before = attested.into_iter().max_by_key(|(epoch, by)| (*by, *epoch));
    let epoch = match before {
        Some((before, _)) if by < 2 => before,
        _ => highest,
    };
    let key = KeyRef { key: key.clone(), epoch };
    let mut first: BTreeMap<Suite, (Fingerprint, HsmId)> = BTreeMap::new();
    let mut kind_of_key: Option<(KeyAlgorithm, HsmId)> = None;
    // Whoever proved the key at that epoch has a say, until it is revoked: a record that has just expired
    // must not leave the word to whoever differs.
    for holder in holders.iter().filter(|holder| holder.revocation.is_none()) {
        let hsm = &holder.hsm.hsm;
        let Some(row) = state.get::<KeyRow>(&key::epoch(hsm, &key))? else { continue };
        for instance in &row.instances {
            let Some(proven) = state.get::<RecordRow>(&key::evidence(hsm, &key, instance.kind))? else { continue };
            let found = proven.record.fingerprint;
            let (fingerprint, earlier) = first.entry(found.suite).or_insert_with(|| (found, hsm.clone()));
            let (algorithm, other) = kind_of_key.get_or_insert_with(|| (row.attributes.algorithm, hsm.clone()));
            let other = if *fingerprint != found {
                earlier
            } else if *algorithm != row.attributes.algorithm {
                other
            } else {
                continue;
            };
            let why = format!(
                "HSMs {other} and {hsm} of cluster {cluster} prove different keys as key {} at epoch {epoch}; name \
                 the HSM that you mean, or revoke the wrong one",
                key.key
            );
            return Err(Problem::new(ProblemKind::DisputedKey, why));
        }
    }
    Ok(Some(epoch))
}

/// The public key of an asymmetric key.
fn public_key(evidence: &Evidence) -> Result<Option<PublicKeyClaim>, Problem> {
    let Some(enrolled) = evidence.key.instances.first() else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "an enrolled instance cannot be read");
        Problem::new(ProblemKind::Internal, "the manager's log has the reason")
    };
    let spki = Instance::spki_of_read(&enrolled.bytes).map_err(|error| wrong(&error))?;
    if spki.as_ref().is_some_and(|der| Sha256::digest(der)[..] != enrolled.fingerprint.bytes.0) {
        return Err(wrong(&"it is not what its fingerprint says"));
    }
    Ok(spki.map(|der| PublicKeyClaim { akpub: Base64(der) }))
}

/// Why none of these HSMs attests the key.
fn refusal(evidence: &[Evidence]) -> Problem {
    let revocations: Option<Vec<_>> = evidence.iter().map(|evidence| evidence.revocation.as_ref()).collect();
    if let Some(first) = revocations.as_ref().and_then(|revocations| revocations.first()) {
        return revocation::problem(first);
    }
    let states: Vec<_> =
        evidence.iter().map(|evidence| format!("{} is {}", evidence.hsm.hsm, evidence.status.state)).collect();
    Problem::new(ProblemKind::NotAttested, format!("no HSM attests it: {}", states.join(", ")))
}
