//! A value of every type, from the first copy and from the stream, in the bytes of bodies.

use crate::support::mirror::differences;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

/// What stands in the body where an extension is not installed: the test says so and leaves the column out.
const EXTENSIONS: [&str; 3] = ["citext", "hstore", "ltree"];

const TYPES: &str = r#"
    CREATE SCHEMA "an ""odd"" schema.x"; CREATE SCHEMA app;
    CREATE TYPE app.addr AS (street text, zip int);
    CREATE TYPE app.mood AS ENUM ('sad', 'it''s, ok', '"q"');
    CREATE DOMAIN app.tags AS text[] CHECK (cardinality(VALUE) < 9);
    CREATE DOMAIN app.tags2 AS app.tags;
    CREATE DOMAIN app.amount AS numeric(12, 3);
    CREATE TYPE app.nested AS (home app.addr, moods app.mood[], at timestamptz);
    CREATE TYPE app.span AS RANGE (subtype = float8);
"#;

/// Type, a value in SQL, and the JSON that a body has for it.
type Example = (&'static str, &'static str, &'static str);

const VALUES: &[Example] = &[
    ("app.addr", r#"ROW('a "b", c', NULL)"#, r#""(\"a \"\"b\"\", c\",)""#),
    ("app.addr", "ROW(NULL, NULL)", r#""(,)""#),
    ("app.addr", "NULL", "null"),
    (
        "app.nested",
        "ROW(ROW('x', 1), '{sad,NULL}', '2024-01-01 10:00+02')",
        r#""(\"(x,1)\",\"{sad,NULL}\",\"2024-01-01 08:00:00+00\")""#,
    ),
    ("app.addr[]", "ARRAY[ROW('a', NULL)::app.addr, NULL, ROW(NULL, NULL)::app.addr]", r#"["(a,)",null,"(,)"]"#),
    ("app.mood", "'it''s, ok'", r#""it's, ok""#),
    ("app.mood[]", r#"ARRAY['"q"', 'it''s, ok', NULL]::app.mood[]"#, r#"["\"q\"","it's, ok",null]"#),
    ("app.tags", "ARRAY['a,b', NULL, 'NULL', '']", r#"["a,b",null,"NULL",""]"#),
    ("app.tags2", "ARRAY['x']", r#"["x"]"#),
    ("app.amount", "1.5", "1.500"),
    ("app.amount[]", "ARRAY[1, NULL]", "[1.000,null]"),
    ("app.span", "'[1.5,2.5)'", r#""[1.5,2.5)""#),
    ("smallint", "-32768", "-32768"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("numeric", "123456789012345678901234567890.10", "123456789012345678901234567890.10"),
    ("numeric", "'NaN'", r#""NaN""#),
    ("numeric", "'-Infinity'", r#""-Infinity""#),
    ("numeric[]", "'{NaN,1.10,NULL}'", r#"["NaN",1.10,null]"#),
    ("float8", "'NaN'", r#""NaN""#),
    ("float8", "'Infinity'", r#""Infinity""#),
    ("float8", "'-0'", "-0"),
    ("float8", "1e300", "1e+300"),
    ("float4", "0.1", "0.1"),
    ("float8[]", "'{Infinity,0.1}'", r#"["Infinity",0.1]"#),
    ("money", "1234.5", r#""$1,234.50""#),
    ("oid", "4294967295", "4294967295"),
    ("bool", "true", "true"),
    ("bool[]", "'{t,f,NULL}'", "[true,false,null]"),
    ("text", "E'back\\\\slash \"q\" \\n\\t\\u0001 é 🗳'", r#""back\\slash \"q\" \n\t\u0001 é 🗳""#),
    ("text", "''", r#""""#),
    ("text[]", "'{}'", "[]"),
    ("text[]", r#"E'{"back\\\\slash","q\\"q","a{b}",null}'"#, r#"["back\\slash","q\"q","a{b}",null]"#),
    ("int[]", "'{{1,2},{3,NULL}}'", "[[1,2],[3,null]]"),
    ("int[]", "'[0:1]={7,8}'", "[7,8]"),
    ("int[]", "'[2:3][-1:0]={{1,2},{3,4}}'", "[[1,2],[3,4]]"),
    ("char(5)", "'a'", r#""a    ""#),
    ("varchar(3)", "'abc'", r#""abc""#),
    ("name", "'a \"name\"'", r#""a \"name\"""#),
    (r#""char""#, "'x'", r#""x""#),
    (r#""char"[]"#, "'{x,y}'", r#"["x","y"]"#),
    ("bytea", r"'\x00ff5c'", r#""AP9c""#),
    ("bytea[]", r#"ARRAY['\x00'::bytea, NULL]"#, r#"["AA==",null]"#),
    ("uuid", "'00000000-0000-0000-0000-0000000000AB'", r#""00000000-0000-0000-0000-0000000000ab""#),
    ("json", r#"'{"a" :  1.0, "a": [1,  2]}'"#, r#"{"a" :  1.0, "a": [1,  2]}"#),
    ("jsonb", r#"'{"b": 1.10, "a": null}'"#, r#"{"a": null, "b": 1.10}"#),
    ("jsonb", "'null'", "null"),
    ("jsonb[]", r#"ARRAY['{"a": "x,y"}'::jsonb, NULL]"#, r#"[{"a": "x,y"},null]"#),
    ("date", "'0044-03-15 BC'", r#""0044-03-15 BC""#),
    ("date", "'infinity'", r#""infinity""#),
    ("time", "'10:00:00.5'", r#""10:00:00.5""#),
    ("timetz", "'10:00+05:30'", r#""10:00:00+05:30""#),
    ("timestamp", "'2024-02-29 10:00'", r#""2024-02-29T10:00:00.000000Z""#),
    ("timestamp(3)", "'2024-02-29 10:00:00.1239'", r#""2024-02-29T10:00:00.124000Z""#),
    ("timestamp", "'-infinity'", r#""-infinity""#),
    ("timestamptz", "'0044-03-15 12:00:00+00 BC'", r#""0044-03-15 12:00:00+00 BC""#),
    ("timestamptz", "'infinity'", r#""infinity""#),
    ("timestamptz", "'12345-01-01 00:00+01'", r#""12344-12-31T23:00:00.000000Z""#),
    (
        "timestamptz[]",
        "ARRAY['2024-01-01 00:00+00'::timestamptz, 'infinity', NULL]",
        r#"["2024-01-01T00:00:00.000000Z","infinity",null]"#,
    ),
    ("interval", "'-1 year 2 mons -3 days 04:05:06.7'", r#""-10 mons -3 days +04:05:06.7""#),
    ("interval day to second(2)", "'1 day 00:00:01.239'", r#""1 day 00:00:01.24""#),
    ("bit(8)", "B'10100000'", r#""10100000""#),
    ("varbit", "B'101'", r#""101""#),
    ("xml", "'<a>1 &lt; 2</a>tail'", r#""<a>1 &lt; 2</a>tail""#),
    ("tsvector", "'a:1B ''it''''s'':2'", r#""'a':1B 'it''s':2""#),
    ("tsquery", "'a & !b'", r#""'a' & !'b'""#),
    ("int4range", "'[1,5]'", r#""[1,6)""#),
    ("int4multirange", "'{[1,2],[4,5)}'", r#""{[1,3),[4,5)}""#),
    ("tstzrange", "'[2024-01-01 00:00+00,)'", r#""[\"2024-01-01 00:00:00+00\",)""#),
    ("int4range[]", "ARRAY['[1,2)'::int4range, 'empty']", r#"["[1,2)","empty"]"#),
    ("inet", "'10.0.0.1/8'", r#""10.0.0.1/8""#),
    ("macaddr", "'08:00:2b:01:02:03'", r#""08:00:2b:01:02:03""#),
    ("point", "'(1,2.5)'", r#""(1,2.5)""#),
    ("box[]", "ARRAY[box '((0,0),(1,1))', box '((2,2),(3,3))']", r#""{(1,1),(0,0);(3,3),(2,2)}""#),
    ("pg_lsn", "'16/B374D848'", r#""16/B374D848""#),
    ("regclass", "'pg_class'", r#""pg_class""#),
    ("xid8", "'18446744073709551615'", r#""18446744073709551615""#),
    ("jsonpath", "'$.a[*] ? (@ > 1)'", r#""$.\"a\"[*]?(@ > 1)""#),
    ("citext", "'MiXed'", r#""MiXed""#),
    ("citext[]", "'{Ab,NULL}'", r#"["Ab",null]"#),
    ("hstore", r#"'a=>1, "b c"=>NULL'"#, r#""\"a\"=>\"1\", \"b c\"=>NULL""#),
    ("ltree", "'a.b.c'", r#""a.b.c""#),
    ("ltree[]", "'{a.b,NULL}'", r#"["a.b",null]"#),
];

#[test]
fn a_value_of_every_type_is_the_same_from_the_copy_and_from_the_stream() {
    let database = crate::support::cluster::Database::create();
    let available = database.sql("SELECT name FROM pg_available_extensions");
    let absent: Vec<&str> =
        EXTENSIONS.into_iter().filter(|name| !available.lines().any(|line| line == *name)).collect();
    if !absent.is_empty() {
        eprintln!("not tried, because the server has no such extension: {}", absent.join(", "));
    }
    let made: Vec<String> = EXTENSIONS
        .iter()
        .filter(|name| !absent.contains(name))
        .map(|name| format!("CREATE EXTENSION {name};"))
        .collect();
    let values: Vec<(String, &Example)> = VALUES
        .iter()
        .filter(|(of, ..)| !absent.iter().any(|name| of.starts_with(name)))
        .enumerate()
        .map(|(place, value)| (format!("c{place} {}", value.0.replace('"', "")), value))
        .collect();
    let columns = |each: &dyn Fn(&str, &Example) -> String| {
        values.iter().map(|(name, value)| each(name, value)).collect::<Vec<_>>().join(", ")
    };
    const TABLE: &str = r#""an ""odd"" schema.x"."select ""from"" ü.y""#;
    let names = columns(&|name, _| format!("\"{name}\""));
    let literals = columns(&|_, value| format!("({})::{}", value.1, value.0));
    let portal = Portal::without_setup(
        database,
        &format!(
            r#"{} {TYPES}
             CREATE TABLE {TABLE} ("user" int PRIMARY KEY, gone int, "group" text, {});
             ALTER TABLE {TABLE} DROP COLUMN gone;
             CREATE TABLE likes (id int PRIMARY KEY, post int);
             INSERT INTO {TABLE} ("user", "group", {names}) VALUES (1, 'a', {literals});
             INSERT INTO {TABLE} ("user", "group") VALUES (2, 'nulls');"#,
            made.concat(),
            columns(&|name, value| format!("\"{name}\" {}", value.0)),
        ),
    );
    portal.setup(&format!(
        r#"CREATE VIEW portalhook.posts AS SELECT "user" AS id, "group" AS title, NULL::text AS description, "group" AS status, NULL::int AS author, 1 AS portal, NULL::timestamptz AS created_at, {names} FROM {TABLE};
         CREATE VIEW portalhook.votes AS SELECT id, post, NULL::int AS voter, NULL::timestamptz AS created_at FROM likes;
         CREATE VIEW portalhook.comments AS SELECT id, post, NULL::int AS author, '' AS comment, NULL::timestamptz AS created_at FROM likes WHERE false;
         CREATE VIEW portalhook.users AS SELECT id, 'a' AS name, 'b' AS email, 'c' AS role FROM likes WHERE false;
         CREATE VIEW portalhook.portals AS SELECT 1 AS id, 'p' AS title;"#
    ));
    assert_eq!(differences(&portal), "");
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    let texts = columns(&|name, _| format!("\"{name}\""));
    portal.sql(&format!(
        r#"INSERT INTO likes VALUES (1, 1), (2, 2);
         INSERT INTO {TABLE} ("user", "group", {texts}) SELECT 3, "group", {texts} FROM {TABLE} WHERE "user" = 1;
         INSERT INTO likes VALUES (3, 3);
         BEGIN; INSERT INTO likes VALUES (4, 3); UPDATE {TABLE} SET "group" = 'b' WHERE "user" = 3; COMMIT;
         UPDATE {TABLE} SET ({texts}) = (SELECT {texts} FROM {TABLE} WHERE "user" = 2), "group" = 'none' WHERE "user" = 3;
         UPDATE {TABLE} SET ({texts}) = (SELECT {texts} FROM {TABLE} WHERE "user" = 1), "group" = 'all' WHERE "user" = 3;
         INSERT INTO likes VALUES (5, 3);
         DELETE FROM {TABLE};"#
    ));
    let events = portal.events(&receiver, endpoint);
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for event in &events {
        let text = event.text();
        let id = event.data("/post/id");
        let title = event.data("/post/title");
        let no_values = id == 2 || title == "none";
        seen.push(format!("{} {id} {}", event.event(), title.as_str().unwrap_or_default()));
        for (name, (_, _, json)) in &values {
            let wanted = if no_values { "null" } else { json };
            let field = format!("\"{name}\":{wanted}");
            let there = text.match_indices(&field).any(|(at, _)| text[at + field.len()..].starts_with([',', '}']));
            if !there {
                let at = text.find(&format!("\"{name}\":")).unwrap_or_default();
                let is: String = text[at..].chars().take(120).collect();
                wrong.push(format!("{} {id}: not {field} but {is}", event.event()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(
        seen,
        [
            "vote.created 1 a",
            "vote.created 2 nulls",
            "post.created 3 a",
            "vote.created 3 a",
            "vote.created 3 b",
            "post.status_changed 3 b",
            "post.status_changed 3 none",
            "post.status_changed 3 all",
            "vote.created 3 all",
            "post.deleted 1 a",
            "post.deleted 2 nulls",
            "post.deleted 3 all",
        ]
    );
    assert_eq!(differences(&portal), "");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.row_failures"), "0");
    assert_eq!(portal.sql("SELECT count(*) FROM portalhook.posts"), "0");
    daemon.terminate();
}
