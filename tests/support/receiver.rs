//! A webhook receiver: a real HTTP server on loopback that keeps every request and answers as it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::LIMIT;

/// A request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// How many requests arrived before it.
    pub(crate) arrival: usize,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers));
        value.to_str().expect("a header in ASCII")
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.header("webhook-sequence").parse().expect("webhook-sequence is a number")
    }

    pub(crate) fn attempt(&self) -> u64 {
        self.header("webhook-attempt").parse().expect("webhook-attempt is a number")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    pub(crate) fn event(&self) -> String {
        self.json()["event"].as_str().expect("the body names its event").to_owned()
    }

    /// A part of `data` by its path, such as `/vote/voter/name`.
    pub(crate) fn data(&self, pointer: &str) -> Value {
        let json = self.json();
        json["data"].pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {json}")).clone()
    }
}

/// What the receiver does with a request, after it has kept it.
#[derive(Clone)]
pub(crate) enum Answer {
    Status(u16),
    /// The request counts here, but its sender sees the connection close without an answer.
    LoseResponse,
    /// Never answers.
    Hang,
    /// Answers 200 once the gate is open.
    Hold(Gate),
}

/// Closed until somebody opens it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn opened(&self) {
        let mut state = self.0.subscribe();
        drop(state.wait_for(|open| *open).await);
    }
}

type Script = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

struct Shared {
    received: Mutex<Vec<Received>>,
    changed: Condvar,
    script: Script,
}

impl Shared {
    fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until dropped.
pub(crate) struct Receiver {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Receiver {
    /// Answers 200 to everything.
    pub(crate) fn start() -> Self {
        Self::scripted(|_| Answer::Status(200))
    }

    /// Answers as `script` says; `Received::arrival` counts the requests.
    pub(crate) fn scripted(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared { received: Mutex::default(), changed: Condvar::new(), script: Box::new(script) });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("receiver")
            .enable_all()
            .build()
            .expect("start a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).expect("listen on loopback");
        let address = listener.local_addr().expect("a bound address");
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, shared, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// Everything that has arrived so far, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received().clone()
    }

    /// How many different deliveries have arrived so far.
    pub(crate) fn distinct(&self) -> usize {
        by_sequence(&self.shared.received()).len()
    }

    /// Waits until what has arrived satisfies `enough`; panics with `what` when it does not in time.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let deadline = Instant::now() + LIMIT;
        let mut received = self.shared.received();
        while !enough(&received) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let lines: Vec<String> = received.iter().map(summary).collect();
                panic!("waited {LIMIT:?} for {what}; arrived:\n{}", lines.join("\n"));
            };
            received = self.shared.changed.wait_timeout(received, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        received.clone()
    }

    /// Waits for so many different deliveries.
    #[track_caller]
    pub(crate) fn wait_for_distinct(&self, number: usize) -> Vec<Received> {
        self.wait_for(&format!("{number} different deliveries"), |received| by_sequence(received).len() >= number)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The requests of each sequence number, in order of arrival.
pub(crate) fn by_sequence(received: &[Received]) -> BTreeMap<u64, Vec<&Received>> {
    let mut all: BTreeMap<u64, Vec<&Received>> = BTreeMap::new();
    for request in received {
        all.entry(request.sequence()).or_default().push(request);
    }
    all
}

/// A request on one line, for messages.
pub(crate) fn summary(request: &Received) -> String {
    format!("  {} {} attempt {} {}", request.sequence(), request.id(), request.attempt(), request.text())
}

async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        // The sender went away in the middle of its request.
        return StatusCode::BAD_REQUEST.into_response();
    };
    let answer = {
        let mut received = shared.received();
        let request = Received { arrival: received.len(), headers: parts.headers, body };
        let answer = (shared.script)(&request);
        received.push(request);
        shared.changed.notify_all();
        answer
    };
    match answer {
        Answer::Status(code) => StatusCode::from_u16(code).expect("a status").into_response(),
        // Ends the connection's task, and with it the connection; unlike `panic!`, without a message.
        Answer::LoseResponse => std::panic::resume_unwind(Box::new("response lost")),
        Answer::Hang => std::future::pending().await,
        Answer::Hold(gate) => {
            gate.opened().await;
            StatusCode::OK.into_response()
        }
    }
}
