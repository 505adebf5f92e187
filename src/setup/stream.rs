//! Where the stream begins: the slot, the first copy in its snapshot, and the checkpoint.

use tokio_postgres::Client;

use super::origin::{self, Adoption, Known, Origin};
use super::publication::shown;
use super::script::{Script, fix};
use super::server::Server;
use crate::capture::slot::{self, Slot};
use crate::error::{Context as _, Result};
use crate::mapping::plan::Plan;
use crate::mirror::copy::{FirstCopy, patiently, store_plan};
use crate::mirror::courtesy::giving_way;
use crate::session::{Database, Replication};

/// What stands there already.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Slot, checkpoint and mirror of this very plan.
    Whole,
    /// The same mirror and meaning, in other words: a comment in the mapping, or SQL that we now write otherwise.
    Reworded,
    /// Nothing, or a slot that an interrupted setup left.
    Nothing { leftover_slot: bool },
    /// All is there, but for another mapping: the daemon switches to it.
    Changed { stored: Box<Plan>, lsn: String },
    /// A checkpoint and a mirror from elsewhere, which go on here; from another cluster or database, or only another place.
    Adopted { another: bool },
    /// A checkpoint whose mirror must go: the slot is gone, or what is there cannot be read.
    Stale { why: String, replaced: Option<Box<Plan>>, slot: bool },
}

/// Looks, and changes nothing.
///
/// # Errors
/// `Kind::Usage` where the checkpoint is another database's or another slot's.
pub(crate) async fn look(
    client: &Client,
    server: &Server,
    plan: &Plan,
    slot_name: &str,
    home: &str,
    origin: Origin,
) -> Result<Standing> {
    let slot = slot::read(client, slot_name).await?;
    if let Some(slot) = slot
        .as_ref()
        .filter(|slot| slot.plugin.as_deref() != Some("pgoutput") || slot.database.as_deref() != Some(&server.database))
    {
        return Err(fix(
            format!("replication slot {} is not ours (plugin {})", slot.name, slot.plugin.as_deref().unwrap_or("none")),
            "name another in capture.slot",
        ));
    }
    let there: bool = client
        .query_one("SELECT to_regclass('portalhook.plan') IS NOT NULL", &[])
        .await
        .context("look for the checkpoint")?
        .get(0);
    let row = if there {
        let sql = "SELECT slot, system_identifier, database_oid, lsn::text, (SELECT plan::text FROM portalhook.plan),
                          to_jsonb(c) ->> 'home' FROM portalhook.checkpoint AS c";
        client.query_opt(sql, &[]).await.context("read the checkpoint")?
    } else {
        None
    };
    let Some(row) = row else { return Ok(Standing::Nothing { leftover_slot: slot.is_some() }) };
    let (of_slot, system, database): (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
    let known = Known { system_identifier: system, database_oid: database, home: row.get(5) };
    origin::permitted(&known, server, home, origin)?;
    let stored: Option<Plan> = row.get::<_, Option<&str>>(4).and_then(|json| serde_json::from_str(json).ok());
    match origin {
        Origin::New { .. } => {
            let why = "this database is a source of its own from now on".to_owned();
            return Ok(Standing::Stale { why, replaced: stored.map(Box::new), slot: slot.is_some() });
        }
        Origin::Adopt if stored.as_ref().is_some_and(|stored| origin::moved(stored, plan)) => {
            return Ok(Standing::Adopted { another: origin::is_another(&known, server) });
        }
        Origin::Adopt => {
            return Err(fix(
                "the mapping is another than that of the mirror",
                "adopt this database with the mapping that it had, and change it then",
            ));
        }
        Origin::AsBefore => {}
    }
    if of_slot != slot_name {
        return Err(fix(
            format!("the checkpoint belongs to replication slot {of_slot}"),
            "set capture.slot to that name",
        ));
    }
    let lsn: &str = row.get(3);
    let replaced = stored.map(Box::new);
    Ok(match slot {
        Some(slot)
            if !slot.is_lost()
                && replaced.as_deref().is_some_and(|stored| stored != plan && !means_the_same(stored, plan)) =>
        {
            let stored = replaced.unwrap_or_else(|| Box::new(plan.clone()));
            Standing::Changed { stored, lsn: lsn.to_owned() }
        }
        Some(slot) if !slot.is_lost() && replaced.as_deref() == Some(plan) => Standing::Whole,
        Some(slot) if !slot.is_lost() && replaced.as_deref().is_some_and(|stored| means_the_same(stored, plan)) => {
            Standing::Reworded
        }
        Some(slot) if !slot.is_lost() => Standing::Stale {
            why: format!("the plan of the mirror (which is at {lsn}) is another version's"),
            replaced,
            slot: true,
        },
        slot => Standing::Stale {
            why: format!(
                "replication slot {slot_name} is {} (the mirror is at {lsn})",
                if slot.is_some() { "lost" } else { "gone" }
            ),
            replaced,
            slot: slot.is_some(),
        },
    })
}

/// What is mirrored and what PostgreSQL understood are the same.
fn means_the_same(stored: &Plan, plan: &Plan) -> bool {
    let meaning = |plan: &Plan| {
        plan.entities
            .iter()
            .map(|one| (one.entity, one.canonical.clone(), one.id_is_unique, one.id_function.clone()))
            .collect::<Vec<_>>()
    };
    stored.tables == plan.tables && meaning(stored) == meaning(plan)
}

impl Standing {
    /// Refuses to lose events unless told to; told to, it copies everything where a switch would do.
    pub(crate) fn permitted(self, afresh: bool) -> Result<Self> {
        match self {
            Self::Changed { stored, lsn } if afresh => Ok(Self::Stale {
                why: format!("the mapping is another than that of the mirror (which is at {lsn})"),
                replaced: Some(stored),
                slot: true,
            }),
            Self::Stale { why, .. } if !afresh => Err(fix(
                why,
                "to copy everything afresh, stop the daemon once it has caught up and add --afresh; what changes between its last \
                 transaction and the copy gives no events. Nothing was changed",
            )),
            other => Ok(other),
        }
    }
}

/// The slot and what is copied in its snapshot.
pub(crate) struct Beginning<'a> {
    pub(crate) server: &'a Server,
    pub(crate) plan: &'a Plan,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    /// As the daemon's role.
    pub(crate) database: &'a Database,
    pub(crate) origin: Origin,
}

impl Beginning<'_> {
    /// Makes whole what is not; `client` is a session of the daemon's role, `None` where nothing may be changed.
    pub(crate) async fn make(
        &self,
        admin: &Client,
        client: Option<&Client>,
        standing: &Standing,
        script: &mut Script<'_>,
    ) -> Result<()> {
        let (old_slot, replaced, why) = match standing {
            Standing::Whole | Standing::Reworded => {
                if let (Standing::Reworded, Some(client)) = (standing, client) {
                    store_plan(client, self.plan).await?;
                }
                if let Some(client) = client {
                    self.keep_on_standbys(client, script).await?;
                }
                return script.say("slot", format!("{}: already there, and the mirror with it", self.slot));
            }
            Standing::Changed { lsn, .. } => {
                return script.say("switch", format!("the daemon takes the mapping over where the stream reaches it (it is at {lsn}); SELECT * FROM portalhook.switches shows how far it is"));
            }
            Standing::Adopted { another } => {
                let adoption = Adoption {
                    server: self.server,
                    plan: self.plan,
                    slot: self.slot,
                    publication: self.publication,
                    home: self.database.home(),
                    another: *another,
                };
                return match client {
                    Some(client) => adoption.make(client, script).await,
                    None => script.say("adopt", "would write this database into portalhook.checkpoint"),
                };
            }
            Standing::Nothing { leftover_slot } => (*leftover_slot, None, None),
            Standing::Stale { why, replaced, slot } => (*slot, replaced.as_deref(), Some(why)),
        };
        let home = self.database.home();
        let timeline = match client {
            Some(_) => Replication::connect(self.database, "portalhook setup").await?.identify_system().await?.timeline,
            // The role may not be there yet.
            None => 0,
        };
        let copy = FirstCopy {
            plan: self.plan,
            replaced,
            slot: self.slot,
            publication: self.publication,
            system_identifier: &self.server.system_identifier,
            database_oid: self.server.database_oid,
            timeline: i32::try_from(timeline).unwrap_or(i32::MAX),
            home,
            new_source: matches!(self.origin, Origin::New { .. }),
        };
        let Some(client) = client else { return self.show(&copy, old_slot, script) };
        if let Some(why) = why {
            let lost = if copy.new_source { "" } else { "; changes from there to the new copy give no events" };
            script.say("afresh", format!("{why}{lost}"))?;
        }
        if old_slot {
            self.drop_old(client, script).await?;
        }
        if copy.new_source {
            origin::silence(client, admin, script).await?;
        }
        self.copy(client, &copy, script).await
    }

    /// A slot of an older server or version of ours; one that is being read is for `check` to name.
    async fn keep_on_standbys(&self, client: &Client, script: &mut Script<'_>) -> Result<()> {
        match slot::read(client, self.slot).await? {
            Some(Slot { failover: Some(false), active_pid: None, .. }) => {
                Replication::connect(self.database, "portalhook setup").await?.keep_on_standbys(self.slot).await?;
                script.say("slot", format!("{}: standbys that synchronize slots keep it from now on", self.slot))
            }
            _ => Ok(()),
        }
    }

    async fn drop_old(&self, client: &Client, script: &mut Script<'_>) -> Result<()> {
        if let Some(Slot { active_pid: Some(process), .. }) = slot::read(client, self.slot).await? {
            return Err(fix(
                format!("replication slot {} is being read by process {process}", self.slot),
                "stop the daemon first",
            ));
        }
        slot::drop(client, self.slot).await?;
        script.say("slot", format!("{}: removed the old one", self.slot))
    }

    async fn copy(&self, client: &Client, copy: &FirstCopy<'_>, script: &mut Script<'_>) -> Result<()> {
        let mut progress = |line: String| eprintln!("portalhook: {line}");
        let waiting = "creating the replication slot: waits for every transaction of the server that is writing";
        let exported = patiently(slot::create(self.database, self.slot), &mut progress, waiting).await?;
        let point = exported.consistent_point;
        let copying = copy.run(client, &exported.snapshot, point, &mut progress);
        let copied = match giving_way(self.database, "portalhook setup", client, copying).await {
            Ok(copied) => copied,
            Err(error) => {
                // The slot would hold WAL for nobody; if even that fails, the next setup finds it without a checkpoint.
                return match exported.discard().await {
                    Ok(()) => Err(error),
                    Err(also) => Err(error).context(format!("and the new slot stays ({also:?})")),
                };
            }
        };
        drop(exported);
        script.say("slot", format!("{}: created at {point}", self.slot))?;
        let rows: Vec<String> = copied.iter().map(|one| format!("{} {}", one.table, one.rows)).collect();
        script.say(
            "mirror",
            format!("copied {} rows ({})", copied.iter().map(|one| one.rows).sum::<u64>(), rows.join(", ")),
        )
    }

    /// What `copy` would do, for people to read.
    fn show(&self, copy: &FirstCopy<'_>, old_slot: bool, script: &mut Script<'_>) -> Result<()> {
        let role = self.database.role();
        script.show(&format!("-- as role {role}, on a replication connection:"))?;
        if old_slot {
            script.show(&format!("--   DROP_REPLICATION_SLOT {}", self.slot))?;
        }
        script.show(&format!("--   CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')", self.slot))?;
        script.show(&format!("-- as role {role}, in the snapshot that this exports:"))?;
        script.show("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
        script.show("SET TRANSACTION SNAPSHOT '…'")?;
        for sql in copy.sql() {
            script.show(&sql)?;
        }
        script.show("-- … and rows of portalhook.plan and portalhook.checkpoint")?;
        script.show("COMMIT")?;
        let tables: Vec<String> = self.plan.tables.iter().map(shown).collect();
        script.say("mirror", format!("would copy {}", tables.join(", ")))
    }
}
