//! One of our own commands as a process of its own: as an operator starts it, with its configuration and nothing else of ours.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::error::{Context as _, Error, Result};

/// How long a process may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running command; killed when dropped.
pub(super) struct Child {
    name: String,
    process: tokio::process::Child,
    lines: mpsc::UnboundedReceiver<String>,
    /// Everything that it has said, for when it fails.
    said: Vec<String>,
}

impl Child {
    pub(super) fn start(config: &Path, arguments: &[&str]) -> Result<Self> {
        let name = arguments.first().copied().unwrap_or_default().to_owned();
        let program = std::env::current_exe().context("find our own program")?;
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            // Settings of the surrounding shell are not the demo's.
            if variable.to_string_lossy().starts_with("PORTALHOOK_") && variable != "PORTALHOOK_LOG" {
                command.env_remove(variable);
            }
        }
        command.arg("--config").arg(config).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A process group of its own: Ctrl-C reaches the demo alone, which then ends its processes in order.
        command.process_group(0);
        let mut process = command.spawn().context(format!("start portalhook {name}"))?;
        let (sender, lines) = mpsc::unbounded_channel();
        if let Some(pipe) = process.stdout.take() {
            tokio::spawn(forward(pipe, sender.clone()));
        }
        if let Some(pipe) = process.stderr.take() {
            tokio::spawn(forward(pipe, sender));
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
        let status = self.process.wait().await.context(format!("wait for portalhook {}", self.name))?;
        if status.success() { Ok(()) } else { Err(self.failure(&status.to_string())) }
    }

    /// Asks the process to end (SIGTERM) and waits until it has, with success.
    pub(super) async fn end(self) -> Result<()> {
        let name = self.name.clone();
        if let Some(id) = self.process.id() {
            let kill = Command::new("kill").args(["-TERM", &id.to_string()]).status().await;
            kill.context(format!("end portalhook {name}"))?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.finish()).await;
        ended.map_err(|_| Error::failed(format!("portalhook {name} did not end when asked to")))?
    }

    fn failure(&self, what: &str) -> Error {
        Error::failed(format!("portalhook {}: {what}; it said: {}", self.name, self.said.join(" | ")))
    }
}

async fn forward(pipe: impl tokio::io::AsyncRead + Unpin, lines: mpsc::UnboundedSender<String>) {
    let mut reader = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        if lines.send(line).is_err() {
            return;
        }
    }
}
