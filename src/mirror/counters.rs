//! What each user has done, counted: live posts, votes, comments, and votes for comments.

use crate::mapping::plan::{Entity, Plan};
use crate::mapping::select::Variant;

/// Updated with every vote: room on the page keeps the updates off the index.
pub(crate) const CREATE: &str = "CREATE TABLE portalhook_mirror.counters (
    user_id text PRIMARY KEY, posts bigint NOT NULL, votes bigint NOT NULL, comments bigint NOT NULL, comment_votes bigint NOT NULL
) WITH (fillfactor = 70)";

/// Which column of an entity says whose it is.
const COUNTED: [(Entity, &str); 4] = [
    (Entity::Posts, "author"),
    (Entity::Votes, "voter"),
    (Entity::Comments, "author"),
    (Entity::CommentVotes, "voter"),
];

/// Counts all live rows of the mirror.
pub(crate) fn count_sql(plan: &Plan) -> String {
    let live: Vec<String> = COUNTED.iter().filter_map(|(entity, column)| live_sql(plan, *entity, column)).collect();
    let counts = COUNTED.map(|(entity, _)| format!("count(*) FILTER (WHERE entity = '{}')", entity.name()));
    format!(
        "INSERT INTO portalhook_mirror.counters (user_id, posts, votes, comments, comment_votes)
SELECT user_id, {} FROM (
    {}
) AS live GROUP BY user_id",
        counts.join(", "),
        live.join("\n    UNION ALL ")
    )
}

/// Whose each live row of an entity is, as the text by which users are found.
fn live_sql(plan: &Plan, entity: Entity, column: &str) -> Option<String> {
    let outputs = &plan.entity(entity)?.outputs;
    let place = outputs.iter().position(|output| output.name == column)?;
    let name = entity.name();
    let (query, names) = plan.rows(entity, Variant::Live)?;
    Some(format!(
        "SELECT '{name}' AS entity, format('%s', o{place}) AS user_id FROM ({query}) AS q ({names}) WHERE o{place} IS NOT NULL"
    ))
}
