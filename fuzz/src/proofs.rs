//! Proofs and whole claims: verifying never panics, and accepts no bytes but those that a prover made.

use keywitness_circuits::{Envelope, codec::Canonical, registry};
use keywitness_verifier::envelope;

use crate::{Target, world::World};

pub(crate) fn targets(world: &'static World) -> Vec<Target> {
    let proofs = world.claims.iter().map(|(kind, envelope)| {
        let name = format!("proof-{}", kind.name().trim_end_matches("/1").replace('/', "-"));
        Target::new(name, vec![envelope.proof.clone()], |bytes| {
            let accepted = registry::verify(&world.parameters, &envelope.context, &envelope.instance, bytes).is_ok();
            assert_eq!(accepted, bytes == envelope.proof, "a forgery is accepted, or a proof refused");
        })
    });
    let claims = world.claims.iter().map(|(_, envelope)| envelope.to_bytes()).collect();
    proofs.chain([Target::new("claim", claims, |bytes| claim(world, bytes))]).collect()
}

fn claim(world: &World, bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_bytes(bytes) else { return };
    let known = world.claims.iter().find(|(_, known)| known.digest() == envelope.digest());
    let proven = registry::verify(&world.parameters, &envelope.context, &envelope.instance, &envelope.proof);
    assert_eq!(proven.is_ok(), known.is_some(), "a forgery is accepted, or a proof refused");
    let sealed = envelope::verify(&world.parameters, &world.identity_key(), &envelope).is_ok();
    assert_eq!(sealed, known.is_some_and(|(_, known)| *known == envelope));
}
