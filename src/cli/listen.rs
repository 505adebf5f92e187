//! `portalhook listen`: a webhook tester. It receives deliveries, verifies both signatures, and prints what came.

mod answers;
mod delivery;
mod print;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

pub(crate) use answers::Answers;
pub(crate) use delivery::Delivery;

use crate::deliver::sign::{NotASecret, Secret};
use crate::error::{Context as _, Error, Result};

/// Larger requests are refused (413); `deliver.max_body` is far below.
const MOST_BYTES: usize = 16 << 20;
/// Ids that are remembered to tell duplicates.
const IDS: usize = 100_000;
/// How long the end waits for answers that are being written.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Deliveries that may wait to be printed.
const UNREAD: usize = 64;

/// Try webhooks out: receive, verify the signatures, and print what came
///
/// Answers 200 to what verifies and 401 to what does not, unless told to misbehave: --status, --delay and --fail-rate show
/// what portalhook does with a receiver that fails.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  portalhook listen --secret whsec_…                        what arrives, until Ctrl-C
  portalhook listen --secret whsec_… --count 1 --timeout 30s   for scripts: did one arrive?
  portalhook listen --secret whsec_… --status 503           a receiver that is down
  portalhook listen --secret whsec_… --fail-rate 0.3 --seed 7   one that fails now and then, the same way each time

The daemon must be allowed to call it: deliver.allow_networks = [\"127.0.0.0/8\"].

Exit codes: 0 --count deliveries were verified, or there was no --count and it was ended by Ctrl-C or --timeout;
1 it was ended before --count were verified; 64 wrong usage, or the address is taken.")]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Listen on this port instead of the one in --listen
    #[arg(long)]
    port: Option<u16>,
    /// The secret that signs: SELECT portalhook.secret('4'). Give it again for further secrets that are valid too
    #[arg(long = "secret", value_name = "WHSEC", required = true, value_parser = secret)]
    secrets: Vec<Secret>,
    /// End with exit code 0 after this many verified deliveries
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this time, with exit code 1 if --count were not verified by then
    #[arg(long, value_name = "DURATION", value_parser = super::test::duration_of)]
    timeout: Option<Duration>,
    #[command(flatten)]
    answers: Answers,
    /// Print one JSON object a line instead of text
    #[arg(long)]
    json: bool,
    /// Print the whole body below each delivery
    #[arg(long, short)]
    verbose: bool,
}

fn secret(text: &str) -> Result<Secret, NotASecret> {
    Secret::parse(text)
}

/// Receives until `shutdown` turns true or `--count` deliveries are verified. Exit code 1: fewer than `--count` came.
pub(crate) async fn run(options: Options, mut shutdown: watch::Receiver<bool>) -> Result<ExitCode> {
    let mut address = options.listen;
    if let Some(port) = options.port {
        address.set_port(port);
    }
    let listener =
        TcpListener::bind(address).await.map_err(|error| Error::usage(format!("listen on {address}: {error}")))?;
    let address = listener.local_addr().context("listen")?;
    if !options.json {
        println!("listening on http://{address}/ (any path); Ctrl-C ends");
    }
    let (sender, mut deliveries) = mpsc::channel(UNREAD);
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, options.secrets.clone(), options.answers.clone(), sender, stopped));
    // Without --timeout: further away than anybody waits.
    let timeout = tokio::time::sleep(options.timeout.unwrap_or(Duration::from_secs(365 * 24 * 60 * 60)));
    tokio::pin!(timeout);
    let mut tally = print::Tally::default();
    while options.count.is_none_or(|count| tally.verified < count) {
        let delivery = tokio::select! {
            delivery = deliveries.recv() => delivery,
            stopped = shutdown.wait_for(|stop| *stop) => {
                drop(stopped);
                None
            }
            () = &mut timeout => None,
        };
        let Some(delivery) = delivery else { break };
        tally.add(&delivery);
        let text = if options.json { print::json(&delivery) } else { print::text(&delivery, options.verbose) };
        println!("{text}");
    }
    // The last delivery is still being answered; what comes after it is told to come again.
    drop(deliveries);
    stop.send_replace(true);
    drop(tokio::time::timeout(LAST_ANSWERS, server).await);
    if !options.json {
        println!("{tally}");
    }
    Ok(if options.count.is_some_and(|count| tally.verified < count) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Receives on a socket that is bound already and tells of each delivery; ends when `shutdown` turns true.
///
/// Verified deliveries are answered 200, others 401, unless `answers` says otherwise. An answer waits while nobody takes
/// deliveries from the channel.
pub(crate) async fn serve(
    listener: TcpListener,
    secrets: Vec<Secret>,
    answers: Answers,
    deliveries: mpsc::Sender<Delivery>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let desk = Arc::new(Desk { secrets, answers, came: AtomicU64::new(0), deliveries, seen: Mutex::default() });
    let router = Router::new().fallback(receive).layer(DefaultBodyLimit::max(MOST_BYTES)).with_state(desk);
    let stop = async move { drop(shutdown.wait_for(|stop| *stop).await) };
    axum::serve(listener, router).with_graceful_shutdown(stop).await.context("receive webhooks")
}

struct Desk {
    secrets: Vec<Secret>,
    answers: Answers,
    /// Requests so far.
    came: AtomicU64,
    deliveries: mpsc::Sender<Delivery>,
    seen: Mutex<Seen>,
}

async fn receive(State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut delivery = Delivery::read(&headers, body, &desk.secrets);
    let status = desk.answers.status(desk.came.fetch_add(1, Ordering::Relaxed), delivery.verdict.is_ok());
    delivery.answered = status.as_u16();
    tokio::time::sleep(desk.answers.delay()).await;
    let Ok(place) = desk.deliveries.reserve().await else { return StatusCode::SERVICE_UNAVAILABLE };
    // Noted in the order in which they are printed: what stands above is not "not seen yet".
    let mut seen = desk.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.note(uri.path(), &mut delivery);
    place.send(delivery);
    status
}

/// What came before; only verified deliveries count. Each path is taken for an endpoint with its own sequence.
#[derive(Default)]
struct Seen {
    ids: HashSet<(String, String)>,
    oldest: VecDeque<(String, String)>,
    highest: HashMap<String, i64>,
}

impl Seen {
    fn note(&mut self, path: &str, delivery: &mut Delivery) {
        if delivery.verdict.is_err() {
            return;
        }
        let key = (path.to_owned(), delivery.id.clone());
        delivery.duplicate = !self.ids.insert(key.clone());
        if !delivery.duplicate {
            self.oldest.push_back(key);
        }
        while self.oldest.len() > IDS {
            if let Some(key) = self.oldest.pop_front() {
                self.ids.remove(&key);
            }
        }
        let Some(sequence) = delivery.sequence else { return };
        let highest = self.highest.entry(path.to_owned()).or_insert(sequence);
        delivery.skipped = (sequence > *highest + 1).then_some((*highest + 1, sequence - 1));
        *highest = sequence.max(*highest);
    }
}
