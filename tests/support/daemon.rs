//! The built binary: a command that ends, and the daemon.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::LIMIT;

/// The binary, without what the caller's environment would tell it.
pub(crate) fn portalhook() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portalhook"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PORTALHOOK_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn output(arguments: &[&str]) -> Output {
    portalhook().args(arguments).output().expect("start portalhook")
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    /// Keeps every line until the process closes the pipe, which it does when it ends.
    fn keep(&self, pipe: impl std::io::Read) {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
            self.changed.notify_all();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// Waits until `enough` holds for the lines and whether the process has ended.
    #[track_caller]
    fn wait(&self, what: &str, enough: impl Fn(&[String], bool) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (lines, ended) = &*state;
            if enough(lines, *ended) {
                return;
            }
            let left = deadline.checked_duration_since(Instant::now());
            let (Some(left), false) = (left, *ended) else {
                panic!(
                    "the daemon {} before {what}; it said:\n{}",
                    if *ended { "ended" } else { "hangs" },
                    lines.join("\n")
                );
            };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running `portalhook run`; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Log>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    /// Starts the daemon without waiting for anything.
    pub(crate) fn spawn(config: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = portalhook()
            .arg("--config")
            .arg(config)
            .arg("run")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start portalhook");
        let log = Arc::new(Log::default());
        let pipe = child.stderr.take().expect("a pipe was asked for");
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.keep(pipe)
        });
        Self { child, log, reader: Some(reader) }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, text: &str) {
        self.log.wait(&format!("it said {text:?}"), |lines, _| lines.iter().any(|line| line.contains(text)));
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        self.log.wait("it ended", |_, ended| ended);
        self.child.wait().expect("a status")
    }

    /// SIGTERM; the daemon must end with exit code 0.
    #[track_caller]
    pub(crate) fn terminate(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("run kill").success());
        let status = self.wait_for_end();
        assert!(status.success(), "{status} after SIGTERM; it said:\n{}", self.said().join("\n"));
    }

    /// SIGKILL. Returns once the process is gone.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Its log so far.
    pub(crate) fn said(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.said().join("\n"));
        }
    }
}
