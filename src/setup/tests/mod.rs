//! Setup on real applications, as a superuser and as the unprivileged role that it makes.

mod applications;
mod changes;
mod concurrency;
mod obstacles;
mod rights;

use tokio_postgres::Client;

use super::{Options, Origin, run};
use crate::error::{Kind, Result};
use crate::throwaway::Throwaway;

const FIDER: [&str; 2] =
    [include_str!("../../../tests/portals/fider/schema.sql"), include_str!("../../../tests/portals/fider/seed.sql")];
const ASTUTO: [&str; 2] =
    [include_str!("../../../tests/portals/astuto/schema.sql"), include_str!("../../../tests/portals/astuto/seed.sql")];

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
        event_trigger: false,
        max_wal: 8 << 30,
        afresh: false,
        origin: Origin::AsBefore,
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

/// Fider's views with further columns of posts.
fn concat_views(columns: &str) -> String {
    let views = include_str!("../../../tests/portals/fider/views.sql");
    views.replacen("p.created_at\nFROM public.posts p", &format!("p.created_at, p.{columns}\nFROM public.posts p"), 1)
}
