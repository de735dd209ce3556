//! What whoever has taken an agent over asks of its proving process, and does not get.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use keywitness_circuits::{
    ClaimContext, Digest, Envelope, HsmId, KeyAlgorithm, KeyOrigin, Kind, Parameters, Suite, Timestamp,
    transcript::label,
};
use keywitness_custody::{HolderKey, Member, Purpose, Scheme, SharingId, Terms};
use keywitness_verifier::{
    channel,
    identity::{Audience, IdentityKey, MAX_SKEW},
    operation::{MAX_AGE, Operation, OperationRequest},
    transfer::{self, SealedKey, Transfer, Withheld},
    wire::{Enrolment, KeyRef, MAX_RECORD_TTL},
};

use super::{
    Holder, Remote, Sharing,
    rules::Rules,
    tests::{NOW, claim, domain, remote, remote_by, rules},
};
use crate::{
    KeyStore, Membership, SoftwareStore, StoreError,
    testing::{create, enrolled_store, membership, name, store_of},
};

fn key(text: &str) -> KeyRef {
    KeyRef { key: name(text), epoch: 1 }
}

fn said<T>(result: Result<T, StoreError>) -> String {
    result.err().expect("it is refused").to_string()
}

#[test]
fn the_identity_signs_requests_to_the_manager_and_envelopes_of_its_own_proofs() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let labelled = |label: &str| [label.as_bytes(), &[0; 33]].concat();
    let protocols = [label::OPERATION, label::TRANSFER, label::ENROL, label::DEALING, label::COMPLAINT, label::ATTEST];
    let mut messages: Vec<_> = protocols.into_iter().map(labelled).collect();
    messages.extend([b"".to_vec(), b"transfer all of it".to_vec(), b"Keywitness/v1".to_vec()]);
    let request = labelled(label::REQUEST);
    messages.extend([request[..request.len() - 1].to_vec(), [&request[..], b"0"].concat(), label::REQUEST.into()]);
    for message in messages {
        assert!(matches!(there.sign_with_identity(&message), Err(StoreError::Process(_))), "{message:?}");
    }
    there.sign_with_identity(&request).unwrap();

    // A proof that was made elsewhere, by whoever else has the key.
    let (context, instance, key) = claim(&there, "ed25519", Kind::KeyKnowledgeEd25519);
    let seal = |there: &Remote, proof: &[u8]| {
        let mut signed = None;
        Envelope::seal(context.clone(), instance.clone(), proof.to_vec(), |message| {
            signed = Some(there.sign_with_identity(message));
            [0; 64]
        });
        signed.unwrap()
    };
    assert!(matches!(seal(&there, &[7; 64]), Err(StoreError::NotProvenHere)));
    let proof = there.prove(&Parameters::transparent(), &context, &instance, &key).unwrap();
    seal(&there, &proof).unwrap();
    assert!(matches!(seal(&remote(&store), &proof), Err(StoreError::NotProvenHere)), "another process's");
}

#[test]
fn claims_are_in_its_own_name_and_an_enrolled_hsm_stays_itself() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let (context, instance, key) = claim(&there, "ed25519", Kind::KeyKnowledgeEd25519);
    let prove = |context| there.prove(&Parameters::transparent(), &context, &instance, &key);
    let claims = [
        ClaimContext { hsm: name("hsm-2"), ..context.clone() },
        ClaimContext { manager: name("manager-2"), ..context.clone() },
        ClaimContext { trust_domain: name("other.example"), ..context.clone() },
        ClaimContext { cluster: name("cluster-2"), ..context.clone() },
    ];
    for claim in claims {
        assert!(said(prove(claim)).contains("another HSM's name"));
    }
    prove(context).unwrap();
    let audience = Audience { manager: name("manager-2"), ..membership().audience };
    for other in
        [Membership { hsm: name("hsm-2"), ..membership() }, Membership { audience: audience.clone(), ..membership() }]
    {
        assert!(said(there.set_membership(other)).contains("keeps its name"));
    }
    for (audience, hsm) in [(&audience, "hsm-1"), (&membership().audience, "hsm-2")] {
        assert!(said(there.sign_enrolment(audience, "kw_join_x", &name(hsm))).contains("keeps its name"));
    }
    let unenrolled = Membership { enrolment: None, ..membership() };
    assert!(said(there.set_membership(unenrolled)).contains("stays enrolled"));
}

/// The membership with what an enrolment says, changed.
fn enrolled_as(change: impl FnOnce(&mut Enrolment)) -> Membership {
    let mut changed = membership();
    change(changed.enrolment.as_mut().unwrap());
    changed
}

#[test]
fn cluster_and_revision_are_those_of_an_enrolment_that_was_signed_here() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let newer = |revision| enrolled_as(|enrolment| enrolment.revision = revision);
    let elsewhere = enrolled_as(|enrolment| enrolment.cluster = name("cluster-2"));
    let of_another = enrolled_as(|enrolment| enrolment.hsm = name("hsm-2"));
    let refused = |changed: &Membership| said(there.set_membership(changed.clone()));
    for changed in [&newer(2), &newer(4), &elsewhere] {
        assert!(refused(changed).contains("enrols anew"));
    }
    assert!(refused(&of_another).contains("another HSM's"));
    assert_eq!(store.membership(), Some(membership()));
    // The same again is no change: a lost answer.
    there.set_membership(membership()).unwrap();

    let sign = |there: &Remote| there.sign_enrolment(&membership().audience, "kw_join_x", &name("hsm-1")).unwrap();
    sign(&there);
    assert!(refused(&of_another).contains("another HSM's"));
    there.set_membership(newer(4)).unwrap();
    there.set_membership(newer(4)).unwrap();
    assert!(refused(&newer(5)).contains("enrols anew"), "one enrolment, one revision");
    sign(&there);
    assert!(remote(&store).set_membership(newer(5)).is_err(), "another process's");

    // An HSM that is not enrolled yet: its process may have died before the manager answered.
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(create(&directory.path().join("store")));
    let begun = Membership { enrolment: None, ..membership() };
    remote(&store).set_membership(begun).unwrap();
    let there = remote(&store);
    assert!(said(there.set_membership(of_another)).contains("another HSM's"));
    sign(&there);
    there.set_membership(membership()).unwrap();
    assert!(said(there.set_membership(newer(4))).contains("enrols anew"), "the first enrolment is recorded, and over");
}

#[test]
fn claims_are_about_now_by_the_process_s_own_clock_and_for_a_day_at_most() {
    let (_directory, store) = enrolled_store();
    let there = remote(&store);
    let (context, instance, key) = claim(&there, "ed25519", Kind::KeyKnowledgeEd25519);
    let of = |not_before, not_after| ClaimContext { not_before, not_after, ..context.clone() };
    let prove = |context: &ClaimContext| there.prove(&Parameters::transparent(), context, &instance, &key);
    let (before, end) = (|seconds| Timestamp(NOW.0 - seconds), Timestamp(u64::MAX));
    for context in [
        // Later, over, of more than a day, and all at once.
        of(NOW.plus(MAX_SKEW + 1), NOW.plus(MAX_SKEW + 2)),
        of(before(100), NOW),
        of(before(100), before(50)),
        of(NOW, NOW.plus(MAX_RECORD_TTL + 1)),
        of(before(MAX_RECORD_TTL), NOW.plus(1)),
        of(NOW.plus(2), NOW.plus(1)),
        of(NOW, end),
        of(end, end),
        of(Timestamp(0), end),
    ] {
        assert!(said(prove(&context)).contains("about another time"), "{context:?}");
        let many = there.prove_many(&Parameters::transparent(), &context, &instance, std::slice::from_ref(&key));
        assert!(said(many).contains("about another time"), "{context:?}");
    }
    for (not_before, not_after) in
        [(NOW.plus(MAX_SKEW), NOW.plus(MAX_SKEW + MAX_RECORD_TTL)), (before(MAX_RECORD_TTL - 1), NOW.plus(1))]
    {
        prove(&of(not_before, not_after)).unwrap();
    }
}

/// HSM hsm-1, which has keys; hsm-2, whose operator and hsm-1's have named each other; and a thief.
struct Pair {
    _directory: tempfile::TempDir,
    store: Arc<SoftwareStore>,
    peer: Arc<SoftwareStore>,
    thief: SoftwareStore,
    giver: Remote,
    taker: Remote,
}

impl Pair {
    fn new() -> Self {
        let (directory, store) = store_of([KeyAlgorithm::Aes256, KeyAlgorithm::Ed25519]);
        let (peer, thief) = (create(&directory.path().join("peer")), create(&directory.path().join("thief")));
        peer.set_membership(Membership { hsm: name("hsm-2"), ..membership() }).unwrap();
        thief.set_membership(Membership { hsm: name("hsm-2"), ..membership() }).unwrap();
        let peer = Arc::new(peer);
        let named = |other: &SoftwareStore| Rules { peers: vec![other.identity().into()], ..rules() };
        let (giver, taker) = (remote_by(&store, named(&peer)), remote_by(&peer, named(&store)));
        Self { _directory: directory, store, peer, thief, giver, taker }
    }

    fn expected(&self, key: &KeyRef) -> Vec<keywitness_circuits::Instance> {
        self.store.instances(key, &domain(), &[Suite::Halo2Pasta, Suite::Groth16Bn254]).unwrap()
    }
}

/// A request of `asker`'s own making, for copies that are sealed to `to`.
fn ask(asker: &SoftwareStore, hsm: &HsmId, to: [u8; 32], created: Timestamp) -> OperationRequest {
    let operation = Operation::Copy { hsm: name("hsm-2"), channel_key: Digest(to), keys: vec![key("aes256")] };
    let sign = |message: &[u8]| asker.sign_with_identity(message);
    OperationRequest::sign_as(asker.identity(), (&domain(), hsm), created, operation, sign).unwrap()
}

#[test]
fn a_copy_is_made_for_a_request_of_a_peer_of_now_and_for_nothing_else() {
    let Pair { store, peer, thief, giver, taker, .. } = &Pair::new();
    let (own, theirs) = (name("hsm-1"), peer.channel_key());
    let refused = |request: &OperationRequest| assert!(giver.give_copies(request, &[], NOW).is_err(), "{request:?}");
    // A stranger asks; a peer asks another HSM; somebody writes the peer's name over his own request, or his key over its.
    refused(&ask(thief, &own, thief.channel_key(), NOW));
    refused(&ask(peer, &name("hsm-9"), theirs, NOW));
    refused(&OperationRequest { client: peer.identity(), ..ask(thief, &own, thief.channel_key(), NOW) });
    let mut redirected = ask(peer, &own, theirs, NOW);
    let Operation::Copy { channel_key, .. } = &mut redirected.operation else { panic!() };
    *channel_key = Digest(thief.channel_key());
    refused(&redirected);
    // The process has its own clock, whatever the agent says.
    for created in [Timestamp(NOW.0 - MAX_AGE - 1), NOW.plus(MAX_AGE + 1), Timestamp(0), Timestamp(u64::MAX)] {
        let request = ask(peer, &own, theirs, created);
        assert!(said(giver.give_copies(&request, &[], created)).contains("within a minute"));
    }
    // Nor by the way that stores have among themselves.
    let terms = transfer::Terms {
        trust_domain: domain(),
        cluster: name("cluster-1"),
        from: own.clone(),
        to: name("hsm-2"),
        request: ask(peer, &own, theirs, NOW).digest(&domain(), &own),
    };
    assert!(matches!(giver.copy_key(&key("aes256"), &terms, &theirs), Err(StoreError::NotGiven(_))));

    let request = taker.ask_copies(&own, &[key("aes256"), key("missing"), key("ed25519")], NOW).unwrap();
    let withheld = [Withheld::new(key("ed25519"), "not attested")];
    let transfer = giver.give_copies(&request, &withheld, NOW).unwrap();
    assert_eq!(transfer.copies.iter().map(|copy| &copy.described.key).collect::<Vec<_>>(), [&key("aes256")]);
    let why: Vec<_> = transfer.withheld.iter().map(|withheld| (&withheld.key, withheld.why())).collect();
    assert_eq!(why, [(&key("missing"), "there is no key missing at epoch 1"), (&key("ed25519"), "not attested")]);
    assert!(!format!("{request:?}").contains(&data_encoding::HEXLOWER.encode(&store.channel_key())));
}

#[test]
fn a_request_for_copies_names_its_own_channel_key() {
    let Pair { peer, taker, .. } = &Pair::new();
    let request = taker.ask_copies(&name("hsm-1"), &[key("aes256")], Timestamp(5)).unwrap();
    let Operation::Copy { hsm, channel_key, .. } = &request.operation else { panic!() };
    assert_eq!((hsm, channel_key.0), (&name("hsm-2"), peer.channel_key()));
    assert_eq!((request.client, request.created), (peer.identity(), NOW));
    request.check(&domain(), &name("hsm-1")).unwrap();
}

#[test]
fn a_key_is_taken_from_a_peer_that_was_asked_and_from_nobody_else() {
    let pair = Pair::new();
    let Pair { store, peer, thief, giver, taker, .. } = &pair;
    let (aes, own) = (key("aes256"), name("hsm-1"));
    let request = taker.ask_copies(&own, std::slice::from_ref(&aes), NOW).unwrap();
    let good = giver.give_copies(&request, &[], NOW).unwrap();
    let expected = pair.expected(&aes);
    let take = |transfer: &Transfer, giver: &IdentityKey| said(taker.take_copy(transfer, giver, &aes, &expected));

    // A key of the thief's making, sealed to the channel key, which is public, for the very request.
    let planted = thief.generate(&name("aes256"), KeyAlgorithm::Aes256, crate::Placement::New).unwrap();
    assert_eq!(planted.key, aes);
    let copy = thief.copy_key(&aes, &good.terms, &peer.channel_key()).unwrap();
    let forge = |copies: Vec<SealedKey>| {
        Transfer::sign(good.terms.clone(), copies, Vec::new(), |message| thief.sign_with_identity(message)).unwrap()
    };
    let planted = thief.instances(&aes, &domain(), &[Suite::Halo2Pasta]).unwrap();
    let forged = forge(vec![copy.clone()]);
    for named in [thief.identity(), store.identity()] {
        assert!(taker.take_copy(&forged, &named, &aes, &planted).is_err());
    }
    // The peer's own signature over something else.
    let mut swapped = good.clone();
    swapped.copies = vec![copy.clone()];
    assert!(taker.take_copy(&swapped, &store.identity(), &aes, &planted).is_err());
    // A peer's answer to a request that this process did not make.
    let old = giver.give_copies(&ask(peer, &own, peer.channel_key(), Timestamp(NOW.0 - 9)), &[], NOW).unwrap();
    assert!(take(&old, &store.identity()).contains("no answer to what this process asked"));
    assert!(take(&good, &thief.identity()).contains("has not named"));
    assert!(matches!(taker.take_key(&copy, &good.terms, &planted), Err(StoreError::NotGiven(_))));
    assert!(taker.keys().is_empty());

    let entry = taker.take_copy(&good, &store.identity(), &aes, &expected).unwrap();
    assert_eq!((entry.key, entry.attributes.origin), (aes, KeyOrigin::Imported));
    assert_eq!(taker.keys(), peer.keys(), "the listing is made anew");
}

#[test]
fn what_a_client_sends_is_opened_and_gives_no_right_to_a_copy() {
    let Pair { thief, giver, .. } = &Pair::new();
    let request = ask(thief, &name("hsm-1"), thief.channel_key(), NOW);
    let plain = serde_json::to_vec(&request).unwrap();
    let (sealed, _) = channel::seal_request(&domain(), &name("hsm-1"), &giver.channel_key(), &plain).unwrap();
    let (opened, _) = giver.open_request(&domain(), &name("hsm-1"), &sealed).unwrap();
    assert!(said(giver.give_copies(&opened, &[], NOW)).contains("has not named"));
}

#[test]
fn nothing_is_dealt_but_what_the_operator_asked_for_and_that_once() {
    let (_directory, store) = store_of([KeyAlgorithm::Ristretto255, KeyAlgorithm::Ed25519]);
    let root = key("ristretto255");
    let holders = [HolderKey::generate(), HolderKey::generate()].map(|holder| *holder.public());
    let terms = |threshold, names: [&str; 2], keys: [keywitness_custody::SealingKey; 2]| Terms {
        sharing: SharingId { trust_domain: domain(), key: root.key.clone(), purpose: Purpose::Sign, epoch: 1 },
        dealer: name("hsm-1"),
        threshold,
        members: (1..)
            .zip(names)
            .zip(keys)
            .map(|((index, hsm), key)| Member { index, holder: name(hsm), key })
            .collect(),
    };
    let good = terms(2, ["hsm-2", "hsm-3"], holders);
    let holder = |hsm: &str, key: Option<&keywitness_custody::SealingKey>| Holder {
        hsm: name(hsm),
        sealing_key: key.map(|key| data_encoding::HEXLOWER.encode(key.as_bytes())),
    };
    let named = vec![holder("hsm-2", Some(&holders[0])), holder("hsm-3", None)];
    let higher = Sharing::new(root.key.clone(), Purpose::Sign, 3, named.clone());
    let of_three = remote_by(&store, Rules { sharing: Some(higher), ..rules() });
    assert!(said(of_three.deal(&root, good.clone(), Scheme::Feldman)).contains("not the sharing"));
    let sharing = Sharing::new(root.key.clone(), Purpose::Sign, 2, named);
    assert!(said(remote(&store).deal(&root, good.clone(), Scheme::Feldman)).contains("an agent deals no key"));

    let there = remote_by(&store, Rules { sharing: Some(sharing), ..rules() });
    let thieves = [HolderKey::generate(), HolderKey::generate()].map(|holder| *holder.public());
    let mut others = vec![
        terms(2, ["hsm-8", "hsm-9"], thieves),
        terms(2, ["hsm-2", "hsm-3"], [thieves[0], holders[1]]),
        terms(2, ["hsm-3", "hsm-2"], holders),
        Terms { dealer: name("hsm-4"), ..good.clone() },
        Terms { sharing: SharingId { purpose: Purpose::Reveal, ..good.sharing.clone() }, ..good.clone() },
        Terms { sharing: SharingId { epoch: 2, ..good.sharing.clone() }, ..good.clone() },
        Terms { sharing: SharingId { trust_domain: name("other.example"), ..good.sharing.clone() }, ..good.clone() },
    ];
    let mut more = good.clone();
    more.members.push(Member { index: 3, holder: name("hsm-9"), key: thieves[1] });
    others.push(more);
    for other in others {
        assert!(said(there.deal(&root, other, Scheme::Feldman)).contains("not the sharing"));
    }
    assert!(said(there.deal(&key("ed25519"), good.clone(), Scheme::Feldman)).contains("not the sharing"));
    there.deal(&root, good.clone(), Scheme::Feldman).unwrap();
    assert!(said(there.deal(&root, good, Scheme::Feldman)).contains("dealt already"));
}
