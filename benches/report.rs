//! What came of it, for a person to read.

use std::time::Duration;

use crate::bare::Bare;
use crate::portal::Drained;
use crate::steady::Latency;

/// Of the bare HTTP loop, at least.
const SHARE: f64 = 0.25;
/// Bytes of resident memory, at most.
pub(crate) const MEMORY: u64 = 96 << 20;

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) count: usize,
    pub(crate) drained: Drained,
    /// From the daemon's start to the last arrival.
    pub(crate) took: Duration,
    /// Until the last arrival.
    pub(crate) daemon_cpu: Duration,
    /// Until the last outcome was recorded.
    pub(crate) daemon_cpu_recorded: Duration,
    pub(crate) memory: u64,
    pub(crate) server_cpu: Duration,
    /// The daemon's backends.
    pub(crate) parts: Vec<(String, Duration)>,
    pub(crate) wal: u64,
    pub(crate) backlog_wal: u64,
    pub(crate) bare: Bare,
    pub(crate) latency: Latency,
}

impl Report {
    /// Prints the table; false where a limit is missed.
    pub(crate) fn print(&self) -> bool {
        let rate = |took: Duration| self.count as f64 / took.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.count as f64;
        let (daemon, bare, drained) = (rate(self.took), rate(self.bare.took), rate(self.drained.took));
        let share = daemon / bare;
        println!("\n{} one-vote transactions, one endpoint", self.count);
        println!("\n                                          per second   CPU µs each");
        println!("  bare HTTP loop (client)                 {bare:>10.0}   {:>11.1}", each(self.bare.cpu));
        println!("  pg_recvlogical (server)                 {drained:>10.0}   {:>11.1}", each(self.drained.cpu));
        println!("  portalhook                              {daemon:>10.0}   {:>11.1}", each(self.daemon_cpu));
        println!("    PostgreSQL under it                                {:>11.1}", each(self.server_cpu));
        for (part, cpu) in &self.parts {
            println!("      {part:<49}{:>11.1}", each(*cpu));
        }
        println!("    daemon until every outcome was recorded            {:>11.1}", each(self.daemon_cpu_recorded));
        println!();
        let shared = verdict(share >= SHARE);
        println!(
            "  portalhook / bare HTTP loop   {:>9.1} %    at least {:.0} %: {shared}",
            share * 100.0,
            SHARE * 100.0
        );
        println!("  portalhook / pg_recvlogical   {:>9.1} %", daemon / drained * 100.0);
        let held = verdict(self.memory <= MEMORY);
        println!(
            "  peak resident memory          {:>9.1} MiB  at most {:.0} MiB: {held}",
            mebibytes(self.memory),
            mebibytes(MEMORY)
        );
        println!(
            "  WAL per event                 {:>9.0} B    (the application's own: {} B)",
            self.wal as f64 / self.count as f64,
            self.backlog_wal / self.count as u64
        );
        let Latency { p50, p99, longest } = self.latency;
        println!("  row to receiver at 200/s      p50 {p50:.1?}, p99 {p99:.1?}, longest {longest:.1?}");
        share >= SHARE && self.memory <= MEMORY
    }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
