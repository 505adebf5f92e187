//! `portalhook setup`.

use crate::error::Result;
use crate::setup;

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
}

impl Setup {
    /// Runs setup; the arguments are `database.url`, `capture.publication` and `capture.slot` of the configuration.
    pub(crate) async fn run(self, url: String, publication: String, slot: Option<String>) -> Result<()> {
        let options = setup::Options {
            url,
            admin_url: self.admin_url,
            views: self.views,
            publication,
            slot,
            print_sql: self.print_sql,
            event_trigger: self.event_trigger,
            afresh: self.afresh,
        };
        setup::run(&options, &mut std::io::stdout()).await
    }
}
