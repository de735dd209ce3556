//! What is measured of an agent, over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::{io, net::TcpListener, sync::Arc};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};

use super::{GRACE, REQUEST_TIMEOUT, RunningServer, start};
use crate::watch::{TEXT, Watch};

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 16;

/// Serves what `watch` measures on `listener`, from a thread of its own: to whoever asks there. Leaves signals to the program.
///
/// # Errors
/// What the operating system says.
pub fn serve_watch(watch: Arc<Watch>, listener: TcpListener) -> io::Result<RunningServer> {
    start("metrics", listener, move |listener| listen(watch, listener))
}

fn listen(watch: Arc<Watch>, listener: TcpListener) -> io::Result<Server> {
    let data = web::Data::from(watch);
    let app = move || {
        App::new()
            .app_data(data.clone())
            .route("/metrics", web::get().to(metrics))
            .route("/healthz", web::get().to(healthy))
            .route("/readyz", web::get().to(ready))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(GRACE)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

async fn metrics(watch: web::Data<Watch>) -> HttpResponse {
    match watch.text() {
        Ok(text) => HttpResponse::Ok().content_type(TEXT).body(text),
        Err(error) => {
            tracing::error!(%error, "the measurements cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// The process answers.
async fn healthy() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("alive\n")
}

async fn ready(watch: web::Data<Watch>) -> HttpResponse {
    match watch.trouble() {
        None => HttpResponse::Ok().content_type("text/plain").body("ready\n"),
        Some(why) => HttpResponse::ServiceUnavailable().content_type("text/plain").body(why + "\n"),
    }
}
