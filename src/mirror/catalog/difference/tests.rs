//! Looks at one table, before and after, and what is told of them.

use serde_json::{Value, json};

use super::super::Seen;
use super::*;

/// Posts, known by their id.
fn posts() -> Table {
    let column = |name: &str, number: i16, of: &str, mirrored: &str| json!({"name": name, "number": number, "type_oid": 0, "source_type": of, "mirror_type": mirrored, "generated": null});
    let table = json!({
        "oid": 7, "schema": "public", "name": "posts", "mirror": "public.posts", "key": [0],
        "columns": [column("id", 1, "integer", "integer"), column("title", 2, "text", "text"), column("status", 3, "state", "text")],
    });
    serde_json::from_value(table).expect("a table")
}

/// The table as it is when nothing is wrong with it.
fn well() -> Value {
    let column = |number: i16, name: &str, of: &str| json!({"number": number, "name": name, "type": of});
    json!({"oid": 7, "namesake": null, "table": {
        "schema": "public", "name": "posts", "named": true, "published": 70, "made_full": false,
        "members": [member(7, "posts", 700)],
        "columns": [column(1, "id", "integer"), column(2, "title", "text"), column(3, "status", "state")],
        "labels": [{"oid": 30, "type": "state", "label": "open"}],
    }})
}

fn member(oid: u32, name: &str, storage: u32) -> Value {
    json!({"oid": oid, "name": name, "storage": storage, "identity": "d", "key": ["id"], "refuses": false, "generated": null})
}

fn seen(value: Value) -> Seen {
    serde_json::from_value(value).expect("what the catalog says")
}

/// With other values at these places.
fn but(changes: &[(&str, Value)]) -> Value {
    let mut value = well();
    for (pointer, to) in changes {
        *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = to.clone();
    }
    value
}

/// What differs between two looks.
fn between(before: Value, now: Value) -> Vec<Difference> {
    differences(&posts(), &Look { table: 0, before: Some(seen(before)), now: seen(now) })
}

/// What differs where the table was well before.
fn found(changes: &[(&str, Value)]) -> Vec<Difference> {
    between(well(), but(changes))
}

#[test]
fn a_table_that_is_as_it_was_has_no_difference() {
    assert_eq!(found(&[]), []);
    assert_eq!(differences(&posts(), &Look { table: 0, before: None, now: seen(well()) }), []);
}

#[test]
fn a_table_is_gone_replaced_or_renamed() {
    assert_eq!(found(&[("/table", Value::Null)]), [Difference::Gone]);
    // Whatever became of the old one.
    for table in [Value::Null, but(&[])["table"].clone()] {
        assert_eq!(found(&[("/table", table), ("/namesake", json!(8))]), [Difference::Replaced { by: 8 }]);
    }
    let renamed = found(&[("/table/named", json!(false)), ("/table/name", json!("ideas"))]);
    assert_eq!(renamed, [Difference::Renamed { to: "public.ideas".into() }]);
}

#[test]
fn being_out_of_the_publication_is_found_at_once_and_when_it_is_over() {
    let out = but(&[("/table/published", Value::Null)]);
    assert_eq!(between(well(), out.clone()), [Difference::Unpublished]);
    assert_eq!(between(out.clone(), out.clone()), [Difference::Unpublished]);
    assert_eq!(between(out, well()), [Difference::Republished]);
    assert_eq!(
        found(&[("/table/published", json!(71))]),
        [Difference::Republished],
        "dropped and added between two looks"
    );
}

/// (identity, key, made_full, generated, refuses) → what is to be said.
#[test]
fn an_identity_should_be_that_of_the_mirrors_key() {
    let identity = || vec![Difference::Identity { member: "posts".into() }];
    let key = |now: &[&str]| Difference::Key { now: now.iter().map(|&one| one.into()).collect() };
    for (kind, columns, made_full, generated, refuses, expected) in [
        ("d", ["id"].as_slice(), false, None, false, vec![]),
        ("f", &["id"], true, None, false, identity()),
        // An operator's own.
        ("f", &["id"], false, None, false, vec![]),
        ("i", &["id"], true, None, false, vec![]),
        ("d", &["code"], false, None, false, vec![identity()[0].clone(), key(&["code"])]),
        ("f", &["code"], true, None, false, vec![key(&["code"])]),
        // Rows are found by the index, whatever the key is.
        ("i", &["code"], false, None, false, vec![]),
        // FULL is forbidden.
        ("d", &["code"], false, Some("loud"), false, vec![key(&["code"])]),
        ("d", &[], false, None, true, vec![Difference::Refuses { member: "posts".into(), generated: None }]),
        (
            "d",
            &[],
            false,
            Some("loud"),
            true,
            vec![Difference::Refuses { member: "posts".into(), generated: Some("loud".into()) }],
        ),
        ("f", &[], true, None, false, vec![]),
    ] {
        let now = found(&[
            ("/table/members/0/identity", json!(kind)),
            ("/table/members/0/key", json!(columns)),
            ("/table/made_full", json!(made_full)),
            ("/table/members/0/generated", json!(generated)),
            ("/table/members/0/refuses", json!(refuses)),
        ]);
        assert_eq!(now, expected, "{kind} {columns:?} {made_full} {generated:?}");
    }
}

#[test]
fn other_files_of_all_are_a_rewrite_and_of_some_partitions_alone_a_truncate() {
    assert_eq!(found(&[("/table/members/0/storage", json!(701))]), [Difference::Rewritten { member: "posts".into() }]);
    let of = |one: u32, other: u32| {
        but(&[(
            "/table/members",
            json!([member(7, "posts", 0), member(8, "posts_1", one), member(9, "posts_2", other)]),
        )])
    };
    assert_eq!(between(of(1, 2), of(1, 2)), []);
    let truncated = Difference::PartitionsRewritten { members: vec!["posts_2".into()] };
    assert_eq!(between(of(1, 2), of(1, 3)), [truncated]);
    // What has no file of its own did not stay.
    let rewritten = ["posts_1", "posts_2"].map(|member| Difference::Rewritten { member: member.into() });
    assert_eq!(between(of(1, 2), of(3, 4)), rewritten);
}

#[test]
fn partitions_come_and_go() {
    let with = |members: &[u32]| {
        let members: Vec<Value> = members.iter().map(|&oid| member(oid, &format!("p{oid}"), oid)).collect();
        but(&[("/table/members", json!(members))])
    };
    let partitions = |attached: &[u32], detached: &[&str]| {
        let attached =
            attached.iter().map(|&oid| serde_json::from_value(member(oid, &format!("p{oid}"), oid)).expect("one"));
        vec![Difference::Partitions {
            attached: attached.collect(),
            detached: detached.iter().map(|&one| one.into()).collect(),
        }]
    };
    assert_eq!(between(with(&[7, 8]), with(&[7, 8, 9])), partitions(&[9], &[]));
    assert_eq!(between(with(&[7, 8, 9]), with(&[7, 9])), partitions(&[], &["p8"]));
    assert_eq!(between(with(&[7, 8]), with(&[7, 9])), partitions(&[9], &["p8"]));
}

#[test]
fn values_of_an_enum_are_known_by_their_oids() {
    let renamed = Difference::LabelRenamed { from: "open".into(), to: "new".into() };
    assert_eq!(found(&[("/table/labels/0/label", json!("new"))]), [renamed]);
    let more = json!([{"oid": 31, "type": "state", "label": "done"}, {"oid": 30, "type": "state", "label": "open"}]);
    assert_eq!(found(&[("/table/labels", more)]), [Difference::LabelAdded { label: "done".into() }]);
}

#[test]
fn columns_are_known_by_their_numbers() {
    let column = "title".to_owned();
    let renamed = Difference::ColumnRenamed { from: column.clone(), to: "headline".into() };
    // Its other type then is for the one who reads it under its new name.
    for of in ["text", "integer"] {
        let changes = [("/table/columns/1/name", json!("headline")), ("/table/columns/1/type", json!(of))];
        assert_eq!(found(&changes), std::slice::from_ref(&renamed));
    }
    let other = Difference::ColumnType { column: column.clone(), from: "text".into(), to: "integer".into() };
    assert_eq!(found(&[("/table/columns/1/type", json!("integer"))]), [other]);
    assert_eq!(found(&[("/table/columns/1/number", json!(4))]), [Difference::ColumnAnew { column: column.clone() }]);
    let without =
        json!([{"number": 1, "name": "id", "type": "integer"}, {"number": 3, "name": "status", "type": "state"}]);
    assert_eq!(found(&[("/table/columns", without)]), [Difference::ColumnGone { column }]);
}

/// Mirrors have new names where their tables are others: what was remembered under this one is of this table.
#[test]
fn what_was_remembered_of_another_table_tells_nothing() {
    let other = but(&[("/oid", json!(6)), ("/table/members/0/storage", json!(600)), ("/table/published", json!(60))]);
    assert_eq!(between(other, well()), []);
}
