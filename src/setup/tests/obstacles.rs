//! What stands in the way, and the publication that follows the mapping.

use super::*;

#[tokio::test]
async fn what_stands_in_the_way_is_named_with_its_fix() {
    let server = application(FIDER);
    for (sql, undo, problem) in [
        (
            "ALTER TABLE posts REPLICA IDENTITY NOTHING",
            "ALTER TABLE posts REPLICA IDENTITY DEFAULT",
            "ALTER TABLE public.posts REPLICA IDENTITY DEFAULT",
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
    // 14 knows no lists and filters.
    let knows_lists = lines(&server, "SELECT current_setting('server_version_num')::int >= 150000") == ["t"];
    let list = if knows_lists { "(id, title)" } else { "" };
    server
        .psql("portal", &format!("CREATE PUBLICATION portalhook FOR TABLE public.posts {list}, public.user_providers, public.users WITH (publish = 'insert')"))
        .expect("an old publication");
    report(&options(&server)).await.expect("setup");
    assert_eq!(
        lines(&server, "SELECT tablename FROM pg_publication_tables ORDER BY 1"),
        ["comments", "post_votes", "posts", "tenants", "users"]
    );
    assert_eq!(
        lines(
            &server,
            "SELECT pubviaroot AND pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication"
        ),
        ["t"]
    );
    if knows_lists {
        assert_eq!(lines(&server, "SELECT count(prattrs), count(prqual) FROM pg_publication_rel"), ["0|0"]);
    }
}
