//! The daemon's role: what setup gives it, and what it does not have. Every other test runs the daemon as this role.

use crate::support::cluster::{Database, readable_file};
use crate::support::portal::Portal;
use crate::support::receiver::Receiver;

const VOTE: &str = "INSERT INTO votes (id, post_id, user_id) VALUES (1, 99, 49);";

#[test]
fn the_daemons_role_reads_mapped_columns_and_writes_nothing_of_the_application() {
    let portal = Portal::sample();
    let role = portal.database.role();
    let ask = |question: &str| portal.sql(&format!("SELECT {question}").replace("ROLE", &role));
    assert_eq!(
        ask(
            "rolcanlogin, rolreplication, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = 'ROLE'"
        ),
        "t|t|f|f|f|f"
    );
    assert_eq!(ask("has_column_privilege('ROLE', 'public.users', 'email', 'SELECT')"), "t");
    assert_eq!(ask("has_column_privilege('ROLE', 'public.users', 'password_hash', 'SELECT')"), "f");
    for table in ["posts", "votes", "comments", "users", "portals"] {
        let right =
            format!("has_table_privilege('ROLE', 'public.{table}', 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')");
        assert_eq!(ask(&right), "f", "{table}");
    }
    assert_eq!(
        ask("count(*) FROM pg_class WHERE relowner = 'ROLE'::regrole AND relnamespace = 'public'::regnamespace"),
        "0"
    );
}

/// A transaction of many parts needs temporary tables, which PUBLIC may make unless somebody took that away.
#[test]
fn temporary_tables_that_public_may_not_make_are_granted_and_missed() {
    let database = Database::create();
    let name = database.sql("SELECT current_database()");
    database.sql(&format!("REVOKE TEMPORARY ON DATABASE \"{name}\" FROM PUBLIC"));
    let portal = Portal::without_setup(database, include_str!("../sql/demo/portal.sql"));
    let role = portal.database.role();
    let grant = format!("TEMPORARY ON DATABASE \"{name}\" TO \"{role}\"");
    portal.setup(include_str!("../sql/demo/views.sql"));
    let printed = portal.setup_with(&["--print-sql"]);
    assert!(String::from_utf8_lossy(&printed.stdout).contains(&grant), "{printed:?}");
    let checked = |portal: &Portal| String::from_utf8_lossy(&portal.command(&["check"]).stdout).into_owned();
    assert!(checked(&portal).contains(&format!("pass  role {role} may make temporary tables")));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.spawn(&[("PORTALHOOK_LIMITS", "part:1,page:2")]);
    portal.sql(VOTE);
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);

    portal.sql(&format!("REVOKE TEMPORARY ON DATABASE \"{name}\" FROM \"{role}\""));
    let missing =
        format!("may not make temporary tables, in which large transactions are staged  — fix: GRANT {grant}");
    assert!(checked(&portal).contains(&missing), "{}", checked(&portal));
}

#[test]
fn a_daemon_reaches_its_database_over_a_unix_socket() {
    let portal = Portal::sample();
    portal.configure(&portal.database.role_socket_url());
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let _daemon = portal.run();
    portal.sql(VOTE);
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
}

#[test]
fn a_password_is_proven_by_scram() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let rules = "local all all trust\nhost all admin 127.0.0.1/32 trust\n\
                 host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
    let file = readable_file(&directory, "pg_hba.conf", rules);
    let database = Database::on_its_own_server(&[&format!("hba_file = '{}'", file.display())]);
    let portal = Portal::without_setup(database, include_str!("../sql/demo/portal.sql"));
    let role = portal.database.role();
    portal.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'p%:@/ä word'"));
    let url = |password: &str| portal.database.role_url().replace(&format!("{role}@"), &format!("{role}:{password}@"));
    portal.configure(&url("p%25%3A%40%2F%C3%A4%20word"));
    portal.setup(include_str!("../sql/demo/views.sql"));
    let receiver = Receiver::start();
    let endpoint = portal.endpoint(&receiver);
    let daemon = portal.run();
    portal.sql(VOTE);
    assert_eq!(portal.event_names(&receiver, endpoint), ["vote.created 1"]);
    daemon.terminate();

    // As the service gets it, and as psql's users keep it.
    portal.configure(&portal.database.role_url());
    std::fs::write(directory.path().join("database_password"), "p%:@/ä word\n").expect("write");
    let daemon = portal.spawn(&[("CREDENTIALS_DIRECTORY", directory.path().to_str().expect("UTF-8"))]);
    daemon.wait_for_line("streaming");
    daemon.terminate();
    let file = directory.path().join("pgpass");
    std::fs::write(&file, format!("127.0.0.1:*:*:{role}:p%\\:@/ä word\n")).expect("write");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set the mode");
    let daemon = portal.spawn(&[("PGPASSFILE", file.to_str().expect("UTF-8"))]);
    daemon.wait_for_line("streaming");
    daemon.terminate();

    portal.configure(&url("never-send"));
    let mut daemon = portal.spawn(&[]);
    assert_eq!(daemon.wait_for_end().code(), Some(64), "a wrong password is wrong configuration");
    assert!(!daemon.said().join("\n").contains("never-send"), "{:?}", daemon.said());
}
