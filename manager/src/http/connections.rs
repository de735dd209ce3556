//! Connections: how many there may be, how long they may lie idle, and who is at the other end.
//!
//! The server itself bounds how long a connection's first head may take, and the wait between requests. Nothing else
//! bounds the head of a later request: a watchman here closes a connection on which no request is being answered for too
//! long, whatever drips in.

use std::{
    any::Any,
    collections::HashMap,
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{
    Error,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Extensions, ServiceRequest, ServiceResponse},
    http::StatusCode,
    middleware::Next,
    rt::net::TcpStream as AsyncStream,
    web::{Bytes, Data},
};
use keywitness_circuits::{HsmId, TrustDomain};
use keywitness_verifier::wire::{Problem, ProblemKind};

use super::problem::Refusal;
use crate::{
    Manager,
    limits::{ConnectionsConfig, Source},
    tls,
};

/// An open connection.
struct Entry {
    /// A second handle of its socket, to close it with.
    socket: TcpStream,
    from: Source,
    /// Requests that are being answered.
    busy: u32,
    /// Since when there are none.
    idle_since: Instant,
    /// When it is closed whatever goes on, unless that is put off.
    until: Option<Instant>,
}

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
    from: HashMap<Source, usize>,
}

/// Every open connection of one server.
pub(super) struct Connections {
    config: ConnectionsConfig,
    trust_domain: TrustDomain,
    open: Mutex<Open>,
}

/// Who is at the other end of a connection, as long as it is open.
pub(super) struct Peer {
    connections: Arc<Connections>,
    id: u64,
    hsm: Option<HsmId>,
}

impl Peer {
    /// The HSM that the connection's client certificate names.
    pub(super) const fn hsm(&self) -> Option<&HsmId> {
        self.hsm.as_ref()
    }

    /// From now on, what is sent must be taken again within the time that readers of streams have.
    pub(super) fn reads(&self) {
        self.close_at(Some(Instant::now() + self.connections.config.stall));
    }

    /// Nothing is streamed any more.
    pub(super) fn is_done(&self) {
        self.close_at(None);
    }

    fn close_at(&self, until: Option<Instant>) {
        if let Some(entry) = self.connections.open().entries.get_mut(&self.id) {
            entry.until = until;
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        let Some(entry) = open.entries.remove(&self.id) else { return };
        if let Some(count) = open.from.get_mut(&entry.from) {
            *count -= 1;
            if *count == 0 {
                open.from.remove(&entry.from);
            }
        }
    }
}

impl Connections {
    /// None yet; they are watched by a thread until the server is gone.
    pub(super) fn watched(config: ConnectionsConfig, trust_domain: TrustDomain) -> io::Result<Arc<Self>> {
        let connections = Arc::new(Self { config, trust_domain, open: Mutex::default() });
        let watched = Arc::downgrade(&connections);
        thread::Builder::new().name("keywitness-watch".to_owned()).spawn(move || watch(&watched))?;
        Ok(connections)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in, or closes it where there are too many.
    pub(super) fn accept(self: &Arc<Self>, connection: &dyn Any, data: &mut Extensions) {
        let (stream, hsm) = if let Some(tls) = connection.downcast_ref::<TlsStream<AsyncStream>>() {
            let (stream, session) = tls.get_ref();
            let leaf = session.peer_certificates().and_then(<[_]>::first);
            (stream, leaf.and_then(|leaf| tls::named_hsm(leaf, &self.trust_domain)))
        } else if let Some(stream) = connection.downcast_ref::<AsyncStream>() {
            (stream, None)
        } else {
            return;
        };
        match self.enter(stream, hsm) {
            Ok(peer) => drop(data.insert(Arc::new(peer))),
            Err(error) => tracing::debug!(%error, "a connection was closed"),
        }
    }

    fn enter(self: &Arc<Self>, stream: &AsyncStream, hsm: Option<HsmId>) -> io::Result<Peer> {
        let address = stream.peer_addr()?.ip();
        let (from, counted) = (Source::address(address), self.config.loopback || !address.is_loopback());
        let socket = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut open = self.open();
        let here = open.from.get(&from).copied().unwrap_or(0);
        if open.entries.len() >= self.config.all || (counted && here >= self.config.each) {
            socket.shutdown(Shutdown::Both)?;
            return Err(io::Error::other(format!(
                "{from} has {here} connections, and all have {}",
                open.entries.len()
            )));
        }
        let id = open.next;
        open.next += 1;
        open.from.insert(from.clone(), here + 1);
        open.entries.insert(id, Entry { socket, from, busy: 0, idle_since: Instant::now(), until: None });
        Ok(Peer { connections: Arc::clone(self), id, hsm })
    }

    fn close_idle(&self) {
        let now = Instant::now();
        for entry in self.open().entries.values() {
            let idle = entry.busy == 0 && entry.idle_since.elapsed() > self.config.idle;
            if idle || entry.until.is_some_and(|until| until < now) {
                // Its task sees the end, and lets it go.
                let _gone = entry.socket.shutdown(Shutdown::Both);
            }
        }
    }
}

fn watch(connections: &Weak<Connections>) {
    while let Some(connections) = connections.upgrade() {
        connections.close_idle();
        let pause = (connections.config.idle.min(connections.config.stall) / 4)
            .clamp(Duration::from_millis(50), Duration::from_secs(1));
        drop(connections);
        thread::sleep(pause);
    }
}

/// While this lives, a request is being answered on a connection.
struct Busy(Arc<Peer>);

impl Busy {
    fn new(peer: Arc<Peer>) -> Self {
        if let Some(entry) = peer.connections.open().entries.get_mut(&peer.id) {
            entry.busy += 1;
        }
        Self(peer)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(entry) = self.0.connections.open().entries.get_mut(&self.0.id) {
            entry.busy -= 1;
            entry.idle_since = Instant::now();
            entry.until = None;
        }
    }
}

/// How much of an answer is handed to a connection at once, in bytes. What is shorter counts as taken when it was made.
const PART: usize = 64 * 1024;

/// A body that keeps its connection busy until all of it was taken.
enum Held {
    /// One that comes as it is made, and sees itself to it that it is taken.
    Stream(BoxBody, #[allow(dead_code, reason = "dropped with the body")] Busy),
    /// One that is there: of so many bytes, what has not been taken yet. Each part must be, as a stream's must.
    Whole(u64, Bytes, Busy),
}

impl Held {
    fn body(body: BoxBody, busy: Busy) -> BoxBody {
        match body.try_into_bytes() {
            Ok(bytes) if bytes.len() <= PART => BoxBody::new(bytes),
            Ok(bytes) => BoxBody::new(Self::Whole(bytes.len() as u64, bytes, busy)),
            Err(body) => BoxBody::new(Self::Stream(body, busy)),
        }
    }
}

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        match self {
            Self::Stream(body, _) => body.size(),
            Self::Whole(size, ..) => BodySize::Sized(*size),
        }
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match &mut *self {
            Self::Stream(body, _) => Pin::new(body).poll_next(cx),
            Self::Whole(_, rest, _) if rest.is_empty() => Poll::Ready(None),
            Self::Whole(_, rest, Busy(peer)) => {
                peer.reads();
                Poll::Ready(Some(Ok(rest.split_to(PART.min(rest.len())))))
            }
        }
    }
}

/// Lets a request in while whoever is at the other end has a budget left, and charges it for mistakes: the HSM whose client
/// certificate the connection has, and else the address. So nobody at an HSM's address keeps it from being heard.
pub(super) async fn admit(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(peer) = request.conn_data::<Arc<Peer>>().cloned() else {
        // The connection was one too many, and is being closed: what had arrived on it is not looked at.
        let why = "there are too many connections from this address, or in all; come again later";
        return Ok(request.error_response(Refusal(Problem::new(ProblemKind::Unavailable, why).after(1))));
    };
    let certified = peer.hsm().cloned().map(Source::Hsm);
    let busy = Busy::new(peer);
    let manager = request.app_data::<Data<Manager>>().cloned();
    let payer = certified.or_else(|| request.peer_addr().map(|address| Source::address(address.ip())));
    let (Some(manager), Some(payer)) = (manager, payer) else { return next.call(request).await };
    if let Err(problem) = manager.limits().spend(&payer, 1, manager.clock().now()) {
        return Ok(request.error_response(Refusal(problem)));
    }
    let response = next.call(request).await?;
    if is_mistake(response.status()) {
        manager.limits().mistake(&payer);
    }
    Ok(response.map_body(|_, body| Held::body(body, busy)))
}

/// Whether an answer says that the caller could not be authenticated or understood.
fn is_mistake(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_long_answer_keeps_its_connection_until_the_last_part_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (config, trust_domain) = (ConnectionsConfig::default(), "acme.example".parse().unwrap());
        let connections = Arc::new(Connections { config, trust_domain, open: Mutex::default() });
        let from = Source::address("192.0.2.1".parse().unwrap());
        let entry = Entry { socket, from, busy: 0, idle_since: Instant::now(), until: None };
        connections.open().entries.insert(7, entry);
        let peer = Arc::new(Peer { connections: Arc::clone(&connections), id: 7, hsm: None });
        let state = || {
            let open = connections.open();
            (open.entries[&7].busy, open.entries[&7].until.is_some())
        };
        let answer: Vec<u8> = (0..3 * PART + 1).map(|place| place as u8).collect();
        let mut body = Held::body(BoxBody::new(answer.clone()), Busy::new(Arc::clone(&peer)));
        assert_eq!((state(), body.size()), ((1, false), BodySize::Sized(answer.len() as u64)));
        let (mut taken, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
        while let Poll::Ready(Some(part)) = Pin::new(&mut body).poll_next(&mut context) {
            taken.extend_from_slice(&part.unwrap());
            assert_eq!(state(), (1, true));
        }
        assert_eq!((taken, state()), (answer, (1, true)));
        drop(body);
        assert_eq!(state(), (0, false));
        // A short one is as good as taken.
        let short = Held::body(BoxBody::new(vec![0; PART]), Busy::new(Arc::clone(&peer)));
        assert_eq!((state(), short.size()), ((0, false), BodySize::Sized(PART as u64)));
    }
}
