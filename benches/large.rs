//! `cargo bench --bench portalhook-bench -- large`: transactions that are larger than memory may be. How long each takes
//! from its commit to the commit of its events, what its events take in the ledger, and the daemon's peak memory, while it
//! delivers what came before. Exits with 1 where an event of a vote takes more than 1 KB, or the daemon more than 96 MiB.
//!
//! `-- large 100000` takes a tenth of each.

use std::time::{Duration, Instant};

use crate::cpu::{Process, Server};
use crate::portal::Portal;
use crate::receiver::Receiver;
use crate::report::{MEMORY, mebibytes, verdict};
use crate::{Result, say};

pub(crate) const COMMAND: &str = "large";

/// Votes of the largest transaction.
const VOTES: usize = 1_000_000;

/// Bytes of ledger, with its indexes, that an event of a small row may take.
const LEDGER: f64 = 1000.0;

/// What hangs is given up.
const LIMIT: Duration = Duration::from_secs(1200);

/// Many voters, one post that half of them like, and texts of 2 KB to write anew.
const ROWS: &str = "
    CREATE INDEX ON votes (post_id);
    CREATE INDEX ON comments (post_id);
    INSERT INTO users (id, name, email)
        SELECT n, 'Voter number ' || n, 'voter.' || n || '@example.com' FROM generate_series(1000001, 1000000 + {votes}) AS n;
    INSERT INTO posts (id, title, description, user_id, portal_id) VALUES (1000001, 'Everybody likes it', repeat('Ten kilobytes. ', 700), 1000001, 4);
    INSERT INTO posts (id, title, description, user_id, portal_id)
        SELECT n, 'A long one, number ' || n, repeat(md5(n::text), 64), 1000001, 4 FROM generate_series(2000001, 2000000 + {posts}) AS n;";

/// One large transaction.
struct Step {
    what: &'static str,
    sql: String,
    events: usize,
    /// Its rows are small, so its events have to be, whatever is around them.
    is_small: bool,
}

/// Measures each; false where a limit is missed.
pub(crate) async fn run(arguments: &[String]) -> Result<bool> {
    let votes = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(VOTES);
    let (half, posts) = (votes / 2, votes / 5);
    let receiver = Receiver::start().await?;
    let portal = Portal::start(&receiver.url())?;
    // One that wants changes of texts, too, and gets nothing sent: the bench is about what is before delivery.
    portal.sql(&format!(
        "INSERT INTO portalhook.endpoints (url, events, enabled) VALUES ('{}', '{{post.updated}}', false)",
        receiver.url()
    ))?;
    let server = Server::of(&portal)?;
    let daemon = portal.run()?;
    let process = Process::of(daemon.id());
    say("writing users and posts");
    let rows = ROWS.replace("{votes}", &votes.to_string()).replace("{posts}", &posts.to_string());
    portal.sql(&rows)?;
    let passed = portal.passed(LIMIT)?;
    say(&format!("the daemon is past them, {passed:.1?} later"));
    let idle = process.peak_memory()?;
    println!("\nafter {votes} users and {posts} posts of 2 KB in one transaction: peak {:.1} MiB", mebibytes(idle));
    println!(
        "\n{:<48}{:>10}{:>9}{:>9}{:>9}{:>10}{:>10}{:>10}",
        "", "events", "s", "µs each", "daemon", "server", "ledger B", "peak MiB"
    );
    let steps = [
        Step {
            what: "INSERT … SELECT of votes, half for one post",
            sql: format!(
                "INSERT INTO votes (id, post_id, user_id)
                 SELECT 1000000 + n, CASE WHEN n % 2 = 0 THEN 1000001 ELSE 1001 + n % 2000 END, 1000000 + n
                 FROM generate_series(1, {votes}) AS n"
            ),
            events: votes,
            is_small: true,
        },
        Step {
            what: "DELETE of that post, its votes by cascade",
            sql: "DELETE FROM posts WHERE id = 1000001".to_owned(),
            events: half + 1,
            is_small: true,
        },
        Step {
            what: "UPDATE of posts with 2 KB of text",
            sql: "UPDATE posts SET description = description || '!' WHERE id > 2000000".to_owned(),
            events: posts,
            is_small: false,
        },
    ];
    let mut met = true;
    let mut largest = 0.0_f64;
    for step in steps {
        let (first, before, ledger) = (portal.position()?, server.usage()?, portal.ledger()?);
        let cpu = process.usage()?;
        portal.sql(&step.sql)?;
        let began = Instant::now();
        portal.passed(LIMIT)?;
        let took = began.elapsed();
        let counted = portal.count_since(first)?;
        let ledger = (portal.ledger()? - ledger) as f64 / step.events as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / step.events as f64;
        println!(
            "{:<48}{counted:>10}{:>9.1}{:>9.1}{:>9.1}{:>10.1}{ledger:>10.0}{:>10.1}",
            step.what,
            took.as_secs_f64(),
            each(took),
            each(process.usage()? - cpu),
            each(server.usage()? - before),
            mebibytes(process.peak_memory()?)
        );
        met &= counted == step.events;
        if step.is_small {
            largest = largest.max(ledger);
        }
    }
    let memory = process.peak_memory()?;
    let held = verdict(memory <= MEMORY);
    println!("\n  peak resident memory {:.1} MiB, at most {:.0} MiB: {held}", mebibytes(memory), mebibytes(MEMORY));
    let short = verdict(largest <= LEDGER);
    println!("  ledger of an event of votes {largest:.0} bytes, at most {LEDGER:.0}: {short}");
    drop(daemon);
    drop(portal);
    Ok(met && memory <= MEMORY && largest <= LEDGER)
}
