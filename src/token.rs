//! `keywitness token`: ask for a verification token.

use keywitness_circuits::{ClusterId, HsmId, KeyId, Nonce};
use keywitness_verifier::{
    client::ManagerClient,
    token::{self, Expected, Profile, VerifiedToken},
    wire::{KeyQuery, TokenAlgorithm, TokenForm, TokenRequest, TokenResponse},
};

use crate::{Global, connection::Connection, data, output};

/// Which key, in which HSM, how fresh.
#[derive(clap::Args)]
pub(crate) struct KeyArgs {
    /// The key's name
    #[arg(long)]
    pub(crate) key: KeyId,
    /// Its cluster, where several have a key of that name
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// Only this HSM; the one that proved last when left out
    #[arg(long)]
    hsm: Option<HsmId>,
    /// Oldest proof that counts, such as 5m
    #[arg(long, value_name = "DURATION")]
    max_age: Option<humantime::Duration>,
}

impl KeyArgs {
    pub(crate) fn query(&self) -> KeyQuery {
        KeyQuery {
            key: self.key.clone(),
            cluster: self.cluster.clone(),
            hsm: self.hsm.clone(),
            max_age: self.max_age.map(|age| age.as_secs()),
        }
    }
}

/// Ask for a verification token, check it, and print it (client).
///
/// The token (an EAT attestation result in a JWT) says which HSM proved the key, under which statement,
/// when, and until when. Whoever gets it checks it offline: `keywitness verify token`, or any JWT library with
/// the manager's /.well-known/jwks.json.
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness token --key signing-1 --audience shop --max-age 5m")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    key: KeyArgs,
    /// Who will check the token
    #[arg(long, default_value = "keywitness-cli")]
    audience: String,
    /// Nonce of whoever will check it; a fresh one when left out
    ///
    /// 32 random bytes in base64url without padding, which are 43 characters: openssl rand 32 | basenc --base64url | tr -d =
    #[arg(long, allow_hyphen_values = true, value_name = "BASE64URL")]
    nonce: Option<Nonce>,
    /// What signs it: ES256 or EdDSA
    #[arg(long, default_value = "ES256")]
    alg: TokenAlgorithm,
    /// Write it as checkers read it that know only tag:github.com,2023:veraison/ear
    #[arg(long)]
    legacy_profile: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let client = args.connection.client(global)?;
    let nonce = args.nonce.unwrap_or_else(Nonce::random);
    let (response, verified) = {
        let profile = if args.legacy_profile { Profile::Legacy } else { Profile::Ear04 };
        fetch_as(&client, args.key.query(), &args.audience, nonce, TokenForm { profile, alg: args.alg })?
    };
    if global.json {
        let claims = verified.claims();
        return output::json(&serde_json::json!({ "token": response.token, "claims": claims, "nonce": nonce,
            "hsm": response.hsm, "expires_at": response.expires_at, "channel_url": response.channel_url }));
    }
    say!("{}", response.token);
    describe(&verified);
    Ok(())
}

/// Asks for a token and checks it, as any relying party would.
pub(crate) fn fetch(
    client: &ManagerClient,
    query: KeyQuery,
    audience: &str,
    nonce: Nonce,
) -> anyhow::Result<(TokenResponse, VerifiedToken)> {
    fetch_as(client, query, audience, nonce, TokenForm::default())
}

fn fetch_as(
    client: &ManagerClient,
    query: KeyQuery,
    audience: &str,
    nonce: Nonce,
    form: TokenForm,
) -> anyhow::Result<(TokenResponse, VerifiedToken)> {
    let trust_domain = client.trust_domain()?.trust_domain;
    let response = client.token(&TokenRequest { query, audience: audience.to_owned(), nonce, form })?;
    let expected = Expected { trust_domain: &trust_domain, audience, nonce: Some(&nonce) };
    let verified = token::verify(&response.token, &client.jwks()?, &expected, data::now())?;
    Ok((response, verified))
}

/// Says on standard error what a token says.
pub(crate) fn describe(token: &VerifiedToken) {
    let attestation = &token.appraisal().attestation;
    let (until, left) = (token.claims().exp, output::duration(token.claims().exp.since(data::now())));
    let until = output::time(until);
    eprintln!(
        "\n{} in {} (cluster {}), trust domain {}; good until {until}, for {left}",
        attestation.key.key, attestation.hsm, attestation.cluster, attestation.trust_domain
    );
    for statement in &attestation.statements {
        let age = output::duration(data::now().since(statement.proven_at));
        let at = output::time(statement.proven_at);
        let shown = if statement.shows.is_knowledge() {
            "proven"
        } else {
            "possession (a signature, no proof of knowledge) shown"
        };
        eprintln!(
            "  {shown} at {at}, {age} ago, under {}, fingerprint {}",
            statement.kind, statement.fingerprint.bytes
        );
    }
    eprintln!("  residence: {} (a proof shows access to the key, not where it lives)", attestation.residence);
}
