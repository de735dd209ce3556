//! Trust anchors: what they do not name does not count.

use keywitness_verifier::log::{Algorithm, NoteKey};

use super::{Case, ORIGIN, refused};
use crate::audit::Anchors;

#[test]
fn what_the_anchors_do_not_name_does_not_count() {
    let case = Case::new();
    let (bundle, right) = (case.bundle(), case.anchors());
    let now = bundle.as_of;
    let check = |change: &dyn Fn(&mut Anchors)| {
        let mut anchors = right.clone();
        change(&mut anchors);
        case.check_as(&bundle, &anchors, now)
    };
    check(&|_| {}).unwrap();
    refused(check(&|anchors| anchors.token_keys.clear()), "not in the key set");
    refused(check(&|anchors| anchors.verifying_keys.clear()), "do not accept verifying key");
    refused(check(&|anchors| anchors.manager = "m2".parse().unwrap()), "of manager m1");
    refused(check(&|anchors| anchors.trust_domain = "other.example".parse().unwrap()), "another trust domain");
    refused(check(&|anchors| anchors.cosignatures = 3), "cosigned");
    let stranger = NoteKey::new(ORIGIN, Algorithm::Ed25519, &[7; 32]).unwrap();
    refused(check(&|anchors| anchors.log = stranger.verifier().to_string()), "did not sign");
    refused(case.check(&case.bundle_cosigned_by(&[2])), "cosigned");
    refused(case.check(&case.bundle_cosigned_by(&[])), "cosigned");
}

#[test]
fn one_witness_is_one_witness_however_often_it_is_named() {
    let case = Case::new();
    refused(case.check(&case.bundle_cosigned_by(&[1, 1])), "1 of the witnesses have cosigned");
    let mut anchors = case.anchors();
    anchors.witnesses[1] = anchors.witnesses[0].clone();
    let bundle = case.bundle_cosigned_by(&[1]);
    refused(case.check_as(&bundle, &anchors, bundle.as_of), "two witnesses have the same key");
    anchors.witnesses.truncate(1);
    let text = serde_json::to_vec(&anchors).unwrap();
    assert!(Anchors::from_json(&text).unwrap_err().contains("ask for 2 cosignatures, and name 1"));
}
