//! Sharings: what dealers and holders publish, and a ceremony's files.

use std::fs;

use keywitness_circuits::{
    Digest, HsmId, KeyAlgorithm,
    ceremony::Ceremony,
    codec::Canonical,
    params::Groth16Circuit,
    sharing_of_key::{self, Opening},
    transcript::label,
};
use keywitness_custody::{
    Complaint, Dealing, DecryptedShare, GroupKey, HolderKey, Member, PublicDealing, Purpose, Scheme, SharingId, Terms,
    sharing,
};

use crate::{Target, decoders::canonical, world::World};

pub(crate) fn targets(world: &'static World) -> Vec<Target> {
    let (dealing, holder) = dealing(world);
    let complaint = Complaint {
        dealing: dealing.digest(),
        index: 2,
        holder: "holder-0".parse().unwrap(),
        point: *holder.public().as_bytes(),
        proof: [1; 98],
        signature: [2; 64],
    };
    let (public, decrypted) = public_dealing(world);
    let dealer = world.identity_key();
    vec![
        Target::new("dealing", vec![dealing.to_bytes()], move |bytes| {
            let Some(dealing) = canonical::<Dealing>(bytes) else { return };
            if dealing.check(&world.identity_key()).is_ok() {
                let index = dealing.terms().members[0].index;
                assert!(dealing.instance(index).is_ok() && !dealing.contradicts(&dealing, &dealer).unwrap());
            }
        }),
        Target::new("complaint", vec![complaint.to_bytes()], move |bytes| {
            if let Some(complaint) = canonical::<Complaint>(bytes) {
                let _ = complaint.judge(&dealing, &world.identity_key(), &world.identity_key());
            }
        }),
        Target::new("public-dealing", vec![public.to_bytes()], |bytes| {
            if let Some(public) = canonical::<PublicDealing>(bytes) {
                let _ = public.check(&world.identity_key());
            }
        }),
        Target::new("decrypted-share", vec![decrypted.to_bytes()], move |bytes| {
            if let Some(share) = canonical::<DecryptedShare>(bytes) {
                let _ = public.check_decryption(&share);
            }
        }),
        Target::new("opening", vec![opening()], |bytes| {
            canonical::<Opening>(bytes);
        }),
        ceremony(world),
        ptau(world),
    ]
}

fn terms<K>(keys: [K; 3]) -> Terms<K> {
    let (trust_domain, key) = ("acme.example".parse().unwrap(), "vault".parse().unwrap());
    let member = |(number, key): (u16, K)| {
        let holder: HsmId = format!("holder-{number}").parse().unwrap();
        Member { index: 3 * number + 2, holder, key }
    };
    Terms {
        sharing: SharingId { trust_domain, key, purpose: Purpose::Sign, epoch: 1 },
        dealer: "hsm-1".parse().unwrap(),
        threshold: 2,
        members: (0..).zip(keys).map(member).collect(),
    }
}

/// A dealing by this world's HSM, and the key of its first holder.
fn dealing(world: &World) -> (Dealing, HolderKey) {
    let holders = [(); 3].map(|()| HolderKey::generate());
    let terms = terms([&holders[0], &holders[1], &holders[2]].map(|holder| *holder.public()));
    let dealing = Dealing::deal(terms, &sharing::Opening::random(Scheme::Feldman), sign(world)).unwrap();
    let [first, ..] = holders;
    (dealing, first)
}

fn public_dealing(world: &World) -> (PublicDealing, DecryptedShare) {
    let holders = [(); 3].map(|()| GroupKey::generate());
    let terms = terms([&holders[0], &holders[1], &holders[2]].map(|holder| *holder.public()));
    let (dealing, _) = PublicDealing::deal(terms, sign(world)).unwrap();
    let share = holders[0].decrypt(&dealing, 2).unwrap();
    (dealing, share)
}

fn sign(world: &World) -> impl Fn(&[u8]) -> [u8; 64] {
    use ed25519_dalek::Signer as _;
    |message| world.identity.sign(message).to_bytes()
}

fn opening() -> Vec<u8> {
    let trust_domain = "acme.example".parse().unwrap();
    let (_, _, openings) = sharing_of_key::Witness::deal(
        KeyAlgorithm::Aes256,
        &[5; 32],
        &trust_domain,
        2,
        &[1, 2],
        &mut rand::rngs::OsRng,
    )
    .unwrap();
    openings[0].to_bytes()
}

/// What comes before a ceremony's points, and whole files: with their digest made right.
fn ceremony(world: &'static World) -> Target {
    let path = world.directory.join(format!("ceremony-{}", std::process::id()));
    let written = |ceremony: &Ceremony| {
        ceremony.write(&path, true).unwrap();
        let mut file = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.truncate(file.len() - 32);
        file
    };
    let body = written(&Ceremony::begin(Groth16Circuit::OneKey));
    // Magic, version, name, circuit, source, number of contributions; then the points.
    let name = u32::from_be_bytes(body[10..14].try_into().unwrap()) as usize;
    let (head, points) = body.split_at(14 + name + 32 + 1 + 4);
    let (head, points) = (head.to_vec(), points.to_vec());
    let short = [head.as_slice(), &points[..256]].concat();
    Target::new("ceremony", vec![head, short], move |bytes| {
        for body in [[bytes, &points].concat(), bytes.to_vec()] {
            let digest = Digest::of(label::CEREMONY_FILE, &body);
            let file = [body, digest.0.to_vec()].concat();
            fs::write(&path, &file).unwrap();
            if let Ok(ceremony) = Ceremony::read(&path) {
                ceremony.write(&path, true).unwrap();
                assert!(fs::read(&path).unwrap() == file, "a second encoding is accepted");
            }
            fs::remove_file(&path).unwrap();
        }
    })
}

/// The table and header of a `.ptau` file of 2^9 powers, whose points are none.
fn ptau(world: &'static World) -> Target {
    // BN254's base field, little-endian.
    let modulus = "47fd7cd8168c203c8dca7168916a81975d588181b64550b829a031e1724e6430";
    let modulus = data_encoding::HEXLOWER.decode(modulus.as_bytes()).unwrap();
    let section = |kind: u32, content: Vec<u8>| {
        [kind.to_le_bytes().as_slice(), &(content.len() as u64).to_le_bytes(), &content].concat()
    };
    let number = |number: u32| number.to_le_bytes().to_vec();
    let header = section(1, [number(32), modulus, number(9), number(9)].concat());
    let head = [b"ptau".to_vec(), number(1), number(7), header].concat();
    let points = [(2, 1023 * 64), (3, 512 * 128), (4, 512 * 64), (5, 512 * 64), (6, 128), (7, 4)];
    let points: Vec<u8> = points.into_iter().flat_map(|(kind, length)| section(kind, vec![0; length])).collect();
    let path = world.directory.join(format!("ptau-{}", std::process::id()));
    Target::new("ptau", vec![head], move |bytes| {
        for file in [[bytes, &points].concat(), bytes.to_vec()] {
            fs::write(&path, &file).unwrap();
            assert!(Ceremony::from_ptau(Groth16Circuit::OneKey, &path, &|_| ()).is_err(), "powers of nothing");
            fs::remove_file(&path).unwrap();
        }
    })
}
