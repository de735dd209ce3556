//! Keys that are proven in the suite that needs parameters made, and in both suites.

use keywitness_circuits::{Suite, codec::Canonical, params::Groth16Parameters};
use keywitness_verifier::{
    bundle::{Bundle, BundleRequest},
    wire::Base64,
};

use super::{AUDIENCE, Case, log_of, opening_number, refused, token};
use crate::{
    audit::{
        Checker,
        bundle::{Finding, Question, check},
    },
    ledger::Command,
    service::testing::{Caller, TestKey},
};

/// What is found in a bundle by a checker that has the parameters.
fn look(case: &Case, bundle: &Bundle) -> Vec<Finding> {
    let file = crate::service::testing::parameters().groth16().unwrap().to_bytes();
    let checker = Checker::new([Groth16Parameters::from_bytes(&file).unwrap()]).unwrap();
    let anchors = case.anchors();
    check(bundle, &Question { anchors: &anchors, checker: &checker, at: bundle.as_of, audience: AUDIENCE })
}

fn holds(case: &Case, bundle: &Bundle) {
    let found = look(case, bundle);
    assert!(found.iter().all(|finding| finding.result.is_ok()), "{found:?}");
}

#[test]
fn parameters_for_development_are_said_to_be() {
    let mut case = Case::new();
    let hsm = case.world.hsm("hsm-3", "eu");
    case.world = case.world.reopen_with(vec![Suite::Groth16Bn254]);
    case.key = TestKey::aes256("g", 1).in_suite(Suite::Groth16Bn254);
    hsm.enrol_key(&case.world, &case.key).unwrap();
    hsm.attest(&case.world, "eu", &case.key).unwrap();
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    let parameters = |found: Vec<Finding>| found.into_iter().find(|it| it.what == "parameters").unwrap().result;
    let honest = case.bundle();
    holds(&case, &honest);
    assert!(parameters(look(&case, &honest)).unwrap().contains("for development"));
    case.say(|claims| {
        claims.submods.values_mut().next().unwrap().attestation.statements[0].development_parameters = false;
    });
    refused(parameters(look(&case, &case.bundle())).map(drop), "the token does not say so");
}

#[test]
fn a_key_to_which_a_suite_was_added_later_is_shown_by_the_enrolment_of_each_instance() {
    let mut case = Case::new();
    let halo2 = TestKey::aes256("a", 7);
    let groth16 = halo2.in_suite(Suite::Groth16Bn254);
    case.hsm.enrol_key(&case.world, &halo2).unwrap();
    case.world.advance(10);
    case.world = case.world.reopen_with(vec![Suite::Halo2Pasta, Suite::Groth16Bn254]);
    let mut request = halo2.request();
    request.instances.push(Base64(groth16.instance().to_bytes()));
    case.world.manager.enrol_key(&case.hsm.call(&case.world), &request).unwrap();
    case.world.advance(10);
    // More than a page of the log before the first proof in the suite that was added, and after it.
    let busy = |case: &Case| (0..40).for_each(|_| drop(case.hsm.attest(&case.world, "eu", &case.key).unwrap()));
    busy(&case);
    for key in [&halo2, &groth16] {
        case.hsm.attest(&case.world, "eu", key).unwrap();
    }
    busy(&case);
    case.world.advance(10);
    for key in [&halo2, &groth16] {
        case.hsm.attest(&case.world, "eu", key).unwrap();
    }
    case.key = halo2;
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    let bundle = case.bundle();
    holds(&case, &bundle);
    let of = |entry: u64| &case.log[entry as usize - 1].submission.command;
    let enrols = |entry: &u64| matches!(of(*entry), Command::EnrolKey { key, .. } if *key == case.key.key);
    let enrolments: Vec<_> = bundle.entries.iter().map(opening_number).filter(enrols).collect();
    let instances = |entry: &u64| match of(*entry) {
        Command::EnrolKey { instances, .. } => instances.len(),
        _ => 0,
    };
    assert_eq!(enrolments.iter().map(instances).collect::<Vec<_>>(), [1, 2]);
    // The first one alone does not show the suite that was added.
    let without = |number: u64| {
        let mut bundle = bundle.clone();
        bundle.entries.retain(|entry| opening_number(entry) != number);
        look(&case, &bundle).into_iter().find(|finding| finding.result.is_err()).unwrap().result.map(drop)
    };
    refused(without(enrolments[1]), "the key was enrolled with another fingerprint");
    // The manager's own bundle rests on the same entries.
    let request = BundleRequest { token: case.token.clone(), cosignatures: 0 };
    let made = case.world.manager.bundle(&Caller::in_process(), &request).unwrap();
    let numbers = |bundle: &Bundle| bundle.entries.iter().map(opening_number).collect::<Vec<_>>();
    assert_eq!(numbers(&made), numbers(&bundle));
}

#[test]
fn an_instance_that_was_proven_under_another_name_before_is_found_under_its_own() {
    let mut case = Case::new();
    let suites = [Suite::Halo2Pasta, Suite::Groth16Bn254];
    let names = ["old", "new"].map(|name| suites.map(|suite| TestKey::aes256(name, 7).in_suite(suite)));
    let enrol = |case: &Case, [halo2, groth16]: &[TestKey; 2]| {
        let mut request = halo2.request();
        request.instances.push(Base64(groth16.instance().to_bytes()));
        case.world.manager.enrol_key(&case.hsm.call(&case.world), &request).unwrap();
        case.world.advance(10);
    };
    for [halo2, _] in &names {
        case.hsm.enrol_key(&case.world, halo2).unwrap();
        case.world.advance(10);
    }
    case.world = case.world.reopen_with(suites.to_vec());
    // The first proof of the material is older than this enrolment of it.
    for both in &names {
        enrol(&case, both);
        for key in both {
            case.hsm.attest(&case.world, "eu", key).unwrap();
        }
    }
    case.key = names[1][0].clone();
    (case.log, case.token) = (log_of(&case.world), token(&case.world, &case.key));
    holds(&case, &case.bundle());
}
