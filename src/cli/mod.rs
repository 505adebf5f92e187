//! The command line: what the commands are called, what they say about themselves, and how they end.

mod check;
mod database;
mod demo;
mod listen;
mod redeliver;
mod replay;
mod setup;
mod signals;
mod status;
mod table;
mod test;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::signals::shutdown;
use crate::config::{self, Config};
use crate::daemon;
use crate::error::Result;

/// Turns committed changes of a feedback portal's PostgreSQL into signed webhooks.
///
/// `portalhook demo` shows everything on a throw-away PostgreSQL.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Settings come from the configuration file, then from variables (PORTALHOOK_DATABASE__URL for database.url),
then from flags; later wins. PORTALHOOK_LOG filters the log (portalhook=debug).

Exit codes: 0 done, 64 wrong usage or configuration, 69 the database cannot be reached, 1 anything else.";

/// Where settings come from, the same for every command.
#[derive(Args)]
pub(crate) struct Settings {
    /// The configuration file [default: /etc/portalhook/portalhook.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database, and the role that the daemon works as: short for --set database.url=URL
    ///
    /// Other users of this machine can read a password given here; better put it into the configuration file.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Sets one setting, such as deliver.timeout=5s; lists are comma-separated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
}

impl Settings {
    /// The configuration as it is now: file, variables, flags.
    pub(crate) fn read(&self) -> Result<Config> {
        config::load(self.config.as_deref(), std::env::vars(), &self.flags())
    }

    /// The settings given as flags.
    pub(crate) fn flags(&self) -> Vec<(String, String)> {
        let mut flags = self.set.clone();
        flags.extend(self.database_url.iter().map(|url| ("database.url".to_owned(), url.clone())));
        flags
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as deliver.timeout=5s")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prepare a database: role, schemas, mapping, mirror, publication, slot; safe to run again
    Setup(setup::Setup),
    Check(check::Options),
    /// Run the daemon: read the stream, record events, deliver them
    Run,
    Status(status::Options),
    Listen(listen::Options),
    Test(test::Options),
    Redeliver(redeliver::Options),
    Replay(replay::Options),
    /// Show everything on a throw-away PostgreSQL: setup, run, and all seven events arriving and verifying
    ///
    /// Needs an installed PostgreSQL server, no configuration and no rights. Ends by itself within a minute and leaves
    /// nothing behind.
    Demo,
}

impl Command {
    /// Runs the command; the exit code is for what is no error.
    /// `settings` is where `config` came from.
    pub(crate) async fn run(self, config: Config, settings: Settings) -> Result<ExitCode> {
        match self {
            Self::Setup(setup) => {
                let url = config.database.url()?.expose().to_owned();
                setup.run(url, config.capture.clone()).await?;
            }
            Self::Run => Box::pin(daemon::run(config, control(settings)?)).await?,
            Self::Check(options) => return check::run(options, &config).await,
            Self::Status(options) => status::run(&options, &config).await?,
            Self::Test(options) => return test::run(options, &config).await,
            Self::Redeliver(options) => redeliver::run(options, &config).await?,
            Self::Replay(options) => replay::run(options, &config).await?,
            Self::Listen(options) => return listen::run(options, shutdown()?).await,
            Self::Demo => demo::run(shutdown()?).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The daemon's way out, and its way to another configuration.
fn control(settings: Settings) -> Result<daemon::Control> {
    let signals::Service { shutdown, reload } = signals::service()?;
    Ok(daemon::Control { shutdown, reload, read: Box::new(move || settings.read()) })
}

/// How a command line ended before a command began: what to print, and the exit code.
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) error: clap::Error,
}

/// Reads the command line; `--help`, `--version` and wrong usage end here.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(arguments).map_err(|error| Exit { code: if error.use_stderr() { 64 } else { 0 }, error })
}

impl Exit {
    /// Help goes to stdout as it is; wrong usage says why on one line.
    pub(crate) fn print(&self) {
        use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
        if self.code == 0 || self.error.kind() == NoCommand {
            // Nobody is left to tell when the terminal is gone.
            drop(self.error.print());
        } else {
            eprintln!("portalhook: {} (see portalhook --help)", one_line(&self.error.to_string()));
        }
    }
}

/// clap's message without its usage: "unexpected argument '--foo' found; tip: …".
fn one_line(message: &str) -> String {
    let said = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said = said.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let mut text = String::new();
    for line in said {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        let between = match text.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        text.push_str(between);
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Cli, Exit> {
        parse(std::iter::once("portalhook").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_64_and_help_0() {
        for (arguments, code) in [
            (&["--help"][..], 0),
            (&["--version"], 0),
            (&["demo", "--help"], 0),
            (&[], 64),
            (&["dance"], 64),
            (&["demo", "--loud"], 64),
            (&["demo", "--set", "deliver.timeout"], 64),
        ] {
            assert_eq!(parsed(arguments).err().map(|exit| exit.code), Some(code), "{arguments:?}");
        }
    }

    #[test]
    fn wrong_usage_is_told_on_one_line() {
        for (arguments, start) in [
            (&["dmeo"][..], "unrecognized subcommand 'dmeo'; tip: a similar subcommand exists: 'demo'"),
            (&["demo", "--loud"], "unexpected argument '--loud' found"),
            (&["demo", "--set", "x"], "invalid value 'x' for '--set <KEY=VALUE>': expected KEY=VALUE"),
        ] {
            let Err(exit) = parsed(arguments) else { panic!("{arguments:?} is accepted") };
            let line = one_line(&exit.error.to_string());
            assert!(line.starts_with(start) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        let Ok(cli) = parsed(&["--set", "log.level=debug", "demo", "--database-url", "postgres://a@b/c"]) else {
            panic!("refused");
        };
        assert_eq!(
            cli.settings.flags(),
            [("log.level", "debug"), ("database.url", "postgres://a@b/c")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }
}
