//! What dealings promise, and what dealers and holders may try.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use curve25519_dalek::Scalar;
use keywitness_circuits::{codec::Canonical, share_correctness::Scheme};
use proptest::prelude::*;

use super::*;
use crate::{
    Purpose, SharingId,
    sharing::{reconstruct, reconstruct_checked},
    testing::{Node, nodes, terms},
};

const SCHEMES: [Scheme; 2] = [Scheme::Feldman, Scheme::Pedersen];

struct Fixture {
    dealer: Node,
    holders: Vec<Node>,
    secret: Opening,
    dealing: Dealing,
}

fn fixture(scheme: Scheme, holders: usize, threshold: u16) -> Fixture {
    let (dealer, holders) = (Node::new("dealer"), nodes(holders));
    let secret = Opening::random(scheme);
    let dealing = Dealing::deal(terms(&dealer, &holders, threshold), &secret, dealer.sign()).unwrap();
    Fixture { dealer, holders, secret, dealing }
}

impl Fixture {
    fn shares(&self) -> Vec<Share> {
        self.holders.iter().map(|node| self.dealing.open(&node.id, &node.key).unwrap()).collect()
    }
}

#[test]
fn any_threshold_of_holders_reconstructs() {
    for scheme in SCHEMES {
        let f = fixture(scheme, 5, 3);
        f.dealing.check(&f.dealer.identity()).unwrap();
        assert_eq!(f.dealing.commitments().public_secret(), f.secret.commitment());
        let mut shares = f.shares();
        for used in [&shares[..3], &shares[1..4], &shares[..]] {
            assert_eq!(reconstruct(3, used).unwrap().to_bytes(), f.secret.to_bytes());
        }
        assert!(matches!(reconstruct(3, &shares[..2]), Err(Error::TooFewShares { have: 2, need: 3, .. })));
        assert_ne!(reconstruct(2, &shares[..2]).unwrap().to_bytes(), f.secret.to_bytes());
        shares[1].index = shares[0].index;
        assert!(matches!(reconstruct(3, &shares), Err(Error::DuplicateIndex(2))));
        shares[1].index = 0;
        assert!(matches!(reconstruct(3, &shares), Err(Error::Terms(_))));
    }
}

#[test]
fn wrong_shares_are_named_and_left_out() {
    for scheme in SCHEMES {
        let f = fixture(scheme, 5, 3);
        let (commitments, domain) = (f.dealing.commitments(), &f.dealing.terms().sharing.trust_domain);
        let mut shares = f.shares();
        *shares[1].opening.value += Scalar::ONE;
        shares[4].index = 3;
        let found = reconstruct_checked(commitments, domain, &shares).unwrap();
        assert_eq!((found.secret.to_bytes(), found.culprits), (f.secret.to_bytes(), vec![5, 3]));
        shares[0].opening = Opening::random(scheme);
        let refused = reconstruct_checked(commitments, domain, &shares).unwrap_err();
        assert_eq!(refused, Error::TooFewShares { have: 2, need: 3, culprits: vec![2, 5, 3] });
    }
    let (feldman, pedersen) = (fixture(Scheme::Feldman, 2, 2), fixture(Scheme::Pedersen, 3, 2));
    let mut mixed = feldman.shares();
    mixed.push(pedersen.shares().remove(2));
    assert!(matches!(reconstruct(2, &mixed), Err(Error::MixedSchemes)));
}

#[test]
fn a_share_is_what_its_holder_proves() {
    use keywitness_circuits::{Instance, Statement, share_correctness::ShareCorrectness};
    for scheme in SCHEMES {
        let f = fixture(scheme, 3, 2);
        for share in f.shares() {
            let instance = f.dealing.instance(share.index).unwrap();
            assert_eq!(instance.public_share(), Ok(share.opening.commitment()));
            let domain = &f.dealing.terms().sharing.trust_domain;
            ShareCorrectness::holds(domain, &instance, &share.opening.witness().unwrap()).unwrap();
            assert!(Instance::from(instance).kind().is_some());
        }
        assert!(matches!(f.dealing.instance(3), Err(Error::NotAMember)));
    }
}

#[test]
fn a_low_entropy_secret_is_hidden_by_its_blinding() {
    let guess = |byte: u8| {
        let mut secret = [0; 32];
        secret[0] = byte;
        Opening::blinded(&secret).unwrap()
    };
    let (first, second) = (guess(7), guess(7));
    assert_ne!(first.commitment(), second.commitment());
    let plain = Opening::from_bytes(Scheme::Feldman, &Scalar::from(7u8).to_bytes()).unwrap();
    assert_ne!(first.commitment(), plain.commitment());
    assert!(!format!("{plain:?}").contains('7'));
}

#[test]
fn contradictory_terms_are_refused() {
    let (dealer, holders) = (Node::new("dealer"), nodes(3));
    let deal = |change: fn(&mut Terms)| {
        let mut terms = terms(&dealer, &holders, 2);
        change(&mut terms);
        let encoded = Terms::<crate::SealingKey>::from_bytes(&terms.to_bytes());
        let dealt = Dealing::deal(terms, &Opening::random(Scheme::Feldman), dealer.sign());
        assert_eq!(encoded.is_ok(), dealt.is_ok());
        dealt
    };
    deal(|_| ()).unwrap();
    let changes: [fn(&mut Terms); 9] = [
        |terms| terms.threshold = 1,
        |terms| terms.threshold = 4,
        |terms| terms.members[0].index = 0,
        |terms| terms.members[2].index = 1025,
        |terms| terms.members[1].index = 2,
        |terms| terms.members.swap(0, 1),
        |terms| terms.members[1].holder = terms.members[0].holder.clone(),
        |terms| terms.members[1].key = terms.members[0].key,
        |terms| terms.members.clear(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert!(matches!(deal(change), Err(Error::Terms(_))), "change {number}");
    }
}

#[test]
fn every_part_of_a_dealing_is_signed() {
    let f = fixture(Scheme::Feldman, 3, 2);
    let bytes = f.dealing.to_bytes();
    assert_eq!(Dealing::from_bytes(&bytes).unwrap(), f.dealing);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let read = Dealing::from_bytes(&changed);
        assert!(!read.is_ok_and(|dealing| dealing.check(&f.dealer.identity()).is_ok()), "byte {at}");
    }
    for length in (0..bytes.len()).step_by(7) {
        assert!(Dealing::from_bytes(&bytes[..length]).is_err());
    }
    assert!(Dealing::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    assert!(matches!(f.dealing.check(&Node::new("dealer").identity()), Err(Error::NotAuthentic(_))));
}

#[test]
fn a_share_opens_for_its_holder_alone() {
    let f = fixture(Scheme::Pedersen, 3, 2);
    let (first, second) = (&f.holders[0], &f.holders[1]);
    assert_eq!(f.dealing.open(&first.id, &second.key).unwrap_err(), Error::NotAMember);
    assert_eq!(f.dealing.open(&f.dealer.id, &first.key).unwrap_err(), Error::NotAMember);
    // sealed_shares_swapped: each opens under its own index and holder only.
    let mut swapped = f.dealing.clone();
    swapped.parts().1.swap(0, 1);
    swapped.sign_again(f.dealer.sign());
    assert_eq!(swapped.open(&first.id, &first.key).unwrap_err(), Error::BadShare(2));
    assert_eq!(swapped.check(&f.dealer.identity()), Err(Error::NotSealedByDealer(2)));
}

#[test]
fn a_dealer_cannot_use_anothers_ciphertext() {
    // Were this dealing accepted, the holder's complaint would publish the point that opens the honest dealer's share.
    let f = fixture(Scheme::Feldman, 3, 2);
    let thief = Node::new("thief");
    let mut copied = Dealing::deal(terms(&thief, &f.holders, 2), &f.secret, thief.sign()).unwrap();
    let mut honest = f.dealing.clone();
    copied.parts().1[1] = honest.parts().1[1].clone();
    copied.sign_again(thief.sign());
    assert_eq!(copied.check(&thief.identity()), Err(Error::NotSealedByDealer(5)));
    let holder = &f.holders[1];
    let complaint = crate::Complaint::make(&copied, &thief.identity(), &holder.id, &holder.key, holder.sign());
    assert_eq!(complaint.unwrap_err(), Error::NotSealedByDealer(5));
}

#[test]
fn two_dealings_of_one_sharing_convict_the_dealer() {
    let f = fixture(Scheme::Feldman, 3, 2);
    let identity = f.dealer.identity();
    let again = Dealing::deal(f.dealing.terms().clone(), &f.secret, f.dealer.sign()).unwrap();
    assert!(f.dealing.contradicts(&again, &identity).unwrap());
    assert!(!f.dealing.contradicts(&f.dealing, &identity).unwrap());
    let mut next = f.dealing.terms().clone();
    next.sharing = SharingId { epoch: 2, purpose: Purpose::Sign, ..next.sharing };
    let next = Dealing::deal(next, &f.secret, f.dealer.sign()).unwrap();
    assert!(!f.dealing.contradicts(&next, &identity).unwrap());
    let mut forged = again.clone();
    forged.parts().0.threshold = 3;
    assert!(matches!(f.dealing.contradicts(&forged, &identity), Err(Error::NotAuthentic(_))));
}

#[test]
fn a_secret_of_zero_is_not_dealt() {
    let (dealer, holders) = (Node::new("dealer"), nodes(2));
    let zero = Opening::from_bytes(Scheme::Feldman, &[0; 32]).unwrap();
    assert!(matches!(Dealing::deal(terms(&dealer, &holders, 2), &zero, dealer.sign()), Err(Error::Refused(_))));
    assert!(Opening::from_bytes(Scheme::Feldman, &[0xff; 32]).is_err());
    assert!(Opening::from_bytes(Scheme::Pedersen, &[1; 32]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reading_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..600) {
        prop_assert!(Dealing::from_bytes(&bytes).is_err());
        let valid = fixture(Scheme::Feldman, 2, 2).dealing.to_bytes();
        let spliced = [valid.get(..cut.min(valid.len())).unwrap(), &bytes[..]].concat();
        if let Ok(dealing) = Dealing::from_bytes(&spliced) {
            prop_assert_eq!(dealing.to_bytes(), spliced);
        }
    }
}
