//! The bare HTTP loop, in a process of its own: what the client library and the receiver allow.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue};
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
    let request = |row: &tokio_postgres::Row| Ok((row.get::<_, String>(0).into(), row.get::<_, &str>(1).parse()?));
    let requests: Arc<Vec<(bytes::Bytes, HeaderValue)>> = Arc::new(rows.iter().map(request).collect::<Result<_>>()?);
    drop((rows, client));
    driver.await??;
    // An error means that a provider is installed already, which is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
    let sender = reqwest::Client::builder().no_proxy().user_agent("portalhook/bench").build()?;
    let url = reqwest::Url::parse(url)?;
    println!("ready");
    // Nothing else runs while it waits for its word.
    std::io::stdin().read_line(&mut String::new())?;
    let next = Arc::new(AtomicUsize::new(0));
    let headers = headers();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency.parse::<usize>()? {
        let (sender, next, requests) = (sender.clone(), next.clone(), requests.clone());
        let (url, headers) = (url.clone(), headers.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((body, id)) = requests.get(index) else { return Ok::<(), reqwest::Error>(()) };
                let mut headers = headers.clone();
                headers.insert("webhook-id", id.clone());
                headers.insert("webhook-sequence", index.into());
                sender.post(url.clone()).headers(headers).body(body.clone()).send().await?.bytes().await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// As many bytes as those of a delivery; nothing is computed.
fn headers() -> HeaderMap {
    let constant = [
        ("signature", "00000000000000000000000000000000000000000000000000000000000000f0"),
        ("content-type", "application/json"),
        ("webhook-timestamp", "1654107457"),
        ("webhook-signature", "v1,C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="),
        ("webhook-attempt", "1"),
    ];
    HeaderMap::from_iter(
        constant.map(|(name, value)| (reqwest::header::HeaderName::from_static(name), HeaderValue::from_static(value))),
    )
}
