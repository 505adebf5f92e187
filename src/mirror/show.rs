//! Functions that show the live rows of an entity, as of the position of the stream: the views `portalhook.posts` and so on
//! read them.
//!
//! A view over the rewritten SELECT would pin the application's types that its casts name, so the SELECT stands in a
//! function whose body is a string: PostgreSQL records no dependency for that.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::select::Variant;

/// Types with a smaller oid are PostgreSQL's own (manual, "System Catalog Declarations and Initial Contents").
const FIRST_OF_USERS: u32 = 16384;

/// The function of one entity.
pub(crate) struct Show {
    pub(crate) drop: String,
    /// Replaces one that returns the same columns.
    pub(crate) create: String,
    /// Its body, by which one that is there is known.
    pub(crate) body: String,
    /// The names of its columns.
    pub(crate) columns: Vec<String>,
}

/// The entity's view.
pub(crate) fn view(entity: Entity) -> String {
    format!("portalhook.{}", entity.name())
}

/// The function that its view reads.
pub(crate) fn function(entity: Entity) -> String {
    format!("portalhook_mirror.show_{}", entity.name())
}

impl Show {
    /// `role` is the daemon's, which owns the mirrors.
    pub(crate) async fn of(role: &Client, plan: &Plan, entity: Entity) -> Result<Option<Self>> {
        let Some((query, names)) = plan.rows(entity, Variant::Live) else { return Ok(None) };
        let outputs: Vec<String> =
            plan.entity(entity).map(|one| one.outputs.iter().map(|o| o.name.clone()).collect()).unwrap_or_default();
        let places: Vec<String> = (0..outputs.len()).map(|place| format!("o{place}")).collect();
        let statement = role
            .prepare(&format!("SELECT {} FROM ({query}) AS q ({names})", places.join(", ")))
            .await
            .context(format!("prepare what shows {}", entity.name()))?;
        let (mut values, mut columns) = (Vec::new(), Vec::new());
        for ((place, name), column) in places.iter().zip(&outputs).zip(statement.columns()) {
            let own = column.type_().oid() < FIRST_OF_USERS;
            let of_type = if own && *column.type_() != Type::UNKNOWN {
                type_name(role, column.type_()).await?
            } else {
                "text".to_owned()
            };
            values.push(if own {
                place.clone()
            } else {
                format!("CASE WHEN {place} IS DISTINCT FROM NULL THEN format('%s', {place}) END")
            });
            columns.push(format!("{} {of_type}", quote(name)));
        }
        let body = format!("SELECT {} FROM ({query}) AS q ({names})", values.join(", "));
        let function = function(entity);
        Ok(Some(Self {
            drop: format!("DROP FUNCTION IF EXISTS {function}()"),
            create: format!(
                "CREATE OR REPLACE FUNCTION {function}() RETURNS TABLE ({}) STABLE SECURITY DEFINER SET search_path = '' LANGUAGE sql AS {};
COMMENT ON FUNCTION {function}() IS 'What {} shows.'",
                columns.join(", "),
                literal(&body),
                view(entity)
            ),
            body,
            columns: outputs,
        }))
    }

    /// Makes functions and views what the plan says, as the daemon's role. Views keep their rights where their columns stay.
    pub(crate) async fn renew(role: &mut Client, plan: &Plan) -> Result<()> {
        const IS_THERE: &str = "SELECT EXISTS (SELECT FROM pg_proc WHERE oid = to_regprocedure($1) AND prosrc = $2)";
        const SHOW: &str = "SELECT portalhook.show_entity($1, $2)";
        for entity in Entity::ALL {
            let Some(show) = Self::of(role, plan, entity).await? else {
                let drop = format!(
                    "SELECT portalhook.show_entity('{}', NULL); DROP FUNCTION IF EXISTS {}()",
                    entity.name(),
                    function(entity)
                );
                role.batch_execute(&drop).await.context(format!("remove {}", view(entity)))?;
                continue;
            };
            let name = format!("{}()", function(entity));
            let row = role.query_one(IS_THERE, &[&name, &show.body]).await;
            if row.context(format!("look at {name}"))?.get(0) {
                continue;
            }
            let shows = || tracing::info!("{} shows {}", view(entity), show.columns.join(", "));
            if role.batch_execute(&show.create).await.is_ok() {
                shows();
                continue;
            }
            let doing = || format!("make {} anew", view(entity));
            let transaction = role.transaction().await.context(doing())?;
            transaction.execute(SHOW, &[&entity.name(), &None::<Vec<String>>]).await.context(doing())?;
            transaction.batch_execute(&format!("{}; {}", show.drop, show.create)).await.context(doing())?;
            transaction.execute(SHOW, &[&entity.name(), &show.columns]).await.context(doing())?;
            transaction.commit().await.context(doing())?;
            shows();
        }
        Ok(())
    }
}

async fn type_name(client: &Client, of: &Type) -> Result<String> {
    let row = client.query_one("SELECT format_type($1, NULL)", &[&of.oid()]).await.context("name a type")?;
    Ok(row.get(0))
}
