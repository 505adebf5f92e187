//! `portalhook setup`.

use crate::config::Capture;
use crate::error::Result;
use crate::setup::{self, Origin};

/// Prepare a database: role, schemas, mapping, mirror, publication, slot. Safe to run again.
#[derive(clap::Args)]
pub(crate) struct Setup {
    /// The same database with the rights of the tables' owner or a superuser; without it, database.url has them
    #[arg(long, value_name = "URL", env = "PORTALHOOK_ADMIN_URL", hide_env_values = true)]
    admin_url: Option<String>,
    /// The mapping: a file of CREATE VIEW statements, or the name of a known application (fider, astuto)
    #[arg(long, value_name = "FILE|PRESET")]
    views: Option<String>,
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    print_sql: bool,
    /// Also make an event trigger that mends what a migration does to the stream (a dropped primary key, a table created anew)
    /// inside the migration's own transaction; needs a superuser. Without it the daemon mends within seconds
    #[arg(long)]
    event_trigger: bool,
    /// Copy everything anew after the mapping changed or the slot was lost; changes in between give no events
    #[arg(long)]
    afresh: bool,
    /// This database was moved here (dump and restore, an upgrade, another address) and goes on in the place of the one that it was
    ///
    /// Endpoints, sequences and what is pending stay; portalhook run then compares the mirror with the tables, and what was missed
    /// gives events. See that no daemon reads the old database any more.
    #[arg(long, conflicts_with_all = ["new_source", "afresh"])]
    adopt: bool,
    /// This database is a copy (staging, a test) and a source of its own: its endpoints are disabled until you enable them
    ///
    /// What was pending is cancelled, the mirror is copied anew, and event ids are unlike those of the other database. Also after
    /// files of a stopped server were put back from an earlier time, because transaction ids come a second time then: with --here.
    #[arg(long, conflicts_with = "afresh")]
    new_source: bool,
    /// With --new-source: although this is no copy, but the database that portalhook was set up in
    #[arg(long, requires = "new_source")]
    here: bool,
}

impl Setup {
    /// Runs setup; the arguments are `database.url` and the settings below `capture.` of the configuration.
    pub(crate) async fn run(self, url: String, capture: Capture) -> Result<()> {
        let options = setup::Options {
            url,
            admin_url: self.admin_url,
            views: self.views,
            publication: capture.publication,
            slot: capture.slot,
            max_wal: capture.max_wal,
            print_sql: self.print_sql,
            event_trigger: self.event_trigger,
            afresh: self.afresh,
            origin: match (self.adopt, self.new_source) {
                (true, _) => Origin::Adopt,
                (_, true) => Origin::New { here: self.here },
                _ => Origin::AsBefore,
            },
        };
        setup::run(&options, &mut std::io::stdout()).await
    }
}
