//! The channel on a socket, and what is measured. The only room of this crate that knows actix-web.

mod watch;

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
    rt::{System, time::timeout},
    web,
};
use keywitness_verifier::operation::{MAX_REQUEST, PATH};

use crate::channel::Channel;
pub use watch::serve_watch;

/// Longest time for a request's head to arrive, and again for its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 256;

/// Seconds that open requests get when the server stops.
const GRACE: u64 = 5;

/// What is being served from a thread of its own. Stops when dropped.
pub struct RunningServer {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl RunningServer {
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
            Some(Err(_)) => Err(io::Error::other("the server's thread panicked")),
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(%error, "a server ended badly");
        }
    }
}

/// Serves `channel` on `listener`, from a thread of its own. Leaves signals to the program.
///
/// # Errors
/// What the operating system says.
pub fn serve(channel: Arc<Channel>, listener: TcpListener) -> io::Result<RunningServer> {
    serve_with(channel, listener, REQUEST_TIMEOUT)
}

fn serve_with(channel: Arc<Channel>, listener: TcpListener, patience: Duration) -> io::Result<RunningServer> {
    start("channel", listener, move |listener| listen(Served { channel, patience }, listener))
}

/// Starts a server, from a thread of this name.
fn start(
    name: &str,
    listener: TcpListener,
    listen: impl FnOnce(TcpListener) -> io::Result<Server> + Send + 'static,
) -> io::Result<RunningServer> {
    let address = listener.local_addr()?;
    let (started, handle) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        System::new().block_on(async move {
            let server = listen(listener)?;
            // The receiver waits for this, or for the sender to go.
            let _ = started.send(server.handle());
            server.await
        })
    })?;
    match handle.recv() {
        Ok(handle) => Ok(RunningServer { address, handle, thread: Some(thread) }),
        Err(_) => match thread.join() {
            Ok(Err(error)) => Err(error),
            _ => Err(io::Error::other("the server's thread did not start")),
        },
    }
}

/// What is served, and how long a client may take to send a request's head, or its body.
struct Served {
    channel: Arc<Channel>,
    patience: Duration,
}

fn listen(served: Served, listener: TcpListener) -> io::Result<Server> {
    let patience = served.patience;
    let data = web::Data::new(served);
    let app = move || App::new().app_data(data.clone()).service(web::resource(PATH).route(web::post().to(operate)));
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(patience)
        .shutdown_timeout(GRACE)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

/// One sealed request to one sealed answer; what does not open gets a bare refusal.
async fn operate(served: web::Data<Served>, payload: web::Payload) -> HttpResponse {
    // Whoever is not done sending loses the connection: only so many are open at a time.
    let sealed = match timeout(served.patience, payload.to_bytes_limited(MAX_REQUEST)).await {
        Ok(Ok(Ok(sealed))) => sealed,
        Ok(Ok(Err(_))) => return HttpResponse::BadRequest().force_close().finish(),
        Ok(Err(_)) => return HttpResponse::PayloadTooLarge().force_close().finish(),
        Err(_) => return HttpResponse::RequestTimeout().force_close().finish(),
    };
    match web::block(move || served.channel.answer(&sealed)).await {
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
    use keywitness_verifier::{client, operation::OperationAnswer};

    use super::*;
    use crate::{
        channel::tests::{ask, client_key, sign_request},
        testing::{attested, enrolled_store},
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
        let channel = Arc::new(Channel::new(store.clone(), attested(&*store, NOW.plus(1)), Arc::new(|| NOW)));
        channel.allow(client_key("kw_client_known"));
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
    fn tricklers_are_cut_off_and_lock_nobody_out() {
        let (_directory, store) = enrolled_store();
        let channel = Arc::new(Channel::new(store, Arc::default(), Arc::new(|| NOW)));
        let patience = Duration::from_millis(500);
        let server = serve_with(channel, TcpListener::bind("127.0.0.1:0").unwrap(), patience).unwrap();
        let address = server.address();
        let begin = || {
            let mut stream = TcpStream::connect(address).unwrap();
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: hsm\r\ncontent-length: 1000\r\n\r\nx");
            stream.write_all(head.as_bytes()).unwrap();
            stream
        };
        let mut tricklers: Vec<_> = (0..MAX_CONNECTIONS).map(|_| begin()).collect();
        let trickling = std::thread::spawn(move || {
            let mut trickler = tricklers.swap_remove(0);
            trickler.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut answer = Vec::new();
            for _ in 0..400 {
                let mut part = [0; 512];
                match trickler.read(&mut part) {
                    Ok(0) => break,
                    Ok(length) => answer.extend(part.into_iter().take(length)),
                    Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
                if answer.is_empty() && trickler.write_all(b"x").is_err() {
                    break;
                }
            }
            (String::from_utf8(answer).unwrap(), tricklers)
        });
        let begun = std::time::Instant::now();
        assert!(post(address, PATH, &[7; 300]).starts_with("HTTP/1.1 400 "));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let (answer, _tricklers) = trickling.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(20), "the trickler is cut off: {:?}", begun.elapsed());
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
