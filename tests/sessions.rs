//! Whatever the session of an operator is set to, our functions, triggers and views do the same.

use crate::support::portal::{Portal, SECRET};
use crate::support::receiver::{Received, Receiver};

/// Of a session, or of its role or database; `hostile` shadows what our functions call.
const SETTINGS: &str = "
    SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on;
    SET quote_all_identifiers = on; SET transform_null_equals = on; SET array_nulls = off; SET check_function_bodies = off;
    SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = sql_standard; SET bytea_output = escape;
    SET extra_float_digits = -3; SET xmloption = document; SET client_encoding = LATIN1; SET row_security = off;
    SET default_transaction_isolation = serializable; SET enable_seqscan = off; SET plpgsql.variable_conflict = use_column;
    SET plpgsql.extra_errors = 'all'; SET plan_cache_mode = force_generic_plan; SET search_path = hostile, pg_catalog, public;";

const HOSTILE: &str = "
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
    CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''shadowed''::text';
    CREATE FUNCTION hostile.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''shadowed''; END';
    CREATE FUNCTION hostile.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
    CREATE OPERATOR hostile.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.never);
    CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.never);
    CREATE TABLE hostile.endpoints (id int); CREATE TABLE hostile.pg_class (oid oid); CREATE TABLE hostile.mapping (entity text);";

#[test]
fn an_operators_session_may_be_set_to_anything() {
    let portal = Portal::sample();
    let receiver = Receiver::start();
    portal.sql(HOSTILE);
    let daemon = portal.run();
    let sql = |script: &str| portal.sql(&format!("{SETTINGS} {script}"));
    let endpoint: i64 = sql(&format!(
        "INSERT INTO portalhook.endpoints (url, secret, headers, retries, portal, events)
         VALUES ('{}', '{SECRET}', '{{\"X-Key\": \"a b\"}}', '{{1s}}', '4', '{{*,post.updated}}') RETURNING id",
        receiver.url()
    ))
    .parse()
    .expect("an id");
    for wrong in ["https://exa$mple.com/", "https://example.com/a\\\\b", "ftp://example.com/"] {
        let said =
            portal.database.sql_error(&format!("{SETTINGS} INSERT INTO portalhook.endpoints (url) VALUES ('{wrong}')"));
        assert!(said.contains("the url") || said.contains("name or address of a host"), "{wrong}: {said}");
    }
    assert!(sql("SELECT portalhook.secret('4')").starts_with("whsec_"));
    assert!(sql("SELECT portalhook.rotate_secret('4', keep_old_for => '1 02:00:00')").starts_with("whsec_"));
    sql("INSERT INTO portalhook.custom_events (name) VALUES ('roadmap.published')");
    let said = portal
        .database
        .sql_error(&format!("{SETTINGS} INSERT INTO portalhook.custom_events (name) VALUES ('roadmapXpublished')"));
    assert!(said.contains("cannot be the name of an event"), "{said}");
    sql("SELECT portalhook.emit('roadmap.published', '{\"path\": \"a\\\\\\\\b\"}', '4')");
    sql("UPDATE public.posts SET status = 'planned' WHERE id = 99");
    sql("BEGIN; SELECT portalhook.mute('import'); UPDATE public.posts SET status = 'open' WHERE id = 99; COMMIT;");
    // The trigger compares the names of types, and the daemon reads what is stored.
    sql(
        "UPDATE portalhook.mapping SET query = 'SELECT id, name, email, role, E''a\\\\\\\\b'' AS path FROM public.users' WHERE entity OPERATOR(pg_catalog.=) 'users'",
    );
    sql("UPDATE public.posts SET title = 'After' WHERE id = 99");
    let events = portal.events(&receiver, endpoint);
    let names: Vec<String> = events.iter().map(Received::event).collect();
    assert_eq!(names, ["roadmap.published", "post.status_changed", "post.updated"]);
    assert_eq!(events[0].json()["data"]["path"], "a\\b");
    assert_eq!(events[2].data("/post/author/path"), "a\\b");
    assert_eq!(events[0].header("x-key"), "a b");
    assert!(sql("SELECT title, author FROM portalhook.posts WHERE id = 99").starts_with("After|"));
    let id = events[1].id();
    assert_eq!(sql(&format!("SELECT portalhook.redeliver('{id}')")), "1");
    receiver.wait_for("it again", |all| all.iter().filter(|request| request.id() == id).count() == 2);
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    assert_eq!(
        sql(&format!("SELECT portalhook.replay({endpoint}, since => pg_catalog.now() - interval '1 hour')")),
        "4"
    );
    portal.wait_for_outcome("SELECT count(*) = 0 FROM portalhook.pending");
    assert_eq!(
        sql(&format!(
            "SELECT portalhook.body('{id}') OPERATOR(pg_catalog.=) convert_from('\\\\x{}', 'UTF8')",
            hex(&events[1].body)
        )),
        "t"
    );
    for (view, rows) in [("recent_deliveries", "t"), ("endpoint_health", "t"), ("pending", "f"), ("failures", "f")] {
        assert_eq!(sql(&format!("SELECT pg_catalog.count(*) > 0 FROM portalhook.{view}")), rows, "{view}");
    }
    daemon.terminate();
}

/// Set for the database and for the daemon's role, also what its own statements could stumble over.
#[test]
fn so_may_the_database_and_the_daemons_role() {
    let portal = Portal::without_setup(
        crate::support::cluster::Database::create(),
        &format!(
            "{}; {HOSTILE} ALTER TABLE posts ADD COLUMN tags text[], ADD COLUMN page xml;",
            include_str!("../sql/demo/portal.sql")
        ),
    );
    let (role, database) = (portal.database.role(), portal.sql("SELECT current_database()"));
    portal.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
    for setting in SETTINGS.split(';').filter_map(|one| one.trim().strip_prefix("SET ")) {
        if !setting.starts_with("search_path") {
            portal.sql(&format!("ALTER DATABASE {database} SET {setting}"));
        }
        if !setting.starts_with("client_encoding") {
            portal.sql(&format!("ALTER ROLE {role} SET {setting}"));
        }
    }
    portal.setup(&include_str!("../sql/demo/views.sql").replacen("status,", "status, tags, page,", 1));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(
        "SET array_nulls = on; SET xmloption = content;
         UPDATE posts SET tags = '{a,NULL,\"NULL\"}', page = 'a<b/>c' WHERE id = 99;
         INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);
         UPDATE posts SET status = 'planned' WHERE id = 99;",
    );
    let events = portal.events(&receiver, endpoint);
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event.data("/post/tags"), serde_json::json!(["a", null, "NULL"]));
        assert_eq!(event.data("/post/page"), "a<b/>c");
    }
    assert_eq!(crate::support::mirror::differences(&portal), "");
    daemon.terminate();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
