//! The two forms in which a token's claims are written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PROFILE;

/// The profile that checkers read which were deployed before the draft's.
pub const LEGACY_PROFILE: &str = "tag:github.com,2023:veraison/ear";

/// The form of a token's claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Profile {
    /// [`PROFILE`]: draft-ietf-rats-ear-04, names with underscores.
    #[default]
    #[serde(rename = "ear-04")]
    Ear04,
    /// [`LEGACY_PROFILE`]: dotted names.
    #[serde(rename = "legacy")]
    Legacy,
}

/// Names that differ: of the draft, and before it.
const NAMES: [(&str, &str); 5] = [
    ("ear_verifier_id", "ear.verifier-id"),
    ("ear_status", "ear.status"),
    ("ear_trustworthiness_vector", "ear.trustworthiness-vector"),
    ("ear_appraisal_policy_ids", "ear.appraisal-policy-id"),
    ("ear_veraison_key_attestation", "ear.veraison.key-attestation"),
];

fn rename(object: &mut Map<String, Value>, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in pairs {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

/// Claims are of one form: what one form does not name, it does not say.
fn forget_draft_names(object: &mut Map<String, Value>) {
    for (draft, _) in NAMES {
        object.remove(draft);
    }
}

fn appraisals(claims: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    claims
        .get_mut("submods")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
        .filter_map(|(_, one)| one.as_object_mut())
}

/// Writes claims of [`PROFILE`] in another form.
pub fn write(mut claims: Value, profile: Profile) -> Value {
    if profile == Profile::Ear04 {
        return claims;
    }
    for appraisal in appraisals(&mut claims) {
        rename(appraisal, NAMES.into_iter());
        // Before the draft there was one policy.
        let policy = appraisal.get_mut("ear.appraisal-policy-id");
        if let Some(policy) = policy
            && let Some(first) = policy.as_array().and_then(|ids| ids.first()).cloned()
        {
            *policy = first;
        }
    }
    if let Some(top) = claims.as_object_mut() {
        rename(top, NAMES.into_iter());
        top.insert("eat_profile".to_owned(), LEGACY_PROFILE.into());
    }
    claims
}

/// Reads claims of either form into those of [`PROFILE`]; any other is left as it is.
pub fn read(mut claims: Value) -> Value {
    if claims.get("eat_profile").and_then(Value::as_str) != Some(LEGACY_PROFILE) {
        return claims;
    }
    let back = || NAMES.into_iter().map(|(draft, before)| (before, draft));
    for appraisal in appraisals(&mut claims) {
        forget_draft_names(appraisal);
        rename(appraisal, back());
        if let Some(policy) = appraisal.get_mut("ear_appraisal_policy_ids").filter(|policy| policy.is_string()) {
            *policy = Value::Array(vec![policy.take()]);
        }
    }
    if let Some(top) = claims.as_object_mut() {
        forget_draft_names(top);
        rename(top, back());
        top.insert("eat_profile".to_owned(), PROFILE.into());
    }
    claims
}
