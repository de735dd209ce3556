//! Proofs about symmetric keys, of one and of many, in either suite: made, opened and checked through the registry.

use keywitness_circuits::{
    ClaimContext, Error, KeyAlgorithm, Parameters, Suite, Witness,
    key_knowledge::{self, many},
    registry::{self, DecodedInstance, Opened},
};
use rand::{RngCore as _, rngs::OsRng};
use rayon::prelude::*;

use crate::{
    claims,
    harness::{Side, pool},
};

/// A claim, proven.
#[derive(Clone)]
pub(crate) struct Proven {
    pub(crate) context: ClaimContext,
    pub(crate) instance: DecodedInstance,
    pub(crate) proof: Vec<u8>,
}

impl Proven {
    /// Of a claim about one key.
    pub(crate) fn single(&self) -> &key_knowledge::Instance {
        match self.instance.instance() {
            registry::Instance::KeyKnowledge(instance) => instance,
            _ => panic!("the claim is not about one key"),
        }
    }
}

/// A claim that can be proven again and again.
pub(crate) struct Claim {
    context: ClaimContext,
    instance: Vec<u8>,
    decoded: DecodedInstance,
    witness: Witness,
}

impl Claim {
    pub(crate) fn prove(&self, parameters: &Parameters) -> Proven {
        let proof = registry::prove(parameters, &self.context, &self.instance, &self.witness).unwrap();
        Proven { context: self.context.clone(), instance: self.decoded.clone(), proof }
    }

    /// Of a claim about one key.
    pub(crate) fn secret(&self) -> &key_knowledge::Witness {
        match &self.witness {
            Witness::KeyKnowledge(witness) => witness,
            _ => panic!("the claim is not about one key"),
        }
    }
}

fn secret() -> key_knowledge::Witness {
    let mut secret = [0; 32];
    OsRng.fill_bytes(&mut secret);
    key_knowledge::Witness::new(KeyAlgorithm::Aes256, &secret).unwrap()
}

/// A claim about one AES-256 key, by the one-key circuit.
pub(crate) fn one_key(parameters: &Parameters, suite: Suite, number: usize) -> Claim {
    let witness = secret();
    let instance = witness.instance(&claims::trust_domain(), suite).unwrap();
    claim(parameters, instance.into(), witness.into(), number)
}

/// A claim about `keys` AES-256 keys, by the circuit of 64.
pub(crate) fn many_keys(parameters: &Parameters, suite: Suite, keys: usize, number: usize) -> Claim {
    let witness = many::Witness::new((0..keys).map(|_| secret()).collect());
    let instance = witness.instance(&claims::trust_domain(), suite).unwrap();
    claim(parameters, instance.into(), witness.into(), number)
}

fn claim(parameters: &Parameters, instance: registry::Instance, witness: Witness, number: usize) -> Claim {
    use keywitness_circuits::codec::Canonical as _;
    let context = claims::context(parameters, instance.kind().unwrap(), instance.keys(), instance.digest(), number);
    Claim { context, instance: instance.to_bytes(), decoded: instance.into(), witness }
}

/// `count` proofs, on both threads.
pub(crate) fn prove_all(count: usize, parameters: &Parameters, claim: impl Fn(usize) -> Claim + Sync) -> Vec<Proven> {
    pool(2).install(|| (0..count).into_par_iter().map(|number| claim(number).prove(parameters)).collect())
}

/// Opens and checks all of them.
pub(crate) fn verify(parameters: &Parameters, proofs: &[Proven]) -> Result<(), Error> {
    let open = |Proven { context, instance, proof }: &Proven| registry::open(parameters, context, instance, proof);
    let opened: Vec<Opened> = proofs.par_iter().with_min_len(4).map(open).collect::<Result<_, Error>>()?;
    registry::verify_all(&opened.iter().collect::<Vec<_>>()).map(drop)
}

/// Opening and checking all of them; `units` proofs or keys.
pub(crate) fn verification(parameters: Parameters, proofs: Vec<Proven>, units: usize) -> Side {
    let mut bad = proofs.clone();
    let last = bad.len() - 1;
    bad[last].context.challenge.0[31] ^= 1;
    assert_eq!(verify(&parameters, &bad), Err(Error::ProofRefused), "a proof of another context");
    Side::new(units, move || verify(&parameters, &proofs).unwrap())
}

/// Proving one claim, which speaks of `units` keys.
pub(crate) fn proving(parameters: Parameters, claim: Claim, units: usize) -> Side {
    let mut proven = claim.prove(&parameters);
    verify(&parameters, std::slice::from_ref(&proven)).unwrap();
    proven.context.challenge.0[31] ^= 1;
    assert_eq!(verify(&parameters, &[proven]), Err(Error::ProofRefused), "a proof of another context");
    Side::new(units, move || assert!(!claim.prove(&parameters).proof.is_empty()))
}
