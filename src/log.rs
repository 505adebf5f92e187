//! What the program says about itself while it works: to stderr, as text, JSON, or for the systemd journal.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};

use crate::config::{Log, LogFormat};
use crate::error::{Error, Result};

/// Sets up logging for the rest of the process. `filter` (`PORTALHOOK_LOG`) is in the syntax of `RUST_LOG` and wins over the
/// level of the configuration.
pub(crate) fn install(log: &Log, filter: Option<&str>) -> Result<()> {
    let fixed = filter.is_some();
    let builder =
        tracing_subscriber::fmt().with_env_filter(env_filter(log.level, filter)?).with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).with_filter_reloading();
            keep(fixed, builder.reload_handle());
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            keep(fixed, builder.reload_handle());
            builder.try_init()
        }
        LogFormat::Journald => {
            let builder = builder.with_ansi(false).event_format(Journald::new()).with_filter_reloading();
            keep(fixed, builder.reload_handle());
            builder.try_init()
        }
    };
    installed.map_err(|error| Error::failed(format!("set up logging: {error}")))
}

/// Another level from here on. Without effect where `PORTALHOOK_LOG` says what is logged.
pub(crate) fn set_level(level: Level) -> Result<()> {
    FILTER.get().map_or(Ok(()), |set| set(env_filter(level, None)?))
}

/// Replaces the filter. The logger is one for the process, and its type depends on the format.
type Set = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

static FILTER: OnceLock<Set> = OnceLock::new();

fn keep<S: 'static>(fixed: bool, handle: Handle<EnvFilter, S>) {
    if !fixed {
        let gone = |error: reload::Error| Error::failed(format!("set the log's level: {error}"));
        // Set already: then logging was, too, and `install` fails.
        drop(FILTER.set(Box::new(move |filter| handle.reload(filter).map_err(gone))));
    }
}

/// Our own lines at `level`; from libraries only what is wrong.
fn env_filter(level: Level, filter: Option<&str>) -> Result<EnvFilter> {
    let others = level.min(Level::WARN);
    let text = filter.map_or_else(|| format!("{others},portalhook={level}"), str::to_owned);
    EnvFilter::try_new(&text).map_err(|error| Error::usage(format!("PORTALHOOK_LOG = {text:?}: {error}")))
}

/// A line without a time, with its priority in front (`sd-daemon(3)`): `<6>portalhook streaming from 0/1A2B3C`.
struct Journald {
    line: Format<Full, ()>,
}

impl Journald {
    fn new() -> Self {
        Self { line: Format::default().without_time().with_level(false).with_target(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.line.format_event(context, writer, event)
    }
}

/// syslog's priorities: 3 error, 4 warning, 6 informational, 7 debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Journald::new())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(slot = "portalhook_5", "streaming");
            tracing::warn!("late");
            tracing::error!("gone");
        });
        let text = String::from_utf8(captured.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert_eq!(text, "<6>streaming slot=\"portalhook_5\"\n<4>late\n<3>gone\n");
    }

    #[test]
    fn libraries_speak_only_when_something_is_wrong() {
        assert_eq!(env_filter(Level::DEBUG, None).expect("valid").to_string(), "portalhook=debug,warn");
        assert_eq!(env_filter(Level::ERROR, None).expect("valid").to_string(), "portalhook=error,error");
        assert_eq!(env_filter(Level::ERROR, Some("trace")).expect("valid").to_string(), "trace");
        assert!(env_filter(Level::INFO, Some("portalhook=loud")).is_err());
    }
}
