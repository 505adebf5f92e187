//! `SELECT * FROM portalhook.votes` shows what a webhook will say, without depending on the application.
//!
//! The views are the owner's; what they show stands in functions of the daemon's role (`mirror::show`), which makes those anew
//! when the mapping changes.

use tokio_postgres::Client;

use super::script::Script;
use crate::error::{Context as _, Result};
use crate::mapping::layout::quote;
use crate::mapping::plan::{Entity, Plan};
use crate::mirror::show::{Show, function, view};

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
        let Some(show) = Show::of(role, plan, one.entity).await? else { continue };
        let doing = format!("create the function that shows {}", one.entity.name());
        script.run(role, &format!("{}; {}", show.drop, show.create), &doing).await?;
        script.run(admin, &view_sql(one.entity, &show.columns), &format!("create view {}", view(one.entity))).await?;
    }
    script.say("views", plan.entities.iter().map(|one| view(one.entity)).collect::<Vec<_>>().join(", "))
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
