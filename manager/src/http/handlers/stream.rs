//! Events as they happen: server-sent events (WHATWG HTML, section 9.2).

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
use keywitness_verifier::wire::{Event, Problem, ProblemKind};
use serde::Deserialize;

use super::{Answer, WATCHERS};
use crate::{
    Manager,
    http::{
        auth::{bearer, query, run},
        problem::Refusal,
    },
    service::access::Caller,
};

/// How many streams may be open at once.
const STREAMS: usize = 32;

/// How long a stream waits before it looks again.
const PAUSE: Duration = Duration::from_millis(500);

/// After how many looks without an event a comment is sent, so that whatever stands between does not give up.
const HEARTBEAT: u32 = 30;

/// How long a stream lasts: whoever follows comes back with the number of the last event, and shows the credential again.
const LIFE: Duration = Duration::from_secs(600);

/// Where the stream begins.
#[derive(Deserialize)]
struct From {
    /// After this event; now when left out.
    after: Option<u64>,
}

/// A place among the streams, given back when it is dropped.
struct Place(&'static AtomicUsize);

impl Place {
    fn take() -> Option<Self> {
        static OPEN: AtomicUsize = AtomicUsize::new(0);
        let room = |open| (open < STREAMS).then_some(open + 1);
        OPEN.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok().map(|_| Self(&OPEN))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

type Next = Pin<Box<dyn Future<Output = Result<(Bytes, u64), Refusal>>>>;

/// The body: one step after the other, for as long as somebody reads.
struct Stream {
    manager: Data<Manager>,
    caller: Arc<Caller>,
    next: Next,
    end: Instant,
    _place: Place,
}

impl Stream {
    fn begin(manager: Data<Manager>, caller: Caller, after: u64, place: Place) -> Self {
        let caller = Arc::new(caller);
        let next = Box::pin(step(manager.clone(), Arc::clone(&caller), after));
        Self { manager, caller, next, end: Instant::now() + LIFE, _place: place }
    }
}

/// Waits for events, and gives them as text with the number of the last.
async fn step(manager: Data<Manager>, caller: Arc<Caller>, after: u64) -> Result<(Bytes, u64), Refusal> {
    for _ in 0..HEARTBEAT {
        let asker = Arc::clone(&caller);
        let page = run(&manager, move |manager| manager.events(&asker, after)).await?;
        if let Some(last) = page.events.last() {
            let text: String = page.events.iter().map(message).collect();
            return Ok((Bytes::from(text), last.number));
        }
        sleep(PAUSE).await;
    }
    Ok((Bytes::from_static(b": nothing new\n\n"), after))
}

/// An event as a message: JSON has no line breaks.
fn message(event: &Event) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\ndata: {data}\n\n", event.number)
}

impl MessageBody for Stream {
    type Error = Problem;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Problem>>> {
        if Instant::now() >= self.end {
            return Poll::Ready(None);
        }
        match self.next.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(Refusal(problem))) => Poll::Ready(Some(Err(problem))),
            Poll::Ready(Ok((bytes, last))) => {
                let next = step(self.manager.clone(), Arc::clone(&self.caller), last);
                self.next = Box::pin(next);
                Poll::Ready(Some(Ok(bytes)))
            }
        }
    }
}

/// Operator, viewer or auditor: events as they happen, after `Last-Event-ID`, or after what the query says.
pub(in crate::http) async fn events(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS).await?;
    caller.must_reach_everything()?;
    let From { after } = query(&request)?;
    let seen = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let after = match seen.or(after) {
        Some(after) => after,
        None => run(&manager, |manager| manager.newest_event()).await?,
    };
    let place = Place::take().ok_or_else(|| {
        Refusal::new(ProblemKind::Unavailable, format!("{STREAMS} streams are open already; ask /v1/events"))
    })?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(Stream::begin(manager, caller, after, place)))
}
