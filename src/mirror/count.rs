//! What each user has done, counted over the whole mirror: live posts, votes, comments, and votes for comments.

use crate::mapping::layout::{literal, quote};
use crate::mapping::plan::{Entity, Plan, Table};
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
    let place = plan.entity(entity)?.outputs.iter().position(|output| output.name == column)?;
    let name = entity.name();
    if let Some(rows) = Doubtful::of(plan, entity).map(|doubtful| doubtful.rows(None)) {
        return Some(format!(
            "SELECT '{name}' AS entity, format('%s', o{place}) AS user_id FROM ({rows}) AS q
     WHERE rows = 1 AND id IS NOT NULL AND rank = 1 AND o{place} IS NOT NULL"
        ));
    }
    let (query, names) = plan.rows(entity, Variant::Live)?;
    // The whole row is evaluated: one that cannot be is not live, whichever column it is.
    Some(format!(
        "SELECT '{name}' AS entity, format('%s', o{place}) AS user_id FROM ({query}) AS q ({names})
     WHERE (q.*)::text IS NOT NULL AND o{place} IS NOT NULL"
    ))
}

/// An entity of which a row may have no id, a key several rows, or an id several keys: such rows count as not live.
struct Doubtful<'p> {
    plan: &'p Plan,
    entity: Entity,
    table: &'p Table,
    /// The output that is the id; without one the key is it.
    id: Option<usize>,
}

/// What makes several rows of one without another table.
const SETS: [&str; 7] = ["LATERAL", "unnest(", "generate_", "_elements", "_each", "_keys(", "regexp_"];

impl<'p> Doubtful<'p> {
    /// None where the plan says that there are no such rows, as with most mappings: then nothing is sorted.
    fn of(plan: &'p Plan, entity: Entity) -> Option<Self> {
        let mapped = plan.entity(entity)?;
        let table = &plan.tables[mapped.base?];
        let id = mapped.outputs.iter().position(|output| output.name == "id");
        let is_key = mapped.id_column.is_none_or(|column| table.key.contains(&column));
        let told_apart = id.is_none() || mapped.id_is_unique && is_key;
        let one_each = mapped.reads.is_empty() && !SETS.iter().any(|word| mapped.canonical.contains(word));
        if table.key.is_empty() || told_apart && one_each {
            return None;
        }
        Some(Self { plan, entity, table, id })
    }

    /// The live rows with their outputs, and `key` (as people read it), `id`, `rows` (of this key), and `rank` (among the
    /// keys with this id, in the order of `event::diff::rank`).
    fn rows(&self, condition: Option<&str>) -> String {
        let (query, names) =
            self.plan.rows_where(self.entity, Variant::Live, condition).expect("an entity that is mapped");
        let keys = 0..self.table.key.len();
        let list = |each: &dyn Fn(usize) -> String| keys.clone().map(each).collect::<Vec<_>>().join(", ");
        let key = list(&|place| format!("format('%s', k{place})"));
        let id = match self.id {
            Some(place) => format!("CASE WHEN o{place} IS DISTINCT FROM NULL THEN format('%s', o{place}) END"),
            None => format!("concat_ws(', ', {key})"),
        };
        let order = rank_sql(keys.clone().map(|place| format!("k{place}")));
        format!(
            "SELECT *, row_number() OVER (PARTITION BY id, rows = 1 ORDER BY {order}) AS rank FROM (
         SELECT q.*, concat_ws(', ', {key}) AS key, {id} AS id, count(*) OVER (PARTITION BY {key}) AS rows
         FROM ({query}) AS q ({names}) WHERE (q.*)::text IS NOT NULL) AS q"
        )
    }
}

/// The order of `event::diff::rank`: shorter texts first, as numbers are.
fn rank_sql(key: impl Iterator<Item = String>) -> String {
    let parts = key.map(|one| format!("octet_length(format('%s', {one})), format('%s', {one}) COLLATE \"C\""));
    parts.collect::<Vec<_>>().join(", ")
}

/// Writes down the rows that `count_sql` leaves out; a statement for each entity that may have some. `lsn` is the position of
/// the copy.
pub(crate) fn failures_sql(plan: &Plan, lsn: &str) -> Vec<String> {
    let doubtful = COUNTED.iter().filter_map(|(entity, _)| Doubtful::of(plan, *entity));
    doubtful
        .map(|doubtful| {
            format!(
                "INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
SELECT DISTINCT {lsn}::pg_lsn, '{entity}', {table}, key, {WHY} FROM ({rows}) AS q
WHERE rows > 1 OR id IS NULL OR rank > 1",
                lsn = literal(lsn),
                entity = doubtful.entity.name(),
                table = literal(&format!("{}.{}", doubtful.table.schema, doubtful.table.name)),
                rows = doubtful.rows(None),
            )
        })
        .collect()
}

/// What a comparison has found before is not told again.
pub(crate) const FAILURES_ONCE: &str = include_str!("../../sql/queries/row_failures_once.sql");

/// SQLSTATE and message, as the stream's evaluation has them.
const WHY: &str = "CASE WHEN id IS NULL AND rows = 1 THEN '23502' ELSE '21000' END,
       CASE WHEN rows > 1 THEN 'the SELECT gives more than one row for this key' WHEN id IS NULL THEN 'its id is null'
            ELSE 'another live row has the id ' || id END";

/// The same row by row, where a row's data makes the mapping fail (SQLSTATE class 21, 22, 23): such a row counts as not live, and goes
/// into `portalhook.row_failures`. A statement for each entity; `lsn` is the position of the copy.
pub(crate) fn count_one_by_one_sql(plan: &Plan, lsn: &str) -> Vec<String> {
    COUNTED.iter().filter_map(|(entity, column)| one_by_one(plan, *entity, column, lsn)).collect()
}

fn one_by_one(plan: &Plan, entity: Entity, column: &str, lsn: &str) -> Option<String> {
    let mapped = plan.entity(entity)?;
    let table = &plan.tables[mapped.base?];
    let id = mapped.outputs.iter().position(|output| output.name == "id");
    let owner = mapped.outputs.iter().position(|output| output.name == column)?;
    let one = Doubtful { plan, entity, table, id };
    let key: Vec<String> = table.key.iter().map(|&index| quote(&table.columns[index].name)).collect();
    let counter = entity.name();
    let body = format!(
        "DECLARE
    one   record;
    found record;
BEGIN
    CREATE TEMPORARY TABLE portalhook_ids (id text) ON COMMIT DROP;
    CREATE INDEX ON pg_temp.portalhook_ids USING hash (id);
    FOR one IN SELECT ctid AS place, concat_ws(', ', {keys}) AS key FROM {mirror} ORDER BY {order} LOOP
        BEGIN
            EXECUTE {live} INTO found USING one.place;
            CONTINUE WHEN found.rows IS NULL;
            IF found.rows = 1 AND found.id IS NOT NULL THEN
                found.rank := 1 + (SELECT count(*) FROM pg_temp.portalhook_ids AS i WHERE i.id = found.id);
            END IF;
            IF found.rows > 1 OR found.id IS NULL OR found.rank > 1 THEN
                INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
                SELECT {lsn}, '{counter}', {table}, one.key, {WHY} FROM (SELECT found.rows, found.id) AS q;
                CONTINUE;
            END IF;
            INSERT INTO pg_temp.portalhook_ids VALUES (found.id);
            INSERT INTO portalhook_mirror.counters AS c (user_id, {counter}) SELECT found.user_id, 1 WHERE found.user_id IS NOT NULL
            ON CONFLICT (user_id) DO UPDATE SET {counter} = c.{counter} + 1;
        EXCEPTION WHEN cardinality_violation OR data_exception OR integrity_constraint_violation THEN
            INSERT INTO portalhook.row_failures (lsn, entity, table_name, key, sqlstate, message)
            VALUES ({lsn}, '{counter}', {table}, one.key, SQLSTATE, SQLERRM);
        END;
    END LOOP;
    DROP TABLE pg_temp.portalhook_ids;
END",
        keys = key.join(", "),
        mirror = table.mirror_name(),
        order = rank_sql(key.iter().cloned()),
        live = literal(&format!(
            "SELECT id, rows, rank, CASE WHEN o{owner} IS NOT NULL THEN format('%s', o{owner}) END AS user_id FROM ({}) AS q LIMIT 1",
            one.rows(Some("ctid = $1"))
        )),
        lsn = literal(lsn),
        table = literal(&format!("{}.{}", table.schema, table.name)),
    );
    Some(format!("DO {}", literal(&body)))
}
