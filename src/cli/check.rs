//! `portalhook check`: every precondition on one line, with the fix.

use std::process::ExitCode;

use clap::Args;

use super::database::say;
use crate::config::Config;
use crate::doctor::{self, Verdict};
use crate::error::Result;

/// Check every precondition and say how to mend what is wrong
///
/// One line each: pass, warn or fail, what was looked at, and after — fix: what to type. Changes nothing. Run it after setup,
/// after migrations of the application, and when something does not arrive.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 nothing fails (there may be warnings), 1 something fails, 64 wrong usage, 69 no database.")]
pub(crate) struct Options {
    /// The same database with the owner's rights, to check the mapping itself too (the daemon's role may not create the views
    /// that this takes for a moment)
    #[arg(long, value_name = "URL", env = "PORTALHOOK_ADMIN_URL", hide_env_values = true)]
    admin_url: Option<String>,
}

/// Checks and prints as it goes.
pub(crate) async fn run(options: Options, config: &Config) -> Result<ExitCode> {
    let findings = doctor::examine(config, options.admin_url.as_deref()).await?;
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    for finding in &findings {
        say(&finding.to_string());
    }
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    say(&format!("passed: {}, warnings: {warnings}, failures: {failures}", count(Verdict::Pass)));
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
