//! A throw-away PostgreSQL with a portal full of users and posts, set up for the released daemon.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::Server;
use crate::{LIMIT, Result};

#[path = "../src/throwaway.rs"]
#[expect(dead_code, reason = "made for tests too")]
mod throwaway;

use throwaway::Throwaway;

const DATABASE: &str = "portal";
const TABLES: &str = include_str!("../sql/demo/portal.sql");
const VIEWS: &str = include_str!("../sql/demo/views.sql");

/// Texts of about the size that people write: a vote's body has some 950 bytes.
const ROWS: &str = "
    INSERT INTO users (id, name, email, role)
    SELECT n, 'Person number ' || n, 'person.' || n || '@example.com', CASE WHEN n % 50 = 0 THEN 'admin' ELSE 'user' END
    FROM generate_series(1001, 11000) n;
    INSERT INTO posts (id, title, description, user_id, portal_id)
    SELECT n, 'An idea that got the number ' || n, repeat('It would help us every day if this worked. ', 6), 1001 + n % 10000, 4
    FROM generate_series(1001, 3000) n;
    ANALYZE;";

/// Sessions that write the backlog together.
const WRITERS: usize = 2;

/// An equal slot for `pg_recvlogical`.
const SECOND_SLOT: &str = "bench_drain";

pub(crate) struct Portal {
    server: Throwaway,
    config: String,
}

/// The votes that wait.
pub(crate) struct Backlog {
    /// Position in the write-ahead log past the last one.
    pub(crate) end: String,
    /// Bytes of write-ahead log that the application wrote.
    pub(crate) wal: u64,
}

/// `pg_recvlogical` over the backlog.
pub(crate) struct Drained {
    pub(crate) took: Duration,
    /// Of the server.
    pub(crate) cpu: Duration,
}

/// The running daemon; gone when dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Portal {
    pub(crate) fn start(endpoint: &str) -> Result<Self> {
        let server = Throwaway::start(&["max_wal_size = 4GB"])?;
        server.psql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        server.psql(DATABASE, TABLES)?;
        server.psql(DATABASE, ROWS)?;
        let directory = server.socket_directory();
        let (config, views) = (directory.join("portalhook.toml"), directory.join("views.sql"));
        let text = format!(
            "[database]\nurl = \"{}\"\n[deliver]\nallow_networks = [\"127.0.0.0/8\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            server.url("portalhook", DATABASE)
        );
        fs::write(&config, text)?;
        fs::write(&views, VIEWS)?;
        let portal = Self { config: config.display().to_string(), server };
        let output = portal
            .daemon()
            .args(["setup", "--views", &views.display().to_string(), "--admin-url", &portal.admin_url()])
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        portal.sql(&format!(
            "SELECT pg_create_logical_replication_slot('{SECOND_SLOT}', 'pgoutput');
             INSERT INTO portalhook.endpoints (url) VALUES ('{endpoint}');"
        ))?;
        Ok(portal)
    }

    fn daemon(&self) -> Command {
        // Two builds are compared with one harness.
        let other = std::env::var_os("BENCH_BINARY");
        let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_portalhook").into()));
        for (name, _) in std::env::vars_os() {
            // Settings of the surrounding shell are not the bench's.
            if name.to_string_lossy().starts_with("PORTALHOOK_") && name != "PORTALHOOK_LOG" {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).args(["--config", &self.config]);
        command
    }

    pub(crate) fn run(&self) -> Result<Daemon> {
        Ok(Daemon(self.daemon().arg("run").stdout(Stdio::null()).spawn()?))
    }

    pub(crate) fn admin_url(&self) -> String {
        self.server.url(Throwaway::SUPERUSER, DATABASE)
    }

    pub(crate) fn sql(&self, script: &str) -> Result<String> {
        Ok(self.server.psql(DATABASE, script)?.trim().to_owned())
    }

    /// Commits `count` votes, a transaction each, by users and for posts as a few loud ones make them (Zipf).
    pub(crate) fn backlog(&self, count: usize) -> Result<Backlog> {
        let start = self.wal_position()?;
        let share = count / WRITERS;
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let own = if writer == 0 { count - share * (WRITERS - 1) } else { share };
                    let first = writer * count;
                    scope.spawn(move || {
                        self.sql(&format!(
                            "SET synchronous_commit = off;
                             DO $$ BEGIN FOR n IN 1..{own} LOOP
                                 INSERT INTO votes (id, post_id, user_id)
                                 VALUES ({first} + n, 1000 + exp(random() * ln(2000))::int, 1000 + exp(random() * ln(10000))::int);
                                 COMMIT;
                             END LOOP; END $$"
                        ))
                    })
                })
                .collect();
            writers.into_iter().try_for_each(|writer| match writer.join() {
                Ok(written) => written.map(drop),
                Err(_) => Err("a writer broke off".into()),
            })
        })?;
        let wal = self.wal_since(start)?;
        // Nothing may be left for the first reader alone to flush.
        let end = self.sql("SELECT pg_logical_emit_message(true, 'bench', 'end'); CHECKPOINT;")?;
        Ok(Backlog { end, wal })
    }

    /// Reads the backlog from an equal slot, to nowhere.
    pub(crate) fn drain(&self, server: &Server, end: &str) -> Result<Drained> {
        let before = server.usage()?;
        let began = Instant::now();
        let url = self.server.url(Throwaway::SUPERUSER, DATABASE);
        let output = self
            .server
            .command("pg_recvlogical")
            .args([
                "--start",
                "--no-loop",
                "--file=/dev/null",
                "--slot",
                SECOND_SLOT,
                "--endpos",
                end,
                "--dbname",
                &url,
            ])
            .args(["-o", "proto_version=1", "-o", "publication_names=portalhook", "-o", "messages=true"])
            .output()?;
        let took = began.elapsed();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        self.sql(&format!("SELECT pg_drop_replication_slot('{SECOND_SLOT}') FROM pg_sleep(0.1)"))?;
        Ok(Drained { took, cpu: server.usage()? - before })
    }

    pub(crate) fn wal_position(&self) -> Result<String> {
        self.sql("SELECT pg_current_wal_insert_lsn()")
    }

    /// Bytes since a position.
    pub(crate) fn wal_since(&self, position: String) -> Result<u64> {
        Ok(self.sql(&format!("SELECT (pg_current_wal_insert_lsn() - '{position}')::bigint"))?.parse()?)
    }

    /// The postmaster's process.
    pub(crate) fn postmaster(&self) -> Result<u32> {
        let file = fs::File::open(self.server.socket_directory().join("data/postmaster.pid"))?;
        let first = BufReader::new(file).lines().next().ok_or("postmaster.pid is empty")??;
        Ok(first.trim().parse()?)
    }

    /// The daemon's backends: name and process.
    pub(crate) fn backends(&self) -> Result<Vec<(String, u32)>> {
        let rows = self.sql(
            "SELECT application_name || CASE WHEN application_name LIKE '%deliver' THEN
                        CASE WHEN query ~* '^\\s*(COMMIT|BEGIN|INSERT)' THEN ' (outcomes)' ELSE ' (ledger)' END ELSE '' END, pid
             FROM pg_stat_activity WHERE application_name LIKE 'portalhook%' ORDER BY 1",
        )?;
        rows.lines()
            .map(|line| {
                let (name, id) = line.split_once('|').ok_or("a row without columns")?;
                Ok((name.to_owned(), id.parse()?))
            })
            .collect()
    }

    /// The last event's position.
    pub(crate) fn position(&self) -> Result<i64> {
        Ok(self.sql("SELECT position FROM portalhook.checkpoint")?.parse()?)
    }

    /// Bytes of events and what goes with them, indexes and all.
    pub(crate) fn ledger(&self) -> Result<i64> {
        let query = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                     WHERE relnamespace = 'portalhook_ledger'::regnamespace AND relkind = 'r'";
        Ok(self.sql(query)?.parse()?)
    }

    /// How many events there are after a position, if each has its own sequence number and a body where somebody wants it.
    pub(crate) fn count_since(&self, position: i64) -> Result<usize> {
        let query = format!(
            "SELECT count(*) FROM portalhook.events WHERE position > {position} AND event <> 'webhook.test'
             HAVING count(*) = max(position) - min(position) + 1
                AND count(*) = max(sequences[1]) - min(sequences[1]) + 1 AND count(DISTINCT sequences[1]) = count(*)
                AND count(DISTINCT id) = count(*) AND bool_and(body IS NOT NULL)"
        );
        Ok(self.sql(&query)?.parse().unwrap_or(0))
    }

    /// Waits until the daemon has taken in all that is committed by now.
    pub(crate) fn passed(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let marker = self.sql("SELECT portalhook.test(1)")?;
        while self.sql(&format!("SELECT count(*) FROM portalhook.events WHERE entity = 'operation:{marker}'"))? == "0" {
            if began.elapsed() > limit {
                return Err("the daemon does not follow".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(began.elapsed())
    }

    /// Waits until the ledger knows the outcome of everything.
    pub(crate) fn wait_until_recorded(&self) -> Result<()> {
        let began = Instant::now();
        while self.sql("SELECT count(*) FROM portalhook.endpoint_health WHERE waiting > 0")? != "0" {
            if began.elapsed() > LIMIT {
                return Err("the outcomes are not recorded".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
