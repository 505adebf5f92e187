//! The configuration: read as written (`written`), then converted once into what is valid, before anything starts.

mod keys;
mod units;
mod written;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub(crate) use self::units::duration;
use self::written::Written;
use crate::error::{Error, Result};

/// Read where nobody names another; may be missing.
pub(crate) const DEFAULT_FILE: &str = "/etc/portalhook/portalhook.toml";

/// Every setting, valid, with defaults for what nobody wrote.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) database: Database,
    pub(crate) capture: Capture,
    pub(crate) mapping: Mapping,
    pub(crate) mirror: Mirror,
    pub(crate) deliver: Deliver,
    pub(crate) ledger: Ledger,
    pub(crate) admin: Admin,
    pub(crate) log: Log,
}

#[derive(Clone, Debug)]
pub(crate) struct Database {
    url: Option<DatabaseUrl>,
}

impl Database {
    /// The database and the role that `run` works as; an error for commands that need it when it is not set.
    pub(crate) fn url(&self) -> Result<&DatabaseUrl> {
        self.url.as_ref().ok_or_else(|| {
            Error::usage(
                "database.url is not set: write it into the configuration file, \
                 or set PORTALHOOK_DATABASE__URL, or give --database-url postgres://USER@HOST/DATABASE",
            )
        })
    }
}

/// A connection URL; may hold a password, so it is printed only by who connects.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Takes a `postgres://` or `postgresql://` URL; what it says beyond the scheme is read where sessions are made.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"))?;
        (!rest.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The URL with its password.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(not shown)")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Capture {
    /// `None`: `portalhook_<database oid>`.
    pub(crate) slot: Option<String>,
    pub(crate) publication: String,
    /// Bytes of WAL that the slot may hold back before it is given up.
    pub(crate) max_wal: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) cascades: Cascades,
}

/// What becomes of the votes and comments that go with their post in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cascades {
    /// Each gives its own event.
    Emit,
    /// They give none.
    Fold,
}

#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    /// Bytes that the cache of evaluated posts, users and portals may take.
    pub(crate) cache: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Deliver {
    /// For one attempt, from connecting to the last byte read.
    pub(crate) timeout: Duration,
    /// The waits before the second, third, … attempt; as many retries as there are entries.
    pub(crate) retries: Vec<Duration>,
    /// Networks that are refused by default but that endpoints may live in here.
    pub(crate) allow_networks: Vec<IpNet>,
    /// So many deliveries in a row that used up their retries disable the endpoint.
    pub(crate) disable_after: u32,
    /// Requests under way at one time to one endpoint that has no limit of its own.
    pub(crate) max_in_flight: usize,
    /// Bytes of a body; a larger one is a visible failure.
    pub(crate) max_body: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// How long events and outcomes are kept; days are dropped whole.
    pub(crate) retention: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) listen: SocketAddr,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub(crate) level: tracing::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
    /// For a systemd service: text without a time (the journal has its own), each line with its priority (`sd-daemon(3)`).
    Journald,
}

/// Reads the configuration: `file` must exist if it was named; otherwise the default file is read where it exists.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Config> {
    let default = PathBuf::from(DEFAULT_FILE);
    let file = file.or_else(|| default.exists().then_some(default.as_path()));
    Config::from_written(&Written::collect(file, variables, flags)?)
}

impl Config {
    fn from_written(written: &Written) -> Result<Self> {
        let read = Reader(written);
        check_capture_mode(written)?;
        Ok(Self {
            database: Database { url: read.text("database.url", DatabaseUrl::parse)? },
            capture: Capture {
                slot: read.text("capture.slot", slot_name)?,
                publication: read.text("capture.publication", identifier)?.unwrap_or_else(|| "portalhook".to_owned()),
                max_wal: read.text("capture.max_wal", units::size)?.unwrap_or(8 << 30),
            },
            mapping: Mapping { cascades: read.text("mapping.cascades", cascades)?.unwrap_or(Cascades::Emit) },
            mirror: Mirror { cache: read.text("mirror.cache", units::size)?.unwrap_or(32 << 20) },
            deliver: Deliver {
                timeout: read.text("deliver.timeout", above_zero)?.unwrap_or(Duration::from_secs(15)),
                retries: read.list("deliver.retries", units::duration)?.unwrap_or_else(default_retries),
                allow_networks: read.list("deliver.allow_networks", |text| text.parse().ok())?.unwrap_or_default(),
                disable_after: read.count("deliver.disable_after")?.unwrap_or(5),
                max_in_flight: read.count("deliver.max_in_flight")?.unwrap_or(16),
                max_body: read.text("deliver.max_body", units::size)?.unwrap_or(1 << 20),
            },
            ledger: Ledger {
                retention: read.text("ledger.retention", above_zero)?.unwrap_or(Duration::from_secs(7 * 24 * 60 * 60)),
            },
            admin: Admin {
                listen: read
                    .text("admin.listen", |text| text.parse().ok())?
                    .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9464))),
            },
            log: Log {
                format: read.text("log.format", log_format)?.unwrap_or(LogFormat::Text),
                level: read.text("log.level", log_level)?.unwrap_or(tracing::Level::INFO),
            },
        })
    }
}

/// Converts what was written; a value without a meaning is an error that says what is allowed.
struct Reader<'a>(&'a Written);

impl Reader<'_> {
    fn text<T>(&self, name: &str, meaning: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        self.0.text(name).map(|text| meaning(text).ok_or_else(|| self.0.refuse(name))).transpose()
    }

    fn list<T>(&self, name: &str, meaning: impl Fn(&str) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(items) = self.0.list(name) else { return Ok(None) };
        items.into_iter().map(meaning).collect::<Option<Vec<T>>>().map(Some).ok_or_else(|| self.0.refuse(name))
    }

    /// At least 1.
    fn count<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>> {
        let Some(number) = self.0.count(name) else { return Ok(None) };
        let valid = T::try_from(number).ok().filter(|_| number >= 1);
        valid.map(Some).ok_or_else(|| self.0.refuse(name))
    }
}

/// Both modes that there are read the write-ahead log.
fn check_capture_mode(written: &Written) -> Result<()> {
    match written.text("capture.mode") {
        None | Some("auto" | "wal") => Ok(()),
        Some("trigger") => {
            Err(Error::usage("capture.mode = \"trigger\" is not available yet: use \"auto\" or \"wal\""))
        }
        Some(_) => Err(written.refuse("capture.mode")),
    }
}

/// PostgreSQL's rule for the names of replication slots (manual, "Replication Slots").
fn slot_name(text: &str) -> Option<String> {
    let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    (!text.is_empty() && text.len() <= 63 && text.bytes().all(valid)).then(|| text.to_owned())
}

fn identifier(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= 63 && !text.contains('\0')).then(|| text.to_owned())
}

fn above_zero(text: &str) -> Option<Duration> {
    units::duration(text).filter(|duration| !duration.is_zero())
}

fn cascades(text: &str) -> Option<Cascades> {
    match text {
        "emit" => Some(Cascades::Emit),
        "fold" => Some(Cascades::Fold),
        _ => None,
    }
}

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        "journald" => Some(LogFormat::Journald),
        _ => None,
    }
}

fn log_level(text: &str) -> Option<tracing::Level> {
    match text {
        "error" | "warn" | "info" | "debug" | "trace" => text.parse().ok(),
        _ => None,
    }
}

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: ten attempts over three days.
fn default_retries() -> Vec<Duration> {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]
        .map(Duration::from_secs)
        .to_vec()
}

#[cfg(test)]
mod tests;
