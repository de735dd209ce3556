//! What public dealings promise, and what dealers and holders may try.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::{
    polynomial::Polynomial,
    testing::{Node, public_terms},
};

struct Fixture {
    dealer: Node,
    keys: Vec<GroupKey>,
    dealing: PublicDealing,
    secret: GroupPoint,
}

fn fixture(holders: usize, threshold: u16) -> Fixture {
    let dealer = Node::new("dealer");
    let keys: Vec<GroupKey> = (0..holders).map(|_| GroupKey::generate()).collect();
    let (dealing, secret) = PublicDealing::deal(public_terms(&dealer, &keys, threshold), dealer.sign()).unwrap();
    Fixture { dealer, keys, dealing, secret }
}

impl Fixture {
    fn check(&self) -> Result<(), Error> {
        PublicDealing::from_bytes(&self.dealing.to_bytes()).unwrap().check(&self.dealer.identity())
    }

    fn decrypted(&self) -> Vec<DecryptedShare> {
        let indices = self.dealing.terms().indices();
        self.keys.iter().zip(indices).map(|(key, x)| key.decrypt(&self.dealing, x).unwrap()).collect()
    }

    fn sign_again(&mut self) {
        self.dealing.signature = self.dealer.sign()(&self.dealing.signed_message());
    }
}

#[test]
fn any_threshold_of_holders_combines() {
    for (holders, threshold) in [(2, 2), (5, 3), (9, 2), (9, 9)] {
        let f = fixture(holders, threshold);
        f.check().unwrap();
        let shares = f.decrypted();
        let last = &shares[holders - usize::from(threshold)..];
        for used in [&shares[..], last] {
            let combined = f.dealing.combine(used).unwrap();
            assert_eq!(combined, Combined { secret: f.secret, culprits: vec![] });
        }
        let few = f.dealing.combine(&last[1..]).unwrap_err();
        let have = usize::from(threshold) - 1;
        assert_eq!(few, Error::TooFewShares { have, need: threshold, culprits: vec![] });
    }
}

#[test]
fn a_polynomial_of_too_high_a_degree_is_refused() {
    let mut f = fixture(5, 3);
    for degree_bound in [4, 5, 9] {
        let polynomial = Polynomial::random(&Scalar::from(9u8), degree_bound);
        let terms = f.dealing.terms().clone();
        f.dealing = PublicDealing::deal_polynomial(terms, &polynomial, f.dealer.sign()).unwrap();
        assert_eq!(f.check(), Err(Error::WrongDegree), "degree below {degree_bound}");
    }
    // A lower degree than allowed cannot be seen; the threshold of this dealing is in truth 2.
    let polynomial = Polynomial::random(&Scalar::from(9u8), 2);
    f.dealing = PublicDealing::deal_polynomial(f.dealing.terms().clone(), &polynomial, f.dealer.sign()).unwrap();
    f.check().unwrap();
}

#[test]
fn wrong_encrypted_shares_are_named() {
    let mut f = fixture(5, 3);
    let honest = f.dealing.clone();
    // wrong_encrypted_share
    f.dealing.shares[1].encrypted = honest.shares[2].encrypted;
    f.dealing.shares[4].encrypted = GroupPoint::encode(&RistrettoPoint::mul_base(&Scalar::from(3u8))).unwrap();
    f.sign_again();
    assert_eq!(f.check(), Err(Error::WrongEncryptedShares(vec![5, 14])));
    // swapped_shares
    f.dealing = honest.clone();
    f.dealing.shares.swap(0, 3);
    f.sign_again();
    assert_eq!(f.check(), Err(Error::WrongEncryptedShares(vec![2, 11])));
    // commitment_changed, with a share that was encrypted to match it, without the proof.
    f.dealing = honest.clone();
    f.dealing.shares[2].commitment = honest.shares[0].commitment;
    f.sign_again();
    assert_eq!(f.check(), Err(Error::WrongEncryptedShares(vec![8])));
    // proof_of_another_sharing: the same polynomial and keys under the next epoch.
    let polynomial = Polynomial::random(&Scalar::from(9u8), 3);
    let terms = honest.terms().clone();
    f.dealing = PublicDealing::deal_polynomial(terms, &polynomial, f.dealer.sign()).unwrap();
    f.check().unwrap();
    f.dealing.terms.sharing.epoch = 2;
    f.sign_again();
    assert!(matches!(f.check(), Err(Error::WrongEncryptedShares(all)) if all.len() == 5));
    // not_signed
    f.dealing = honest;
    f.check().unwrap();
    f.dealing.signature[0] ^= 1;
    assert!(matches!(f.check(), Err(Error::NotAuthentic(_))));
}

#[test]
fn wrong_decryptions_are_named_and_left_out() {
    let f = fixture(5, 3);
    let honest = f.decrypted();
    let mut shares = honest.clone();
    // wrong_decryption, decryption_of_another_index
    shares[0].point = GroupPoint::encode(&RistrettoPoint::mul_base(&Scalar::from(3u8))).unwrap();
    shares[3].index = 14;
    let combined = f.dealing.combine(&shares).unwrap();
    assert_eq!(combined, Combined { secret: f.secret, culprits: vec![2, 14] });
    shares[1].proof[95] ^= 1;
    let refused = f.dealing.combine(&shares).unwrap_err();
    assert_eq!(refused, Error::TooFewShares { have: 2, need: 3, culprits: vec![2, 5, 14] });
    // decryption_with_another_key: honest arithmetic, another key.
    let (stranger, dealt) = (GroupKey::generate(), &f.dealing.shares[0]);
    assert_eq!(stranger.decrypt(&f.dealing, 2), Err(Error::NotAMember));
    let point = GroupPoint::encode(&(dealt.encrypted.point() * stranger.secret.invert())).unwrap();
    let digest = f.dealing.digest();
    let claim = decryption(&digest, 2, stranger.public(), &point, &dealt.encrypted).unwrap();
    let proof = claim.prove(&stranger.secret).try_into().unwrap();
    let forged = DecryptedShare { dealing: digest, index: 2, point, proof };
    assert!(matches!(f.dealing.check_decryption(&forged), Err(Error::Refused(_))));
    // one_share_twice
    let twice = [honest[0].clone(), honest[1].clone(), honest[0].clone()];
    assert_eq!(f.dealing.combine(&twice), Err(Error::DuplicateIndex(2)));
    // decryption_of_another_dealing
    let other = fixture(5, 3);
    assert_eq!(f.dealing.check_decryption(&other.decrypted()[0]), Err(Error::OtherDealing));
    let moved = DecryptedShare { dealing: digest, ..other.decrypted()[0].clone() };
    assert!(matches!(f.dealing.check_decryption(&moved), Err(Error::Refused(_))));
}

#[test]
fn encodings_are_canonical() {
    let f = fixture(3, 2);
    let bytes = f.dealing.to_bytes();
    for length in 0..bytes.len() {
        assert!(PublicDealing::from_bytes(&bytes[..length]).is_err());
    }
    assert!(PublicDealing::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let Ok(changed) = PublicDealing::from_bytes(&changed) else { continue };
        assert!(changed.check(&f.dealer.identity()).is_err(), "byte {at}");
    }
    for share in f.decrypted() {
        assert_eq!(DecryptedShare::from_bytes(&share.to_bytes()).unwrap(), share);
    }
    assert!(GroupPoint::from_bytes(&[0; 32]).is_err(), "identity");
    assert!(GroupPoint::from_bytes(&[0xff; 32]).is_err());
    assert!(GroupKey::from_bytes(&[0; 32]).is_err());
    let key = &f.keys[0];
    assert_eq!(GroupKey::from_bytes(&*key.to_bytes()).unwrap().public(), key.public());
}
