//! `keywitness sign`: request an operation from the attested HSM, over the channel that its token names.

use anyhow::Context;
use data_encoding::BASE64URL_NOPAD;
use keywitness_circuits::Nonce;
use keywitness_verifier::{
    client::{self, ManagerClient},
    operation::{self, ClientKey},
    token::VerifiedToken,
    wire::KeyQuery,
};

use crate::{Global, connection::Connection, data, output, token};

/// Have an attested HSM sign a message (client).
///
/// Asks the manager for a token for the key, checks it, seals the request to the channel key that the token
/// names, so that only that HSM can read and answer it, and checks the signature under the attested key.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness sign --key signing-1 --message hello")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    key: token::KeyArgs,
    /// What to sign
    #[arg(long, allow_hyphen_values = true)]
    message: String,
}

/// A signature that was checked, and the token it was checked under.
pub(crate) struct Signed {
    pub(crate) signature: Vec<u8>,
    pub(crate) token: VerifiedToken,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let client = args.connection.client(global)?;
    let client_key = ClientKey::from_credential(&args.connection.client_secret(global)?);
    let signed = sign(&client, &client_key, args.key.query(), args.message.as_bytes())?;
    let signature = BASE64URL_NOPAD.encode(&signed.signature);
    let attestation = &signed.token.appraisal().attestation;
    if global.json {
        let document = serde_json::json!({ "signature": signature, "hsm": attestation.hsm, "key": attestation.key,
            "algorithm": attestation.algorithm, "public_key": signed.token.appraisal().ear_veraison_key_attestation });
        return output::json(&document);
    }
    say!("{signature}");
    eprintln!("signed by {} with {}, checked under the attested key", attestation.hsm, attestation.key.key);
    Ok(())
}

/// Asks for a token, requests the signature and checks it.
pub(crate) fn sign(
    client: &ManagerClient,
    client_key: &ClientKey,
    query: KeyQuery,
    message: &[u8],
) -> anyhow::Result<Signed> {
    let (response, token) = token::fetch(client, query, "keywitness-cli", Nonce::random())?;
    let url = response.channel_url.with_context(|| {
        format!("{} has not said where its channel is: run its agent with --channel ADDRESS", response.hsm)
    })?;
    let (sealed, pending) = operation::request_signature(&token, client_key, message, data::now())?;
    let signature = pending.check(&client::operate(&url, &sealed)?)?;
    Ok(Signed { signature, token })
}
