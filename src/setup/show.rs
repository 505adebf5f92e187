//! `SELECT * FROM portalhook.votes` shows what a webhook will say, without depending on the application.
//!
//! A view over the rewritten SELECT would pin the application's types that its casts name, so the SELECT stands in a
//! function whose body is a string: PostgreSQL records no dependency for that.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::script::Script;
use crate::error::{Context as _, Result};
use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::select::Variant;

/// Types with a smaller oid are PostgreSQL's own (manual, "System Catalog Declarations and Initial Contents").
const FIRST_OF_USERS: u32 = 16384;

/// Makes the views and functions of all entities, where they are not there or the plan is new.
///
/// `admin` owns the views, `role` the functions and the mirrors that they read (`None`: only print).
pub(crate) async fn prepare(
    admin: &Client,
    role: Option<&Client>,
    plan: &Plan,
    renew: bool,
    script: &mut Script<'_>,
) -> Result<()> {
    let there: i64 = admin
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('portalhook') AND relkind = 'v'
                 AND relname = ANY (ARRAY['posts', 'votes', 'comments', 'comment_votes', 'users', 'portals'])",
            &[],
        )
        .await
        .context("look for the operator's views")?
        .get(0);
    if !renew && usize::try_from(there) == Ok(plan.entities.len()) {
        return script.say("views", "already there");
    }
    let Some(role) = role else {
        return script.show("-- views portalhook.posts, votes, comments, users, portals over functions of the role that read the mirror");
    };
    let removed: Vec<String> = Entity::ALL.map(|entity| format!("DROP VIEW IF EXISTS {}", view(entity))).into();
    script.run(admin, &removed.join("; "), "remove the old views").await?;
    for one in &plan.entities {
        let Some((function_sql, columns)) = function_sql(role, plan, one.entity).await? else { continue };
        script.run(role, &function_sql, &format!("create the function that shows {}", one.entity.name())).await?;
        script.run(admin, &view_sql(one.entity, &columns), &format!("create view {}", view(one.entity))).await?;
    }
    script.say("views", plan.entities.iter().map(|one| view(one.entity)).collect::<Vec<_>>().join(", "))
}

fn view(entity: Entity) -> String {
    format!("portalhook.{}", entity.name())
}

fn function(entity: Entity) -> String {
    format!("portalhook_mirror.show_{}", entity.name())
}

/// The function's definition and the names of its columns.
async fn function_sql(role: &Client, plan: &Plan, entity: Entity) -> Result<Option<(String, Vec<String>)>> {
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
            format!("CASE WHEN {place} IS NOT NULL THEN format('%s', {place}) END")
        });
        columns.push(format!("{} {of_type}", quote(name)));
    }
    let body = format!("SELECT {} FROM ({query}) AS q ({names})", values.join(", "));
    let function = function(entity);
    Ok(Some((
        format!(
            "DROP FUNCTION IF EXISTS {function}();
CREATE FUNCTION {function}() RETURNS TABLE ({}) STABLE SECURITY DEFINER SET search_path = '' LANGUAGE sql AS {};
COMMENT ON FUNCTION {function}() IS 'What {} shows.'",
            columns.join(", "),
            literal(&body),
            view(entity)
        ),
        outputs,
    )))
}

async fn type_name(client: &Client, of: &Type) -> Result<String> {
    let row = client.query_one("SELECT format_type($1, NULL)", &[&of.oid()]).await.context("name a type")?;
    Ok(row.get(0))
}

fn view_sql(entity: Entity, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|name| quote(name)).collect();
    let view = view(entity);
    format!(
        "CREATE VIEW {view} AS SELECT {} FROM {}(); COMMENT ON VIEW {view} IS 'The live {} as webhooks show them, as of the position of the stream. The mapping is in portalhook.mapping.'",
        columns.join(", "),
        function(entity),
        entity.name().replace('_', " ")
    )
}
