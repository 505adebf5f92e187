//! A receiver that costs as little as one can: it finds the end of each request, counts it by its sequence, says 200.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::Result;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

pub(crate) struct Receiver {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Default)]
struct State {
    expected: usize,
    seen: HashSet<u64>,
    /// When each body arrived; only where somebody asked.
    kept: Option<Vec<(SystemTime, Vec<u8>)>>,
}

impl Receiver {
    /// Listens on a free loopback port, until the runtime ends.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&state)));
            }
        });
        Ok(Self { port, shared })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks", self.port)
    }

    /// Forgets what came and waits for so many different deliveries.
    pub(crate) fn expect(&self, count: usize) {
        *self.state() = State { expected: count, seen: HashSet::with_capacity(count), kept: None };
    }

    /// The same, and keeps the bodies.
    pub(crate) fn expect_and_keep(&self, count: usize) {
        self.expect(count);
        self.state().kept = Some(Vec::with_capacity(count));
    }

    pub(crate) async fn all_arrived(&self) {
        self.shared.complete.notified().await;
    }

    /// What `expect_and_keep` kept.
    pub(crate) fn kept(&self) -> Vec<(SystemTime, Vec<u8>)> {
        self.state().kept.take().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, request after request.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer: Vec<u8> = Vec::with_capacity(16 << 10);
    loop {
        while let Some(request) = Request::read(&buffer) {
            shared.count(request.sequence, &buffer[request.head..request.end]);
            buffer.drain(..request.end);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

impl Shared {
    fn count(&self, sequence: u64, body: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.seen.insert(sequence) {
            return;
        }
        if let Some(kept) = &mut state.kept {
            kept.push((SystemTime::now(), body.to_vec()));
        }
        if state.seen.len() == state.expected {
            self.complete.notify_one();
        }
    }
}

/// A request that has arrived whole.
struct Request {
    head: usize,
    end: usize,
    sequence: u64,
}

impl Request {
    fn read(buffer: &[u8]) -> Option<Self> {
        let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let (mut length, mut sequence) = (0, 0);
        for line in buffer[..head].split(|&byte| byte == b'\n') {
            if let Some(value) = value(line, b"content-length:") {
                length = value;
            } else if let Some(value) = value(line, b"webhook-sequence:") {
                sequence = value;
            }
        }
        let end = head + usize::try_from(length).ok()?;
        (buffer.len() >= end).then_some(Self { head, end, sequence })
    }
}

fn value(line: &[u8], name: &[u8]) -> Option<u64> {
    let (own, value) = line.split_at_checked(name.len())?;
    own.eq_ignore_ascii_case(name).then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
}
