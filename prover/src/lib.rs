//! The SECRET side: key stores, proving, the agent, and the channel on which a client reaches an HSM.
//!
//! - [`store`]: where keys live. [`KeyStore`] is the seam; [`SoftwareStore`] is one encrypted file, [`TokenStore`] puts
//!   the keys of a PKCS#11 token beside one.
//! - [`agent`]: enrols an HSM, attests its keys, and attests them again before the records expire.
//! - [`channel`]: answers clients' sealed requests to use a key; [`http`] puts it on a socket.
//! - [`process`]: a key store in a process of its own, which alone has the keys.
//! - [`watch`]: what can be measured of an agent.
//! - [`Provider`]: a program of the operator's that gives evidence of where keys live.
//!
//! Time and the wish to stop come from outside: [`Clock`] and [`Stop`].

pub mod agent;
pub mod channel;
mod clock;
pub mod http;
pub mod process;
mod provider;
pub mod store;
#[cfg(test)]
mod testing;
pub mod watch;

pub use agent::{Agent, AgentConfig, AgentError, AgentEvent, AttestError, Health, Observer, Report, Standing};
pub use channel::Channel;
pub use clock::{Clock, Stop, SystemClock};
pub use http::{RunningServer, serve, serve_watch};
pub use provider::{EvidenceSource, Provider, ProviderError};
pub use store::{
    Access, IDENTITY, KeyChoice, KeyEntry, KeyStore, Membership, PassphraseCost, Pin, PinSource, Placement, SCHEME,
    SoftwareStore, StoreError, Token, TokenChoice, TokenError, TokenKey, TokenStore, TokenUri, Unlock, WRAPPING,
    create_key_file,
};
pub use watch::Watch;
