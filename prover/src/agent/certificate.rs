//! The HSM's client certificate: on TLS connections the manager knows from the first byte who calls.
//!
//! The TLS key is made for each certificate and is in memory alone. The identity key asks for the certificate; what an
//! envelope or a request says still rests on the identity key's own signature.

use keywitness_circuits::Timestamp;
use keywitness_verifier::{
    client::ClientError,
    wire::{Base64, CertificateRequest, TrustDomainInfo},
};
use p256::{
    SecretKey,
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
};

use super::{Agent, Enrolled, error::printable};
use crate::clock::Stop;

/// How long to wait after a failed request, in seconds.
const AGAIN: u64 = 60;

impl Agent {
    /// Asks for a certificate where one is due, and shows it from then on. Without one the agent works too.
    pub(super) fn certify(&self, enrolled: &Enrolled, info: &TrustDomainInfo, due: &mut Timestamp, stop: &Stop) {
        let now = self.clock.steady();
        if !self.client.is_secure() || *due > now {
            return;
        }
        *due = now.plus(AGAIN);
        match self.ask_for_certificate(enrolled, info, stop) {
            // Half of its life is left for trying again.
            Ok(expires_at) => *due = now.plus(expires_at.since(self.clock.now()) / 2),
            Err(error) => {
                // One that the manager no longer takes would keep every connection from being made.
                self.client.forget_certificate();
                tracing::warn!(
                    error = printable(&error),
                    wait = AGAIN,
                    "no client certificate now; going on without one"
                );
            }
        }
    }

    fn ask_for_certificate(
        &self,
        enrolled: &Enrolled,
        info: &TrustDomainInfo,
        stop: &Stop,
    ) -> Result<Timestamp, ClientError> {
        let encoding = |_| ClientError::Malformed("a fresh key cannot be encoded".to_owned());
        let key = SecretKey::random(&mut rand::rngs::OsRng);
        let public = key.public_key().to_public_key_der().map_err(|_| encoding(()))?;
        let request = CertificateRequest { public_key: Base64(public.into_vec()) };
        let given = self.client.certify(&self.session(enrolled, info, stop), &request)?;
        let key = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| encoding(()))?;
        self.client.present(&given.certificate.0, &key)?;
        Ok(given.expires_at)
    }
}
