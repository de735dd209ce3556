//! The manager over HTTP: the only room that knows actix-web.
//!
//! Handlers read, ask who calls, run one use case on a blocking thread, and answer. Everything that is
//! refused by the application is a problem document; what is no HTTP at all gets the server's own bare answer.

mod auth;
mod connections;
mod dashboard;
mod handlers;
#[cfg(test)]
mod hostile_tests;
mod observe;
mod openapi;
mod problem;
mod swift;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, ServerHandle},
    middleware::from_fn,
    web,
};

use connections::Connections;

use crate::{
    Manager,
    config::{VERIFY_QUEUE_OF_WORKER, workers},
};

/// How long a client may take to send a request's head, or its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How many TLS handshakes each worker has under way at once; further ones wait.
const HANDSHAKES: usize = 1024;

/// How long running requests may take once the server is asked to stop, in seconds.
const GRACE: u64 = 10;

/// How many use cases each worker runs at once; further ones wait.
///
/// Twice the default room for proofs that wait to be checked: so many callers can meet in one batch, and who finds no
/// room there is told so, rather than waiting here unheard.
const BLOCKING_THREADS: usize = 2 * VERIFY_QUEUE_OF_WORKER;

/// A running server. Dropping it leaves the server running.
pub struct Server {
    address: SocketAddr,
    secure: bool,
    handle: ServerHandle,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// Stops it: running requests are finished first.
    ///
    /// # Errors
    /// Where the server had failed.
    pub fn stop(self) -> io::Result<()> {
        // The stop is under way once this is called; the thread ends when it is complete.
        drop(self.handle.stop(true));
        self.wait()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// Where the server failed.
    pub fn wait(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the server's thread panicked")))
    }
}

/// Serves `manager` on `listener`, in a thread of its own, until it is stopped. Signals are left to the
/// program. Whoever makes the listener asks [`crate::Config::check_bind`] first.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve(manager: Arc<Manager>, listener: TcpListener) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let config = manager.config();
    let tls = match config.speaks_tls(address) {
        true => Some(
            manager
                .authority()
                .server_config(&config.tls, address, Arc::clone(manager.clock()))
                .map_err(io::Error::other)?,
        ),
        false => None,
    };
    let connections = Connections::watched(config.connections, config.trust_domain.clone())?;
    let secure = tls.is_some();
    let (ready, started) = mpsc::channel();
    let thread = thread::Builder::new().name("keywitness-http".to_owned()).spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let accept = move |connection: &dyn Any, data: &mut Extensions| connections.accept(connection, data);
            let app = move || {
                let app = App::new().wrap(from_fn(connections::admit)).wrap(from_fn(observe::observe));
                app.configure(|app| routes(app, &manager))
            };
            let server = HttpServer::new(app)
                .on_connect(accept)
                .workers(workers())
                .worker_max_blocking_threads(BLOCKING_THREADS)
                .client_request_timeout(PATIENCE)
                .tls_handshake_timeout(HANDSHAKE)
                .max_connection_rate(HANDSHAKES)
                .shutdown_timeout(GRACE)
                .disable_signals();
            let server = match tls {
                Some(tls) => server.listen_rustls_0_23(listener, tls)?,
                None => server.listen(listener)?,
            }
            .run();
            let _gone = ready.send(server.handle());
            server.await
        })
    })?;
    match started.recv() {
        Ok(handle) => Ok(Server { address, secure, handle, thread }),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => io::Error::other("the server did not start"),
        }),
    }
}

/// Every route of the API, as `wire::path` documents them, and the dashboard.
fn routes(app: &mut web::ServiceConfig, manager: &Arc<Manager>) {
    app.app_data(swift::Swift::default());
    use keywitness_verifier::wire::path;
    let refuse = || web::to(problem::wrong_method);
    let mut route = |path: &str, route: actix_web::Route| {
        app.service(web::resource(path).route(route).default_service(refuse()));
    };
    route("/", web::get().to(dashboard::page));
    route("/docs", web::get().to(openapi::page));
    route(path::OPENAPI, web::get().to(openapi::document));
    route(path::HEALTH, web::get().to(handlers::public::health));
    route(path::READY, web::get().to(handlers::public::ready));
    route(path::METRICS, web::get().to(handlers::client::metrics));
    route(path::TRUST_DOMAIN, web::get().to(handlers::public::trust_domain));
    route(path::JWKS, web::get().to(handlers::public::jwks));
    route(path::JOIN_TOKENS, web::post().to(handlers::operator::join_token));
    route(path::CREDENTIAL, web::delete().to(handlers::credential::withdraw));
    route(path::HSMS, web::post().to(handlers::hsm::enrol));
    route(path::CHANNEL, web::put().to(handlers::hsm::announce));
    route(path::KEYS, web::post().to(handlers::hsm::enrol_key));
    route(path::CERTIFICATES, web::post().to(handlers::hsm::certify));
    route(path::SEALING_KEY, web::put().to(handlers::hsm::announce_sealing_key));
    route(path::HOLDERS, web::get().to(handlers::hsm::holders));
    route(path::PEERS, web::get().to(handlers::hsm::peers));
    route(path::TRANSFERS, web::post().to(handlers::hsm::transfer));
    route(path::CLUSTERS, web::get().to(handlers::client::clusters));
    route(path::EVIDENCE_CHALLENGES, web::post().to(handlers::evidence::challenge));
    route(path::DEVICES, web::post().to(handlers::evidence::allow));
    route(path::DEVICE_CREDENTIALS, web::post().to(handlers::evidence::credential));
    route(path::DEVICE_ANSWERS, web::post().to(handlers::evidence::answer_credential));
    route(path::COMPLAINTS, web::post().to(handlers::hsm::complain));
    route(path::CHALLENGES, web::post().to(handlers::hsm::challenge));
    route(path::ATTESTATIONS, web::post().to(handlers::hsm::attest));
    route(path::CHALLENGE_BATCHES, web::post().to(handlers::hsm::challenges));
    route(path::ATTESTATION_BATCHES, web::post().to(handlers::hsm::attest_batch));
    route(path::TOKENS, web::post().to(handlers::client::token));
    route(path::BUNDLES, web::post().to(handlers::client::bundle));
    route(path::REVOCATIONS, web::post().to(handlers::operator::revoke));
    route(path::STATUS_LIST, web::get().to(handlers::public::status_list));
    route(path::SUSPENSIONS, web::post().to(handlers::operator::suspend));
    route(path::REINSTATEMENTS, web::post().to(handlers::operator::reinstate));
    route(path::BACKUPS, web::post().to(handlers::operator::back_up));
    route(path::STATUS, web::get().to(handlers::client::status));
    route(path::EVENTS, web::get().to(handlers::client::events));
    route(path::EVENT_STREAM, web::get().to(handlers::stream::events));
    route(path::ALERTS, web::get().to(handlers::fraud::alerts));
    // Before what has a number in its place.
    route(path::ALERT_STREAM, web::get().to(handlers::stream::alerts));
    route(path::ALERT, web::get().to(handlers::fraud::alert));
    route(path::ACKNOWLEDGEMENT, web::post().to(handlers::fraud::acknowledge));
    route(path::WEBHOOKS, web::get().to(handlers::webhook::webhooks));
    route(path::WEBHOOK_REPLAY, web::post().to(handlers::webhook::replay));
    route(path::WEBHOOK_TEST, web::post().to(handlers::webhook::test));
    route(path::LOG_KEY, web::get().to(handlers::log::key));
    route(path::CHECKPOINT, web::get().to(handlers::log::checkpoint));
    route(path::COSIGNED, web::get().to(handlers::log::cosigned));
    route(path::TILES, web::get().to(handlers::log::tile));
    route(path::LOG_PROOF, web::get().to(handlers::log::inclusion));
    route(path::LOG_CONSISTENCY, web::get().to(handlers::log::consistency));
    route(path::OPENINGS, web::get().to(handlers::log::openings));
    route(path::COSIGNATURES, web::post().to(handlers::log::cosign));
    route(path::SNAPSHOT, web::get().to(handlers::log::snapshot));
    route(path::RETENTION, web::post().to(handlers::log::retain));
    app.service(
        web::resource(path::SEALS)
            .route(web::post().to(handlers::log::seal))
            .route(web::get().to(handlers::log::seals))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::EVIDENCE)
            .route(web::post().to(handlers::evidence::submit))
            .route(web::get().to(handlers::evidence::overview))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::MIGRATIONS)
            .route(web::post().to(handlers::fraud::declare))
            .route(web::get().to(handlers::fraud::migrations))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::CREDENTIALS)
            .route(web::post().to(handlers::credential::create))
            .route(web::get().to(handlers::credential::list))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::TOKEN_KEYS)
            .route(web::post().to(handlers::operator::rotate_token_key))
            .route(web::get().to(handlers::operator::token_keys))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::SHARINGS)
            .route(web::post().to(handlers::hsm::enrol_sharing))
            .route(web::get().to(handlers::hsm::dealings))
            .default_service(refuse()),
    );
    app.service(
        web::resource(path::ATTESTED)
            .route(web::get().to(handlers::client::attested))
            .route(web::post().to(handlers::client::attested_batch))
            .default_service(refuse()),
    );
    app.app_data(web::Data::from(Arc::clone(manager))).default_service(web::to(problem::nothing_here));
}
