use super::super::file::split;
use super::super::plan::{Entity, Plan, ValueKind};
use super::super::read::read_with_warnings;
use super::super::record;
use super::super::select::{IdLookup, Restriction, Variant};
use super::{connect, fill, texts};
use crate::throwaway::Throwaway;

const FIDER: [&str; 3] = [
    include_str!("../../../tests/portals/fider/schema.sql"),
    include_str!("../../../tests/portals/fider/seed.sql"),
    include_str!("../../../tests/portals/fider/views.sql"),
];
const ASTUTO: [&str; 3] = [
    include_str!("../../../tests/portals/astuto/schema.sql"),
    include_str!("../../../tests/portals/astuto/seed.sql"),
    include_str!("../../../tests/portals/astuto/views.sql"),
];

/// The plan of a portal's views gives, over filled mirrors, exactly what the views give over the tables.
async fn agrees([schema, seed, views]: [&str; 3]) -> Plan {
    let server = Throwaway::start(&[]).expect("start");
    server.psql("postgres", "CREATE DATABASE portal").expect("database");
    for script in [schema, seed, "CREATE SCHEMA portalhook", views] {
        server.psql("portal", script).expect("script");
    }
    let client = connect(&server, "portal").await;
    // The views of those names are there: they must not be in the way.
    let (plan, warnings) = read_with_warnings(&client, &split(views).expect("split")).await.expect("read");
    assert_eq!(warnings, Vec::<String>::new());
    fill(&client, &plan).await;
    for mapped in &plan.entities {
        let keys = mapped.base.map_or(0, |base| plan.tables[base].key.len());
        let all = texts(&client, &plan.select(mapped.entity, Variant::Live, &Restriction::All)).await;
        let mut ours: Vec<Vec<Option<String>>> = all
            .iter()
            .map(|row| record::parse(row).expect("record").drain(keys..).map(|field| field.map(Into::into)).collect())
            .collect();
        let original = texts(&client, &format!("SELECT (v.*)::text FROM portalhook.{} v", mapped.entity.name())).await;
        let mut theirs: Vec<Vec<Option<String>>> = original
            .iter()
            .map(|row| record::parse(row).expect("record").drain(..).map(|field| field.map(Into::into)).collect())
            .collect();
        ours.sort();
        theirs.sort();
        assert!(!theirs.is_empty());
        assert_eq!(ours, theirs, "{}", mapped.entity.name());
    }
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn fider_is_mapped_over_mirrors_as_over_its_tables() {
    let plan = agrees(FIDER).await;
    let names: Vec<&str> = plan.tables.iter().map(|table| table.mirror.as_str()).collect();
    assert_eq!(names, ["public.comments", "public.post_votes", "public.posts", "public.tenants", "public.users"]);
    let users = plan.tables.iter().find(|table| table.name == "users").expect("users");
    let columns: Vec<&str> = users.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["id", "name", "email", "role"], "no secret is mirrored");
    let votes = plan.entity(Entity::Votes).expect("votes");
    assert_eq!(votes.id_column, None, "the id is computed");
    assert_eq!(plan.id_lookup(votes), IdLookup::Computed);
    let posts = plan.entity(Entity::Posts).expect("posts");
    assert_eq!(plan.id_lookup(posts), IdLookup::Integer);
    assert_eq!(posts.outputs[6].kind, ValueKind::TimestampTz);
    assert!(posts.reads.is_empty());
    assert_eq!(posts.any.tail.trim_end(), " p", "without the WHERE nothing follows the alias");
}

#[tokio::test(flavor = "multi_thread")]
async fn astuto_is_mapped_over_mirrors_as_over_its_tables() {
    let plan = agrees(ASTUTO).await;
    let posts = plan.entity(Entity::Posts).expect("posts");
    let reads: Vec<&str> = posts.reads.iter().map(|&index| plan.tables[index].name.as_str()).collect();
    assert_eq!(reads, ["post_statuses"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_key_by_id_and_in_a_relation_of_the_mirrors_shape() {
    let server = Throwaway::start(&[]).expect("start");
    for script in FIDER.iter().take(2) {
        server.psql("postgres", script).expect("script");
    }
    let client = connect(&server, "postgres").await;
    let (plan, _) = read_with_warnings(&client, &split(FIDER[2]).expect("split")).await.expect("read");
    fill(&client, &plan).await;
    let all = texts(&client, &plan.select(Entity::Votes, Variant::Live, &Restriction::All)).await;
    assert!(all.len() > 1);
    for row in &all {
        let fields = record::parse(row).expect("record");
        let field = |index: usize| fields[index].as_deref().expect("not null");
        let (user, post): (i32, i32) = (field(0).parse().expect("user"), field(1).parse().expect("post"));
        let by_key = plan.select(Entity::Votes, Variant::Live, &Restriction::Keys);
        let found = client.query(&by_key, &[&vec![user], &vec![post]]).await.expect("by key");
        assert_eq!(found.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), std::slice::from_ref(row));
        let by_id = plan.select(Entity::Votes, Variant::Any, &Restriction::Ids);
        let found = client.query(&by_id, &[&vec![format!("{post}:{user}")]]).await.expect("by id");
        assert_eq!(found.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), std::slice::from_ref(row));
    }
    let by_id = plan.select(Entity::Posts, Variant::Any, &Restriction::Ids);
    let count: i64 = client.query_one("SELECT count(*) FROM public.posts", &[]).await.expect("count").get(0);
    let ids: Vec<i64> = (0..1000).collect();
    let found = client.query(&by_id, &[&ids]).await.expect("by id");
    assert_eq!(i64::try_from(found.len()).expect("few"), count, "also posts that are not live");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_a_mapping_leaves_nothing_behind() {
    let server = Throwaway::start(&[]).expect("start");
    server.psql("postgres", FIDER[0]).expect("schema");
    let client = connect(&server, "postgres").await;
    let schemas = "SELECT nspname::text FROM pg_catalog.pg_namespace";
    let before = texts(&client, schemas).await;
    let (plan, _) = read_with_warnings(&client, &split(FIDER[2]).expect("split")).await.expect("read");
    assert_eq!(texts(&client, schemas).await, before);
    assert_eq!(texts(&client, "SHOW search_path").await, ["\"\""]);
    let json = serde_json::to_string(&plan).expect("to JSON");
    assert_eq!(serde_json::from_str::<Plan>(&json).expect("from JSON"), plan);
}
