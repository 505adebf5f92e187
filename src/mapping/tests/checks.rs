use tokio_postgres::Client;

use super::super::file::split;
use super::super::plan::{Entity, Plan};
use super::super::read::read_with_warnings;
use super::super::select::{IdLookup, Restriction, Variant};
use super::{connect, fill, texts};
use crate::error::{Error, Kind};
use crate::throwaway::Throwaway;

const SCHEMA: &str = "
CREATE TABLE posts(id bigint PRIMARY KEY, title varchar(80), slug varchar(80) UNIQUE NOT NULL, state int, author int, portal int,
    made timestamptz, deleted_at timestamptz);
CREATE TABLE states(id int PRIMARY KEY, name text, hidden bool);
CREATE TABLE votes(id uuid PRIMARY KEY, post bigint, voter int, made timestamp);
CREATE TABLE comments(id int NOT NULL, post bigint, author int, body text, made date);
CREATE UNIQUE INDEX comments_id ON comments (id);
CREATE TABLE users(id int, name text, email text, role text);
CREATE FUNCTION shown(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''x''';
CREATE VIEW joined AS SELECT p.title, p.author, p.portal, p.made, s.name AS code, s.name AS status FROM posts p JOIN states s ON s.id = p.state;
INSERT INTO posts VALUES (1, 'one', 'one', 1, 1, 1, '2024-01-01+00', NULL), (2, 'two', 'two', 9, 1, 1, '2024-01-01+00', NULL),
    (3, 'three', 'three', NULL, 1, 1, '2024-01-01+00', '2024-02-01+00');
INSERT INTO states VALUES (1, 'open', false), (9, 'held', true);
";

const POSTS: &str =
    "SELECT p.id, p.title, p.title AS description, s.name AS status, p.author, p.portal, p.made AS created_at
FROM posts p LEFT JOIN states s ON s.id = p.state WHERE p.deleted_at IS NULL";
const VOTES: &str = "SELECT id, post, voter, made AS created_at FROM votes";
const COMMENTS: &str = "SELECT id, post, author, body AS comment, made AS created_at FROM comments";
const USERS: &str = "SELECT id, name, email, role FROM users";
const PORTALS: &str = "SELECT 1 AS id, 'The portal' AS title";

fn mapping(changes: &[(Entity, &str)]) -> Vec<(Entity, String)> {
    let mut all = vec![
        (Entity::Posts, POSTS),
        (Entity::Votes, VOTES),
        (Entity::Comments, COMMENTS),
        (Entity::Users, USERS),
        (Entity::Portals, PORTALS),
    ];
    for (entity, query) in changes {
        all.retain(|(other, _)| other != entity);
        all.push((*entity, query));
    }
    all.into_iter().map(|(entity, query)| (entity, query.to_owned())).collect()
}

async fn server() -> (Throwaway, Client) {
    let server = Throwaway::start(&[]).expect("start");
    server.psql("postgres", SCHEMA).expect("schema");
    server.psql("postgres", "ALTER TABLE comments REPLICA IDENTITY USING INDEX comments_id").expect("identity");
    let client = connect(&server, "postgres").await;
    (server, client)
}

async fn error(client: &Client, entity: Entity, query: &str) -> Error {
    let error = read_with_warnings(client, &mapping(&[(entity, query)])).await.expect_err(query);
    assert_eq!(error.kind(), Kind::Usage, "{error:?}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_without_what_it_needs_is_refused_by_view_and_column() {
    let (_server, client) = server().await;
    let cases = [
        (Entity::Posts, POSTS.replace("s.name AS status", "s.name"), "view portalhook.posts: it has no column status; it needs id, title, description, status, author, portal, created_at, and has id, title, description, name,"),
        (Entity::Votes, VOTES.replace("made AS", "'x'::text AS"), "view portalhook.votes: its created_at is of type text; it must be timestamp with time zone"),
        (Entity::Users, USERS.replace("email", "mail"), "view portalhook.users: column \"mail\" does not exist (line 1 of its SELECT"),
        (Entity::Posts, POSTS.replace("FROM posts", "FROM post"), "relation \"post\" does not exist (line 2 of its SELECT: FROM post p"),
        (Entity::Posts, POSTS.replace("p.id,", "s.id,"), "its id must be made of columns of the base table (the first in FROM) alone, but it reads s.id"),
        (Entity::Posts, POSTS.replace("p.id,", "coalesce(s.id, p.id) AS id,"), "but it reads s.id"),
        (Entity::Posts, POSTS.replace("p.id,", "(SELECT max(v.id::text) FROM votes v) AS id,"), "but it looks into a subquery"),
        (Entity::Posts, "SELECT code || '' AS id, title, title AS description, status, author, portal, made AS created_at FROM joined".to_owned(), "but it reads s.name"),
        (Entity::Users, "SELECT 1 AS id, '' AS name, '' AS email, '' AS role".to_owned(), "it has no FROM; only portals may be a constant"),
        (Entity::Votes, "SELECT id, 1 AS post, 1 AS voter, now() AS created_at FROM users".to_owned(), "its base table public.users has no primary key"),
    ];
    for (entity, query, expected) in &cases {
        let error = error(&client, *entity, query).await;
        assert!(error.to_string().contains(expected), "{query}: {error:?}");
    }
    let four = mapping(&[]).into_iter().filter(|(entity, _)| *entity != Entity::Votes).collect::<Vec<_>>();
    let missing = read_with_warnings(&client, &four).await.expect_err("no votes");
    assert!(missing.to_string().contains("no view portalhook.votes"), "{missing:?}");
    // Nothing is left open by a refusal.
    assert_eq!(
        texts(&client, "SELECT count(*)::text FROM pg_catalog.pg_namespace WHERE nspname ~ 'portalhook'").await,
        ["0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_surprise_is_allowed_with_a_warning() {
    let (_server, client) = server().await;
    let cases = [
        (POSTS.replace("WHERE", "WHERE NOT s.hidden AND"), "WHERE that looks at other rows"),
        (POSTS.replace("p.author", "s.id AS author"), "an author that is not a column of the base row (it reads s.id)"),
        (
            POSTS.replace("p.title,", "(SELECT v.made::text FROM votes v WHERE v.post = p.id LIMIT 1) AS title,"),
            "LIMIT or OFFSET without ORDER BY",
        ),
        (POSTS.replace("p.title,", "shown(p.state) AS title,"), "calls public.shown(integer), which is not IMMUTABLE"),
    ];
    for (query, expected) in &cases {
        let (_, warnings) = read_with_warnings(&client, &mapping(&[(Entity::Posts, query)])).await.expect(query);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("portalhook.posts ") && warnings[0].contains(expected), "{warnings:?}");
    }
    assert!(read_with_warnings(&client, &mapping(&[])).await.expect("read").1.is_empty());
}

async fn ids(client: &Client, plan: &Plan, entity: Entity, variant: Variant) -> Vec<String> {
    let rows = texts(client, &plan.select(entity, variant, &Restriction::All)).await;
    rows.iter()
        .map(|row| super::super::record::parse(row).expect("record")[0].as_deref().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_where_a_select_shows_rows_whatever_their_state() {
    let (_server, client) = server().await;
    let held = format!("{POSTS} AND NOT coalesce(s.hidden, false) ORDER BY p.made");
    let nested = "SELECT * FROM (SELECT p.id, p.title, p.title AS description, p.slug AS status, p.author, p.portal, p.made AS created_at, p.deleted_at
        FROM posts p WHERE p.deleted_at IS NULL) x WHERE x.id < 2";
    let comma =
        "SELECT p.id, p.title, p.title AS description, s.name AS status, p.author, p.portal, p.made AS created_at
        FROM posts p, states s WHERE s.id = p.state";
    for (query, live, any) in [
        (POSTS, &["1", "2"][..], &["1", "2", "3"][..]),
        (&held, &["1"], &["1", "2", "3"]),
        (nested, &["1"], &["1", "2", "3"]),
        // There the WHERE is what joins: without it each post would come with each state.
        (comma, &["1", "2"], &["1", "2"]),
        // Of its conditions those go that say something of the post alone.
        (&format!("{comma} AND p.title <> 'two'"), &["1"], &["1", "2"]),
        (&format!("{comma} AND (p.title <> 'two' OR s.hidden)"), &["1", "2"], &["1", "2"]),
        (&format!("{comma} AND (p.title <> 'two' OR p.id = 1) AND NOT s.hidden"), &["1"], &["1"]),
        (
            &comma.replace(", states s WHERE", " JOIN states s ON true WHERE p.deleted_at IS NULL AND p.id BETWEEN 1 AND 1 AND"),
            &["1"],
            &["1", "2"],
        ),
        (
            &comma.replace(
                ", states s WHERE",
                " LEFT JOIN LATERAL (SELECT * FROM states x WHERE x.id = p.state LIMIT 1) s ON true WHERE p.id < 3 AND s.id < 5 AND 0 =",
            ).replace("s.id = p.state", "0"),
            &["1"],
            &["1", "2", "3"],
        ),
    ] {
        let (plan, _) = read_with_warnings(&client, &mapping(&[(Entity::Posts, query)])).await.expect(query);
        fill(&client, &plan).await;
        assert_eq!(ids(&client, &plan, Entity::Posts, Variant::Live).await, live, "{query}");
        assert_eq!(ids(&client, &plan, Entity::Posts, Variant::Any).await, any, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_looked_up_by_its_column_where_it_is_one() {
    let (server, client) = server().await;
    server.psql("postgres", "CREATE VIEW seen AS SELECT p.id AS number, p.* FROM posts p").expect("view");
    let columns = "title, title AS description, state::text AS status, author, portal, made AS created_at";
    for (query, expected) in [
        (format!("SELECT id, {columns} FROM posts"), IdLookup::Integer),
        (format!("SELECT slug AS id, {columns} FROM posts"), IdLookup::Text),
        (format!("SELECT x.a AS id, {columns} FROM posts AS x(a)"), IdLookup::Integer),
        (
            format!(
                "SELECT p.id, {columns} FROM (SELECT q.slug AS id, q.* FROM (SELECT slug, title, state, author, portal, made FROM posts) q) p"
            ),
            IdLookup::Text,
        ),
        (format!("SELECT number AS id, {columns} FROM seen"), IdLookup::Integer),
        (format!("SELECT id::text AS id, {columns} FROM posts"), IdLookup::Function),
        (format!("SELECT 'p' || id AS id, {columns} FROM posts"), IdLookup::Function),
        (
            format!("SELECT lower(p.slug) AS id, {columns} FROM posts p JOIN states s ON s.id = p.state"),
            IdLookup::Function,
        ),
        (format!("SELECT id * 1 AS id, {columns} FROM posts"), IdLookup::Computed),
    ] {
        let (plan, _) = read_with_warnings(&client, &mapping(&[(Entity::Posts, &query)])).await.expect(&query);
        let posts = plan.entity(Entity::Posts).expect("posts");
        assert_eq!(plan.id_lookup(posts), expected, "{query}");
        fill(&client, &plan).await;
        let statement = plan.select(Entity::Posts, Variant::Any, &Restriction::Ids);
        let found = match expected {
            IdLookup::Integer => client.query(&statement, &[&vec![2_i64, 7_000_000_000]]).await,
            IdLookup::Text => client.query(&statement, &[&vec!["two", "zero"]]).await,
            IdLookup::Function | IdLookup::Computed => client.query(&statement, &[&vec!["2", "p2", "two", "x"]]).await,
            IdLookup::Uuid => unreachable!("no post has one"),
        };
        assert_eq!(found.expect(&query).len(), 1, "{query}");
    }
    let votes = read_with_warnings(&client, &mapping(&[])).await.expect("read").0;
    assert_eq!(votes.id_lookup(votes.entity(Entity::Votes).expect("votes")), IdLookup::Uuid);
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_may_be_a_constant_and_its_text_comes_from_tables_it_looks_into() {
    let (_server, client) = server().await;
    let (plan, _) = read_with_warnings(&client, &mapping(&[])).await.expect("read");
    let portals = plan.entity(Entity::Portals).expect("portals");
    assert_eq!((portals.base, portals.reads.len()), (None, 0));
    let all = plan.select(Entity::Portals, Variant::Live, &Restriction::All);
    assert_eq!(texts(&client, &all).await, [r#"(1,"The portal")"#]);
    let by_id = plan.select(Entity::Portals, Variant::Live, &Restriction::Ids);
    assert_eq!(client.query(&by_id, &[&vec!["1"]]).await.expect("by id").len(), 1);
    assert_eq!(client.query(&by_id, &[&vec!["2"]]).await.expect("by id").len(), 0);
    let looking = "SELECT 1 AS id, (SELECT s.name FROM states s WHERE s.id = 9) AS title";
    let (plan, _) = read_with_warnings(&client, &mapping(&[(Entity::Portals, looking)])).await.expect("read");
    fill(&client, &plan).await;
    let portals = plan.entity(Entity::Portals).expect("portals");
    assert_eq!(plan.tables[portals.reads[0]].name, "states");
    assert_eq!(texts(&client, &plan.select(Entity::Portals, Variant::Any, &Restriction::All)).await, ["(1,held)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_read_by_an_owner_with_a_search_path_of_its_own() {
    let server = Throwaway::start(&[]).expect("start");
    server
        .psql(
            "postgres",
            "CREATE ROLE owner LOGIN; GRANT CREATE ON DATABASE postgres TO owner;
             CREATE SCHEMA shop AUTHORIZATION owner; ALTER ROLE owner SET search_path = shop;
             ALTER DATABASE postgres SET search_path = nowhere",
        )
        .expect("role");
    server.psql("postgres", &format!("SET ROLE owner; SET search_path = shop; {SCHEMA}")).expect("schema");
    let (client, connection) =
        tokio_postgres::connect(&server.url("owner", "postgres"), tokio_postgres::NoTls).await.expect("connect");
    tokio::spawn(async move { connection.await.expect("the connection stays") });
    client.batch_execute("SET search_path = ''; ALTER TABLE shop.comments ADD PRIMARY KEY (id)").await.expect("key");
    let (plan, _) = read_with_warnings(&client, &mapping(&[])).await.expect("read");
    assert_eq!(plan.tables[0].mirror, "shop.comments");
}

#[test]
fn the_optional_view_is_the_only_one_that_may_be_absent() {
    let file = "CREATE VIEW portalhook.comment_votes AS SELECT 1 AS voter";
    assert!(split(file).expect_err("too few").to_string().contains("no view portalhook.posts"));
}
