//! Events and alerts as they happen: server-sent events (WHATWG HTML, section 9.2).

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    rt::time::sleep,
    web::{Bytes, Data},
};
use keywitness_verifier::wire::{AlertQuery, Problem};
use serde::{Deserialize, Serialize};

use super::{Answer, WATCHERS};
use crate::{
    Manager,
    http::{
        auth::{bearer, query, run},
        connections::Peer,
        problem::Refusal,
    },
    places::{Place, Places},
    service::access::Caller,
};

/// How many streams may be open at once.
const STREAMS: usize = 32;

/// How many of them one credential may have.
const STREAMS_OF_ONE: usize = 8;

static OPEN: LazyLock<Places> = LazyLock::new(|| Places::new(STREAMS));

/// How long a stream waits before it looks again.
const PAUSE: Duration = Duration::from_millis(500);

/// After how many looks without anything a comment is sent, so that whatever stands between does not give up.
const HEARTBEAT: u32 = 30;

/// How long a stream lasts: whoever follows comes back with the number of the last event, and shows the credential again.
const LIFE: Duration = Duration::from_secs(600);

/// Where the stream begins.
#[derive(Deserialize)]
struct From {
    /// After this number; now when left out.
    after: Option<u64>,
}

/// What is streamed.
#[derive(Clone, Copy)]
enum Source {
    Events,
    Alerts,
}

impl Source {
    /// What came after a number, as messages, and the number of the last.
    fn after(self, manager: &Manager, caller: &Caller, after: u64) -> Result<Option<(String, u64)>, Problem> {
        let (messages, last): (String, _) = match self {
            Self::Events => {
                let events = manager.events(caller, after)?.events;
                (
                    events.iter().map(|event| message(event.number, event)).collect(),
                    events.last().map(|event| event.number),
                )
            }
            Self::Alerts => {
                let alerts = manager.alerts(caller, &AlertQuery { state: None, after })?.alerts;
                (
                    alerts.iter().map(|alert| message(alert.number, alert)).collect(),
                    alerts.last().map(|alert| alert.number),
                )
            }
        };
        Ok(last.map(|last| (messages, last)))
    }

    /// The number of the newest.
    fn newest(self, manager: &Manager) -> Result<u64, Problem> {
        match self {
            Self::Events => manager.newest_event(),
            Self::Alerts => manager.newest_alert(),
        }
    }
}

type Next = Pin<Box<dyn Future<Output = Result<(Bytes, u64), Refusal>>>>;

/// The body: one step after the other, for as long as somebody reads.
struct Stream {
    manager: Data<Manager>,
    caller: Arc<Caller>,
    source: Source,
    next: Next,
    end: Instant,
    peer: Option<Arc<Peer>>,
    _place: Place,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(peer) = &self.peer {
            peer.is_done();
        }
    }
}

/// Waits for what comes, and gives it as text with the number of the last.
async fn step(
    manager: Data<Manager>,
    caller: Arc<Caller>,
    (source, after): (Source, u64),
) -> Result<(Bytes, u64), Refusal> {
    for _ in 0..HEARTBEAT {
        let asker = Arc::clone(&caller);
        if let Some((text, last)) = run(&manager, move |manager| source.after(manager, &asker, after)).await? {
            return Ok((Bytes::from(text), last));
        }
        sleep(PAUSE).await;
    }
    Ok((Bytes::from_static(b": nothing new\n\n"), after))
}

/// One message: JSON has no line breaks.
fn message(number: u64, what: &impl Serialize) -> String {
    let data = serde_json::to_string(what).unwrap_or_default();
    format!("id: {number}\ndata: {data}\n\n")
}

impl MessageBody for Stream {
    type Error = Problem;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    /// Asked for more only once there is room again: whoever reads too slowly is cut off.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Problem>>> {
        if Instant::now() >= self.end {
            return Poll::Ready(None);
        }
        match self.next.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(Refusal(problem))) => Poll::Ready(Some(Err(problem))),
            Poll::Ready(Ok((bytes, last))) => {
                if let Some(peer) = &self.peer {
                    peer.reads();
                }
                let next = step(self.manager.clone(), Arc::clone(&self.caller), (self.source, last));
                self.next = Box::pin(next);
                Poll::Ready(Some(Ok(bytes)))
            }
        }
    }
}

/// Operator, viewer or auditor: events as they happen, after `Last-Event-ID`, or after what the query says.
pub(in crate::http) async fn events(manager: Data<Manager>, request: HttpRequest) -> Answer {
    stream(manager, request, Source::Events).await
}

/// Operator, viewer or auditor: alerts as they are raised, as [`events`].
pub(in crate::http) async fn alerts(manager: Data<Manager>, request: HttpRequest) -> Answer {
    stream(manager, request, Source::Alerts).await
}

async fn stream(manager: Data<Manager>, request: HttpRequest, source: Source) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    caller.must_reach_everything()?;
    let From { after } = query(&request)?;
    let seen = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let after = match seen.or(after) {
        Some(after) => after,
        None => run(&manager, move |manager| source.newest(manager)).await?,
    };
    let by: Vec<_> = caller.source().map(|source| (source, STREAMS_OF_ONE)).into_iter().collect();
    let place = OPEN.take(&by, "too many streams are open already; ask /v1/events or /v1/alerts")?;
    let caller = Arc::new(caller);
    let peer = request.conn_data::<Arc<Peer>>().cloned();
    if let Some(peer) = &peer {
        peer.reads();
    }
    let next = Box::pin(step(manager.clone(), Arc::clone(&caller), (source, after)));
    let stream = Stream { manager, caller, source, next, end: Instant::now() + LIFE, peer, _place: place };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(stream))
}
