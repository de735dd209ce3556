//! What the targets have in common: keys, parameters, and one valid claim of each statement kind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer as _, SigningKey};
use keywitness_circuits::{
    ClaimContext, Envelope, Instance, KeyAlgorithm, Kind, Parameters, Suite, Timestamp,
    codec::Canonical,
    context,
    key_knowledge::{Witness, many},
    params::Groth16Parameters,
    registry,
};
use keywitness_prover::{Access, SoftwareStore, Unlock, create_key_file};
use keywitness_verifier::identity::IdentityKey;

/// The time at which everything is checked.
pub(crate) const NOW: Timestamp = Timestamp(1_000_000);

/// A folder of valid things. Kept between runs, so that what a run found can be run again.
pub(crate) struct World {
    pub(crate) directory: PathBuf,
    pub(crate) parameters: Parameters,
    /// A valid claim of each kind, sealed by [`Self::identity`].
    pub(crate) claims: Vec<(Kind, Envelope)>,
    pub(crate) identity: SigningKey,
}

impl World {
    /// Opens the folder; `make` says whether what is missing or outdated is made.
    pub(crate) fn open(directory: PathBuf, make: bool) -> Self {
        if make {
            fs::create_dir_all(directory.join("claims")).unwrap();
        }
        let [one, many] = ["groth16-parameters", "groth16-many-parameters"].map(|name| directory.join(name));
        let (one, many) = if make {
            let many = Groth16Parameters::read_or_develop_many(&many).unwrap().0;
            (Groth16Parameters::read_or_develop(&one).unwrap().0, many)
        } else {
            (Groth16Parameters::read(&one).unwrap(), Groth16Parameters::read_many(&many).unwrap())
        };
        let parameters = Parameters::transparent().with_groth16(one).with_groth16_many(many);
        let identity = SigningKey::from_bytes(&[9; 32]);
        let mut world = Self { directory, parameters, claims: Vec::new(), identity };
        world.claims = Kind::ALL.into_iter().map(|kind| (kind, world.claim(kind, make))).collect();
        if make {
            world.make_store();
        }
        world
    }

    /// The HSM's identity key.
    pub(crate) fn identity_key(&self) -> IdentityKey {
        IdentityKey::from_bytes(self.identity.verifying_key().to_bytes()).unwrap()
    }

    pub(crate) fn store_file(&self) -> PathBuf {
        self.directory.join("store")
    }

    pub(crate) fn store_key(&self) -> PathBuf {
        self.directory.join("store.key")
    }

    fn make_store(&self) {
        let (file, unlock) = (self.store_file(), Unlock::KeyFile(self.store_key()));
        if SoftwareStore::open(&file, &unlock, Access::Read).is_ok() {
            return;
        }
        for outdated in [&file, &self.store_key()] {
            let _ = fs::remove_file(outdated);
        }
        create_key_file(&self.store_key()).unwrap();
        drop(SoftwareStore::create(&file, &unlock).unwrap());
    }

    fn claim(&self, kind: Kind, make: bool) -> Envelope {
        let path = self.directory.join("claims").join(kind.name().replace('/', "-"));
        let holds = |envelope: &Envelope| {
            registry::verify(&self.parameters, &envelope.context, &envelope.instance, &envelope.proof).is_ok()
        };
        let kept = fs::read(&path).ok().and_then(|bytes| Envelope::from_bytes(&bytes).ok());
        match kept {
            // Only whoever makes the folder checks: halo2's keys take a moment.
            Some(envelope) if !make || holds(&envelope) => envelope,
            _ if make => {
                let envelope = self.prove(kind);
                fs::write(&path, envelope.to_bytes()).unwrap();
                envelope
            }
            _ => panic!("{} is not a claim; make the seeds first", path.display()),
        }
    }

    /// A frozen proof of the kind, sealed by this world's HSM. Groth16's is made here: its key is this world's own.
    fn prove(&self, kind: Kind) -> Envelope {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/{kind}.json"));
        let vector: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let part = |name: &str| HEXLOWER.decode(vector[name].as_str().unwrap().as_bytes()).unwrap();
        let (mut context, instance) = (ClaimContext::from_bytes(&part("context")).unwrap(), part("instance"));
        let seal = |context, instance, proof| {
            Envelope::seal(context, instance, proof, |message| self.identity.sign(message).to_bytes())
        };
        let (suite, key) = (Suite::Groth16Bn254, |_| Witness::new(KeyAlgorithm::Aes256, &[5; 32]).unwrap());
        let (instance, witness): (Instance, registry::Witness) = match kind {
            Kind::KeyKnowledgeGroth16 => (key(0).instance(&context.trust_domain, suite).unwrap().into(), key(0).into()),
            Kind::ManyKeysGroth16 => {
                let keys = many::Witness::new((0..context.keys.len()).map(key).collect());
                (keys.instance(&context.trust_domain, suite).unwrap().into(), keys.into())
            }
            _ => return seal(context, instance, part("proof")),
        };
        let instance = instance.to_bytes();
        context.verifying_key = registry::verifying_key(&self.parameters, kind).unwrap();
        context.instance = context::instance_digest(&instance);
        let proof = registry::prove(&self.parameters, &context, &instance, &witness).unwrap();
        seal(context, instance, proof)
    }

    /// Writes a target's seeds in place of those that were there.
    pub(crate) fn write_seeds(&self, target: &str, seeds: &[Vec<u8>]) {
        let folder = self.directory.join("seeds").join(target);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(number.to_string()), seed).unwrap();
        }
    }
}
