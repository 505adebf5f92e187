//! What a server, a database or a role is set to, and who may see which rows, changes no byte of a body.

use crate::support::cluster::Database;
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

/// Values of every type whose text a setting decides, and the same as text made in the mapping.
const TABLES: &str = "
    CREATE TABLE things (id int PRIMARY KEY, title text, moment timestamptz, local timestamp, day date, span interval, raw bytea,
                         inexact float8, small float4, price money, exact numeric, moments timestamptz[], many bytea[]);
    CREATE TABLE people (id int PRIMARY KEY, name text, born date, waited interval, weight float8, key bytea);
    INSERT INTO people VALUES (1, 'Zoë', '1970-02-01', make_interval(days => -1, hours => -2, mins => -3, secs => -4.5),
                               0.1::float8 + 0.2, decode('5c00ff', 'hex'));";

const VIEWS: &str = "
    CREATE VIEW portalhook.posts AS
        SELECT id, title, title AS description, 'open'::text AS status, 1 AS author, 1 AS portal, moment AS created_at,
               moment, local, day, span, raw, inexact, small, price, exact, moments, many,
               concat_ws(' ', moment, local, day, span, raw, inexact, small, price, exact, moments, many) AS written,
               to_char(exact, 'L9G999D99') AS formed, extract(hour FROM moment) AS hour, date_trunc('day', moment) AS morning
        FROM public.things;
    CREATE VIEW portalhook.votes AS SELECT id, id AS post, id AS voter, now() AS created_at FROM public.things WHERE false;
    CREATE VIEW portalhook.comments AS
        SELECT id, id AS post, id AS author, title AS comment, now() AS created_at FROM public.things WHERE false;
    CREATE VIEW portalhook.users AS
        SELECT id, name, born::text AS email, 'user'::text AS role, born, waited, weight, key, format('%s', key) AS spelt FROM public.people;
    CREATE VIEW portalhook.portals AS SELECT 1 AS id, 'Only one'::text AS title;";

/// An application that says what it means under any setting. The second write reaches the mirror's own text.
const HISTORY: &str = "
    INSERT INTO things VALUES (1, 'One', '2024-03-04 23:30:00.5+05:30', '2024-03-04 12:00:00.25', '2024-03-04',
        make_interval(years => 1, months => 2, days => -3, hours => 4, secs => 5.5), decode('00ff5c61', 'hex'), 0.1::float8 + 0.2, 1.1::float4 / 3,
        1234567.5::numeric::money, 1234.50, ARRAY['2024-03-04 12:00:00+00'::timestamptz, NULL], ARRAY[decode('5c', 'hex')]);
    UPDATE things SET title = 'Two', span = -span, moment = moment + make_interval(days => 200) WHERE id = 1;
    UPDATE people SET waited = make_interval(months => -14, secs => 0.25) WHERE id = 1;
    DELETE FROM things WHERE id = 1;";

/// All of them print values unlike ours; `lc_monetary` and `lc_numeric` where the machine has a language that does.
const SETTINGS: [(&str, &str); 7] = [
    ("DateStyle", "'SQL, DMY'"),
    ("TimeZone", "'Asia/Kolkata'"),
    ("IntervalStyle", "'sql_standard'"),
    ("bytea_output", "'escape'"),
    ("extra_float_digits", "-3"),
    ("client_encoding", "'LATIN1'"),
    ("default_transaction_read_only", "off"),
];

fn settings(database: &Database) -> Vec<(&'static str, String)> {
    let locale = database.sql(
        "SELECT collcollate FROM pg_collation WHERE collprovider = 'c' AND collcollate ~ '^(de|nl|fr|da|en)_' AND collcollate ~* 'utf-?8'
         ORDER BY collcollate LIKE 'en%', collcollate LIMIT 1",
    );
    let mut settings: Vec<_> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    if !locale.is_empty() {
        settings.extend([("lc_monetary", format!("'{locale}'")), ("lc_numeric", format!("'{locale}'"))]);
    }
    settings
}

/// What the bodies of the history say, without what every run has of its own.
fn data(portal: &Portal) -> Vec<String> {
    let receiver = Receiver::start();
    let endpoint = portal.endpoint_with(&receiver, "events", "'{post.*}'");
    let daemon = portal.run();
    portal.sql(HISTORY);
    let events = portal.events(&receiver, endpoint);
    daemon.terminate();
    let data = |body: &str| body.split_once(r#""event":"#).expect("an event").1.to_owned();
    events.iter().map(|event| data(event.text())).collect()
}

fn prepared(database: Database) -> Portal {
    Portal::without_setup(database, TABLES)
}

#[test]
fn settings_of_the_server_the_database_or_the_role_change_no_byte() {
    let plain = prepared(Database::on_its_own_server(&[]));
    plain.setup(VIEWS);
    let expected = data(&plain);
    assert_eq!(expected.len(), 3, "created, updated, deleted: {expected:?}");
    for part in [
        r#""moment":"2024-03-04T18:00:00.500000Z""#,
        r#""day":"2024-03-04""#,
        r#""span":"1 year 2 mons -3 days +04:00:05.5""#,
        r#""raw":"AP9cYQ==""#,
        r#""inexact":0.30000000000000004"#,
        r#""waited":"-1 days -02:03:04.5""#,
        r#""spelt":"\\x5c00ff""#,
        r#""written":"2024-03-04 18:00:00.5+00 2024-03-04 12:00:00.25 2024-03-04 1 year"#,
    ] {
        assert!(expected[0].contains(part), "no {part} in {}", expected[0]);
    }

    let probe = settings(&plain.database);
    let lines: Vec<String> = probe.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let by_server = prepared(Database::on_its_own_server(&lines));
    by_server.setup(VIEWS);
    assert_eq!(data(&by_server), expected, "set for the server");

    for whose in ["DATABASE", "ROLE", "ROLE, later"] {
        let portal = prepared(Database::on_its_own_server(&[]));
        let role = portal.database.role();
        let set = || {
            // Not for the application and the operator, whose own statements it would change.
            let backslashes = ("standard_conforming_strings", "off".to_owned());
            let own = (whose != "DATABASE").then_some(&backslashes);
            let whose = match whose {
                "DATABASE" => format!("DATABASE {}", portal.sql("SELECT current_database()")),
                _ => format!("ROLE {role}"),
            };
            for (name, value) in probe.iter().chain(own) {
                portal.sql(&format!("ALTER {whose} SET {name} = {value}"));
            }
        };
        if whose == "ROLE, later" {
            // The mirror was filled before.
            portal.setup(VIEWS);
            set();
        } else {
            portal.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
            set();
            portal.setup(VIEWS);
        }
        assert_eq!(data(&portal), expected, "set for the {whose}");
    }
}

#[test]
fn row_level_security_changes_no_byte_and_hides_nothing() {
    let expected = {
        let portal = prepared(Database::create());
        portal.setup(VIEWS);
        data(&portal)
    };
    const HIDE: &str = "
        CREATE POLICY nobody ON things USING (false); CREATE POLICY nobody ON people USING (false);
        ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things FORCE ROW LEVEL SECURITY;
        ALTER TABLE people ENABLE ROW LEVEL SECURITY; ALTER TABLE people FORCE ROW LEVEL SECURITY;";
    // Before setup: a copy that would look empty is refused, with the way out, and that way is one.
    let portal = prepared(Database::create());
    portal.sql(HIDE);
    let refused = portal.try_setup(VIEWS);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let role = portal.database.role();
    assert!(!refused.status.success() && said.contains("row-level security") && said.contains("BYPASSRLS"), "{said}");
    portal.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION BYPASSRLS"));
    portal.setup(VIEWS);
    assert_eq!(data(&portal), expected);
    // Afterwards, by a migration: the stream and the mirror know no policies.
    let portal = prepared(Database::create());
    portal.setup(VIEWS);
    portal.sql(HIDE);
    assert_eq!(data(&portal), expected);
}
