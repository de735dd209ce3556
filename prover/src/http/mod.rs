//! The channel on a socket. The only room of this crate that knows actix-web.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::{Server, ServerHandle},
    rt::System,
    web,
};
use keywitness_verifier::operation::{MAX_REQUEST, PATH};

use crate::channel::Channel;

/// Longest time for a request's head to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 256;

/// Seconds that open requests get when the server stops.
const GRACE: u64 = 5;

/// A channel that is being served from a thread of its own. Stops when dropped.
pub struct ChannelServer {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl ChannelServer {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers the requests that have come, takes no more, and waits until that is done.
    ///
    /// # Errors
    /// What ended the server before.
    pub fn stop(mut self) -> io::Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> io::Result<()> {
        // The command is on its way as soon as `stop` returns; the thread ends when it is done.
        drop(self.handle.stop(true));
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("the channel's thread panicked")),
        }
    }
}

impl Drop for ChannelServer {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(%error, "the channel ended badly");
        }
    }
}

/// Serves `channel` on `listener`, from a thread of its own. Leaves signals to the program.
///
/// # Errors
/// What the operating system says.
pub fn serve(channel: Arc<Channel>, listener: TcpListener) -> io::Result<ChannelServer> {
    let address = listener.local_addr()?;
    let (started, handle) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("channel".to_owned()).spawn(move || {
        System::new().block_on(async move {
            let server = listen(channel, listener)?;
            // The receiver waits for this, or for the sender to go.
            let _ = started.send(server.handle());
            server.await
        })
    })?;
    match handle.recv() {
        Ok(handle) => Ok(ChannelServer { address, handle, thread: Some(thread) }),
        Err(_) => match thread.join() {
            Ok(Err(error)) => Err(error),
            _ => Err(io::Error::other("the channel's thread did not start")),
        },
    }
}

fn listen(channel: Arc<Channel>, listener: TcpListener) -> io::Result<Server> {
    let data = web::Data::from(channel);
    let app = move || {
        App::new()
            .app_data(data.clone())
            .app_data(web::PayloadConfig::new(MAX_REQUEST))
            .service(web::resource(PATH).route(web::post().to(operate)))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(GRACE)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

/// One sealed request to one sealed answer; what does not open gets a bare refusal.
async fn operate(channel: web::Data<Channel>, sealed: web::Bytes) -> HttpResponse {
    match web::block(move || channel.answer(&sealed)).await {
        Ok(Ok(answer)) => HttpResponse::Ok().content_type("application/octet-stream").body(answer),
        Ok(Err(_)) => HttpResponse::BadRequest().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use keywitness_circuits::Timestamp;
    use keywitness_verifier::{client, operation::OperationAnswer, wire::secret_digest};

    use super::*;
    use crate::{
        channel::tests::{ask, sign_request},
        testing::enrolled_store,
    };

    const NOW: Timestamp = Timestamp(1_000_000);

    fn post(address: SocketAddr, path: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: hsm\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse a large body before it has read all of it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn a_client_reaches_a_key_over_the_network() {
        let (_directory, store) = enrolled_store();
        let channel = Arc::new(Channel::new(store.clone(), Arc::default(), Arc::new(|| NOW)));
        channel.allow(secret_digest("kw_client_known"));
        let server = serve(channel, TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = server.address();
        let url = format!("http://{address}/");
        let sign = |credential, created| {
            let request = sign_request("p256", 1, credential, created);
            ask(&*store, &request, |sealed| client::operate(&url, &sealed).unwrap())
        };
        assert!(matches!(sign("kw_client_known", NOW), OperationAnswer::Signature(_)));
        assert!(matches!(sign("kw_client_other", NOW), OperationAnswer::Refused(_)));
        assert!(matches!(sign("kw_client_known", Timestamp(1)), OperationAnswer::Refused(_)));

        let refused = post(address, PATH, &[7; 300]);
        assert!(refused.starts_with("HTTP/1.1 400 ") && refused.ends_with("\r\n\r\n"), "nothing more: {refused}");
        assert!(post(address, PATH, b"").starts_with("HTTP/1.1 400 "));
        assert!(post(address, "/", b"x").starts_with("HTTP/1.1 404 "));
        let large = post(address, PATH, &vec![7; MAX_REQUEST + 1]);
        assert!(large.is_empty() || large.starts_with("HTTP/1.1 413 "), "{large}");
        assert!(matches!(sign("kw_client_known", NOW), OperationAnswer::Signature(_)), "it still answers");

        server.stop().unwrap();
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_dropped_server_frees_its_port() {
        let (_directory, store) = enrolled_store();
        let channel = Arc::new(Channel::new(store, Arc::default(), Arc::new(|| NOW)));
        let server = serve(channel, TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
