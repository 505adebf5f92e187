//! Constructs that a SELECT may be made of, each played against the original SELECT: the daemon comes late, and every event
//! must say what the SELECT said around its own transaction.
//!
//! Cases go in pairs, one as posts and one as comments of one database.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::mirror::differences;
use crate::support::portal::Portal;
use crate::support::receiver::{Received, Receiver};

struct Case {
    name: &'static str,
    schema: &'static str,
    /// `{}` stands for what an entity has beside id and the case's own columns. Values are such that `to_jsonb` writes them
    /// as a body does.
    select: &'static str,
    /// The base's alias: a row that a transaction did not write makes no event. Empty: whatever it says, all that changes was written.
    row: &'static str,
    /// Each line is a transaction; `silent: ` before one that touches no base row.
    script: &'static str,
}

const POST: &str = "'t'::text AS title, ''::text AS description, 'open'::text AS status, NULL::int AS author, 1 AS portal, NULL::timestamptz AS created_at";
const COMMENT: &str = "NULL::int AS post, NULL::int AS author, 'c'::text AS comment, NULL::timestamptz AS created_at";

const COMMON: &str = "
    CREATE TABLE nothing (id int PRIMARY KEY);";

const CASES: &[Case] = &[
    Case {
        name: "partitions of several levels, of other column orders, with dropped columns, attached with rows",
        schema: "CREATE TABLE part (region text, id int, gone int, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
            ALTER TABLE part DROP COLUMN gone;
            CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
            CREATE TABLE part_b (v text, x int, id int NOT NULL, region text NOT NULL); ALTER TABLE part_b DROP COLUMN x;
            INSERT INTO part_b (region, id, v) VALUES ('b', 2, 'there before');
            ALTER TABLE part_b ADD PRIMARY KEY (region, id);
            ALTER TABLE part ATTACH PARTITION part_b FOR VALUES IN ('b');
            CREATE TABLE part_c PARTITION OF part FOR VALUES IN ('c') PARTITION BY RANGE (id);
            CREATE TABLE part_c1 (id int NOT NULL, v text, region text NOT NULL);
            ALTER TABLE part_c ATTACH PARTITION part_c1 FOR VALUES FROM (1) TO (100);
            CREATE TABLE part_d PARTITION OF part DEFAULT;
            INSERT INTO part VALUES ('a', 1, 'one'), ('c', 3, 'three'), ('z', 9, 'nine');",
        select: "SELECT p.region || ':' || p.id AS id, {}, p.v, p.region FROM part p WHERE p.v IS NOT NULL",
        row: "p",
        script: "INSERT INTO part VALUES ('c', 4, 'four'), ('b', 5, 'five')
            UPDATE part SET v = v || '!'
            UPDATE part SET region = 'c' WHERE id = 1
            UPDATE part_b SET v = NULL WHERE id = 2
            DELETE FROM part_c1 WHERE id = 3
            UPDATE part SET v = 'back' WHERE id = 2
            BEGIN; DELETE FROM part WHERE region = 'z'; INSERT INTO part VALUES ('y', 9, 'moved'); COMMIT
            TRUNCATE part",
    },
    Case {
        name: "a table that others inherit from, with ONLY",
        schema: "CREATE TABLE parent (id int PRIMARY KEY, v text);
            CREATE TABLE child (extra int) INHERITS (parent);
            INSERT INTO parent VALUES (1, 'parent'); INSERT INTO child VALUES (1, 'child', 1), (2, 'child', 2);",
        select: "SELECT p.id, {}, p.v, (SELECT count(*) FROM ONLY parent) AS n FROM ONLY parent p",
        row: "p",
        script: "INSERT INTO parent VALUES (3, 'three')
            silent: INSERT INTO child VALUES (4, 'four', 4)
            silent: UPDATE child SET v = 'other' WHERE id = 2
            UPDATE ONLY parent SET v = 'p' WHERE id = 1
            silent: DELETE FROM child WHERE id = 1
            DELETE FROM ONLY parent WHERE id = 3",
    },
    Case {
        name: "several LEFT JOINs, a reverse join with constant conditions, all kinds of subqueries",
        schema: "CREATE TABLE b (id int PRIMARY KEY, s int, u int, v text);
            CREATE TABLE s (id int PRIMARY KEY, name text, g int); CREATE TABLE g (id int PRIMARY KEY, name text);
            CREATE TABLE r (id int PRIMARY KEY, b int, kind text, v text);
            INSERT INTO g VALUES (1, 'g'); INSERT INTO s VALUES (1, 's1', 1), (2, 's2', NULL);
            INSERT INTO b VALUES (1, 1, 7, 'x'), (2, 2, 8, 'y'), (3, NULL, NULL, NULL);
            INSERT INTO r VALUES (1, 1, 'main', 'm'), (2, 1, 'other', 'o'), (3, 2, 'other', 'p');",
        select: "SELECT b.id, {}, b.v, s.name AS s, g.name AS g, r.v AS main,
                (SELECT max(x.v) FROM r x WHERE x.b = b.id) AS scalar,
                EXISTS (SELECT 1 FROM r x WHERE x.b = b.id AND x.kind = 'other') AS has,
                ARRAY(SELECT x.v FROM r x WHERE x.b = b.id ORDER BY x.id) AS list,
                (SELECT json_agg(x ORDER BY x.id) FROM r x WHERE x.b = b.id)::jsonb AS rows,
                (SELECT string_agg(w.v, ',' ORDER BY w.n) FROM (SELECT x.v, row_number() OVER (ORDER BY x.id DESC) AS n FROM r x WHERE x.b = b.id) w) AS windowed,
                (SELECT count(*) FROM (SELECT x.id FROM r x UNION SELECT y.id FROM s y) z) AS united,
                l.v AS latest, b.u IN (SELECT x.id + 6 FROM r x) AS among
            FROM b LEFT JOIN s ON s.id = b.s LEFT JOIN g ON g.id = s.g LEFT JOIN r ON r.b = b.id AND r.kind = 'main'
                LEFT JOIN LATERAL (SELECT DISTINCT ON (x.kind) x.v FROM r x WHERE x.b = b.id ORDER BY x.kind, x.id DESC LIMIT 1) l ON true
            WHERE b.v IS NOT NULL",
        row: "b",
        script: "UPDATE b SET v = v || '.'
            silent: UPDATE s SET name = 'renamed' WHERE id = 1
            UPDATE b SET v = v || '.'
            BEGIN; INSERT INTO r VALUES (4, 2, 'main', 'n'); UPDATE b SET v = 'seen' WHERE id = 2; COMMIT
            silent: DELETE FROM r WHERE id = 1
            BEGIN; UPDATE b SET v = 'three', s = 2 WHERE id = 3; INSERT INTO r VALUES (5, 3, 'other', 'q'); COMMIT
            silent: DELETE FROM g
            DELETE FROM b WHERE id = 1
            silent: TRUNCATE r
            UPDATE b SET v = NULL
            UPDATE b SET v = 'again'",
    },
    Case {
        name: "views over views, security_invoker or not, with an outer WHERE",
        schema: "CREATE TABLE t (id int PRIMARY KEY, v text, hidden bool DEFAULT false); CREATE TABLE k (id int PRIMARY KEY, t int, n int);
            CREATE VIEW v1 AS SELECT t.id AS number, t.v, t.hidden FROM t WHERE NOT t.hidden;
            CREATE VIEW v2 AS SELECT v1.number, upper(v1.v) AS v, k.n FROM v1 LEFT JOIN k ON k.t = v1.number;
            CREATE VIEW sums AS SELECT k.t, sum(k.n) AS s FROM k GROUP BY k.t;
            INSERT INTO t VALUES (1, 'a', false), (2, 'b', true); INSERT INTO k VALUES (1, 1, 10);",
        select: "SELECT x.number AS id, {}, x.v, x.n, s.s FROM v2 x LEFT JOIN sums s ON s.t = x.number WHERE x.v <> 'Z'",
        row: "",
        script: "INSERT INTO t VALUES (3, 'c')
            UPDATE t SET hidden = NOT hidden
            silent: INSERT INTO k VALUES (2, 2, 5)
            UPDATE t SET v = v || '2'
            UPDATE t SET v = 'z' WHERE id = 2
            UPDATE t SET hidden = false
            DELETE FROM t",
    },
    Case {
        name: "CTEs, a recursive one, a base in a CTE, nested subqueries",
        schema: "CREATE TABLE c (id int PRIMARY KEY, parent int, v text); INSERT INTO c VALUES (1, NULL, 'root'), (2, 1, 'leaf');
            CREATE TABLE \"posts\" (id int PRIMARY KEY);",
        select: "WITH RECURSIVE up(id, depth) AS (SELECT x.id, 0 FROM c x WHERE x.parent IS NULL UNION ALL SELECT x.id, up.depth + 1 FROM c x JOIN up ON up.id = x.parent),
                own AS (SELECT y.id, y.v FROM (SELECT * FROM c) y WHERE y.v <> 'no')
            SELECT o.id, {}, o.v, up.depth FROM own o LEFT JOIN up ON up.id = o.id",
        row: "",
        script: "INSERT INTO c VALUES (3, 2, 'deep')
            UPDATE c SET v = 'no' WHERE id = 2
            UPDATE c SET v = CASE id WHEN 2 THEN 'yes' ELSE v || ',' END, parent = CASE id WHEN 3 THEN 2 END WHERE id > 1
            UPDATE c SET v = v || '.' WHERE id = 3
            DELETE FROM c WHERE id = 1",
    },
    Case {
        name: "generated and identity columns, of types of the application",
        schema: "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE addr AS (street text, zip int);
            CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, m mood, home addr,
                twice int GENERATED ALWAYS AS (a * 2) STORED, sad bool GENERATED ALWAYS AS (m = 'sad') STORED, \"a b\" text GENERATED ALWAYS AS ((home).street || '!') STORED);
            INSERT INTO gen (a, m, home) VALUES (1, 'sad', ROW('s', NULL)), (NULL, 'ok', NULL);",
        select: "SELECT gen.id, {}, gen.twice, gen.sad, gen.\"a b\", (gen.home).zip, gen.m::text AS m FROM gen WHERE gen.twice IS DISTINCT FROM 8",
        row: "gen",
        script: "INSERT INTO gen (a, m, home) VALUES (3, 'ok', ROW('x', 1))
            UPDATE gen SET a = a + 1
            UPDATE gen SET home = ROW((home).street, 5)
            UPDATE gen SET m = 'sad'
            UPDATE gen SET m = 'ok', a = 9
            DELETE FROM gen WHERE id = 2",
    },
    Case {
        name: "quoted and reserved names, names like ours, dots, quotes, spaces and letters",
        schema: r#"CREATE SCHEMA "Sch.e""ma ü"; CREATE TABLE "Sch.e""ma ü"."order" ("user" int PRIMARY KEY, "select" text, "a.b" text, "where" text, "portalhook row" int, "x""y" int);
            CREATE TABLE "Sch.e""ma ü"."public.order 2" (id int PRIMARY KEY, v text); CREATE TABLE "Sch.e""ma ü"."order 2" (id int PRIMARY KEY, v text);
            INSERT INTO "Sch.e""ma ü"."order" VALUES (1, 's', 'ab', 'w', 1, 2); INSERT INTO "Sch.e""ma ü"."order 2" VALUES (1, 'two');"#,
        select: r#"SELECT "from"."user" AS id, {}, "from"."select" AS "from", "from"."a.b" AS "a.b", "from"."where", "from"."portalhook row" + "from"."x""y" AS "x""y", "order 2".v AS "key"
            FROM "Sch.e""ma ü"."order" "from" LEFT JOIN "Sch.e""ma ü"."order 2" ON "order 2".id = "from"."user" WHERE "from"."where" <> ' WHERE '"#,
        row: r#""from""#,
        script: r#"INSERT INTO "Sch.e""ma ü"."order" VALUES (2, 's', 'ab', 'w', 1, 2), (3, '', '', '', NULL, NULL)
            silent: UPDATE "Sch.e""ma ü"."order 2" SET v = 'deux'
            UPDATE "Sch.e""ma ü"."order" SET "x""y" = 5
            UPDATE "Sch.e""ma ü"."order" SET "where" = ' WHERE ' WHERE "user" < 3
            DELETE FROM "Sch.e""ma ü"."order""#,
    },
    Case {
        name: "the base table looked into, joined to itself, and by comma",
        schema: "CREATE TABLE tree (id int PRIMARY KEY, up int, v text); CREATE TABLE kinds (id int PRIMARY KEY, name text);
            INSERT INTO tree VALUES (1, NULL, 'a'), (2, 1, 'b'), (3, 1, 'c'); INSERT INTO kinds VALUES (1, 'one'), (2, 'two');",
        select: "SELECT t.id, {}, t.v, above.v AS above, k.name AS kind, (SELECT count(*) FROM tree x WHERE x.up = t.id) AS below
            FROM tree t LEFT JOIN tree above ON above.id = t.up, kinds k WHERE k.id = 1 AND t.v <> 'gone'",
        row: "t",
        script: "UPDATE tree SET v = v || '.' WHERE id = 2
            BEGIN; UPDATE tree SET v = 'A' WHERE id = 1; UPDATE tree SET v = 'B' WHERE id = 2; COMMIT
            UPDATE tree SET v = 'gone' WHERE id = 3
            BEGIN; UPDATE kinds SET name = 'uno' WHERE id = 1; UPDATE tree SET v = 'C' WHERE id = 3; COMMIT
            INSERT INTO tree VALUES (4, 3, 'd')
            DELETE FROM tree WHERE id IN (2, 4)",
    },
    Case {
        name: "keys of odd types, and ids made of them",
        schema: "CREATE TYPE kind AS ENUM ('a b', 'c'); CREATE TABLE odd (k kind, n numeric, d timestamptz, b bytea, c \"char\", v text, PRIMARY KEY (k, n, d, b, c));
            INSERT INTO odd VALUES ('a b', 1.50, '2024-01-01 10:00+02', '\\x00ff', 'x', 'one'), ('c', 'NaN', 'infinity', '', 'y', 'two');",
        select: "SELECT concat_ws('/', o.k, o.n, o.d, o.b, o.c) AS id, {}, o.v, o.n, o.k::text AS k FROM odd o",
        row: "o",
        script: "UPDATE odd SET v = 'One' WHERE n = 1.5
            UPDATE odd SET n = 1.500 WHERE n = 1.5
            UPDATE odd SET d = d + interval '1 day', v = v || '.'
            INSERT INTO odd VALUES ('c', -0.0, '-infinity', '\\x5c', ',', 'q\"uote')
            UPDATE odd SET c = '\"' WHERE c = ','
            DELETE FROM odd",
    },
    Case {
        name: "functions, operators and casts of the application; constants of its types",
        schema: "CREATE SCHEMA lib; CREATE TYPE lib.level AS ENUM ('low', 'high');
            CREATE FUNCTION lib.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
            CREATE FUNCTION lib.same(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT lower($1) = lower($2)';
            CREATE OPERATOR lib.=~ (LEFTARG = text, RIGHTARG = text, FUNCTION = lib.same);
            CREATE FUNCTION lib.level(text) RETURNS lib.level LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN length($1) > 3 THEN ''high'' ELSE ''low'' END::lib.level';
            CREATE AGGREGATE lib.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
            CREATE TABLE lib.t (id int PRIMARY KEY, v text, l lib.level, ls lib.level[]);
            INSERT INTO lib.t VALUES (1, 'Abc', 'low', '{low,high}'), (2, 'Defg', 'high', NULL);",
        select: "SELECT t.id, {}, lib.twice(t.id) AS twice, t.v OPERATOR(lib.=~) 'abc' AS same, lib.level(t.v)::text AS made, t.l < 'high'::lib.level AS less,
                (SELECT lib.total(x.id) FROM lib.t x) AS total, 'high' = ANY (t.ls) AS any, array_position(t.ls, 'high') AS at
            FROM lib.t WHERE t.l <= ALL (ARRAY['high'::lib.level])",
        row: "t",
        script: "UPDATE lib.t SET v = 'ABC'
            UPDATE lib.t SET l = 'low', ls = '{high}'
            UPDATE lib.t SET l = NULL WHERE id = 1
            INSERT INTO lib.t VALUES (3, 'xyz', 'low', '{}')
            DELETE FROM lib.t WHERE id < 3",
    },
];

#[test]
fn events_say_what_the_select_said_around_their_transaction() {
    let mut wrong = Vec::new();
    for pair in CASES.chunks(2) {
        wrong.extend(play(pair));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the original SELECT says: rows by id, each with the transaction that wrote it.
type State = BTreeMap<String, (Value, String)>;

fn state(portal: &Portal, case: &Case, columns: &str) -> State {
    let writer = if case.row.is_empty() { "''".to_owned() } else { format!("{}.xmin::text", case.row) };
    let select = case.select.replace("{}", &format!("{columns}, {writer} AS writer"));
    let query = format!(
        "SELECT id::text, writer, to_jsonb(q) - '{{author,portal,post,created_at,id,writer}}'::text[] FROM ({select}) q"
    );
    let rows = portal.sql(&format!("\\pset fieldsep '\\t'\n{query}"));
    rows.lines()
        .map(|line| {
            let fields: Vec<&str> = line.splitn(3, '\t').collect();
            let row = serde_json::from_str(fields[2]).expect("json");
            (fields[0].to_owned(), (row, fields[1].to_owned()))
        })
        .collect()
}

/// What a transaction must give, in any order: name, id and row.
fn expected(entity: &str, before: &State, after: &State) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (id, (row, writer)) in before {
        match after.get(id) {
            None => all.push((format!("{entity}.deleted"), id.clone(), row.clone())),
            Some((now, by)) if now != row && (by != writer || by.is_empty()) => {
                all.push((format!("{entity}.updated"), id.clone(), now.clone()));
            }
            Some(_) => {}
        }
    }
    let came = after.iter().filter(|(id, _)| !before.contains_key(*id));
    all.extend(came.map(|(id, (row, _))| (format!("{entity}.created"), id.clone(), row.clone())));
    all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    all
}

fn shown(event: &Received, entity: &str) -> (String, String, Value) {
    let mut row = event.json()["data"][entity].clone();
    let id = row["id"].as_str().map_or_else(|| row["id"].to_string(), str::to_owned);
    let fields = row.as_object_mut().expect("an object");
    for name in ["id", "author", "created_at"] {
        fields.remove(name);
    }
    (event.event(), id, row)
}

fn play(cases: &[Case]) -> Vec<String> {
    let none = |columns: &str| format!("SELECT n.id, {columns} FROM nothing n");
    let schema: String = cases.iter().map(|case| case.schema).collect();
    let selects: Vec<String> = [POST, COMMENT]
        .iter()
        .enumerate()
        .map(|(place, columns)| {
            cases.get(place).map_or_else(|| none(columns), |case| case.select.replace("{}", columns))
        })
        .collect();
    let portal = Portal::without_setup(crate::support::cluster::Database::create(), &format!("{COMMON} {schema}"));
    let output = portal.try_setup(&format!(
        "CREATE VIEW portalhook.posts AS {}; CREATE VIEW portalhook.comments AS {};
         CREATE VIEW portalhook.votes AS SELECT n.id, NULL::int AS post, NULL::int AS voter, NULL::timestamptz AS created_at FROM nothing n;
         CREATE VIEW portalhook.users AS SELECT n.id, '' AS name, '' AS email, '' AS role FROM nothing n;
         CREATE VIEW portalhook.portals AS SELECT 1 AS id, 'p' AS title;",
        selects[0], selects[1]
    ));
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    if !output.status.success() {
        return vec![format!("{names:?}: {}", String::from_utf8_lossy(&output.stderr))];
    }
    let mut wrong = Vec::new();
    let copied = differences(&portal);
    if !copied.is_empty() {
        wrong.push(format!("{names:?}: the copy: {copied}"));
    }
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{*,post.updated,comment.updated}'");
    let mut transactions = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        let (entity, columns) = [("post", POST), ("comment", COMMENT)][place];
        let mut before = state(&portal, case, columns);
        for line in case.script.lines().map(str::trim) {
            let (line, silent) = line.strip_prefix("silent: ").map_or((line, false), |line| (line, true));
            portal.sql(line);
            let after = state(&portal, case, columns);
            let events = if silent { Vec::new() } else { expected(entity, &before, &after) };
            if events.is_empty() && !silent {
                wrong.push(format!("{}: {line}: nothing is expected of it", case.name));
            }
            transactions.push((case.name, line, entity, events));
            before = after;
        }
    }
    let daemon = portal.run();
    let events = portal.events(&receiver, endpoint);
    let mut rest = events.as_slice();
    for (name, line, entity, expected) in transactions {
        let (these, later) = rest.split_at(expected.len().min(rest.len()));
        rest = later;
        let mut these: Vec<_> = these.iter().map(|event| shown(event, entity)).collect();
        these.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        if these != expected {
            wrong.push(format!("{name}: {line}\n  gave     {these:?}\n  expected {expected:?}"));
            break;
        }
    }
    wrong.extend(rest.first().filter(|_| wrong.is_empty()).map(|more| format!("{names:?}: more: {}", more.text())));
    let failures = portal.sql("SELECT entity || ' ' || key || ' ' || message FROM portalhook.row_failures");
    let differences = differences(&portal);
    if !failures.is_empty() || !differences.is_empty() {
        wrong.push(format!("{names:?}: {failures} {differences}"));
    }
    daemon.terminate();
    wrong
}
