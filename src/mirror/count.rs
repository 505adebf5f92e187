//! What each user has done, counted over the whole mirror: live posts, votes, comments, and votes for comments.

use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Entity, Plan};
use crate::mapping::select::Variant;

/// Which column of an entity says whose it is.
const COUNTED: [(Entity, &str); 4] = [
    (Entity::Posts, "author"),
    (Entity::Votes, "voter"),
    (Entity::Comments, "author"),
    (Entity::CommentVotes, "voter"),
];

/// Counts all live rows of the mirror.
pub(crate) fn count_sql(plan: &Plan) -> String {
    let live: Vec<String> =
        COUNTED.iter().filter_map(|(entity, column)| live_sql(plan, *entity, column, None)).collect();
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

/// The same row by row, where a row's data makes the mapping fail (SQLSTATE class 21, 22, 23): such a row counts as not live, and goes
/// into `portalhook.row_failures`. A statement for each entity; `lsn` is the position of the copy.
pub(crate) fn count_one_by_one_sql(plan: &Plan, lsn: &str) -> Vec<String> {
    COUNTED
        .iter()
        .filter_map(|(entity, column)| {
            let query = live_sql(plan, *entity, column, Some("ctid = $1"))?;
            let table = &plan.tables[plan.entity(*entity)?.base?];
            let key: Vec<String> = table.key.iter().map(|&index| quote(&table.columns[index].name)).collect();
            let counter = entity.name();
            let body = format!(
                "DECLARE
    one record;
BEGIN
    FOR one IN SELECT ctid AS place, concat_ws(',', {key}) AS key FROM {mirror} LOOP
        BEGIN
            EXECUTE {count} USING one.place;
        EXCEPTION WHEN cardinality_violation OR data_exception OR integrity_constraint_violation THEN
            INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
            VALUES ({lsn}, '{counter}', {table}, one.key, SQLSTATE, SQLERRM);
        END;
    END LOOP;
END",
                key = key.join(", "),
                mirror = table.mirror_name(),
                count = literal(&format!(
                    "INSERT INTO portalhook_mirror.counters AS c (user_id, {counter}) SELECT user_id, 1 FROM ({query}) AS live
                     ON CONFLICT (user_id) DO UPDATE SET {counter} = c.{counter} + 1"
                )),
                lsn = literal(lsn),
                table = literal(&format!("{}.{}", table.schema, table.name)),
            );
            Some(format!("DO {}", literal(&body)))
        })
        .collect()
}

/// Whose each live row of an entity is, as the text by which users are found.
fn live_sql(plan: &Plan, entity: Entity, column: &str, condition: Option<&str>) -> Option<String> {
    let outputs = &plan.entity(entity)?.outputs;
    let place = outputs.iter().position(|output| output.name == column)?;
    let name = entity.name();
    let (query, names) = plan.rows_where(entity, Variant::Live, condition)?;
    // The whole row is evaluated: one that cannot be is not live, whichever column it is.
    Some(format!(
        "SELECT '{name}' AS entity, format('%s', o{place}) AS user_id FROM ({query}) AS q ({names})
     WHERE (q.*)::text IS NOT NULL AND o{place} IS NOT NULL"
    ))
}
