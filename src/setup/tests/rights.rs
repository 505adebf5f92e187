//! What the role may do, and what --print-sql leaves untouched.

use super::*;

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

/// Everything that a dump shows, and what it does not.
fn dump(server: &Throwaway) -> String {
    let output = server
        .command("pg_dump")
        .args(["--schema-only", "-d"])
        .arg(server.url(Throwaway::SUPERUSER, "portal"))
        .output()
        .expect("pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The newest minor releases write a random word into a dump.
    let text = String::from_utf8(output.stdout).expect("utf-8");
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('\\')).collect();
    let beside = "SELECT rolname, rolreplication FROM pg_roles; SELECT slot_name FROM pg_replication_slots; SELECT pubname FROM pg_publication";
    format!("{}\n{}", text.join("\n"), lines(server, beside).join("\n"))
}

#[tokio::test]
async fn printing_the_sql_changes_nothing_and_needs_nothing_to_be_there() {
    let server = application(FIDER);
    let before = dump(&server);
    let printed = report(&Options { print_sql: true, ..options(&server) }).await.expect("print");
    assert_eq!(dump(&server), before);
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
    let before = dump(&server);
    let printed = report(&Options { print_sql: true, ..options(&server) }).await.expect("print");
    assert_eq!(dump(&server), before);
    assert!(!printed.contains("CREATE "), "{printed}");
}

#[tokio::test]
async fn a_new_role_gets_the_urls_password_and_nobody_sees_it() {
    let server = application(FIDER);
    let url = server.url("portalhook:hunter2", "portal");
    let printed = report(&Options { url: url.clone(), print_sql: true, ..options(&server) }).await.expect("print");
    let said = report(&Options { url, ..options(&server) }).await.expect("setup");
    assert!(!printed.contains("hunter2") && !said.contains("hunter2"));
    let kept = "SELECT rolpassword LIKE 'SCRAM-SHA-256$4096:%' FROM pg_authid WHERE rolname = 'portalhook'";
    assert_eq!(lines(&server, kept), ["t"]);
    let verifier = lines(&server, "SELECT rolpassword FROM pg_authid WHERE rolname = 'portalhook'");
    // A password in the URL of a role that is there is not ours to set.
    report(&Options { url: server.url("portalhook:other", "portal"), ..options(&server) }).await.expect("again");
    assert_eq!(lines(&server, "SELECT rolpassword FROM pg_authid WHERE rolname = 'portalhook'"), verifier);
}
