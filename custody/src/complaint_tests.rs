//! Bad shares, and false complaints.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use curve25519_dalek::Scalar;
use keywitness_circuits::share_correctness::Scheme;
use p256::ProjectivePoint;

use super::*;
use crate::{
    HolderKey,
    polynomial::Polynomial,
    testing::{Node, nodes, terms},
};

struct Fixture {
    dealer: Node,
    holders: Vec<Node>,
    dealing: Dealing,
}

/// A dealing of threshold 2 to three holders (indices 2, 5, 8), with shares changed by `handed` before they are sealed.
fn dealt(scheme: Scheme, handed: impl Fn(u16, Opening) -> Opening) -> Fixture {
    let (dealer, holders) = (Node::new("dealer"), nodes(3));
    let polynomial = Polynomial::random(&Scalar::from(41u8), 2);
    let blinding = (scheme == Scheme::Pedersen).then(|| Polynomial::random(&Scalar::from(43u8), 2));
    let terms = terms(&dealer, &holders, 2);
    let dealing = Dealing::deal_polynomials(terms, &polynomial, blinding.as_ref(), handed, dealer.sign()).unwrap();
    Fixture { dealer, holders, dealing }
}

impl Fixture {
    fn complain(&self, holder: usize) -> Result<Complaint, Error> {
        let node = &self.holders[holder];
        Complaint::make(&self.dealing, &self.dealer.identity(), &node.id, &node.key, node.sign())
    }

    /// What anyone finds who has the encoded dealing and complaint.
    fn judge(&self, complaint: &Complaint, holder: usize) -> Result<Verdict, Error> {
        let dealing = Dealing::from_bytes(&self.dealing.to_bytes()).unwrap();
        let complaint = Complaint::from_bytes(&complaint.to_bytes()).unwrap();
        complaint.judge(&dealing, &self.dealer.identity(), &self.holders[holder].identity())
    }

    fn faulty(&self, holder: usize, expected: Fault) {
        let node = &self.holders[holder];
        let index = self.dealing.terms().member_named(&node.id).unwrap().index;
        assert_eq!(self.dealing.open(&node.id, &node.key).unwrap_err(), Error::BadShare(index));
        let verdict = self.judge(&self.complain(holder).unwrap(), holder).unwrap();
        assert_eq!(verdict, Verdict::DealerFaulty { dealer: self.dealer.id.clone(), index, fault: expected });
    }

    fn is_false(&self, complaint: &Complaint, holder: usize, expected: Falsehood) {
        let Verdict::ComplaintFalse { complainer, index, why } = self.judge(complaint, holder).unwrap() else {
            panic!("the dealer is convicted")
        };
        assert_eq!((complainer, index, why), (self.holders[holder].id.clone(), complaint.index, expected));
    }

    /// A complaint whose point is `dh`, with a proof from `key`: signed, whatever it says.
    fn forged(&self, holder: usize, key: &HolderKey, dh: &ProjectivePoint) -> Complaint {
        let node = &self.holders[holder];
        let member = self.dealing.terms().member_named(&node.id).unwrap();
        Complaint::publish(&self.dealing, member, key, dh, node.sign()).unwrap()
    }

    fn dh(&self, holder: usize) -> ProjectivePoint {
        let node = &self.holders[holder];
        let member = self.dealing.terms().member_named(&node.id).unwrap();
        P256::times(&point(&self.dealing.sealed_share(member).unwrap().0.enc).unwrap(), node.key.secret())
    }
}

fn plus_one(opening: Opening) -> Opening {
    Opening { value: zeroize::Zeroizing::new(*opening.value + Scalar::ONE), blinding: opening.blinding }
}

const SCHEMES: [Scheme; 2] = [Scheme::Feldman, Scheme::Pedersen];

#[test]
fn a_wrong_subshare_convicts_the_dealer() {
    for scheme in SCHEMES {
        let f = dealt(scheme, |x, opening| if x == 5 { plus_one(opening) } else { opening });
        f.faulty(1, Fault::NotTheCommittedShare);
        // The others' shares are good.
        f.dealing.open(&f.holders[0].id, &f.holders[0].key).unwrap();
    }
    let f = dealt(Scheme::Pedersen, |_, opening| Opening {
        value: opening.value,
        blinding: Some(zeroize::Zeroizing::new(Scalar::ONE)),
    });
    f.faulty(2, Fault::NotTheCommittedShare);
}

#[test]
fn shares_of_a_higher_degree_convict_the_dealer() {
    // The commitments are of degree 1; the shares that are handed out lie on a parabola.
    let square = |x: u16, opening: Opening| {
        let value = *opening.value + Scalar::from(x) * Scalar::from(x);
        Opening { value: zeroize::Zeroizing::new(value), blinding: opening.blinding }
    };
    for scheme in SCHEMES {
        let f = dealt(scheme, square);
        (0..3).for_each(|holder| f.faulty(holder, Fault::NotTheCommittedShare));
    }
}

#[test]
fn a_garbage_ciphertext_convicts_the_dealer() {
    for scheme in SCHEMES {
        let mut f = dealt(scheme, |_, opening| opening);
        f.dealing.parts().1[1].ciphertext.fill(0x5a);
        f.dealing.sign_again(f.dealer.sign());
        f.faulty(1, Fault::DoesNotOpen);
    }
}

#[test]
fn a_share_that_is_not_canonical_convicts_the_dealer() {
    let mut f = dealt(Scheme::Feldman, |_, opening| opening);
    let member = f.dealing.terms().members[1].clone();
    let (sealed, info, aad) = f.dealing.sealed_share(&member).unwrap();
    let good = f.holders[1].key.open(&sealed.enc, &info, &aad, &sealed.ciphertext).unwrap();
    // The same residue, plus the group order.
    let order = (-Scalar::ONE).to_bytes();
    let mut carry = 1;
    let above: Vec<u8> = good
        .iter()
        .zip(order)
        .map(|(a, b)| {
            let sum = u16::from(*a) + u16::from(b) + carry;
            carry = sum >> 8;
            sum as u8
        })
        .collect();
    for plaintext in [above, vec![0xff; 32]] {
        let (info, aad) = (info.clone(), aad.clone());
        let ephemeral = HolderKey::generate();
        let ciphertext = crate::seal::seal_from(&ephemeral, &member.key, &info, &aad, &plaintext).unwrap();
        let possession = f.dealing.prove_possession(member.index, &ephemeral);
        f.dealing.parts().1[1] = SealedShare { enc: *ephemeral.public().as_bytes(), possession, ciphertext };
        f.dealing.sign_again(f.dealer.sign());
        f.faulty(1, Fault::NotAShare);
    }
}

#[test]
fn a_share_that_everybody_knows_convicts_the_dealer() {
    // The polynomial has a root at index 5.
    let (dealer, holders) = (Node::new("dealer"), nodes(3));
    let polynomial = Polynomial::from_coefficients(vec![-Scalar::from(5u8), Scalar::ONE]);
    let terms = terms(&dealer, &holders, 2);
    let dealing = Dealing::deal_polynomials(terms, &polynomial, None, |_, opening| opening, dealer.sign()).unwrap();
    Fixture { dealer, holders, dealing }.faulty(1, Fault::PublicShareIsIdentity);
}

#[test]
fn a_complaint_about_a_good_share_is_false() {
    for scheme in SCHEMES {
        let f = dealt(scheme, |_, opening| opening);
        assert_eq!(f.complain(0).unwrap_err(), Error::NothingToComplainAbout(2));
        f.is_false(&f.forged(0, &f.holders[0].key, &f.dh(0)), 0, Falsehood::ShareIsGood);
    }
}

#[test]
fn a_complaint_with_a_wrong_point_is_false() {
    let f = dealt(Scheme::Feldman, |_, opening| opening);
    let key = &f.holders[0].key;
    // wrong_point: the ciphertext does not open with it, but it is not the holder's point.
    let wrong = f.dh(0) + ProjectivePoint::GENERATOR;
    f.is_false(&f.forged(0, key, &wrong), 0, Falsehood::PointNotProven);
    // proof_for_another_key: D and the proof are consistent, for a key that is not the member's.
    let other = HolderKey::generate();
    let member = &f.dealing.terms().members[0];
    let enc = point(&f.dealing.sealed_share(member).unwrap().0.enc).unwrap();
    f.is_false(&f.forged(0, &other, &P256::times(&enc, other.secret())), 0, Falsehood::PointNotProven);
    // point_of_another_share.
    f.is_false(&f.forged(0, key, &f.dh(1)), 0, Falsehood::PointNotProven);
    // changed_proof, signed again.
    let node = &f.holders[0];
    let mut changed = f.forged(0, key, &f.dh(0));
    changed.proof[97] ^= 1;
    changed.signature = node.sign()(&changed.signed_message());
    f.is_false(&changed, 0, Falsehood::PointNotProven);
}

#[test]
fn a_complaint_convicts_nobody_elsewhere() {
    let bad = |x: u16, opening: Opening| if x == 5 { plus_one(opening) } else { opening };
    let f = dealt(Scheme::Feldman, bad);
    let complaint = f.complain(1).unwrap();
    // replayed_on_another_dealing, as it is and signed anew by its holder.
    let good = Dealing::deal(f.dealing.terms().clone(), &Opening::random(Scheme::Feldman), f.dealer.sign()).unwrap();
    let (dealer, holder) = (f.dealer.identity(), f.holders[1].identity());
    assert_eq!(complaint.judge(&good, &dealer, &holder), Err(Error::OtherDealing));
    let mut moved = Complaint { dealing: good.digest(), ..complaint.clone() };
    assert_eq!(moved.judge(&good, &dealer, &holder), Err(Error::NotAuthentic(f.holders[1].id.clone())));
    moved.signature = f.holders[1].sign()(&moved.signed_message());
    let verdict = moved.judge(&good, &dealer, &holder).unwrap();
    assert!(matches!(verdict, Verdict::ComplaintFalse { why: Falsehood::PointNotProven, .. }));
    // replayed_on_another_index: another member's name is no longer right, or its signature is missing.
    let index = Complaint { index: 8, ..complaint.clone() };
    assert_eq!(index.judge(&f.dealing, &dealer, &holder), Err(Error::NotAMember));
    let named = Complaint { index: 8, holder: f.holders[2].id.clone(), ..complaint.clone() };
    assert!(matches!(
        named.judge(&f.dealing, &dealer, &f.holders[2].identity()),
        Err(Error::NotAuthentic(who)) if who == f.holders[2].id
    ));
    let mut taken = named.clone();
    taken.signature = f.holders[2].sign()(&taken.signed_message());
    f.is_false(&taken, 2, Falsehood::PointNotProven);
    let nowhere = Complaint { index: 3, ..complaint };
    assert_eq!(nowhere.judge(&f.dealing, &dealer, &holder), Err(Error::NotAMember));
}

#[test]
fn nobody_is_framed() {
    let f = dealt(Scheme::Feldman, |_, opening| opening);
    let (dealer, holder, stranger) = (f.dealer.identity(), &f.holders[0], Node::new("stranger"));
    // holder_framed: a false complaint in another's name says nothing about that holder.
    let mut complaint = f.forged(0, &HolderKey::generate(), &f.dh(1));
    complaint.signature = stranger.sign()(&complaint.signed_message());
    let refused = complaint.judge(&f.dealing, &dealer, &holder.identity());
    assert_eq!(refused, Err(Error::NotAuthentic(holder.id.clone())));
    // dealer_framed: a bad dealing in another's name.
    let mut forged = dealt(Scheme::Feldman, |_, opening| plus_one(opening));
    forged.dealing.sign_again(stranger.sign());
    let member = &forged.dealing.terms().members[0];
    let node = &forged.holders[0];
    let complaint = Complaint::publish(&forged.dealing, member, &node.key, &forged.dh(0), node.sign()).unwrap();
    let refused = complaint.judge(&forged.dealing, &forged.dealer.identity(), &node.identity());
    assert_eq!(refused, Err(Error::NotAuthentic(forged.dealer.id.clone())));
    assert!(matches!(forged.complain(0), Err(Error::NotAuthentic(_))));
}

#[test]
fn complaints_have_one_encoding() {
    let f = dealt(Scheme::Feldman, |_, opening| plus_one(opening));
    let complaint = f.complain(0).unwrap();
    let bytes = complaint.to_bytes();
    assert_eq!(Complaint::from_bytes(&bytes).unwrap(), complaint);
    for length in 0..bytes.len() {
        assert!(Complaint::from_bytes(&bytes[..length]).is_err());
    }
    let (dealer, holder) = (f.dealer.identity(), f.holders[0].identity());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let Ok(changed) = Complaint::from_bytes(&changed) else { continue };
        assert!(changed.judge(&f.dealing, &dealer, &holder).is_err(), "byte {at}");
    }
    for identity in [[0; 33], [0xff; 33]] {
        let changed = Complaint { point: identity, ..complaint.clone() };
        assert!(Complaint::from_bytes(&changed.to_bytes()).is_err());
    }
}
