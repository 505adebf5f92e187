//! `portalhook demo`: what an operator does and sees, on a throw-away PostgreSQL, with the commands that an operator types.

mod child;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::child::Child;
use crate::error::{Context as _, Error, Result};
use crate::throwaway::Throwaway;

/// The demo promises to end within a minute; what hangs is given up before.
const LIMIT: Duration = Duration::from_secs(55);

const DATABASE: &str = "portal";
const PORTAL: &str = include_str!("../../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../../sql/demo/views.sql");

/// What the users of the sample portal do, and the event that must come of it.
const ACTIVITY: [(&str, &str, &str); 7] = [
    (
        "Mara writes a post",
        "INSERT INTO posts (id, title, description, user_id, portal_id) VALUES (100, 'Dark mode', 'My eyes hurt at night.', 49, 4)",
        "post.created",
    ),
    ("Rubenb votes for it", "INSERT INTO votes (id, post_id, user_id) VALUES (500, 100, 48)", "vote.created"),
    (
        "Rubenb comments on it",
        "INSERT INTO comments (id, post_id, user_id, body) VALUES (7, 100, 48, 'On it!')",
        "comment.created",
    ),
    ("the team plans it", "UPDATE posts SET status = 'planned' WHERE id = 100", "post.status_changed"),
    ("Rubenb removes the comment", "DELETE FROM comments WHERE id = 7", "comment.deleted"),
    ("Rubenb takes the vote back", "DELETE FROM votes WHERE id = 500", "vote.deleted"),
    ("Mara deletes the post, softly", "UPDATE posts SET deleted_at = now() WHERE id = 100", "post.deleted"),
];

/// Shows everything; ends early when `shutdown` turns true. Every process and file is gone when it returns.
pub(crate) async fn run(mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let started = Instant::now();
    say("Starting a throw-away PostgreSQL with a small feedback portal: users, posts, votes, comments.");
    let server = Throwaway::start(&[]).map_err(|error| Error::failed(format!("start PostgreSQL: {error}")))?;
    let show = Box::pin(tokio::time::timeout(LIMIT.saturating_sub(started.elapsed()), show(&server)));
    // `show` owns every process that it started, and ends them when it is dropped.
    tokio::select! {
        shown = show => shown.map_err(|_| Error::failed(format!("the demo was not done after {} s", LIMIT.as_secs())))??,
        _ = shutdown.wait_for(|now| *now) => return Err(Error::failed("the demo was interrupted")),
    }
    drop(server);
    say(&format!(
        "\nAll seven events arrived, in order, and both of their signatures verified: {:.1} s. Nothing is left behind.",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn show(server: &Throwaway) -> Result<()> {
    sql(server, "postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    sql(server, DATABASE, PORTAL)?;
    let files = Files::write(server)?;
    let admin = server.url(Throwaway::SUPERUSER, DATABASE);

    say("\nThe operator describes the tables with five SELECTs (views.sql) and prepares the database:");
    command("portalhook setup --views views.sql --admin-url postgres://…");
    let views = files.views.display().to_string();
    Child::start(&files.config, &["setup", "--views", &views, "--admin-url", &admin])?.finish().await?;

    say("\nA receiver listens, with the portal's secret; its address becomes an endpoint:");
    let secret = sql(server, DATABASE, "SELECT portalhook.secret('4')")?;
    command("portalhook listen --secret whsec_…");
    let mut listener = Child::start(&files.config, &["listen", "--listen", "127.0.0.1:0", "--secret", secret.trim()])?;
    let address = listener.line_with("http://").await?;
    let url = address.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_default().to_owned();
    statement("INSERT INTO portalhook.endpoints (url) VALUES ('http://…')");
    sql(server, DATABASE, &format!("INSERT INTO portalhook.endpoints (url) VALUES ('{url}')"))?;

    say("\nThe daemon runs, as a role that can only read the application's tables:");
    command("portalhook run");
    let mut daemon = Child::start(&files.config, &["run"])?;
    daemon.line_with("streaming").await?;

    say("\nThe application does what it always did:");
    for (what, text, event) in ACTIVITY {
        say(&format!("\n  {what}"));
        statement(text);
        sql(server, DATABASE, text)?;
        let line = listener.line_with(event).await?;
        say(&format!("    → {}", line.trim()));
        if line.contains("NOT VERIFIED") || !line.contains("verified") {
            return Err(Error::failed(format!("{event} arrived, but did not verify")));
        }
    }
    daemon.end().await?;
    listener.end().await
}

/// What the commands read; in the server's directory, with which they go.
struct Files {
    config: PathBuf,
    views: PathBuf,
}

impl Files {
    fn write(server: &Throwaway) -> Result<Self> {
        let directory: &Path = server.socket_directory();
        let files = Self { config: directory.join("portalhook.toml"), views: directory.join("views.sql") };
        let config = format!(
            "[database]\nurl = \"{}\"\n[deliver]\nallow_networks = [\"127.0.0.0/8\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            server.url("portalhook", DATABASE)
        );
        fs::write(&files.config, config).context("write the demo's configuration")?;
        fs::write(&files.views, VIEWS).context("write the demo's mapping")?;
        Ok(files)
    }
}

fn sql(server: &Throwaway, database: &str, script: &str) -> Result<String> {
    server.psql(database, script).map_err(|error| Error::failed(format!("run the demo's SQL: {error}")))
}

/// Unlike `println!` without a panic when nobody reads on.
fn say(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn command(text: &str) {
    say(&format!("    $ {text}"));
}

fn statement(text: &str) {
    say(&format!("    =# {text};"));
}
