//! Clusters: coherence, what an HSM misses, and leave to give copies.

use keywitness_circuits::{ClusterId, KeyAlgorithm};
use keywitness_verifier::wire::{
    AttestationState, ClusterStatus, Coherence, CredentialRequest, EventKind, JoinTokenRequest, KeyRef, MAX_TRANSFER,
    Peers, Problem, ProblemKind, Reason, ReinstateRequest, RevocationTarget, RevokeRequest, Role, Standing,
    TransferGrant, TransferRequest,
};

use super::super::testing::{Caller, TestHsm, TestKey, World, refused};

fn payments() -> ClusterId {
    "payments".parse().unwrap()
}

fn status(world: &World) -> ClusterStatus {
    let mut clusters = world.manager.clusters(&Caller::in_process(), Some(&payments())).unwrap().clusters;
    assert_eq!(clusters.len(), 1);
    clusters.remove(0)
}

fn coherence(world: &World) -> Coherence {
    let status = status(world);
    assert_eq!(status.coherence == Coherence::Coherent, status.incoherent.is_empty());
    assert_eq!(status.keys, status.coherent + status.incoherent.len() as u64);
    status.coherence
}

fn holds(world: &World, hsm: &TestHsm, key: &TestKey) {
    hsm.enrol_key(world, key).unwrap();
    hsm.attest(world, "payments", key).unwrap();
}

fn peers(world: &World, hsm: &TestHsm) -> Peers {
    world.manager.peers(&hsm.call(world)).unwrap()
}

fn missing(world: &World, hsm: &TestHsm) -> Vec<(String, Vec<String>)> {
    let names = |ids: Vec<keywitness_circuits::HsmId>| ids.into_iter().map(|hsm| hsm.to_string()).collect();
    peers(world, hsm).missing.into_iter().map(|key| (key.key.to_string(), names(key.holders))).collect()
}

fn key_ref(key: &str) -> KeyRef {
    KeyRef { key: key.parse().unwrap(), epoch: 1 }
}

fn transfer(world: &World, from: &TestHsm, to: &str, keys: &[&str]) -> Result<TransferGrant, Problem> {
    let keys = keys.iter().map(|key| key_ref(key)).collect();
    world.manager.transfer(&from.call(world), &TransferRequest { to: to.parse().unwrap(), keys })
}

fn bar(world: &World, target: RevocationTarget) {
    let request = RevokeRequest { target, reason: Reason::from("looked at") };
    world.manager.suspend(&Caller::in_process(), &request).unwrap();
}

#[test]
fn a_cluster_is_coherent_when_all_its_hsms_prove_the_same_now() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    let outside = world.hsm("outside", "archive");
    assert_eq!(coherence(&world), Coherence::Coherent, "there is nothing to differ in");
    let key = TestKey::ed25519("signing", 7);
    holds(&world, &first, &key);
    outside.enrol_key(&world, &TestKey::ed25519("other", 9)).unwrap();
    assert_eq!(coherence(&world), Coherence::Partial, "one HSM does not have it");
    second.enrol_key(&world, &key).unwrap();
    assert_eq!(coherence(&world), Coherence::Partial, "it is not proven there");
    second.attest(&world, "payments", &key).unwrap();
    let now = status(&world);
    assert_eq!((now.coherence, now.keys, now.coherent), (Coherence::Coherent, 1, 1));
    assert!(now.hsms.iter().all(|hsm| hsm.attested == 1 && hsm.last_proof.is_some()));

    world.advance(i64::try_from(world.manager.trust_domain().record_ttl).unwrap() + 1);
    let stale = status(&world);
    assert_eq!(stale.coherence, Coherence::Stale);
    assert!(stale.incoherent[0].copies.iter().all(|copy| copy.state == Some(AttestationState::Expired)));
    assert!(stale.incoherent[0].copies.iter().all(|copy| copy.fingerprints.is_empty()), "nothing is in force");
    for hsm in [&first, &second] {
        hsm.attest(&world, "payments", &key).unwrap();
    }
    assert_eq!(coherence(&world), Coherence::Coherent);

    // A rotation in one HSM is not yet the cluster's.
    let next = key.epoch(2, 8);
    holds(&world, &first, &next);
    let rotated = status(&world);
    assert_eq!((rotated.coherence, rotated.incoherent[0].key.epoch), (Coherence::Partial, 2));
    holds(&world, &second, &next);
    assert_eq!(coherence(&world), Coherence::Coherent);

    // A suspended HSM still belongs to the cluster, and a revoked one does not; a revoked key is no key.
    bar(&world, RevocationTarget::Hsm(second.id.clone()));
    let suspended = status(&world);
    assert_eq!(suspended.coherence, Coherence::Stale);
    assert_eq!(suspended.hsms[1].standing, Standing::Suspended);
    world.revoke_hsm(&second);
    assert_eq!((coherence(&world), status(&world).hsms.len()), (Coherence::Coherent, 1));
    world.revoke(RevocationTarget::Key { cluster: payments(), key: "signing".parse().unwrap() });
    assert_eq!(status(&world).keys, 0);
}

#[test]
fn different_keys_under_one_name_are_drift_and_an_alert() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    holds(&world, &first, &TestKey::ed25519("signing", 7));
    holds(&world, &second, &TestKey::ed25519("signing", 8));
    let drifting = status(&world);
    assert_eq!(drifting.coherence, Coherence::Drifting);
    let shown: Vec<_> = drifting.incoherent[0].copies.iter().map(|copy| copy.fingerprints.clone()).collect();
    assert!(shown[0] != shown[1] && shown.iter().all(|fingerprints| fingerprints.len() == 1));
    // The alert waits for the grace, and for both to be proven again after it.
    for _ in 0..3 {
        world.advance(400);
        for (hsm, seed) in [(&first, 7), (&second, 8)] {
            hsm.attest(&world, "payments", &TestKey::ed25519("signing", seed)).unwrap();
        }
    }
    assert!(world.alerts().iter().any(|alert| matches!(alert, EventKind::Drift { .. })), "{:?}", world.alerts());
}

#[test]
fn two_algorithms_under_one_name_are_drift() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    // They have no suite in common, so that no fingerprint is compared with another.
    holds(&world, &first, &TestKey::ed25519("main", 7));
    holds(&world, &second, &TestKey::aes256("main", 7));
    assert_eq!(coherence(&world), Coherence::Drifting);
}

#[test]
fn a_revoked_copy_is_shown_and_hides_no_other() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    let elsewhere = world.hsm("outside", "archive");
    let (good, stolen) = (TestKey::ed25519("signing", 7), TestKey::ed25519("signing", 8));
    holds(&world, &first, &good);
    holds(&world, &second, &stolen.epoch(1, 8));
    let leaked = TestKey::ed25519("leaked", 8);
    elsewhere.enrol_key(&world, &leaked).unwrap();
    elsewhere.attest(&world, "archive", &leaked).unwrap();
    // Revoked there by its fingerprint, which covers what hsm-2 calls signing.
    world.revoke(RevocationTarget::Key { cluster: "archive".parse().unwrap(), key: "leaked".parse().unwrap() });
    let seen = status(&world);
    assert_eq!((seen.keys, seen.coherence), (1, Coherence::Partial), "{seen:?}");
    let states: Vec<_> = seen.incoherent[0].copies.iter().map(|copy| copy.state).collect();
    assert_eq!(states, [Some(AttestationState::Attested), Some(AttestationState::Revoked)]);
    assert!(seen.incoherent[0].copies[1].fingerprints.is_empty());
}

/// An HSM that nobody named to the one that asks, with more keys than the list holds.
#[test]
fn no_hsm_crowds_out_the_others_of_what_is_missing() {
    let world = World::new();
    let (rogue, honest) = (world.hsm("a-rogue", "payments"), world.hsm("hsm-1", "payments"));
    let third = world.hsm("hsm-2", "payments");
    for number in 0..150 {
        holds(&world, &rogue, &TestKey::ed25519(&format!("a-{number:03}"), 7));
    }
    let own = ["root", "signing", "wrapping"].map(|name| TestKey::ed25519(name, 9));
    own.iter().for_each(|key| holds(&world, &honest, key));
    let told = missing(&world, &third);
    let of = |hsm: &str| told.iter().filter(|(_, holders)| holders == &[hsm.to_owned()]).count();
    assert_eq!((told.len(), of("hsm-1"), of("a-rogue")), (128 + 3, 3, 128));
    // What it is told of next is another part.
    let (mut seen, mut rounds) = (std::collections::BTreeSet::new(), 0);
    while seen.len() < 153 && rounds < 100 {
        seen.extend(missing(&world, &third).into_iter().map(|(key, _)| key));
        rounds += 1;
    }
    assert_eq!(seen.len(), 153);
}

/// One HSM has more keys than are told of at once, and another disputes two of them: by other material, and by an epoch of its own.
#[test]
fn a_key_is_told_of_beside_whatever_others_prove_under_its_name() {
    let world = World::new();
    let (honest, rogue) = (world.hsm("hsm-1", "payments"), world.hsm("rogue", "payments"));
    let third = world.hsm("hsm-2", "payments");
    for number in 0..160 {
        holds(&world, &honest, &TestKey::ed25519(&format!("k-{number:03}"), 7));
    }
    holds(&world, &rogue, &TestKey::ed25519("k-050", 9));
    holds(&world, &rogue, &TestKey::ed25519("k-100", 7).epoch(2, 9));
    let of = |told: &[(String, Vec<String>)], key: &str| {
        let of = told.iter().filter(|(named, _)| named.starts_with(key));
        of.map(|(key, holders)| format!("{key} {}", holders.join(" "))).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        let told = missing(&world, &third);
        assert!(told.len() > 128 && told.len() < 160, "{}", told.len());
        let mut disputed = of(&told, "k-050");
        disputed.sort_unstable();
        assert_eq!(disputed, ["k-050 @1 hsm-1", "k-050 @1 rogue"]);
        assert_eq!(of(&told, "k-100"), ["k-100 @1 hsm-1", "k-100 @2 rogue"]);
    }
    // So many that nobody can tell are told to nobody, at no epoch.
    for number in 1..=4 {
        let more = world.hsm(&format!("rogue-{number}"), "payments");
        holds(&world, &more, &TestKey::ed25519("k-100", number));
    }
    let told = missing(&world, &third);
    assert_eq!(of(&told, "k-100"), Vec::<String>::new());
    assert_eq!(of(&told, "k-050").len(), 2);

    // What its holder does not give is told of beside what another gives, at whatever epoch.
    let (token, named) = (world.hsm("token", "vault"), world.hsm("named", "vault"));
    let newcomer = world.hsm("newcomer", "vault");
    let inside = |name| {
        let mut key = TestKey::ed25519(name, 11);
        key.attributes.extractable = false;
        key
    };
    let proves = |hsm: &TestHsm, key: &TestKey| {
        hsm.enrol_key(&world, key).unwrap();
        hsm.attest(&world, "vault", key).unwrap();
    };
    for name in ["same", "next", "alone"] {
        proves(&token, &inside(name));
    }
    proves(&named, &TestKey::ed25519("same", 12));
    proves(&named, &TestKey::ed25519("next", 11).epoch(2, 12));
    // A rotation that is not proven yet hides no key either.
    let rotated = TestKey::ed25519("rotated", 11);
    proves(&token, &rotated);
    token.enrol_key(&world, &rotated.epoch(2, 13)).unwrap();
    proves(&named, &rotated.epoch(2, 14));
    let expected =
        ["next @1 token", "next @2 named", "rotated @1 token", "rotated @2 named", "same @1 named", "same @1 token"];
    let all = |hsm: &TestHsm| of(&missing(&world, hsm), "");
    assert_eq!(all(&newcomer), expected);

    // Nor does what an HSM once had: it may have come back without it.
    proves(&newcomer, &TestKey::ed25519("same", 11));
    proves(&newcomer, &TestKey::ed25519("next", 11));
    proves(&newcomer, &TestKey::ed25519("given", 10));
    proves(&named, &TestKey::ed25519("given", 10));
    let names = |told: &[String]| told.iter().map(|key| key[..key.len().min(7)].to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&all(&newcomer)), ["next @1", "next @2", "rotated", "rotated"], "what it has is not offered");
    world.revoke_hsm(&newcomer);
    let (cluster, hsm) = ("vault".parse().unwrap(), Some(newcomer.id.clone()));
    let invitation = JoinTokenRequest { cluster, hsm, reenrol: true, valid_for: 600 };
    let invitation = world.manager.create_join_token(&Caller::in_process(), &invitation).unwrap().secret;
    let back = TestHsm::new("newcomer");
    assert_eq!(back.enrol(&world, &invitation).unwrap().revision, 2);
    assert_eq!(all(&back), [&["given @1 named"][..], &expected].concat());
    // Until it has enrolled a key anew.
    world.advance(1);
    back.enrol_key(&world, &TestKey::ed25519("own", 15)).unwrap();
    proves(&named, &TestKey::ed25519("own", 15));
    assert_eq!(all(&back), [&["given @1 named"][..], &expected].concat());
}

#[test]
fn a_scope_bounds_what_is_seen() {
    let world = World::new();
    world.hsm("hsm-1", "payments");
    world.hsm("outside", "archive");
    let all = world.manager.clusters(&Caller::in_process(), None).unwrap().clusters;
    assert_eq!(all.iter().map(|cluster| cluster.cluster.to_string()).collect::<Vec<_>>(), ["archive", "payments"]);
    let clusters = Some(vec!["archive".parse().unwrap()]);
    let request = CredentialRequest { clusters, ..CredentialRequest::new("of one", Role::Viewer) };
    let secret = world.manager.create_credential(&Caller::in_process(), &request).unwrap().secret;
    let bounded = world.manager.authorise(&secret, &[Role::Viewer]).unwrap();
    let seen = world.manager.clusters(&bounded, None).unwrap().clusters;
    assert_eq!(seen.iter().map(|cluster| cluster.cluster.to_string()).collect::<Vec<_>>(), ["archive"]);
    refused(world.manager.clusters(&bounded, Some(&payments())), ProblemKind::NotFound);
    refused(world.manager.clusters(&Caller::in_process(), Some(&"none".parse().unwrap())), ProblemKind::NotFound);
}

#[test]
fn an_hsm_is_told_what_others_of_its_cluster_prove_and_it_has_not() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    let third = world.hsm("hsm-3", "payments");
    let outside = world.hsm("outside", "archive");
    let (signing, wrapping) = (TestKey::ed25519("signing", 7), TestKey::aes256("wrapping", 5));
    holds(&world, &first, &signing);
    holds(&world, &second, &signing);
    holds(&world, &first, &wrapping);
    // What is not proven is nobody's to give.
    first.enrol_key(&world, &TestKey::ed25519("unproven", 9)).unwrap();

    let told = peers(&world, &third);
    assert_eq!(told.peers.iter().map(|peer| peer.hsm.as_str()).collect::<Vec<_>>(), ["hsm-1", "hsm-2"]);
    assert_eq!(told.peers[0].identity.to_bytes(), first.identity.verifying_key().to_bytes());
    let both = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        missing(&world, &third),
        [("signing @1".to_owned(), both(&["hsm-1", "hsm-2"])), ("wrapping @1".to_owned(), both(&["hsm-1"]))]
    );
    assert_eq!(missing(&world, &second), [("wrapping @1".to_owned(), both(&["hsm-1"]))]);
    assert_eq!(missing(&world, &first), []);
    assert!(peers(&world, &outside).peers.is_empty() && missing(&world, &outside).is_empty());

    // Of each key the newest epoch alone, and what is newer at the caller is not offered older.
    for epoch in 2..=3 {
        holds(&world, &first, &signing.epoch(epoch, 10 + epoch as u8));
    }
    assert_eq!(missing(&world, &second)[0], ("signing @3".to_owned(), both(&["hsm-1"])));
    for epoch in 2..=3 {
        holds(&world, &second, &signing.epoch(epoch, 10 + epoch as u8));
    }
    assert_eq!(missing(&world, &second), [("wrapping @1".to_owned(), both(&["hsm-1"]))]);

    // Whoever proves another key under the name stands apart: it keeps nobody from the others' copies.
    let rogue = world.hsm("a-rogue", "payments");
    holds(&world, &rogue, &TestKey::aes256("wrapping", 6));
    assert_eq!(
        missing(&world, &second),
        [both(&["a-rogue"]), both(&["hsm-1"])].map(|of| ("wrapping @1".to_owned(), of))
    );
    world.revoke_hsm(&rogue);

    // A suspended HSM is nobody's peer, and sees none.
    bar(&world, RevocationTarget::Hsm(first.id.clone()));
    assert_eq!(missing(&world, &third), [("signing @3".to_owned(), both(&["hsm-2"]))]);
    refused(world.manager.peers(&first.call(&world)), ProblemKind::Suspended);
}

#[test]
fn copies_are_given_within_a_cluster_of_what_is_attested_and_logged() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    let outside = world.hsm("outside", "archive");
    holds(&world, &first, &TestKey::ed25519("signing", 7));
    first.enrol_key(&world, &TestKey::ed25519("unproven", 9)).unwrap();

    let grant = transfer(&world, &first, "hsm-2", &["signing"]).unwrap();
    assert_eq!(grant.to.identity.to_bytes(), second.identity.verifying_key().to_bytes());
    assert_eq!(grant.cluster, payments());
    let copied = EventKind::KeysCopied {
        from: first.id.clone(),
        to: second.id.clone(),
        cluster: payments(),
        keys: vec![key_ref("signing")],
    };
    assert_eq!(world.events().iter().filter(|event| **event == copied).count(), 1);
    assert!(world.alerts().is_empty());

    for (to, keys, problem) in [
        ("outside", &["signing"][..], ProblemKind::Forbidden),
        ("hsm-1", &["signing"], ProblemKind::Forbidden),
        ("hsm-9", &["signing"], ProblemKind::Forbidden),
        ("hsm-2", &["unproven"], ProblemKind::NotAttested),
        ("hsm-2", &["signing", "unproven"], ProblemKind::NotAttested),
        ("hsm-2", &["none"], ProblemKind::UnknownKey),
        ("hsm-2", &[], ProblemKind::Malformed),
        ("hsm-2", &["signing"; MAX_TRANSFER + 1], ProblemKind::Malformed),
    ] {
        refused(transfer(&world, &first, to, keys), problem);
    }
    refused(transfer(&world, &second, "hsm-1", &["signing"]), ProblemKind::UnknownKey);
    refused(transfer(&world, &outside, "hsm-2", &["signing"]), ProblemKind::Forbidden);

    // Neither to a suspended HSM, nor by one.
    let target = RevocationTarget::Hsm(second.id.clone());
    bar(&world, target.clone());
    refused(transfer(&world, &first, "hsm-2", &["signing"]), ProblemKind::Suspended);
    holds_back(&world, target);
    bar(&world, RevocationTarget::Hsm(first.id.clone()));
    refused(transfer(&world, &first, "hsm-2", &["signing"]), ProblemKind::Suspended);
    holds_back(&world, RevocationTarget::Hsm(first.id.clone()));
    transfer(&world, &first, "hsm-2", &["signing"]).unwrap();

    // A record that has expired shows nothing.
    world.advance(i64::try_from(world.manager.trust_domain().record_ttl).unwrap() + 1);
    refused(transfer(&world, &first, "hsm-2", &["signing"]), ProblemKind::NotAttested);
    assert_eq!(world.events().iter().filter(|event| **event == copied).count(), 2, "refusals are no events");
}

fn holds_back(world: &World, target: RevocationTarget) {
    let request = ReinstateRequest { target, reason: Reason::from("looked at") };
    world.manager.reinstate(&Caller::in_process(), &request).unwrap();
}

#[test]
fn what_an_older_identity_asked_for_comes_to_nothing() {
    let world = World::new();
    let (first, second) = (world.hsm("hsm-1", "payments"), world.hsm("hsm-2", "payments"));
    holds(&world, &first, &TestKey::new("signing", KeyAlgorithm::P256, 7));
    let stale = first.call(&world);
    world.revoke_hsm(&first);
    let request = TransferRequest { to: second.id.clone(), keys: vec![key_ref("signing")] };
    refused(world.manager.transfer(&stale, &request), ProblemKind::HsmRevoked);
}
