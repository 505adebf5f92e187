//! A PostgreSQL server that lives as long as a value: what `demo` and the tests run on.
//!
//! It listens on a free loopback port and on a Unix socket in its own directory, writes WAL for logical decoding, trades
//! durability for speed (unless asked), and is stopped and removed on drop. PostgreSQL refuses to run as root: there the
//! server's programs run as the `postgres` user that the system's package creates.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A running server and its directory.
pub(crate) struct Throwaway {
    pub(crate) directory: PathBuf,
    pub(crate) programs: PathBuf,
    pub(crate) number: u32,
    pub(crate) port: u16,
    pub(crate) running: bool,
}

impl Throwaway {
    /// The superuser of the server; connections over loopback and the socket need no password.
    pub(crate) const SUPERUSER: &str = "admin";

    /// A directory and a port, and nothing there yet.
    fn prepare() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("portalhook-{}-{number}", std::process::id()));
        let server = Self { directory, programs: programs()?, number, port: free_port(number)?, running: false };
        fs::create_dir_all(&server.directory)?;
        if is_root() {
            done(Command::new("chown").arg("postgres").arg(&server.directory).output()?)?;
        }
        Ok(server)
    }

    /// Creates and starts a server; `settings` are lines of postgresql.conf that go after ours.
    pub(crate) fn start(settings: &[&str]) -> io::Result<Self> {
        let mut server = Self::prepare()?;
        done(
            server
                .command("initdb")
                .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"])
                .arg(format!("--username={}", Self::SUPERUSER))
                .arg("--pgdata")
                .arg(server.data())
                .output()?,
        )?;
        // Meanwhile somebody else may have found the same one.
        server.port = free_port(server.number)?;
        let mut lines = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {}", server.port),
            format!("unix_socket_directories = '{}'", server.directory.display()),
            "wal_level = logical".to_owned(),
            "max_replication_slots = 200".to_owned(),
            "max_wal_senders = 100".to_owned(),
            "max_connections = 200".to_owned(),
            "fsync = off".to_owned(),
            "log_min_messages = warning".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        // The data directory belongs to the server's user: root may write there, and an ordinary user is that user.
        let file = server.data().join("postgresql.conf");
        let initial = fs::read_to_string(&file)?;
        fs::write(&file, format!("{initial}\n{}\n", lines.join("\n")))?;
        server.launch()?;
        Ok(server)
    }

    /// Starts the server again after `stop` or `kill`.
    pub(crate) fn launch(&mut self) -> io::Result<()> {
        // Said before it is so: a Ctrl-C ends pg_ctl, but not the server that it has just started.
        self.running = true;
        done(
            self.command("pg_ctl")
                .args(["start", "--wait", "--silent", "--pgdata"])
                .arg(self.data())
                .arg("--log")
                .arg(self.log())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .map(|status| Output {
                    status,
                    stdout: Vec::new(),
                    stderr: fs::read(self.log()).unwrap_or_default(),
                })?,
        )
    }

    /// Stops the server: `fast` disconnects clients and shuts down in order, `immediate` is a crash.
    pub(crate) fn stop(&mut self, mode: &str) -> io::Result<()> {
        self.running = false;
        done(
            self.command("pg_ctl")
                .args(["stop", "--wait", "--silent", "--mode", mode, "--pgdata"])
                .arg(self.data())
                .output()?,
        )
    }

    #[cfg(test)]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A streaming standby of this server, on a port of its own: a cold copy, which needs no more than the server's own
    /// programs.
    #[cfg(test)]
    #[allow(dead_code, reason = "the integration tests, which share this file, need none")]
    pub(crate) fn standby(&mut self) -> io::Result<Self> {
        let mut standby = Self::prepare()?;
        self.stop("fast")?;
        // Keeps the owner, where root copies.
        done(Command::new("cp").arg("-a").arg(self.data()).arg(standby.data()).output()?)?;
        self.launch()?;
        let file = standby.data().join("postgresql.conf");
        let lines = format!(
            "port = {}\nunix_socket_directories = '{}'\nhot_standby = on\nprimary_conninfo = '{}'\n",
            standby.port,
            standby.directory.display(),
            self.url(Self::SUPERUSER, "postgres")
        );
        fs::write(&file, fs::read_to_string(&file)? + &lines)?;
        fs::write(standby.data().join("standby.signal"), "")?;
        standby.launch()?;
        Ok(standby)
    }

    /// The server's log.
    #[cfg(test)]
    #[allow(dead_code, reason = "the integration tests, which share this file, need none")]
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The directory of the Unix socket.
    pub(crate) fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// A URL over loopback for a role and a database.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs psql as the superuser on a script, one statement after another, stopping at the first error.
    pub(crate) fn psql(&self, database: &str, script: &str) -> io::Result<String> {
        use io::Write as _;
        let mut child = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.url(Self::SUPERUSER, database))
            .args(["-f", "-"])
            .env("PGCLIENTENCODING", "UTF8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        done(output)?;
        Ok(text)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgresql.log")
    }

    /// One of the server's programs, run as a user that PostgreSQL accepts.
    pub(crate) fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.directory).env("LC_ALL", "C");
        command
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if self.running {
            drop(self.stop("immediate"));
        }
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// The newest installed server's programs: `PORTALHOOK_PG_BIN`, Debian's place, then PATH.
fn programs() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTALHOOK_PG_BIN") {
        return Ok(path.into());
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .filter(|(_, path)| path.join("initdb").exists())
        .collect();
    versions.sort();
    if let Some((_, path)) = versions.pop() {
        return Ok(path);
    }
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|folder| folder.join("initdb").exists()))
        .ok_or_else(|| {
            io::Error::other("no PostgreSQL server is installed (on Debian and Ubuntu: apt-get install postgresql)")
        })
}

/// Below the range from which the kernel takes ports for outgoing connections: from there one could be taken away
/// before the server listens, or while it is stopped. Processes begin their search at different places.
pub(crate) fn free_port(number: u32) -> io::Result<u16> {
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 22_000;
    let begin = std::process::id().wrapping_mul(7919).wrapping_add(number.wrapping_mul(37));
    (0..COUNT)
        .map(|step| FIRST + u16::try_from(begin.wrapping_add(step) % COUNT).unwrap_or_default())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| io::Error::other("no free port"))
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn done(output: Output) -> io::Result<()> {
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
    }
}
