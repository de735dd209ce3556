//! The status list of a bundle: of another time, of somebody else, or changed.

use keywitness_circuits::Timestamp;
use keywitness_verifier::{
    bundle::{Bundle, BundleRequest},
    token::{
        Claims,
        status::{STATUS_LIST_TYPE, StatusBits, StatusListClaims},
    },
    wire::Standing,
};

use super::{Case, refused, token};
use crate::{audit::Anchors, service::testing::Caller, signer::tests::sign_typed_in_test};

#[test]
fn a_status_list_counts_only_where_it_is_the_tokens_own_and_of_its_time() {
    type Change = fn(&mut StatusListClaims, &Claims, Timestamp);
    let case = Case::new();
    let (whole, token) = (case.bundle(), case.claims());
    let at = whole.as_of;
    let body = whole.status_list.split('.').nth(1).unwrap();
    let honest: StatusListClaims =
        serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
    let with = |status_list: String| case.check(&Bundle { status_list, ..whole.clone() });
    let signed = |directory: &std::path::Path, change: Change| {
        let mut claims = honest.clone();
        change(&mut claims, &token, at);
        with(sign_typed_in_test(directory, STATUS_LIST_TYPE, &claims))
    };
    let ours = case.world.directory.path();
    signed(ours, |_, _, _| {}).unwrap();
    fn standing(list: &mut StatusListClaims, token: &Claims, standing: Standing) {
        let mut bits = StatusBits::default();
        bits.set(token.status.as_ref().unwrap().status_list.idx, standing);
        list.status_list = bits.compress().unwrap();
    }
    let changes: [(Change, &str); 9] = [
        (|list, _, _| list.sub += "1", "not the one that the token names"),
        (|list, _, _| list.iss = "urn:keywitness:acme.example:m2".to_owned(), "another manager's"),
        (|list, token, _| list.iat = Timestamp(token.iat.0 - 1), "before the token was issued"),
        (|list, _, at| list.exp = at, "the status list expired at"),
        (|list, _, at| list.iat = at.plus(1), "says nothing of"),
        (|list, _, at| list.iat = at.plus(100), "was made at"),
        (|list, token, _| standing(list, token, Standing::Revoked), "was revoked at"),
        (|list, token, _| standing(list, token, Standing::Suspended), "was suspended at"),
        (|list, _, _| list.status_list.lst.0.clear(), "the status list"),
    ];
    for (change, words) in changes {
        refused(signed(ours, change), words);
    }
    refused(signed(tempfile::tempdir().unwrap().path(), |_, _, _| {}), "which is not anchored");
    refused(with(case.token.clone()), "its type is not");
    refused(with(String::new()), "status: ");
    // A bit of the list, with the signature as it was.
    let mut parts: Vec<String> = whole.status_list.split('.').map(str::to_owned).collect();
    let mut forged = honest.clone();
    standing(&mut forged, &token, Standing::Revoked);
    parts[1] = data_encoding::BASE64URL_NOPAD.encode(&serde_json::to_vec(&forged).unwrap());
    refused(with(parts.join(".")), "signature does not verify");
}

#[test]
fn a_bundle_made_after_a_revocation_says_so_whatever_list_was_signed_before() {
    let case = Case::new();
    let manager = &case.world.manager;
    // A list that is kept, and was signed before the next token.
    manager.status_list(0, None).unwrap();
    case.world.advance(5);
    let request = |token: &str| BundleRequest { token: token.to_owned(), cosignatures: 0 };
    let make = |token: &str| manager.bundle(&Caller::in_process(), &request(token)).unwrap();
    let anchors = Anchors { log: manager.log_key().log, witnesses: Vec::new(), cosignatures: 0, ..case.anchors() };
    let newer = token(&case.world, &case.key);
    let bundle = make(&newer);
    case.check_as(&bundle, &anchors, bundle.as_of).unwrap();
    case.world.revoke_hsm(&case.hsm);
    let bundle = make(&newer);
    refused(case.check_as(&bundle, &anchors, bundle.as_of), "was revoked at");
}
