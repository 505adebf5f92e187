//! A database for each test: on one server that the running tests share, or on a server of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

#[path = "../../src/throwaway.rs"]
mod throwaway;

pub(crate) use throwaway::{Throwaway, free_port};

/// The server that tests share. A static is never dropped, so it only points at the server: the last test that uses it
/// stops it, and should another test come after that, it starts a new one.
static SHARED: Mutex<Weak<Throwaway>> = Mutex::new(Weak::new());

/// An empty database, and the name of an unprivileged role that exists for it alone (roles belong to the whole server).
#[derive(Clone)]
pub(crate) struct Database {
    pub(super) server: Arc<Throwaway>,
    pub(super) name: String,
}

impl Database {
    /// On the server that tests share.
    pub(crate) fn create() -> Self {
        let server = {
            // A test that panicked while it held the lock left the pointer whole.
            let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let settings = ["shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = top"];
                let server = Arc::new(Throwaway::start(&settings).expect("start PostgreSQL"));
                *shared = Arc::downgrade(&server);
                server
            })
        };
        Self::on(server)
    }

    /// On a server of its own, with further settings.
    pub(crate) fn on_its_own_server(settings: &[&str]) -> Self {
        Self::on(Arc::new(Throwaway::start(settings).expect("start PostgreSQL")))
    }

    /// Restarts a server of its own, for settings that wait for it.
    pub(crate) fn restart(&mut self) {
        let server = Arc::get_mut(&mut self.server).expect("a server of its own");
        server.stop("fast").expect("stop PostgreSQL");
        server.launch().expect("start PostgreSQL");
    }

    fn on(server: Arc<Throwaway>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let database = Self { server, name: format!("portal_{}", NUMBER.fetch_add(1, Ordering::Relaxed)) };
        database.server.psql("postgres", &format!("CREATE DATABASE {}", database.name)).expect("create the database");
        database
    }

    /// Runs a script as psql does, statement by statement, as the owner of everything; panics with psql's message.
    #[track_caller]
    pub(crate) fn sql(&self, script: &str) -> String {
        match self.try_sql(script) {
            Ok(output) => output.trim_end().to_owned(),
            Err(error) => panic!("{error}\nin: {script}"),
        }
    }

    /// The same where the server may go away.
    pub(crate) fn try_sql(&self, script: &str) -> std::io::Result<String> {
        self.server.psql(&self.name, script)
    }

    /// The error with which a script ends.
    #[track_caller]
    pub(crate) fn sql_error(&self, script: &str) -> String {
        match self.try_sql(script) {
            Ok(output) => panic!("no error but {output:?} from: {script}"),
            Err(error) => error.to_string(),
        }
    }

    /// Crashes the server, which loses what it has not flushed, and waits until it has recovered. Only for a server of one's
    /// own.
    #[track_caller]
    pub(crate) fn crash(&self) {
        let directory = self.server.socket_directory();
        let mut command = self.server.command("pg_ctl");
        command.args(["restart", "--wait", "--silent", "--mode", "immediate", "--pgdata"]).arg(directory.join("data"));
        command.arg("--log").arg(directory.join("postgresql.log"));
        // The server keeps its standard streams: with pipes of ours there, nobody would see the end of pg_ctl.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("run pg_ctl").success(), "the server recovers");
    }

    /// The role that the daemon works as; setup creates it.
    pub(crate) fn role(&self) -> String {
        format!("{}_hook", self.name)
    }

    pub(crate) fn owner_url(&self) -> String {
        self.server.url(Throwaway::SUPERUSER, &self.name)
    }

    pub(crate) fn role_url(&self) -> String {
        self.server.url(&self.role(), &self.name)
    }

    /// The role over the Unix socket.
    pub(crate) fn role_socket_url(&self) -> String {
        let directory = self.server.socket_directory().display().to_string().replace('/', "%2F");
        format!("postgres://{}@{directory}:{}/{}", self.role(), self.server.port(), self.name)
    }
}

/// A directory that the server's user can read, for files that its settings name.
pub(crate) fn readable_file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("write");
    for (path, mode) in [(directory.path(), 0o755), (path.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set the mode");
    }
    path
}
