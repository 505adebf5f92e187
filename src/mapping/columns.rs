//! A whole entity as a query with columns, where `Plan::select` gives rows as text.

use super::layout::MIRROR_SCHEMA;
use super::plan::{Entity, Plan};
use super::select::Variant;

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
}
