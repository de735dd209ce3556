//! An HSM's channel.

use ureq::{http::Request, tls::RootCerts};

use super::{ClientError, agent, read, unreachable};
use crate::operation;

/// Sends sealed bytes to an HSM's channel and gives back its sealed answer.
///
/// # Errors
/// [`ClientError::Unreachable`], or [`ClientError::Malformed`] where the HSM could not open the request.
pub fn operate(channel_url: &str, sealed: &[u8]) -> Result<Vec<u8>, ClientError> {
    let target = format!("{}{}", channel_url.trim_end_matches('/'), operation::PATH);
    let request = Request::post(&target)
        .header("content-type", "application/octet-stream")
        .body(sealed.to_vec())
        .map_err(|error| ClientError::Malformed(error.to_string()))?;
    let response = agent(RootCerts::WebPki, None).run(request).map_err(|error| unreachable(channel_url, &error))?;
    if !response.status().is_success() {
        return Err(ClientError::Malformed(format!("the HSM answers {}", response.status())));
    }
    read(channel_url, response)
}
