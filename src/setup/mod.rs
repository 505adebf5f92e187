//! `portalhook setup`: prepares a database, with the owner's rights, for a daemon that has hardly any.
//!
//! Every step is idempotent and says in one line what it did. Nothing is changed before the mapping was checked.

mod choose;
pub(crate) mod followed;
mod identity;
mod mapping;
pub(crate) mod migrations;
mod origin;
mod publication;
mod role;
mod schema;
mod script;
mod server;
mod show;
mod stream;

#[cfg(test)]
mod surface_tests;
#[cfg(test)]
mod tests;

use std::io::Write;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Context as _, Error, Kind, Result};
use crate::session::{self, Database, Session};
use choose::Known;
pub(crate) use origin::Origin;
use role::Role;
use script::Script;
use stream::{Beginning, Standing};

/// What setup is asked to do.
pub(crate) struct Options {
    /// `database.url`: the database, and the daemon's role.
    pub(crate) url: String,
    /// The owner's or a superuser's way into the same database; `None`: `url` is.
    pub(crate) admin_url: Option<String>,
    /// A file of views, or the name of a preset.
    pub(crate) views: Option<String>,
    /// `capture.publication`.
    pub(crate) publication: String,
    /// `capture.slot`; `None`: `portalhook_<database oid>`.
    pub(crate) slot: Option<String>,
    /// Print the SQL and change nothing.
    pub(crate) print_sql: bool,
    /// Make the event trigger that mends what a migration does to the stream at once.
    pub(crate) event_trigger: bool,
    /// Copy everything anew although events between the old mirror and the new one are lost.
    pub(crate) afresh: bool,
    /// `capture.max_wal`, in bytes.
    pub(crate) max_wal: u64,
    /// What a database that was copied or moved is.
    pub(crate) origin: Origin,
}

/// Prepares the database; `out` gets a line for each step, or with `print_sql` the SQL.
///
/// # Errors
/// `Kind::Usage` with the fix where the operator has to change something first; `Kind::Unavailable` without a server.
pub(crate) async fn run(options: &Options, out: &mut (dyn Write + Send)) -> Result<()> {
    let database = Database::parse(&options.url)?;
    let role = Role { name: database.role().to_owned(), password: password(&options.url)? };
    let admin_database = options.admin_url.as_deref().map(Database::parse).transpose()?;
    let admin_database = admin_database.as_ref().unwrap_or(&database);
    let mut admin = session::connect(admin_database, "portalhook setup").await?;
    let mut script = Script::new(out, options.print_sql);
    if !options.print_sql {
        lock(&admin).await?;
    }
    let server = server::look(&admin).await?;
    if admin_database.name() != database.name() {
        return Err(script::fix(
            format!("--admin-url names database {}, database.url names {}", admin_database.name(), database.name()),
            "both must be the same",
        ));
    }
    // Before the role is there, nobody can look.
    if options.admin_url.is_some()
        && let Ok(session) = session::connect(&database, "portalhook setup").await
    {
        server.is_that_of(&session).await?;
    }
    script.say("server", format!("database {} as {}", server.database, server.admin))?;

    let setup = Setup { options, database: &database, server: &server, role: &role };
    for attempt in 1..ATTEMPTS {
        match setup.attempt(&mut admin, &mut script).await {
            // Its steps are idempotent, and the mapping may have to be another after the migration.
            Err(error) if error.kind() == Kind::Again => {
                script.say("again", format!("{error}: beginning anew ({} of {ATTEMPTS})", attempt + 1))?;
            }
            done => return done,
        }
    }
    setup.attempt(&mut admin, &mut script).await.map_err(|error| match error.kind() {
        Kind::Again => Error::failed(format!(
            "{error}, for the {ATTEMPTS}th time: run portalhook setup again while no migration runs; no slot was left"
        )),
        _ => error,
    })
}

/// How often setup begins, where the first copy gives way to migrations.
const ATTEMPTS: u32 = 5;

/// What stays the same in every attempt.
struct Setup<'a> {
    options: &'a Options,
    database: &'a Database,
    server: &'a server::Server,
    role: &'a Role,
}

impl Setup<'_> {
    /// All steps. `Kind::Again`: a migration came in between.
    async fn attempt(&self, admin: &mut Session, script: &mut Script<'_>) -> Result<()> {
        let Self { options, database, server, role } = *self;
        let slot = options.slot.clone().unwrap_or_else(|| format!("portalhook_{}", server.database_oid));
        let known = match options.origin {
            _ if options.afresh => Known::Nothing,
            Origin::New { .. } => Known::Nothing,
            Origin::Adopt => Known::Moved,
            Origin::AsBefore => Known::AsItIs,
        };
        let chosen = choose::choose(admin, options.views.as_deref(), known).await?;
        publication::check_tables(admin, &chosen.plan, &role.name).await?;
        let standing = stream::look(admin, server, &chosen.plan, &slot, database.home(), options.origin)
            .await?
            .permitted(options.afresh || matches!(options.origin, Origin::New { .. }))?;

        role::prepare(admin, server, role, script).await?;
        schema::prepare(admin, server, role, script).await?;
        origin::own(admin, server, role, script).await?;
        let kept = match &standing {
            Standing::Changed { stored, .. } => stored.tables.as_slice(),
            _ => &[],
        };
        let switches = matches!(standing, Standing::Changed { .. });
        if !switches {
            mapping::store(admin, &chosen, script).await?;
        }
        let before = match &standing {
            Standing::Stale { replaced, .. } => replaced.as_deref(),
            Standing::Whole
            | Standing::Reworded
            | Standing::Adopted { .. }
            | Standing::Nothing { .. }
            | Standing::Changed { .. } => None,
        };
        mapping::grant(admin, server, role, &chosen.plan, before, script).await?;
        followed::store(admin, &chosen.plan, &options.publication, script).await?;
        identity::prepare(admin, &chosen.plan, script).await?;
        publication::prepare(admin, &chosen.plan, kept, &options.publication, script).await?;
        followed::event_trigger(admin, options.event_trigger, script).await?;
        if switches {
            // The daemon may act on it at once: what it needs is there.
            mapping::announce(admin, &chosen, script).await?;
        }
        let session =
            if options.print_sql { None } else { Some(session::connect(database, "portalhook setup").await?) };
        if let Some(session) = &session {
            server.is_that_of(session).await?;
        }
        let client: Option<&Client> = session.as_deref();
        if let Some(client) = client {
            schema::partitions(client, script).await?;
        } else {
            schema::partitions(admin, script).await?;
        }
        let beginning = Beginning {
            server,
            plan: &chosen.plan,
            slot: &slot,
            publication: &options.publication,
            database: session.as_ref().map_or(database, Session::database),
            origin: options.origin,
        };
        beginning.make(admin, client, &standing, script).await?;
        if !switches {
            show::prepare(admin, client, &chosen.plan, !matches!(standing, Standing::Whole), script).await?;
        }
        server::advise(admin, options.max_wal, script).await?;
        script.say("done", "portalhook run, then INSERT INTO portalhook.endpoints (url) VALUES ('https://…')")
    }
}

/// One setup at a time; the lock ends with the session. The server may take a moment to see that an earlier one has ended.
async fn lock(admin: &Client) -> Result<()> {
    let sql = "SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_lock(hashtext('portalhook setup'))";
    match admin.batch_execute(sql).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(Error::failed("another portalhook setup is at work on this database: wait for it to end"))
        }
        locked => locked.context("wait for other setups"),
    }
}

/// The password in the URL itself.
fn password(url: &str) -> Result<Option<Vec<u8>>> {
    // Database::parse has said what is wrong with a URL; what it refuses never comes here.
    let without_parameters = url.split_once('?').map_or(url, |(base, _)| base);
    let config: tokio_postgres::Config =
        without_parameters.parse().map_err(|_| Error::new(Kind::Usage, "database.url is malformed"))?;
    Ok(config.get_password().map(<[u8]>::to_vec))
}
