//! The built binary: a command that ends, and one that runs on.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::LIMIT;

/// The binary, without what the caller's environment would tell it.
pub(crate) fn portalhook() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portalhook"));
    for (name, _) in std::env::vars_os() {
        // Limits may be lowered for all tests.
        if name.to_string_lossy().starts_with("PORTALHOOK_") && name != "PORTALHOOK_LIMITS" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, which must come in time.
#[track_caller]
pub(crate) fn output(arguments: &[&str]) -> Output {
    let mut command = portalhook();
    let child =
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start portalhook");
    let id = child.id().to_string();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    match told.recv_timeout(LIMIT) {
        Ok(output) => output.expect("a status"),
        Err(_) => {
            drop(Command::new("kill").args(["-KILL", &id]).status());
            panic!("portalhook {arguments:?} hangs");
        }
    }
}

/// Sends a signal to a process.
#[track_caller]
pub(crate) fn kill(signal: &str, process: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), process]).status();
    assert!(sent.expect("run kill").success(), "SIG{signal} to {process}");
}

/// What a process has said, on both of its pipes.
#[derive(Default)]
struct Log {
    state: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// A process closes both when it ends.
    closed_pipes: usize,
}

impl Said {
    fn ended(&self) -> bool {
        self.closed_pipes == 2
    }
}

impl Log {
    fn state(&self) -> MutexGuard<'_, Said> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every line until the pipe is closed.
    fn keep(&self, pipe: impl std::io::Read) {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            self.state().lines.push(line);
            self.changed.notify_all();
        }
        self.state().closed_pipes += 1;
        self.changed.notify_all();
    }

    #[track_caller]
    fn wait(&self, what: &str, enough: impl Fn(&Said) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut said = self.state();
        while !enough(&said) {
            let left = deadline.checked_duration_since(Instant::now());
            let (Some(left), false) = (left, said.ended()) else {
                let how = if said.ended() { "ended" } else { "hangs" };
                panic!("the process {how} before {what}; it said:\n{}", said.lines.join("\n"));
            };
            said = self.changed.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running command, mostly `portalhook run`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a command without waiting for anything.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start portalhook");
        let log = Arc::new(Log::default());
        let (out, err) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (for_out, for_err) = (Arc::clone(&log), Arc::clone(&log));
        let readers =
            vec![std::thread::spawn(move || for_out.keep(out)), std::thread::spawn(move || for_err.keep(err))];
        Self { child, log, readers }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, text: &str) {
        self.log.wait(&format!("it said {text:?}"), |said| said.lines.iter().any(|line| line.contains(text)));
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        self.log.wait("it ended", Said::ended);
        self.child.wait().expect("a status")
    }

    /// SIGTERM; waits until the process has ended.
    #[track_caller]
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    /// SIGTERM, after which the daemon must end with exit code 0.
    #[track_caller]
    pub(crate) fn terminate(mut self) {
        let status = self.interrupt();
        assert!(status.success(), "{status} after SIGTERM; it said:\n{}", self.said().join("\n"));
    }

    /// Sends a signal, such as `STOP`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        kill(name, &self.child.id().to_string());
    }

    /// SIGKILL. Returns once the process is gone.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// What it has said so far.
    /// The most memory that it ever had resident, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.log.state().lines.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("portalhook said:\n{}", self.said().join("\n"));
        }
    }
}
