//! `make bench`: the main job against limits that are measured in the same run.
//!
//! 50,000 one-vote transactions are committed while the daemon is down. Then, one after another on the same machine:
//! `pg_recvlogical` drains an equal slot; the daemon, from its start to the arrival of the last delivery; the bare HTTP loop
//! (the daemon's client library, bodies and concurrency, without database and signatures); and a steady 200 changes a
//! second, each timed from the row's own clock to its arrival.
//!
//! `cargo bench --bench portalhook-bench -- large` measures transactions that are larger than memory may be.
//!
//! Exits with 1 where a limit is missed. `cargo bench -- 10000` takes a smaller backlog.

mod bare;
mod cpu;
mod large;
mod portal;
mod receiver;
mod report;
mod steady;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::cpu::{Process, Server};
use self::portal::Portal;
use self::receiver::Receiver;
use self::report::Report;

/// What went wrong, in words: a bench has nobody who would tell errors apart.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const BACKLOG: usize = 50_000;

/// `deliver.max_in_flight`, so that both loops do the same; the daemon's default.
const CONCURRENCY: usize = 16;

/// What hangs is given up.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match arguments.split_first() {
        Some((first, rest)) if first == bare::COMMAND => runtime.block_on(bare::run(rest)).map(|()| true),
        Some((first, rest)) if first == large::COMMAND => runtime.block_on(large::run(rest)),
        first => {
            let count = first.and_then(|(first, _)| first.parse().ok()).unwrap_or(BACKLOG);
            runtime.block_on(async {
                tokio::time::timeout(LIMIT, run(count)).await.unwrap_or_else(|_| Err("not done in time".into()))
            })
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything; false where a limit is missed.
async fn run(count: usize) -> Result<bool> {
    say("starting PostgreSQL and setting up");
    let receiver = Receiver::start().await?;
    let portal = Portal::start(&receiver.url())?;
    let server = Server::of(&portal)?;
    say(&format!("writing a backlog of {count} votes"));
    let backlog = portal.backlog(count)?;
    say("draining an equal slot with pg_recvlogical");
    let drained = portal.drain(&server, &backlog.end)?;

    say("running the daemon");
    receiver.expect(count);
    let wal = portal.wal_position()?;
    let before = server.usage()?;
    let began = Instant::now();
    let daemon = portal.run()?;
    receiver.all_arrived().await;
    let took = began.elapsed();
    let process = Process::of(daemon.id());
    let cpu = process.usage()?;
    let memory = process.peak_memory()?;
    let parts = server.by_part(&portal)?;
    let server_cpu = server.usage()? - before;
    portal.wait_until_recorded()?;
    let wal = portal.wal_since(wal)?;
    let cpu_recorded = process.usage()?;

    say("the bare HTTP loop");
    receiver.expect(count);
    let bare = bare::measure(&portal.admin_url(), &receiver, count, CONCURRENCY).await?;

    say("200 changes a second");
    let latency = steady::measure(&portal.admin_url(), &receiver).await?;
    let report = Report {
        count,
        drained,
        took,
        daemon_cpu: cpu,
        daemon_cpu_recorded: cpu_recorded,
        memory: memory.max(process.peak_memory()?),
        server_cpu,
        parts,
        wal,
        backlog_wal: backlog.wal,
        bare,
        latency,
    };
    drop(daemon);
    drop(portal);
    Ok(report.print())
}

fn say(text: &str) {
    eprintln!("bench: {text}");
}
