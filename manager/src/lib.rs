//! Who DECIDES: enrolment, challenges, records, tokens, revocation and fraud, over one ledger.
//!
//! [`Manager::open`] opens a data directory; [`http::serve`] answers for it. The use cases can be called
//! in-process too, as the command line does for its operator.

pub mod audit;
pub mod background;
pub mod clock;
pub mod config;
mod error;
mod files;
pub mod http;
pub mod ledger;
pub mod limits;
pub mod metrics;
pub mod outbox;
mod places;
pub mod service;
pub mod settings;
pub mod signer;
mod start;
pub mod store;
pub mod tls;
pub mod witness;

pub use clock::{Clock, SteadyClock, SystemClock};
pub use config::{Config, OPERATOR_CREDENTIAL};
pub use error::StartError;
pub use files::check_private;
pub use service::Manager;
pub use settings::Settings;
