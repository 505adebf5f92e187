//! portalhook: committed changes of a feedback portal's PostgreSQL as signed webhooks, exact at any lag.

mod admin;
mod advance;
mod capture;
mod change;
mod cli;
mod config;
mod daemon;
mod deliver;
mod doctor;
mod error;
mod event;
mod failpoint;
mod figures;
mod ledger;
mod log;
mod lsn;
mod mapping;
mod mirror;
mod pgoutput;
mod route;
mod session;
mod setup;
mod systemd;
mod throwaway;
mod xid;

use std::process::ExitCode;

use crate::error::{Context as _, Result};

/// A quarter of a busy daemon's time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => {
            exit.print();
            return ExitCode::from(exit.code);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // Debug is the whole chain on one line.
            eprintln!("portalhook: {error:?}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: cli::Cli) -> Result<ExitCode> {
    let config = cli.settings.read()?;
    log::install(&config.log, std::env::var("PORTALHOOK_LOG").ok().as_deref())?;
    tokio::runtime::Runtime::new().context("start the runtime")?.block_on(cli.command.run(config, cli.settings))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_throwaway_server_answers_and_goes() {
        let server = crate::throwaway::Throwaway::start(&[]).expect("start");
        assert_eq!(server.psql("postgres", "SELECT 1 + 1").expect("psql").trim(), "2");
        let directory = server.socket_directory().to_owned();
        drop(server);
        assert!(!directory.exists());
    }
}
