//! `portalhook.mapping` as it stands, with all that its SELECTs mean.

use tokio_postgres::Client;

use super::plan::{Entity, EntityPlan, Plan};
use crate::error::{Context as _, Error, Result};

/// One SELECT on its way to a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) entity: Entity,
    /// As the operator wrote it.
    pub(crate) query: String,
    /// What PostgreSQL is given instead, where the meaning was settled earlier.
    pub(crate) text: Option<String>,
    /// Where its names are looked up; `None`: where this session's role has them looked up.
    pub(crate) search_path: Option<String>,
}

impl Source {
    pub(crate) fn new(entity: Entity, query: String) -> Self {
        Self { entity, query, text: None, search_path: None }
    }

    /// The SELECT as a plan has it: its names and stars mean what they meant when that was made.
    pub(crate) fn settled(plan: &EntityPlan) -> Self {
        Self {
            entity: plan.entity,
            query: plan.query.clone(),
            text: Some(plan.canonical.clone()),
            search_path: Some(String::new()),
        }
    }

    /// All SELECTs of a plan.
    pub(crate) fn all_settled(plan: &Plan) -> Vec<Self> {
        plan.entities.iter().map(Self::settled).collect()
    }
}

/// The whole mapping, read at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) sources: Vec<Source>,
    /// That moment, a `pg_snapshot`: which changes of the mapping are in it.
    pub(crate) seen: String,
}

/// Reads `portalhook.mapping`.
pub(crate) async fn read(client: &Client) -> Result<Stored> {
    const READ: &str =
        "SELECT entity, query, search_path, pg_current_snapshot()::text FROM portalhook.mapping ORDER BY entity";
    let rows = client.query(READ, &[]).await.context("read the mapping")?;
    let Some(first) = rows.first() else { return Err(Error::usage("portalhook.mapping is empty")) };
    let seen = first.get(3);
    let sources = rows
        .iter()
        .filter_map(|row| {
            let entity = entity(row.get(0))?;
            Some(Source { entity, query: row.get(1), text: None, search_path: row.get(2) })
        })
        .collect();
    Ok(Stored { sources, seen })
}

/// The entity of this name.
pub(crate) fn entity(name: &str) -> Option<Entity> {
    Entity::ALL.into_iter().find(|entity| entity.name() == name)
}
