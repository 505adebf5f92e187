//! The bare HTTP loop, in a process of its own: what the client library and the receiver allow.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_postgres::NoTls;

use crate::Result;
use crate::cpu::Process;
use crate::receiver::Receiver;

/// How the bench calls itself.
pub(crate) const COMMAND: &str = "bare-http-loop";

/// What the loop came to.
pub(crate) struct Bare {
    pub(crate) took: Duration,
    /// Of the sending process.
    pub(crate) cpu: Duration,
}

/// Sends the ledger's bodies from another process; that has them in memory before the clock starts.
pub(crate) async fn measure(database: &str, receiver: &Receiver, count: usize, concurrency: usize) -> Result<Bare> {
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args([COMMAND, database, &receiver.url(), &count.to_string(), &concurrency.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let process = Process::of(child.id().ok_or("the bare loop has ended")?);
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the bare loop has no pipes".into());
    };
    let mut lines = BufReader::new(output).lines();
    lines.next_line().await?.ok_or("the bare loop ended before it began")?;
    let before = process.usage()?;
    let began = Instant::now();
    input.write_all(b"go\n").await?;
    receiver.all_arrived().await;
    let took = began.elapsed();
    let cpu = process.usage()? - before;
    drop(input);
    child.wait().await?;
    Ok(Bare { took, cpu })
}

/// The other process: loads, says that it is ready, waits for a line, sends, waits to be dismissed.
pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let [database, url, count, concurrency] = arguments else { return Err("four arguments".into()) };
    let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
    let driver = tokio::spawn(connection);
    let rows = client
        .query(
            "SELECT body, id FROM portalhook.events WHERE body IS NOT NULL ORDER BY position LIMIT $1",
            &[&count.parse::<i64>()?],
        )
        .await?;
    let requests: Arc<Vec<(bytes::Bytes, String)>> =
        Arc::new(rows.iter().map(|row| (row.get::<_, String>(0).into(), row.get(1))).collect());
    drop((rows, client));
    driver.await??;
    // An error means that a provider is installed already, which is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
    let sender = reqwest::Client::builder().no_proxy().user_agent("portalhook/bench").build()?;
    println!("ready");
    // Nothing else runs while it waits for its word.
    std::io::stdin().read_line(&mut String::new())?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency.parse::<usize>()? {
        let (sender, next, requests, url) = (sender.clone(), next.clone(), requests.clone(), url.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((body, id)) = requests.get(index) else { return Ok::<(), reqwest::Error>(()) };
                // As many bytes of headers as a delivery has.
                sender
                    .post(&url)
                    .header("content-type", "application/json")
                    .header("signature", "0".repeat(64))
                    .header("webhook-id", id)
                    .header("webhook-timestamp", "1654107457")
                    .header("webhook-signature", "v1,C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs=")
                    .header("webhook-sequence", index.to_string())
                    .header("webhook-attempt", "1")
                    .body(body.clone())
                    .send()
                    .await?
                    .bytes()
                    .await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
