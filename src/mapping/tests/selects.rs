use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::super::layout::{literal, quote};
use super::super::plan::{Entity, Plan, Table};
use super::super::read::read_select;
use super::super::record;
use super::super::select::{Restriction, Variant};
use super::{connect, fill, texts};
use crate::throwaway::Throwaway;

const SCHEMA: &str = include_str!("../../../tests/selects/schema.sql");
const SELECTS: &str = include_str!("../../../tests/selects/selects.txt");

/// What no mapping can have, and a word of the reason that the operator gets.
const REFUSED: &[(&str, &str)] = &[
    ("anon_row_field", "whole row of app.users as a value"),
    ("distinct", "DISTINCT"),
    ("groupby_pk", "GROUP BY"),
    ("regrole_consts", "app.posts as a type"),
    ("syscols", "system column of app.posts"),
    ("tableoid_part", "system column of app.events"),
    ("union", "UNION"),
    ("wholerow_fn", "whole row of app.users to app.display"),
    ("wholerow_join_fn", "whole row of app.users to app.display"),
    ("win_top", "window function"),
];

/// SELECTs that try the rewriting itself, over the same tables and some more.
const MORE: &str = r#"
alias_list_base|SELECT c.cid AS id, c.b FROM app.comments AS c(cid, pid, par, b) WHERE c.par IS NULL
alias_list_join|SELECT p.id, s.n FROM app.posts p LEFT JOIN app.statuses s(sid, n) ON s.sid = p.status_id
alias_list_cast|SELECT p.id, s.k FROM app.posts p LEFT JOIN app.statuses s(sid, n, c, t, k) ON s.sid = p.status_id
alias_list_generated|SELECT x.i AS id, x.late FROM app.posts x(i, t, b) WHERE x.title_len > 3
alias_list_view|SELECT v.a AS id, v.b FROM app.live_posts v(a, b) WHERE v.a > 3
alias_list_subquery|SELECT x.i AS id, x.t FROM (SELECT p.id, p.title FROM app.posts p WHERE p.is_approved) x(i, t) WHERE x.i > 2
alias_list_cte|WITH w(i, t) AS (SELECT p.id, p.title FROM app.posts p) SELECT q.x AS id, q.t FROM w q(x) WHERE q.x < 9
nested_with|SELECT x.id FROM (WITH w AS (SELECT c.post_id FROM app.comments c) SELECT p.id FROM app.posts p WHERE p.id IN (SELECT w.post_id FROM w)) x
nested_subqueries|SELECT y.id, y.t FROM (SELECT x.id, x.t FROM (SELECT p.id, upper(p.title) AS t FROM app.posts p WHERE p.id > 3) x WHERE x.id < 20) y WHERE y.t IS NOT NULL
view_of_view|SELECT v.id, v.title FROM app.narrow v WHERE v.title IS NOT NULL
view_joined|SELECT p.id, s.col, n.n FROM app.posts p LEFT JOIN app.live_statuses s ON s.id = p.status_id LEFT JOIN app.per_post n ON n.post_id = p.id
view_twice|SELECT a.id, b.title FROM app.live_posts a LEFT JOIN app.live_posts b ON b.id = a.id + 1
composite_key|SELECT v.post_id AS post, v.user_id AS voter, v.weight FROM app.votes v WHERE v.weight > 1
odd_keys|SELECT k.name AS id, k.kind, k.mail FROM app.keyed k WHERE k.mail > 'b'
collations|SELECT k.n AS id, k.c < 'a' AS c, k.g < 'a' AS g, k.c COLLATE "C" < k.g COLLATE "C" AS b FROM app.collated k
generated_of_enum|SELECT g.id, g.is_open, g.twice FROM app.generated g WHERE g.is_open OR g.id = 3
generated_joined|SELECT p.id, g.is_open FROM app.posts p LEFT JOIN app.generated g ON g.id = p.id
odd_outputs|SELECT p.id AS "mirror", p.title AS "stored", p.id AS "a""b", p.id AS e FROM app.posts p
odd_alias|SELECT "p ""x".id, "p ""x".title FROM app.posts "p ""x" WHERE "p ""x".id > 2
whole_row_of_all|SELECT p.id, to_jsonb(p) - 'search' AS j, row_to_json(u) AS u FROM app.posts p LEFT JOIN app.users u ON u.id = p.author_id
whole_rows_compared|SELECT c.id, c IS DISTINCT FROM d AS a, c = d AS b, c > d AS g FROM app.comments c LEFT JOIN app.comments d ON d.id IN (c.id, c.id + 5) AND d.id % 5 = 0
whole_rows_gathered|SELECT p.id, (SELECT json_agg(c ORDER BY c.id) FROM app.comments c WHERE c.post_id = p.id) AS cs, (SELECT count(s) FROM app.statuses s) AS n FROM app.posts p
whole_row_of_join|SELECT p.id, (SELECT to_jsonb(j) FROM (app.votes v JOIN app.statuses s ON s.id = v.weight) j WHERE j.post_id = p.id ORDER BY 1 LIMIT 1) AS j FROM app.posts p
columns_of_join_renamed|SELECT p.id, (SELECT max(j.e) FROM (app.votes v JOIN app.statuses s ON s.id = v.weight) j(a, b, c, d, e) WHERE j.a = p.id) AS j FROM app.posts p
cte_named_as_table|WITH posts AS (SELECT 1 AS x), statuses AS (SELECT s.id FROM app.statuses s) SELECT p.id, posts.x, statuses.id AS s FROM app.posts p CROSS JOIN posts LEFT JOIN statuses ON statuses.id = p.id
text_before|SELECT p.id, 'Dönë – „ein“ Wört' AS a, E'it\'s \\ FROM app.users WHERE' AS b, s.name AS "größe" FROM app.posts p LEFT JOIN app.statuses s ON s.name = 'Dönë' AND s.id = p.id
words_in_targets|SELECT p.id, p.title IS DISTINCT FROM 'x' AS a, CASE WHEN p.id IN (SELECT c.id FROM app.comments c WHERE c.hidden) THEN 1 END AS b, (SELECT max(q.id) FROM app.posts q WHERE q.id < p.id) AS c FROM app.posts p WHERE p.id IN (SELECT c.post_id FROM app.comments c WHERE c.hidden ORDER BY c.id LIMIT 5) ORDER BY p.id
join_using_many|SELECT c.id, post_id AS post, v.weight, x.n FROM app.comments c LEFT JOIN app.votes v USING (post_id) LEFT JOIN (SELECT e.post_id, count(*) AS n FROM app.events e GROUP BY 1) x USING (post_id)
only_without_alias|SELECT id, title FROM ONLY app.posts WHERE id > 3
in_parentheses|SELECT p.id, s.name, t.plan FROM ((app.posts p JOIN (app.statuses s LEFT JOIN crm.tenants t ON t.id = s.tenant_id) ON s.id = p.status_id)) WHERE p.id > 1
count_of_keyless|SELECT p.id, (SELECT count(*) FROM app.events) AS n FROM app.posts p
grouping_sets|SELECT p.id, (SELECT string_agg(x.k || x.n, ',' ORDER BY x.k, x.n) FROM (SELECT c.kind AS k, count(*) AS n FROM app.comments c GROUP BY GROUPING SETS ((c.kind), ()) HAVING count(*) > 0) x) AS g FROM app.posts p
arrays_of_enum|SELECT k.n AS id, k.kinds, k.mails, k.place, (k.place).city FROM app.collated k WHERE 'open' = ANY (k.kinds)
exists_deep|SELECT u.id, EXISTS (SELECT 1 FROM app.posts p WHERE p.author_id = u.id AND NOT EXISTS (SELECT 1 FROM app.votes v WHERE v.post_id = p.id)) AS x FROM app.users u
sampled|SELECT c.id, (SELECT count(*) FROM app.votes v TABLESAMPLE system (100)) AS n FROM app.comments c
"#;

const MORE_SCHEMA: &str = r#"
CREATE VIEW app.narrow AS SELECT l.id, l.title FROM app.live_posts l WHERE l.tenant_id = 1;
CREATE VIEW app.per_post AS SELECT v.post_id, count(*) AS n FROM app.votes v GROUP BY v.post_id;
CREATE TABLE app.keyed(kind app.post_status, x int, name citext, mail app.email_d, PRIMARY KEY (name, kind));
INSERT INTO app.keyed VALUES ('open', 1, 'A b', 'c@x'), ('it''s done', 2, 'quote''d "', 'd@x'), ('open', 3, 'z', 'a@x');
CREATE TABLE app.collated(n int PRIMARY KEY, gone int, c text COLLATE "C", g varchar(9) COLLATE app.german,
    kinds app.post_status[], mails app.email_d[], place app.addr);
ALTER TABLE app.collated DROP COLUMN gone;
INSERT INTO app.collated VALUES (1, 'B', 'b', '{open,"it''s done"}', '{a@b}', ROW('s', 'c, d', 1)), (2, 'b', 'B', '{}', NULL, NULL);
CREATE TABLE app.generated(id int PRIMARY KEY, kind app.post_status, twice int GENERATED ALWAYS AS (id * 2) STORED,
    is_open bool GENERATED ALWAYS AS (kind = 'open') STORED);
INSERT INTO app.generated VALUES (1, 'open'), (2, 'planned'), (3, NULL);
"#;

const UNFOLLOWED_SCHEMA: &str = r"
CREATE MATERIALIZED VIEW app.stored AS SELECT p.id FROM app.posts p;
CREATE UNLOGGED TABLE app.hasty(id int PRIMARY KEY);
CREATE TABLE app.parent(id int PRIMARY KEY); CREATE TABLE app.child(x int) INHERITS (app.parent);
CREATE SEQUENCE app.counter;
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE app.far(id int) SERVER nowhere;
CREATE FUNCTION app.dice() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 4';
CREATE VIEW app.grouped AS SELECT v.post_id, count(*) FROM app.votes v GROUP BY v.post_id;
CREATE SCHEMA portalhook; CREATE TABLE portalhook.own(id int PRIMARY KEY);
";

/// What no mapping can have.
const UNFOLLOWED: &str = r#"
function|SELECT g.id FROM generate_series(1, 3) AS g(id)
values|VALUES (1)
values_as_base|SELECT v.id FROM (VALUES (1)) AS v(id)
constant_as_base|SELECT v.id FROM (SELECT 1 AS id) AS v LEFT JOIN app.posts p ON p.id = v.id
right_join|SELECT s.id FROM app.posts p RIGHT JOIN app.statuses s ON s.id = p.status_id
full_join|SELECT s.id FROM app.posts p FULL JOIN app.statuses s ON s.id = p.status_id
limit|SELECT p.id FROM app.posts p LIMIT 3
offset|SELECT p.id FROM app.posts p OFFSET 3
distinct_on|SELECT DISTINCT ON (p.tenant_id) p.id FROM app.posts p
having|SELECT max(p.id) AS id FROM app.posts p HAVING count(*) > 1
aggregate|SELECT max(p.id) AS id FROM app.posts p
named_window|SELECT p.id, rank() OVER w AS r FROM app.posts p WINDOW w AS (ORDER BY p.id)
aggregate_keyless|SELECT max(e.id) AS id FROM app.events e
aggregate_keyless_deep|SELECT x.id FROM (SELECT count(*) AS id FROM app.events e) x
grouped_view|SELECT g.post_id AS id FROM app.grouped g
grouped_subquery|SELECT g.id FROM (SELECT v.post_id AS id FROM app.votes v GROUP BY v.post_id) g
locking|SELECT p.id FROM app.posts p FOR UPDATE
locking_deep|SELECT p.id, (SELECT u.name FROM app.users u WHERE u.id = p.author_id FOR SHARE) AS n FROM app.posts p
random|SELECT p.id, random() AS r FROM app.posts p
clock|SELECT p.id, clock_timestamp() AS r FROM app.posts p
volatile|SELECT p.id, app.dice() AS r FROM app.posts p
matview|SELECT s.id FROM app.stored s
foreign|SELECT f.id FROM app.far f
foreign_joined|SELECT p.id FROM app.posts p LEFT JOIN app.far f ON f.id = p.id
unlogged|SELECT h.id FROM app.hasty h
inherited|SELECT x.id FROM app.parent x
only_partitioned|SELECT e.id FROM ONLY app.events e
sequence|SELECT p.id, c.last_value FROM app.posts p LEFT JOIN app.counter c ON true
catalog|SELECT p.id, (SELECT count(*) FROM pg_class) AS n FROM app.posts p
catalog_base|SELECT c.oid AS id FROM pg_class c
information_schema|SELECT p.id, (SELECT count(*) FROM information_schema.tables) AS n FROM app.posts p
own|SELECT o.id FROM portalhook.own o
ctid|SELECT p.id, p.ctid::text AS c FROM app.posts p
row_column|SELECT c.id, c FROM app.comments c
table_constant|SELECT v.post_id AS id, 'app.users'::regclass::text AS t FROM app.votes v
cte_twice|WITH w AS (SELECT p.id FROM app.posts p) SELECT w.id, (SELECT count(*) FROM w x) AS n FROM w
cte_recursive|WITH RECURSIVE w AS (SELECT p.id FROM app.posts p UNION ALL SELECT w.id + 100 FROM w WHERE w.id < 50) SELECT w.id FROM w
whole_subquery|SELECT x.id, to_jsonb(x) AS j FROM (SELECT p.id FROM app.posts p) x
sampled_base|SELECT p.id FROM app.posts p TABLESAMPLE system (10)
sampled_cast|SELECT c.id, (SELECT count(s.kind) FROM app.statuses s TABLESAMPLE system (100)) AS n FROM app.comments c
no_such_column|SELECT p.idd FROM app.posts p
our_name|SELECT p.id, 1 AS "portalhook key 1" FROM app.posts p
base_of_join_renamed|SELECT j.a AS id FROM (app.posts p JOIN app.statuses s ON s.id = p.status_id) j(a)
two_statements|SELECT 1 AS id; DROP TABLE app.posts
"#;

/// The words by which an operator knows what to change.
const UNFOLLOWED_REASONS: &[(&str, &str)] = &[
    ("function", "is a function; put a table first"),
    ("values", "it is VALUES"),
    ("values_as_base", "it is VALUES"),
    ("constant_as_base", "a subquery without a table"),
    ("right_join", "use LEFT JOIN"),
    ("full_join", "use LEFT JOIN"),
    ("limit", "LIMIT or OFFSET"),
    ("offset", "LIMIT or OFFSET"),
    ("distinct_on", "DISTINCT"),
    ("having", "aggregate in a subquery"),
    ("aggregate", "an aggregate without subquery"),
    ("named_window", "window function"),
    ("aggregate_keyless", "an aggregate without subquery"),
    ("aggregate_keyless_deep", "an aggregate without subquery"),
    ("grouped_view", "the view app.grouped that it reads: it has GROUP BY"),
    ("grouped_subquery", "it has GROUP BY"),
    ("locking", "it locks rows"),
    ("locking_deep", "it locks rows"),
    ("random", "random(), which is VOLATILE"),
    ("clock", "clock_timestamp(), which is VOLATILE"),
    ("volatile", "app.dice(), which is VOLATILE"),
    ("matview", "app.stored, which is a materialized view"),
    ("foreign", "app.far, which is a foreign table"),
    ("foreign_joined", "app.far, which is a foreign table"),
    ("unlogged", "app.hasty, which is unlogged"),
    ("inherited", "app.parent, which has tables that inherit from it: write ONLY"),
    ("only_partitioned", "app.events, with ONLY"),
    ("sequence", "app.counter, which is a sequence"),
    ("catalog", "pg_catalog.pg_class"),
    ("catalog_base", "pg_catalog.pg_class"),
    ("information_schema", "information_schema.tables, which is the server's"),
    ("own", "portalhook.own, which is ours"),
    ("ctid", "a system column of app.posts"),
    ("row_column", "whole row of app.comments"),
    ("table_constant", "table app.users as a constant"),
    ("cte_twice", "the CTE w, which it uses 2 times"),
    ("cte_recursive", "the CTE w, which it uses 2 times"),
    ("whole_subquery", "it uses x as a whole row"),
    ("sampled_base", "TABLESAMPLE"),
    ("sampled_cast", "TABLESAMPLE on app.statuses"),
    ("no_such_column", "column p.idd does not exist (line 1 of its SELECT: SELECT p.idd FROM app.posts p)"),
    ("our_name", "names that begin with portalhook"),
    ("base_of_join_renamed", "it renames the columns of a join"),
    ("two_statements", "cannot insert multiple commands into a prepared statement"),
];

/// Compares a SELECT over mirrors with the SELECT itself; says what differs, or why it was refused.
async fn compare(client: &Client, name: &str, query: &str) -> Result<(), String> {
    let (plan, _) = read_select(client, name, query).await.map_err(|error| format!("refused: {error}"))?;
    fill(client, &plan).await;
    let mapped = &plan.entities[0];
    let base = &plan.tables[mapped.base.expect("a base")];
    let ours = texts(client, &plan.select(Entity::Posts, Variant::Live, &Restriction::All)).await;
    let fields = |row: &String, keys: usize| -> Vec<Option<String>> {
        record::parse(row).expect("record").drain(keys..).map(|field| field.map(Into::into)).collect()
    };
    let original = texts(client, &format!("SELECT (q.*)::text FROM ({query}) q")).await;
    let mut theirs: Vec<_> = original.iter().map(|row| fields(row, 0)).collect();
    let mut shown: Vec<_> = ours.iter().map(|row| fields(row, base.key.len())).collect();
    theirs.sort();
    shown.sort();
    if shown != theirs {
        return Err(format!("{shown:?}\n instead of {theirs:?}"));
    }
    if !base.key.is_empty() {
        let singly = key_by_key(client, &plan, base).await;
        if singly != ours {
            return Err(format!("key by key: {singly:?}\n instead of {ours:?}"));
        }
    }
    // Without the WHERE there are the live rows and others, unless one of the others raises.
    if let Ok(rows) = client.query(&plan.select(Entity::Posts, Variant::Any, &Restriction::All), &[]).await {
        let any: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if let Some(row) = ours.iter().find(|row| !any.contains(row)) {
            return Err(format!("live, but not there without WHERE: {row}"));
        }
    }
    Ok(())
}

/// Each row by its key; the keys come as text, as they do in the stream.
async fn key_by_key(client: &Client, plan: &Plan, base: &Table) -> Vec<String> {
    let by_key = plan.select(Entity::Posts, Variant::Live, &Restriction::Keys);
    let columns = base.key.iter().map(|&index| format!("format('%s', {})", quote(&base.columns[index].name)));
    let columns: Vec<String> = columns.collect();
    let mut rows = Vec::new();
    for key in texts(client, &format!("SELECT ROW({})::text FROM {}", columns.join(", "), base.mirror_name())).await {
        let mut statement = by_key.clone();
        for (place, field) in record::parse(&key).expect("key").iter().enumerate() {
            let array = format!("ARRAY[{}]", literal(field.as_deref().expect("a key is not null")));
            statement = statement.replace(&format!("${}::", place + 1), &format!("{array}::"));
        }
        rows.extend(texts(client, &statement).await);
    }
    rows.sort();
    rows
}

/// Runs all SELECTs of a list; all others than `refused` must agree.
async fn all_agree(schema: &[&str], selects: &str, refused: &[(&str, &str)]) {
    let server = Throwaway::start(&[]).expect("start");
    for script in schema {
        server.psql("postgres", script).expect("schema");
    }
    // One of the SELECTs finds a function by the database's search_path; the session has an empty one.
    server.psql("postgres", "ALTER DATABASE postgres SET search_path = app, public").expect("search_path");
    let client = connect(&server, "postgres").await;
    let mut refused: BTreeMap<&str, &str> = refused.iter().copied().collect();
    let mut wrong = Vec::new();
    for line in selects.lines().filter(|line| !line.is_empty()) {
        let (name, query) = line.split_once('|').expect("name|SELECT");
        match (compare(&client, name, query).await, refused.remove(name)) {
            (Ok(()), None) => {}
            (Err(said), Some(reason)) if said.starts_with("refused: ") && said.contains(reason) => {}
            (Err(said), _) => wrong.push(format!("{name}: {said}")),
            (Ok(()), Some(_)) => wrong.push(format!("{name}: not refused")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.is_empty(), "not among the SELECTs: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_select_over_mirrors_gives_what_it_gives_over_the_tables() {
    all_agree(&[SCHEMA], SELECTS, REFUSED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selects_that_are_hard_to_rewrite_give_what_they_give_over_the_tables() {
    all_agree(&[SCHEMA, MORE_SCHEMA], MORE, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selects_that_cannot_be_followed_are_refused_with_the_reason() {
    all_agree(&[SCHEMA, UNFOLLOWED_SCHEMA], UNFOLLOWED, UNFOLLOWED_REASONS).await;
}
