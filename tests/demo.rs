//! `portalhook demo` shows what it promises, and leaves nothing behind however it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::process::{Process, portalhook};

/// A demo whose every file is in one directory, which the server's user can enter.
fn demo(directory: &Path) -> Command {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("set the mode");
    let mut command = portalhook();
    command.arg("demo").env("TMPDIR", directory);
    command
}

#[track_caller]
fn leaves_nothing_behind(directory: &Path) {
    let files: Vec<_> = std::fs::read_dir(directory).expect("list the directory").collect();
    assert!(files.is_empty(), "{files:?}");
    let named = directory.to_str().expect("UTF-8").as_bytes();
    for process in std::fs::read_dir("/proc").expect("list the processes").flatten() {
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        let found = line.windows(named.len()).any(|window| window == named);
        assert!(!found, "still running: {}", String::from_utf8_lossy(&line));
    }
}

#[test]
fn the_demo_shows_all_seven_events_verified() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut demo = Process::start(demo(directory.path()));
    let status = demo.wait_for_end();
    let said = demo.said();
    assert!(status.success(), "{status}: {said:#?}");
    for event in [
        "post.created",
        "post.status_changed",
        "post.deleted",
        "vote.created",
        "vote.deleted",
        "comment.created",
        "comment.deleted",
    ] {
        let arrived = said.iter().any(|line| line.contains(event) && line.contains("verified"));
        assert!(arrived, "{event}: {said:#?}");
    }
    leaves_nothing_behind(directory.path());
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut demo = Process::start(demo(directory.path()));
    demo.wait_for_line("portalhook run");
    assert_eq!(demo.interrupt().code(), Some(1));
    leaves_nothing_behind(directory.path());
}
