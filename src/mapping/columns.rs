//! A whole entity as a query with columns, where `Plan::select` gives rows as text.

use tokio_postgres::Client;

use super::catalog;
use super::layout::MIRROR_SCHEMA;
use super::plan::{Entity, Plan};
use super::select::Variant;
use crate::error::{Context as _, Result};

impl Plan {
    /// The SELECT of an entity over all rows of its mirror, and names for its columns: `k0 …` the base's key, `o0 …` the
    /// outputs. Used as `FROM (query) AS q (names)`, because outputs may be named like key columns. `None`: not mapped.
    pub(crate) fn rows(&self, entity: Entity, variant: Variant) -> Option<(String, String)> {
        self.rows_where(entity, variant, None)
    }

    /// The same over those rows of the mirror for which a condition holds.
    pub(crate) fn rows_where(
        &self,
        entity: Entity,
        variant: Variant,
        condition: Option<&str>,
    ) -> Option<(String, String)> {
        let plan = self.entity(entity)?;
        let template = match variant {
            Variant::Live => &plan.live,
            Variant::Any => &plan.any,
        };
        let base = plan.base.map(|index| &self.tables[index]);
        let query = match base {
            Some(base) => template.over(&base.rows(&base.mirror_in(MIRROR_SCHEMA), condition)),
            None => template.head.clone(),
        };
        let keys = (0..base.map_or(0, |base| base.key.len())).map(|place| format!("k{place}"));
        let names: Vec<String> = keys.chain((0..plan.outputs.len()).map(|place| format!("o{place}"))).collect();
        Some((query, names.join(", ")))
    }

    /// Finds out anew what the outputs of every SELECT are, by the types that they have over the mirrors as those are now.
    pub(crate) async fn settle_kinds(&mut self, client: &Client) -> Result<()> {
        for place in 0..self.entities.len() {
            let entity = self.entities[place].entity;
            let Some((query, names)) = self.rows(entity, Variant::Live) else { continue };
            let outputs: Vec<String> = (0..self.entities[place].outputs.len()).map(|at| format!("o{at}")).collect();
            let text = format!("SELECT {} FROM ({query}) AS q ({names})", outputs.join(", "));
            let statement = client.prepare(&text).await.context(format!("prepare the SELECT of {}", entity.name()))?;
            for (output, column) in self.entities[place].outputs.iter_mut().zip(statement.columns()) {
                output.kind = catalog::value_kind(client, column.type_().oid()).await?;
            }
        }
        Ok(())
    }
}
