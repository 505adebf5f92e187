//! What setup says and does: every statement is either run or, with `--print-sql`, printed.

use std::fmt::Display;
use std::io::Write;

use tokio_postgres::Client;

use crate::error::{Context as _, Error, Result};

/// The report on standard output: one line for each step, or the SQL of all steps.
pub(crate) struct Script<'a> {
    out: &'a mut (dyn Write + Send),
    print: bool,
}

impl<'a> Script<'a> {
    pub(crate) fn new(out: &'a mut (dyn Write + Send), print: bool) -> Self {
        Self { out, print }
    }

    /// Whether statements are printed rather than run: nothing may be changed.
    pub(crate) fn prints(&self) -> bool {
        self.print
    }

    /// Reports a step, as `publication   portalhook: added public.posts`.
    pub(crate) fn say(&mut self, step: &str, what: impl Display) -> Result<()> {
        let comment = if self.print { "-- " } else { "" };
        self.line(&format!("{comment}{step:<13} {what}"))
    }

    /// Runs statements, or prints them. Several in one text are one transaction.
    pub(crate) async fn run(&mut self, client: &Client, sql: &str, doing: &str) -> Result<()> {
        if self.print { self.show(sql) } else { client.batch_execute(sql).await.context(doing) }
    }

    /// Prints SQL that is run in another way, or only with `--print-sql`.
    pub(crate) fn show(&mut self, sql: &str) -> Result<()> {
        if !self.print {
            return Ok(());
        }
        let sql = sql.trim();
        let end =
            if sql.ends_with(';') || sql.lines().last().is_some_and(|line| line.starts_with("--")) { "" } else { ";" };
        self.line(&format!("{sql}{end}"))
    }

    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").and_then(|()| self.out.flush()).context("write the report of setup")
    }
}

/// Fills `{role}` and its like in a statement of `sql/queries/`.
pub(crate) fn spliced(sql: &str, name: &str, value: &str) -> String {
    sql.replace(&format!("{{{name}}}"), value)
}

/// An error of usage with what to do about it.
pub(crate) fn fix(problem: impl Display, fix: impl Display) -> Error {
    Error::usage(format!("{problem}: {fix}"))
}
