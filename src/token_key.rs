//! `keywitness token-key`: the keys that sign verification tokens.

use clap::Subcommand;
use keywitness_verifier::wire::{TokenAlgorithm, TokenKeyRequest};

use crate::{Global, connection::Asked, output};

/// The keys that sign verification tokens (operator).
#[derive(Subcommand)]
#[command(after_help = "Example: keywitness token-key rotate --alg ES256")]
pub(crate) enum TokenKeys {
    /// Make another key: published at once, it signs in five minutes, when every checker can know it
    #[command(after_help = "Example: keywitness token-key rotate --alg ES256")]
    Rotate {
        /// What it signs with: ES256 or EdDSA
        #[arg(long, default_value = "ES256")]
        alg: TokenAlgorithm,
    },
    /// Every key, oldest first, and what it is for now
    #[command(after_help = "Example: keywitness token-key list")]
    List,
}

pub(crate) fn run(global: &Global, args: &Asked<TokenKeys>) -> anyhow::Result<()> {
    let operator = args.connection.operator(global)?;
    let keys = match &args.what {
        TokenKeys::Rotate { alg } => vec![operator.rotate_token_key(&TokenKeyRequest { alg: *alg })?],
        TokenKeys::List => operator.token_keys()?.keys,
    };
    if global.json {
        return output::json(&keys);
    }
    for key in keys {
        let state = serde_json::to_value(key.state)?;
        say!(
            "{} {} {}, signs from {}",
            key.kid,
            key.alg,
            state.as_str().unwrap_or_default(),
            output::time(key.signs_from)
        );
    }
    Ok(())
}
