//! Real applications, set up by a superuser, by their owner, and by a role that is everything.

use super::*;

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
    assert_eq!(changes(&second), ["server", "grants", "columns", "advice", "done"], "{second}");
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
    assert_eq!(changes(&second), ["server", "grants", "columns", "advice", "done"], "{second}");
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
        "ALTER TABLE users ALTER COLUMN email TYPE text",
        "ALTER TABLE posts ALTER COLUMN status TYPE bigint",
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

#[tokio::test]
async fn an_owner_who_is_no_superuser_can_set_up_and_so_can_a_role_that_is_everything() {
    let server = Throwaway::start(&[]).expect("start");
    server
        .psql("postgres", "CREATE ROLE owner LOGIN; CREATE ROLE portalhook LOGIN; CREATE DATABASE portal OWNER owner")
        .expect("roles");
    for script in FIDER {
        server
            .psql("portal", &format!("GRANT ALL ON SCHEMA public TO owner; SET ROLE owner; {script}"))
            .expect("application");
    }
    let mut options = options(&server);
    options.admin_url = Some(server.url("owner", "portal"));
    let error = report(&options).await.expect_err("the role may not replicate yet");
    assert!(format!("{error:?}").contains("ALTER ROLE \"portalhook\" LOGIN REPLICATION"), "{error:?}");
    server.psql("postgres", "ALTER ROLE portalhook REPLICATION").expect("replication");
    let error = report(&options).await.expect_err("nor is the owner a member");
    assert!(error.to_string().contains("GRANT \"portalhook\" TO"), "{error}");
    server.psql("postgres", "GRANT portalhook TO owner").expect("membership");
    report(&options).await.expect("setup");
    assert_mirrors_equal(&server);
    server.psql("portal", "SET ROLE owner; INSERT INTO portalhook.endpoints (url) VALUES ('https://a.x/'); SELECT * FROM portalhook.pending, portalhook.votes").expect("operate");
    let second = report(&options).await.expect("again");
    assert_eq!(changes(&second), ["server", "grants", "columns", "advice", "done"], "{second}");
    // As superuser over the same database, and as one role that is everything.
    server.psql("postgres", "CREATE DATABASE alone").expect("database");
    for script in FIDER {
        server.psql("alone", script).expect("application");
    }
    options.url = server.url(Throwaway::SUPERUSER, "alone");
    options.admin_url = None;
    report(&options).await.expect("alone");
    let second = report(&options).await.expect("again");
    assert_eq!(changes(&second), ["server", "grants", "columns", "advice", "done"], "{second}");
}
