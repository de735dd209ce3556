//! Sharings: a share has the life of a key, and a bad one costs its dealer the sharing.

use ed25519_dalek::Signer as _;
use keywitness_circuits::{
    KeyAlgorithm, KeyAttributes, KeyOrigin, Suite, codec::Canonical, key_knowledge, share_correctness::Scheme,
    transcript::label,
};
use keywitness_custody::{Complaint, Dealing, HolderKey, Member, Opening, Purpose, SharingId, Terms};
use keywitness_verifier::{
    identity::IdentityKey,
    wire::{
        AttestationState, Base64, ComplaintRequest, ComplaintVerdict, EnrolSharingRequest, EventKind, HsmKeyStatus,
        KeyQuery, KeyRef, Problem, ProblemKind, RevocationTarget, SealingKeyAnnouncement, Sharing, TokenRequest,
        share_name,
    },
};

use super::super::testing::{Caller, Subject, TestHsm, TestKey, World, refused};

/// An HSM that can hold shares.
struct Holder {
    hsm: TestHsm,
    key: HolderKey,
}

/// A dealer, three holders, and a key that is enrolled.
struct Case {
    world: World,
    dealer: TestHsm,
    holders: Vec<Holder>,
}

fn root() -> TestKey {
    TestKey::new("root", KeyAlgorithm::Ristretto255, 3)
}

fn secret() -> [u8; 32] {
    [3; 32]
}

fn identity(hsm: &TestHsm) -> IdentityKey {
    IdentityKey::from_bytes(hsm.identity.verifying_key().to_bytes()).unwrap()
}

impl Case {
    fn new() -> Self {
        Self::over(World::new())
    }

    fn over(world: World) -> Self {
        let dealer = world.hsm("dealer", "payments");
        dealer.enrol_key(&world, &root()).unwrap();
        dealer.attest(&world, "payments", &root()).unwrap();
        let holders = ["holder-1", "holder-2", "holder-3"].map(|name| {
            let (hsm, key) = (world.hsm(name, "archive"), HolderKey::generate());
            let announcement = SealingKeyAnnouncement { key: Base64(key.public().as_bytes().to_vec()) };
            world.manager.announce_sealing_key(&hsm.call(&world), &announcement).unwrap();
            Holder { hsm, key }
        });
        Self { world, dealer, holders: holders.into() }
    }

    fn terms(&self) -> Terms {
        let known = self.world.manager.holders().unwrap().holders;
        assert_eq!(known.len(), 3);
        let members = self.holders.iter().zip(1..).map(|(holder, index)| Member {
            index,
            holder: holder.hsm.id.clone(),
            key: *holder.key.public(),
        });
        Terms {
            sharing: SharingId {
                trust_domain: "acme.example".parse().unwrap(),
                key: "root".parse().unwrap(),
                purpose: Purpose::Sign,
                epoch: 1,
            },
            dealer: self.dealer.id.clone(),
            threshold: 2,
            members: members.collect(),
        }
    }

    fn deal(&self, terms: Terms, opening: &Opening) -> Dealing {
        Dealing::deal(terms, opening, |message| self.dealer.sign(message)).unwrap()
    }

    fn honest(&self) -> Dealing {
        self.deal(self.terms(), &Opening::from_bytes(Scheme::Feldman, &secret()).unwrap())
    }

    /// A dealing whose first share does not open: the dealer changed its ciphertext, and signed that.
    fn faulty(&self) -> Dealing {
        let mut bytes = self.honest().to_bytes();
        // The last share's ciphertext ends where the signature begins.
        let end = bytes.len() - 64;
        bytes[end - 1] ^= 1;
        let digest = Dealing::from_bytes(&bytes).unwrap().digest();
        let message = [label::DEALING.as_bytes(), &[0], &digest.0].concat();
        bytes[end..].copy_from_slice(&self.dealer.identity.sign(&message).to_bytes());
        let dealing = Dealing::from_bytes(&bytes).unwrap();
        dealing.check(&identity(&self.dealer)).unwrap();
        dealing
    }

    fn enrol(&self, dealing: &Dealing) -> Result<Sharing, Problem> {
        let request = EnrolSharingRequest { dealing: Base64(dealing.to_bytes()) };
        self.world.manager.enrol_sharing(&self.dealer.call(&self.world), &request)
    }

    /// The share of a holder, as a key that it attests.
    fn share(&self, dealing: &Dealing, at: usize) -> (Subject, keywitness_circuits::Witness) {
        let holder = &self.holders[at];
        let share = dealing.open(&holder.hsm.id, &holder.key).unwrap();
        let instance = dealing.instance(share.index).unwrap();
        let attributes = KeyAttributes::new(instance.algorithm(), KeyOrigin::Imported, true);
        let key = KeyRef {
            key: share_name(&"root".parse().unwrap(), &"payments".parse().unwrap(), share.index).unwrap(),
            epoch: 1,
        };
        (Subject { key, attributes, enrolled: instance.into() }, share.opening.witness().unwrap().into())
    }

    fn attest(&self, dealing: &Dealing, at: usize) -> Result<(), Problem> {
        let (subject, witness) = self.share(dealing, at);
        let hsm = &self.holders[at].hsm;
        subject.enrol(&self.world, hsm)?;
        let challenge = subject.challenge(&self.world, hsm)?;
        subject.answer((&self.world, hsm, "archive"), &challenge, (&subject.enrolled, &witness)).map(drop)
    }

    fn status(&self, at: usize) -> HsmKeyStatus {
        let key = share_name(&"root".parse().unwrap(), &"payments".parse().unwrap(), at as u16 + 1).unwrap();
        let query = KeyQuery { key, cluster: None, hsm: Some(self.holders[at].hsm.id.clone()), max_age: None };
        self.world.manager.attested(&Caller::in_process(), &query).unwrap().hsms.remove(0)
    }

    fn complain(&self, complaint: &Complaint, at: usize) -> Result<ComplaintVerdict, Problem> {
        let request = ComplaintRequest { complaint: Base64(complaint.to_bytes()) };
        self.world.manager.complain(&self.holders[at].hsm.call(&self.world), &request)
    }
}

/// Puts a sharing into a world.
pub(crate) fn bustle(world: World) -> World {
    let case = Case::over(world);
    let dealing = case.faulty();
    case.enrol(&dealing).unwrap();
    let holder = &case.holders[2];
    let sign = |message: &[u8]| holder.hsm.sign(message);
    let complaint = Complaint::make(&dealing, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).unwrap();
    case.complain(&complaint, 2).unwrap();
    case.world
}

/// Puts a sharing into a world, and a complaint by a holder that does not prove the point with which its share is opened.
pub(crate) fn unfounded_complaint(world: World) -> World {
    let case = Case::over(world);
    let dealing = case.faulty();
    case.enrol(&dealing).unwrap();
    let holder = &case.holders[2];
    let sign = |message: &[u8]| holder.hsm.sign(message);
    let mut complaint = Complaint::make(&dealing, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).unwrap();
    complaint.proof[97] ^= 1;
    let bytes = complaint.to_bytes();
    let digest = keywitness_circuits::Digest::of(label::COMPLAINT, &bytes[..bytes.len() - 64]);
    complaint.signature = sign(&[label::COMPLAINT.as_bytes(), &[0], &digest.0].concat());
    let verdict = case.complain(&complaint, 2).unwrap();
    assert!(matches!(verdict, ComplaintVerdict::Unfounded { complainer, .. } if complainer == holder.hsm.id));
    case.world
}

#[test]
fn a_share_has_the_life_of_a_key() {
    let case = Case::new();
    let dealing = case.honest();
    refused(case.attest(&dealing, 0), ProblemKind::UnknownKey);
    let sharing = case.enrol(&dealing).unwrap();
    assert_eq!((sharing.threshold, sharing.shares.len(), sharing.dealing), (2, 3, dealing.digest()));
    assert_eq!(case.enrol(&dealing).unwrap(), sharing, "telling it again changes nothing");
    for at in 0..3 {
        assert_eq!(case.world.manager.dealings(&case.holders[at].hsm.call(&case.world)).unwrap().dealings.len(), 1);
        case.attest(&dealing, at).unwrap();
        assert_eq!(case.status(at).state, AttestationState::Attested);
    }
    assert_eq!(case.world.manager.dealings(&case.dealer.call(&case.world)).unwrap().dealings, []);
    let query = KeyQuery { key: "root.payments.2".parse().unwrap(), cluster: None, hsm: None, max_age: None };
    let request = TokenRequest {
        query,
        audience: "shop".to_owned(),
        nonce: keywitness_circuits::Nonce([1; 32]),
        form: Default::default(),
    };
    case.world.manager.issue_token(&Caller::in_process(), &request).unwrap();
    case.world.advance(600);
    assert_eq!(case.status(0).state, AttestationState::Expired);
    case.attest(&dealing, 0).unwrap();
    assert_eq!(case.world.alerts(), []);

    let cluster: keywitness_circuits::ClusterId = "payments".parse().unwrap();
    let key = KeyRef { key: "root".parse().unwrap(), epoch: 1 };
    case.world.revoke(RevocationTarget::Sharing { cluster, key });
    assert_eq!(case.status(0).state, AttestationState::Revoked);
    refused(case.attest(&dealing, 0), ProblemKind::KeyRevoked);
    refused(case.world.manager.issue_token(&Caller::in_process(), &request), ProblemKind::KeyRevoked);
    assert_eq!(case.world.manager.dealings(&case.holders[0].hsm.call(&case.world)).unwrap().dealings, []);
}

#[test]
fn shares_fall_with_the_key_that_is_shared() {
    let case = Case::new();
    let dealing = case.honest();
    case.enrol(&dealing).unwrap();
    case.attest(&dealing, 1).unwrap();
    case.world.revoke(RevocationTarget::Key { cluster: "payments".parse().unwrap(), key: "root".parse().unwrap() });
    assert_eq!(case.status(1).state, AttestationState::Revoked);
    refused(case.enrol(&case.honest()), ProblemKind::KeyConflict);
}

#[test]
fn a_share_is_its_holders_under_its_own_name() {
    let case = Case::new();
    let dealing = case.honest();
    case.enrol(&dealing).unwrap();
    let (mut subject, _) = case.share(&dealing, 0);
    refused(subject.enrol(&case.world, &case.holders[1].hsm), ProblemKind::UnknownKey);
    refused(subject.enrol(&case.world, &case.dealer), ProblemKind::UnknownKey);
    subject.key.key = "root.payments.2".parse().unwrap();
    refused(subject.enrol(&case.world, &case.holders[0].hsm), ProblemKind::UnknownKey);
    // A share of another polynomial.
    let other = case.deal(case.terms(), &Opening::from_bytes(Scheme::Feldman, &[4; 32]).unwrap());
    let (foreign, _) = case.share(&other, 0);
    refused(foreign.enrol(&case.world, &case.holders[0].hsm), ProblemKind::UnknownKey);
}

#[test]
fn only_the_holder_of_a_key_shares_it() {
    let case = Case::new();
    // Of another secret than the enrolled key's.
    let other = case.deal(case.terms(), &Opening::from_bytes(Scheme::Feldman, &[4; 32]).unwrap());
    refused(case.enrol(&other), ProblemKind::Malformed);
    // By an HSM that has not enrolled it, with the dealer's message.
    let request = EnrolSharingRequest { dealing: Base64(case.honest().to_bytes()) };
    let thief = case.holders[0].hsm.call(&case.world);
    refused(case.world.manager.enrol_sharing(&thief, &request), ProblemKind::Malformed);
    // For another trust domain; for a key of another name; to a key that no holder announced.
    let mut terms = case.terms();
    terms.sharing.trust_domain = "evil.example".parse().unwrap();
    let opening = || Opening::from_bytes(Scheme::Feldman, &secret()).unwrap();
    refused(case.enrol(&case.deal(terms, &opening())), ProblemKind::Malformed);
    let mut terms = case.terms();
    terms.sharing.key = "other".parse().unwrap();
    refused(case.enrol(&case.deal(terms, &opening())), ProblemKind::UnknownKey);
    let mut terms = case.terms();
    terms.members[0].key = *HolderKey::generate().public();
    refused(case.enrol(&case.deal(terms, &opening())), ProblemKind::Malformed);
    // Twice, in two ways.
    case.enrol(&case.honest()).unwrap();
    refused(case.enrol(&case.honest()), ProblemKind::KeyConflict);
    assert_eq!(case.world.alerts(), []);
}

#[test]
fn a_blinded_sharing_hides_the_key() {
    let case = Case::new();
    let dealing = case.deal(case.terms(), &Opening::blinded(&secret()).unwrap());
    case.enrol(&dealing).unwrap();
    case.attest(&dealing, 0).unwrap();
    assert_eq!(case.status(0).algorithm, KeyAlgorithm::Ristretto255BlindedShare);
    let instance = key_knowledge::Witness::new(KeyAlgorithm::Ristretto255, &secret()).unwrap();
    let public = instance.instance(&"acme.example".parse().unwrap(), Suite::PublicKey).unwrap().to_bytes();
    let public = &public[public.len() - 32..];
    assert!(!dealing.to_bytes().windows(32).any(|window| window == public));
}

#[test]
fn a_founded_complaint_revokes_the_sharing_and_names_the_dealer() {
    let case = Case::new();
    let dealing = case.faulty();
    case.enrol(&dealing).unwrap();
    case.attest(&dealing, 0).unwrap();
    let holder = &case.holders[2];
    assert!(dealing.open(&holder.hsm.id, &holder.key).is_err());
    let complaint = Complaint::make(&dealing, &identity(&case.dealer), &holder.hsm.id, &holder.key, |message| {
        holder.hsm.sign(message)
    })
    .unwrap();
    // In another's name it counts for nothing.
    refused(case.complain(&complaint, 0), ProblemKind::NotFound);
    let verdict = case.complain(&complaint, 2).unwrap();
    assert!(matches!(&verdict, ComplaintVerdict::DealerFaulty { dealer, .. } if *dealer == case.dealer.id));
    assert_eq!(case.complain(&complaint, 2).unwrap(), verdict);
    let alerts = case.world.alerts();
    assert_eq!(alerts.len(), 1, "one cause is told once: {alerts:?}");
    let EventKind::FaultyDealing { dealer, holder, .. } = &alerts[0] else { panic!("{alerts:?}") };
    assert_eq!((dealer, holder), (&case.dealer.id, &case.holders[2].hsm.id));
    assert_eq!(case.status(0).state, AttestationState::Revoked);
    let revocation = case.enrol(&dealing).unwrap().revocation.unwrap();
    assert!(revocation.reason.text.contains("dealer dealt holder-3 a bad share"), "{}", revocation.reason);
}

#[test]
fn an_unfounded_complaint_is_told_of_its_author_and_changes_nothing() {
    let case = Case::new();
    let (honest, faulty) = (case.honest(), case.faulty());
    case.enrol(&honest).unwrap();
    case.attest(&honest, 2).unwrap();
    let holder = &case.holders[2];
    let sign = |message: &[u8]| holder.hsm.sign(message);
    assert!(Complaint::make(&honest, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).is_err());
    // Against another dealing that was never enrolled, and moved onto the one that was.
    let mut complaint = Complaint::make(&faulty, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).unwrap();
    refused(case.complain(&complaint, 2), ProblemKind::NotFound);
    complaint.dealing = honest.digest();
    refused(case.complain(&complaint, 2), ProblemKind::Malformed);
    assert_eq!(case.status(2).state, AttestationState::Attested);
    assert_eq!(case.world.alerts(), []);
}

/// A dealing of a key that `dealer` attests under the shared key's name, with another secret.
fn rival(case: &Case, dealer: &TestHsm, cluster: &str, terms: Terms) -> Dealing {
    let key = TestKey::new("root", KeyAlgorithm::Ristretto255, 9);
    dealer.enrol_key(&case.world, &key).unwrap();
    dealer.attest(&case.world, cluster, &key).unwrap();
    let opening = Opening::from_bytes(Scheme::Feldman, &[9; 32]).unwrap();
    Dealing::deal(Terms { dealer: dealer.id.clone(), ..terms }, &opening, |message| dealer.sign(message)).unwrap()
}

fn send(case: &Case, dealer: &TestHsm, dealing: &Dealing) -> Result<Sharing, Problem> {
    let request = EnrolSharingRequest { dealing: Base64(dealing.to_bytes()) };
    case.world.manager.enrol_sharing(&dealer.call(&case.world), &request)
}

#[test]
fn a_dealer_of_another_cluster_takes_nobodys_share() {
    let case = Case::new();
    let mallory = case.world.hsm("mallory", "evil");
    // The first holder's index goes to the second, as if their shares differed.
    let mut terms = case.terms();
    let (one, two) = (terms.members[0].clone(), terms.members[1].clone());
    terms.members[0] = Member { index: 1, ..two };
    terms.members[1] = Member { index: 2, ..one };
    send(&case, &mallory, &rival(&case, &mallory, "evil", terms)).unwrap();
    let honest = case.honest();
    case.enrol(&honest).unwrap();
    (0..3).for_each(|at| case.attest(&honest, at).unwrap());
    assert_eq!(case.status(0).state, AttestationState::Attested);
    assert_eq!(case.world.alerts(), []);
}

#[test]
fn a_member_that_does_not_attest_the_key_takes_no_sharing() {
    let case = Case::new();
    let mallory = case.world.hsm("mallory", "payments");
    mallory.enrol_key(&case.world, &TestKey::new("root", KeyAlgorithm::Ristretto255, 9)).unwrap();
    let opening = Opening::from_bytes(Scheme::Feldman, &[9; 32]).unwrap();
    let terms = Terms { dealer: mallory.id.clone(), ..case.terms() };
    let forged = Dealing::deal(terms, &opening, |message| mallory.sign(message)).unwrap();
    refused(send(&case, &mallory, &forged), ProblemKind::NotAttested);
    case.enrol(&case.honest()).unwrap();
}

#[test]
fn a_share_takes_no_key_of_its_holder() {
    let case = Case::new();
    case.holders[0].hsm.enrol_key(&case.world, &TestKey::ed25519("root.payments.1", 5)).unwrap();
    refused(case.enrol(&case.honest()), ProblemKind::KeyConflict);
}

#[test]
fn a_key_is_first_dealt_at_any_epoch() {
    let case = Case::new();
    let rotated = root().epoch(2, 3);
    case.dealer.enrol_key(&case.world, &rotated).unwrap();
    case.dealer.attest(&case.world, "payments", &rotated).unwrap();
    let mut terms = case.terms();
    terms.sharing.epoch = 2;
    let dealing = case.deal(terms, &Opening::from_bytes(Scheme::Feldman, &secret()).unwrap());
    case.enrol(&dealing).unwrap();
    let (mut subject, _) = case.share(&dealing, 0);
    subject.key.epoch = 2;
    subject.enrol(&case.world, &case.holders[0].hsm).unwrap();
}

#[test]
fn a_key_whose_shares_would_have_no_names_is_not_shared() {
    let case = Case::new();
    let long = "a".repeat(64);
    let key = TestKey::new(&long, KeyAlgorithm::Ristretto255, 3);
    case.dealer.enrol_key(&case.world, &key).unwrap();
    case.dealer.attest(&case.world, "payments", &key).unwrap();
    let mut terms = case.terms();
    terms.sharing.key = long.parse().unwrap();
    let dealing = case.deal(terms, &Opening::from_bytes(Scheme::Feldman, &secret()).unwrap());
    refused(case.enrol(&dealing), ProblemKind::Malformed);
}

#[test]
fn one_bad_share_is_told_once_however_often_it_is_complained_about() {
    let case = Case::new();
    let dealing = case.faulty();
    case.enrol(&dealing).unwrap();
    let holder = &case.holders[2];
    for _ in 0..3 {
        let sign = |message: &[u8]| holder.hsm.sign(message);
        let complaint = Complaint::make(&dealing, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).unwrap();
        case.complain(&complaint, 2).unwrap();
    }
    assert_eq!(case.world.alerts().len(), 1);
    case.world.revoke_hsm(&holder.hsm);
    let sign = |message: &[u8]| holder.hsm.sign(message);
    let complaint = Complaint::make(&dealing, &identity(&case.dealer), &holder.hsm.id, &holder.key, sign).unwrap();
    refused(case.complain(&complaint, 2), ProblemKind::HsmRevoked);
}
