//! One of our own commands as a process of its own: as an operator starts it, with its configuration and nothing else of ours.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::{Context as _, Error, Result};

/// How long a process may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running command. Killed, and waited for, when dropped: nothing of it is left when `drop` returns.
pub(super) struct Child {
    name: String,
    process: std::process::Child,
    /// What it says; closed when it ends.
    lines: mpsc::UnboundedReceiver<String>,
    /// What it has said, for when it fails.
    said: Vec<String>,
}

impl Child {
    pub(super) fn start(config: &Path, arguments: &[&str]) -> Result<Self> {
        let name = arguments.first().copied().unwrap_or_default().to_owned();
        let mut command = Command::new(std::env::current_exe().context("find our own program")?);
        for (variable, _) in std::env::vars_os() {
            // Settings of the surrounding shell are not the demo's.
            if variable.to_string_lossy().starts_with("PORTALHOOK_") && variable != "PORTALHOOK_LOG" {
                command.env_remove(variable);
            }
        }
        command.arg("--config").arg(config).args(arguments);
        // In a process group of its own: Ctrl-C reaches the demo alone, which then ends its processes in order.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut process = command.spawn().context(format!("start portalhook {name}"))?;
        let (sender, lines) = mpsc::unbounded_channel();
        if let Some(pipe) = process.stdout.take() {
            forward(pipe, sender.clone());
        }
        if let Some(pipe) = process.stderr.take() {
            forward(pipe, sender);
        }
        Ok(Self { name, process, lines, said: Vec::new() })
    }

    /// Waits for a line with `text` in it; an error with what was said if the process ends before.
    pub(super) async fn line_with(&mut self, text: &str) -> Result<String> {
        while let Some(line) = self.lines.recv().await {
            self.said.push(line.clone());
            if line.contains(text) {
                return Ok(line);
            }
        }
        Err(self.failure("ended too early"))
    }

    /// Waits until the process has ended by itself, with success.
    pub(super) async fn finish(mut self) -> Result<()> {
        while let Some(line) = self.lines.recv().await {
            self.said.push(line);
        }
        // Both pipes are closed: it is ending, and waiting takes no time.
        let status = self.process.wait().context(format!("wait for portalhook {}", self.name))?;
        if status.success() { Ok(()) } else { Err(self.failure(&status.to_string())) }
    }

    /// Asks the process to end (SIGTERM) and waits until it has, with success.
    pub(super) async fn end(self) -> Result<()> {
        let name = self.name.clone();
        let kill = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        kill.context(format!("end portalhook {name}"))?;
        let ended = tokio::time::timeout(PATIENCE, self.finish()).await;
        ended.map_err(|_| Error::failed(format!("portalhook {name} did not end when asked to")))?
    }

    fn failure(&self, what: &str) -> Error {
        Error::failed(format!("portalhook {}: {what}; it said: {}", self.name, self.said.join(" | ")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that is gone.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Passes lines on until the pipe is closed. A thread ends with its pipe, and the pipe with its process.
fn forward(pipe: impl Read + Send + 'static, lines: mpsc::UnboundedSender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}
