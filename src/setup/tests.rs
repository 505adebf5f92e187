//! Setup on real applications, as a superuser and as the unprivileged role that it makes.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_postgres::Client;

use super::{Options, run};
use crate::error::{Kind, Result};
use crate::throwaway::Throwaway;

const FIDER: [&str; 2] =
    [include_str!("../../tests/portals/fider/schema.sql"), include_str!("../../tests/portals/fider/seed.sql")];
const ASTUTO: [&str; 2] =
    [include_str!("../../tests/portals/astuto/schema.sql"), include_str!("../../tests/portals/astuto/seed.sql")];

/// A database with an application's tables and rows.
fn application(scripts: [&str; 2]) -> Throwaway {
    let server = Throwaway::start(&[]).expect("start");
    server.psql("postgres", "CREATE DATABASE portal").expect("database");
    for script in scripts {
        server.psql("portal", script).expect("application");
    }
    server
}

fn options(server: &Throwaway) -> Options {
    Options {
        url: server.url("portalhook", "portal"),
        admin_url: Some(server.url(Throwaway::SUPERUSER, "portal")),
        views: None,
        publication: "portalhook".to_owned(),
        slot: None,
        print_sql: false,
        afresh: false,
    }
}

/// What setup says.
async fn report(options: &Options) -> Result<String> {
    let mut out = Vec::new();
    run(options, &mut out).await?;
    Ok(String::from_utf8(out).expect("utf-8"))
}

async fn connect(server: &Throwaway, role: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(&server.url(role, "portal"), tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

fn lines(server: &Throwaway, sql: &str) -> Vec<String> {
    server.psql("portal", sql).expect(sql).lines().map(str::to_owned).collect()
}

/// The steps of a report that say anything but "already there".
fn changes(report: &str) -> Vec<&str> {
    report
        .lines()
        .filter(|line| !line.contains("already there"))
        .map(|line| line.split_whitespace().next().unwrap_or_default())
        .collect()
}

/// Every mirror against its table, as text and whole.
fn assert_mirrors_equal(server: &Throwaway) {
    let tables = lines(
        server,
        "SELECT relname FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace AND relkind = 'r' AND relname LIKE '%.%'",
    );
    assert!(!tables.is_empty());
    for table in tables {
        let columns = lines(
            server,
            &format!(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'portalhook_mirror.\"{table}\"'::regclass AND attnum > 0"
            ),
        );
        let columns = &columns[0];
        let differing = lines(
            server,
            &format!(
                "SELECT * FROM (SELECT {columns} FROM {table} EXCEPT ALL SELECT {columns} FROM portalhook_mirror.\"{table}\") a
                 UNION ALL SELECT * FROM (SELECT {columns} FROM portalhook_mirror.\"{table}\" EXCEPT ALL SELECT {columns} FROM {table}) b"
            ),
        );
        assert_eq!(differing, Vec::<String>::new(), "{table}");
    }
}

#[tokio::test]
async fn fider_is_recognised_and_set_up_once() {
    let server = application(FIDER);
    let first = report(&options(&server)).await.expect("setup");
    assert!(first.contains("preset fider, whose tables are here"), "{first}");
    assert_mirrors_equal(&server);
    assert_eq!(
        lines(
            &server,
            "SELECT concat_ws(' ', user_id, posts, votes, comments, comment_votes) FROM portalhook_mirror.counters ORDER BY 1"
        ),
        ["1 0 1 0 0", "2 1 1 0 0", "3 0 0 1 0"]
    );
    let row = lines(
        &server,
        "SELECT concat_ws(' ', c.lsn = s.confirmed_flush_lsn, c.position, c.epoch, length(c.source), c.publication,
                c.system_identifier = (SELECT system_identifier::text FROM pg_control_system()), c.database_oid = d.oid, c.xid > 0)
         FROM portalhook.checkpoint AS c JOIN pg_database AS d ON d.datname = 'portal'
         JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND s.slot_name = 'portalhook_' || d.oid",
    );
    assert_eq!(row, ["t 0 1 16 portalhook t t t"]);
    let second = report(&options(&server)).await.expect("again");
    assert_eq!(changes(&second), ["server", "grants", "grants", "done"], "{second}");
}

#[tokio::test]
async fn astuto_is_recognised_and_its_times_stay_what_they_are() {
    let server = application(ASTUTO);
    let first = report(&options(&server)).await.expect("setup");
    assert!(first.contains("preset astuto, whose tables are here"), "{first}");
    assert_mirrors_equal(&server);
    // The views show what the application's own SELECT says.
    assert_eq!(
        lines(&server, "SELECT id, created_at FROM portalhook.votes ORDER BY id"),
        lines(&server, "SELECT id, created_at AT TIME ZONE 'UTC' FROM public.likes ORDER BY id")
    );
    assert!(!lines(&server, "SELECT * FROM portalhook.posts").is_empty());
    let joined = lines(&server, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'portalhook_mirror' ORDER BY 1");
    assert!(joined.iter().any(|index| index.contains("\"public.post_statuses_pkey\"")), "{joined:?}");
    let second = report(&options(&server)).await.expect("again");
    assert_eq!(changes(&second), ["server", "grants", "grants", "done"], "{second}");
}

#[tokio::test]
async fn the_role_can_do_what_run_needs_and_nothing_else() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    let role = connect(&server, "portalhook").await;
    for sql in [
        "SELECT id, name, email, role FROM public.users",
        "UPDATE portalhook.checkpoint SET epoch = epoch + 1",
        "INSERT INTO portalhook.events VALUES (1, (now() AT TIME ZONE 'UTC')::date, 'a', 'vote.created', now(), 1, '0/1', '1', '1', 'vote:1', '{1}', '{1}', '{}')",
        "UPDATE portalhook.cursors SET position = 1",
        "INSERT INTO portalhook.settled_ranges VALUES (1, 1, 2, 'expired')",
        "INSERT INTO portalhook.row_failures VALUES (now(), '0/1', 'posts', 't', '1', '22012', 'm')",
        "SELECT portalhook.prepare_partitions((now() AT TIME ZONE 'UTC')::date, 4)",
        "SELECT portalhook.secret('4')",
        "SELECT * FROM portalhook.secrets, portalhook.endpoints, portalhook.mapping, portalhook.custom_events, portalhook.plan",
        "UPDATE portalhook.endpoints SET enabled = false, disabled_reason = 'gone'",
        "DELETE FROM portalhook.operations WHERE id < 0",
        "SELECT * FROM portalhook.recent_deliveries, portalhook.pending, portalhook.failures, portalhook.endpoint_health, portalhook.migrations",
        "DELETE FROM portalhook_mirror.counters",
        "CREATE UNLOGGED TABLE portalhook_mirror.staging (x int)",
        "DO $$ BEGIN EXECUTE 'DROP TABLE portalhook_ledger.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$",
    ] {
        role.batch_execute(sql).await.expect(sql);
    }
    for sql in [
        "SELECT api_key FROM public.users",
        "SELECT * FROM public.users",
        "SELECT * FROM public.user_providers",
        "DELETE FROM public.users",
        "INSERT INTO public.tenants (id) VALUES (9)",
        "UPDATE public.posts SET title = 'x'",
        "INSERT INTO portalhook.endpoints (url) VALUES ('https://evil.x/')",
        "UPDATE portalhook.endpoints SET url = 'https://evil.x/'",
        "UPDATE portalhook.mapping SET query = query",
        "INSERT INTO portalhook.operations (kind, payload, xid) VALUES ('test', '{}', 1)",
        "SELECT portalhook.announce('test', '{}')",
        "SELECT portalhook.rotate_secret('4')",
        "UPDATE portalhook.secrets SET secret = secret",
        "CREATE TABLE portalhook.mine (x int)",
        "CREATE SCHEMA mine",
        "DROP VIEW portalhook.pending",
    ] {
        let error = role.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{sql}: {error:?}");
    }
    let rights = lines(
        &server,
        "SELECT concat_ws(' ', rolcanlogin, rolreplication, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls) FROM pg_roles WHERE rolname = 'portalhook'",
    );
    assert_eq!(rights, ["t t f f f f"]);
}

#[tokio::test]
async fn printing_the_sql_changes_nothing_and_needs_nothing_to_be_there() {
    let server = application(FIDER);
    let state = "SELECT count(*) FROM pg_class UNION ALL SELECT count(*) FROM pg_proc UNION ALL SELECT count(*) FROM pg_roles
        UNION ALL SELECT count(*) FROM pg_namespace UNION ALL SELECT count(*) FROM pg_publication UNION ALL SELECT count(*) FROM pg_replication_slots
        UNION ALL SELECT count(*) FROM pg_class, aclexplode(relacl) UNION ALL SELECT count(*) FROM pg_attribute, aclexplode(attacl)";
    let before = lines(&server, state);
    let printed = report(&Options { print_sql: true, ..options(&server) }).await.expect("print");
    assert_eq!(lines(&server, state), before);
    for part in [
        "CREATE ROLE \"portalhook\" LOGIN REPLICATION;",
        "CREATE SCHEMA portalhook;",
        "CREATE TABLE portalhook.endpoints (",
        "CREATE PUBLICATION \"portalhook\" FOR TABLE",
        "CREATE_REPLICATION_SLOT",
        "GRANT SELECT (\"id\", ",
        "INSERT INTO \"portalhook_mirror\".\"public.post_votes\"",
        "INSERT INTO portalhook.mapping",
    ] {
        assert!(printed.contains(part), "no {part} in\n{printed}");
    }
    // And over a database that is set up: what is left is little.
    report(&options(&server)).await.expect("setup");
    let before = lines(&server, state);
    let printed = report(&Options { print_sql: true, ..options(&server) }).await.expect("print");
    assert_eq!(lines(&server, state), before);
    assert!(!printed.contains("CREATE "), "{printed}");
}

#[tokio::test]
async fn the_applications_migrations_pass_as_if_we_were_not_there() {
    let server = application(FIDER);
    server
        .psql(
            "portal",
            "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN short AS text;
             ALTER TABLE posts ADD COLUMN mood mood NOT NULL DEFAULT 'good', ADD COLUMN short short DEFAULT 'x'",
        )
        .expect("types");
    let views = concat_views("mood, p.short");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), views).expect("write");
    let with_views = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    report(&with_views).await.expect("setup");
    assert_eq!(lines(&server, "SELECT mood, short FROM portalhook.posts WHERE id = '1'"), ["good|x"]);
    for sql in [
        "ALTER TABLE posts ALTER COLUMN title TYPE text",
        "ALTER TABLE posts ALTER COLUMN id TYPE bigint",
        "ALTER TABLE users RENAME COLUMN name TO full_name",
        "ALTER TABLE posts DROP COLUMN mood, DROP COLUMN short",
        "DROP TYPE mood",
        "DROP DOMAIN short",
        "ALTER TABLE comments DROP COLUMN deleted_at",
        "ALTER TABLE post_votes RENAME TO likes",
        "UPDATE likes SET created_at = created_at",
        "UPDATE posts SET title = title",
        "DELETE FROM likes",
        "DROP TABLE likes",
        "DROP TABLE comments CASCADE",
        "ALTER SCHEMA public RENAME TO app",
    ] {
        server.psql("portal", sql).expect(sql);
    }
}

/// Fider's views with further columns of posts.
fn concat_views(columns: &str) -> String {
    let views = include_str!("../../tests/portals/fider/views.sql");
    views.replacen("p.created_at\nFROM public.posts p", &format!("p.created_at, p.{columns}\nFROM public.posts p"), 1)
}

#[tokio::test]
async fn a_changed_mapping_is_refused_until_the_loss_of_events_is_accepted() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    server
        .psql(
            "portal",
            "INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/'), ('https://b.x/');
             UPDATE portalhook.checkpoint SET position = 7; INSERT INTO portalhook.routes VALUES (1, '{*}', NULL, 5); INSERT INTO portalhook.cursors VALUES (1, 6, 4);
             UPDATE posts SET title = 'Renamed' WHERE id = 1",
        )
        .expect("a daemon's traces");
    let source = lines(&server, "SELECT source FROM portalhook.checkpoint");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), concat_views("slug")).expect("write");
    let mut changed = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    let error = report(&changed).await.expect_err("refused");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("--afresh"), "{error}");
    assert!(!lines(&server, "SELECT query FROM portalhook.mapping").join(" ").contains("slug"));

    changed.afresh = true;
    let said = report(&changed).await.expect("afresh");
    assert!(said.contains("give no events"), "{said}");
    assert_mirrors_equal(&server);
    assert_eq!(lines(&server, "SELECT title, slug FROM portalhook.posts"), ["Renamed|keyboard-shortcuts"]);
    assert_eq!(
        lines(&server, "SELECT position, epoch, source FROM portalhook.checkpoint"),
        [format!("7|2|{}", source[0])]
    );
    assert_eq!(lines(&server, "SELECT endpoint, sequence FROM portalhook.routes ORDER BY 1"), ["1|5", "2|0"]);
    assert_eq!(
        lines(&server, "SELECT endpoint, position, sequence FROM portalhook.cursors ORDER BY 1"),
        ["1|6|4", "2|7|0"]
    );
    // The columns that went are no longer the role's to read.
    let back = Options { views: Some("fider".to_owned()), afresh: true, ..options(&server) };
    report(&back).await.expect("back");
    assert_eq!(lines(&server, "SELECT has_column_privilege('portalhook', 'public.posts', 'slug', 'SELECT')"), ["f"]);
}

#[tokio::test]
async fn a_setup_that_was_interrupted_is_mended_by_the_next() {
    let server = application(FIDER);
    report(&options(&server)).await.expect("setup");
    // As after a crash between the slot's creation and the commit of the copy.
    server
        .psql(
            "portal",
            "DELETE FROM portalhook.checkpoint; DELETE FROM portalhook.plan;
             DO $$ DECLARE t text; BEGIN FOR t IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace AND relkind = 'r'
             LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$",
        )
        .expect("interrupt");
    let said = report(&options(&server)).await.expect("mend");
    assert!(said.contains("removed the old one"), "{said}");
    assert_mirrors_equal(&server);
    assert_eq!(lines(&server, "SELECT count(*) FROM pg_replication_slots"), ["1"]);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_no_slot_and_no_mirror() {
    let server = application(FIDER);
    // Evaluated when counting: fails on the data, not on the SELECT.
    let views = include_str!("../../tests/portals/fider/views.sql")
        .replace("p.user_id   AS author", "100 / (p.id - 1) AS author");
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), views).expect("write");
    let failing = Options { views: file.path().to_str().map(str::to_owned), ..options(&server) };
    let error = report(&failing).await.expect_err("division by zero");
    assert!(format!("{error:?}").contains("division by zero"), "{error:?}");
    assert_eq!(lines(&server, "SELECT count(*) FROM pg_replication_slots"), ["0"]);
    assert_eq!(lines(&server, "SELECT count(*) FROM portalhook.checkpoint"), ["0"]);
    assert_eq!(
        lines(&server, "SELECT count(*) FROM pg_class WHERE relnamespace = 'portalhook_mirror'::regnamespace"),
        ["0"]
    );
    report(&Options { views: Some("fider".to_owned()), ..options(&server) })
        .await
        .expect("and with a good mapping it works");
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_with_its_fix() {
    let server = application(FIDER);
    for (sql, undo, problem) in [
        (
            "ALTER TABLE posts REPLICA IDENTITY NOTHING",
            "ALTER TABLE posts REPLICA IDENTITY DEFAULT",
            "ALTER TABLE \"public\".\"posts\" REPLICA IDENTITY DEFAULT",
        ),
        (
            "ALTER TABLE comments DROP CONSTRAINT comments_pkey CASCADE",
            "ALTER TABLE comments ADD PRIMARY KEY (id)",
            "no primary key",
        ),
        ("ALTER TABLE posts ENABLE ROW LEVEL SECURITY", "ALTER TABLE posts DISABLE ROW LEVEL SECURITY", "BYPASSRLS"),
        ("CREATE PUBLICATION portalhook FOR ALL TABLES", "DROP PUBLICATION portalhook", "FOR ALL TABLES"),
    ] {
        server.psql("portal", sql).expect(sql);
        let error = report(&options(&server)).await.expect_err(sql);
        assert_eq!(error.kind(), Kind::Usage, "{sql}");
        assert!(format!("{error:?}").contains(problem), "{sql}: {error:?}");
        server.psql("portal", undo).expect(undo);
    }
    let error =
        report(&Options { views: Some("discord".to_owned()), ..options(&server) }).await.expect_err("no such preset");
    assert!(error.to_string().contains("presets are fider, astuto"), "{error}");
    let other = Options { admin_url: Some(server.url(Throwaway::SUPERUSER, "postgres")), ..options(&server) };
    assert!(report(&other).await.expect_err("other database").to_string().contains("both must be the same"));
    server.psql("postgres", "CREATE DATABASE empty").expect("empty");
    let empty = Options {
        url: server.url("portalhook", "empty"),
        admin_url: Some(server.url(Throwaway::SUPERUSER, "empty")),
        ..options(&server)
    };
    let error = report(&empty).await.expect_err("no mapping");
    assert!(error.to_string().contains("--views") && error.to_string().contains("fider, astuto"), "{error}");
    assert_eq!(lines(&server, "SELECT count(*) FROM pg_replication_slots"), ["0"]);
    let replica = Throwaway::start(&["wal_level = replica"]).expect("start");
    let error =
        report(&Options { url: replica.url(Throwaway::SUPERUSER, "postgres"), admin_url: None, ..options(&server) })
            .await
            .expect_err("wal_level");
    assert!(error.to_string().contains("ALTER SYSTEM SET wal_level = logical"), "{error}");
}

#[tokio::test]
async fn a_publication_follows_the_mapping_and_loses_lists_and_filters() {
    let server = application(FIDER);
    server
        .psql("portal", "CREATE PUBLICATION portalhook FOR TABLE public.posts (id, title), public.user_providers, public.users WITH (publish = 'insert')")
        .expect("an old publication");
    report(&options(&server)).await.expect("setup");
    assert_eq!(
        lines(&server, "SELECT tablename, attnames IS NULL OR cardinality(attnames) > 5, rowfilter IS NULL FROM pg_publication_tables ORDER BY 1")
            .iter()
            .map(|line| line.split('|').next().unwrap_or_default())
            .collect::<Vec<_>>(),
        ["comments", "post_votes", "posts", "tenants", "users"]
    );
    assert_eq!(
        lines(&server, "SELECT count(prattrs), count(prqual), bool_and(pubviaroot AND pubinsert AND pubupdate AND pubdelete AND pubtruncate)
                        FROM pg_publication_rel JOIN pg_publication AS p ON p.oid = prpubid"),
        ["0|0|t"]
    );
}

/// Setup's output, and a bell for each line.
#[derive(Clone, Default)]
struct Heard {
    text: Arc<Mutex<String>>,
    bell: Arc<Notify>,
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.lock().expect("lock").push_str(&String::from_utf8_lossy(bytes));
        self.bell.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    async fn until(&self, part: &str) {
        while !self.text.lock().expect("lock").contains(part) {
            self.bell.notified().await;
        }
    }
}

#[tokio::test]
async fn a_locked_table_makes_setup_wait_and_not_the_application() {
    let server = application(FIDER);
    let blocker = connect(&server, Throwaway::SUPERUSER).await;
    // What a long CREATE INDEX or an ALTER takes; the mapping can be checked, the publication cannot be made.
    blocker.batch_execute("BEGIN; LOCK TABLE public.comments IN SHARE MODE").await.expect("lock");
    let heard = Heard::default();
    let options = options(&server);
    let mut out = heard.clone();
    let setup = tokio::spawn(async move { run(&options, &mut out).await });
    heard.until("trying again").await;
    blocker.batch_execute("ROLLBACK").await.expect("unlock");
    setup.await.expect("join").expect("setup");
    assert_mirrors_equal(&server);
}

#[tokio::test]
async fn the_copy_is_one_moment_of_a_database_that_is_being_written() {
    let server = application(FIDER);
    server.psql("portal", "CREATE TABLE pulse (n int)").expect("pulse");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let started = Arc::new(Notify::new());
    // Every transaction writes a post, its vote and a user together: a copy must have all three or none.
    let writer = connect(&server, Throwaway::SUPERUSER).await;
    let (stopping, start) = (Arc::clone(&stop), Arc::clone(&started));
    let writing = tokio::spawn(async move {
        let mut n = 1000;
        while !stopping.load(std::sync::atomic::Ordering::Relaxed) {
            writer
                .batch_execute(&format!(
                    "BEGIN;
                     INSERT INTO users (id, tenant_id, name, email, role, status, created_at) VALUES ({n}, 1, 'U', 'u{n}@x.y', 1, 1, now());
                     INSERT INTO posts (id, tenant_id, number, title, slug, description, user_id, status, is_approved, language, created_at)
                         VALUES ({n}, 1, {n}, 't', 's{n}', 'd', {n}, 0, true, 'english', now());
                     SAVEPOINT s; DELETE FROM post_votes; ROLLBACK TO s;
                     INSERT INTO post_votes (user_id, post_id, tenant_id, created_at) VALUES ({n}, {n}, 1, now());
                     COMMIT"
                ))
                .await
                .expect("write");
            if n == 1020 {
                start.notify_one();
            }
            n += 1;
        }
        n - 1000
    });
    started.notified().await;
    let said = report(&options(&server)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = writing.await.expect("join");
    said.expect("setup");
    let copied = lines(
        &server,
        "SELECT (SELECT count(*) FROM portalhook_mirror.\"public.posts\" WHERE id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.\"public.users\" WHERE id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.\"public.post_votes\" WHERE post_id >= 1000),
                (SELECT count(*) FROM portalhook_mirror.counters WHERE posts = 1 AND votes = 1 AND user_id::int >= 1000)",
    );
    let counts: Vec<i32> = copied[0].split('|').map(|count| count.parse().expect("count")).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    assert!(counts[0] >= 21 && counts[0] < written, "{counts:?} of {written}");
    // What the copy does not have, the slot has: together every transaction exactly once.
    let in_slot = lines(
        &server,
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes((SELECT slot FROM portalhook.checkpoint), NULL, NULL,
             'proto_version', '1', 'publication_names', 'portalhook') WHERE get_byte(data, 0) = ascii('C')",
    );
    assert!(in_slot[0].parse::<i32>().expect("count") >= written - counts[0], "{in_slot:?}");
}
