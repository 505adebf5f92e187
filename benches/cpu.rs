//! CPU time and memory of processes, from /proc (proc(5)).

use std::fs;
use std::time::Duration;

use crate::Result;
use crate::portal::Portal;

/// USER_HZ: what /proc counts in, on every architecture that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// One process.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn of(id: u32) -> Self {
        Self(id)
    }

    /// User and system time so far.
    pub(crate) fn usage(self) -> Result<Duration> {
        let fields = self.stat()?;
        Ok(ticks(&fields, &[UTIME, STIME]))
    }

    /// The largest resident memory so far, in bytes.
    pub(crate) fn peak_memory(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc")?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes * 1024)
    }

    /// The fields behind the command's name, which may hold anything.
    fn stat(self) -> Result<Vec<u64>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        let (_, rest) = stat.rsplit_once(')').ok_or("/proc/…/stat has no name")?;
        Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
    }
}

// Places in `stat` behind the name.
const PARENT: usize = 1;
const UTIME: usize = 11;
const STIME: usize = 12;
const CHILDREN_UTIME: usize = 13;
const CHILDREN_STIME: usize = 14;

fn ticks(fields: &[u64], which: &[usize]) -> Duration {
    let ticks: u64 = which.iter().filter_map(|&index| fields.get(index)).sum();
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// A PostgreSQL server: the postmaster, its children, and those that have ended.
pub(crate) struct Server(Process);

impl Server {
    pub(crate) fn of(portal: &Portal) -> Result<Self> {
        Ok(Self(Process::of(portal.postmaster()?)))
    }

    pub(crate) fn usage(&self) -> Result<Duration> {
        let fields = self.0.stat()?;
        let mut total = ticks(&fields, &[UTIME, STIME, CHILDREN_UTIME, CHILDREN_STIME]);
        for entry in fs::read_dir("/proc")? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may be gone by the time we look.
            let Ok(fields) = Process::of(id).stat() else { continue };
            if fields.get(PARENT) == Some(&u64::from(self.0.0)) {
                total += ticks(&fields, &[UTIME, STIME]);
            }
        }
        Ok(total)
    }

    /// The daemon's backends by what they are for, since they began.
    pub(crate) fn by_part(&self, portal: &Portal) -> Result<Vec<(String, Duration)>> {
        let mut parts: Vec<(String, Duration)> = Vec::new();
        for (name, id) in portal.backends()? {
            let usage = Process::of(id).usage()?;
            match parts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += usage,
                None => parts.push((name, usage)),
            }
        }
        Ok(parts)
    }
}
