use std::collections::BTreeMap;

use super::super::plan::Entity;
use super::super::read::read_select;
use super::super::record;
use super::super::select::{Restriction, Variant};
use super::{connect, fill, texts};
use crate::throwaway::Throwaway;

const SCHEMA: &str = include_str!("../../../tests/selects/schema.sql");
const SELECTS: &str = include_str!("../../../tests/selects/selects.txt");

/// What no mapping can have, and a word of the reason that the operator gets.
const REFUSED: &[(&str, &str)] = &[];

/// Over mirrors filled from the tables, every SELECT gives what it gives over the tables: all rows at once, and each by key.
#[tokio::test(flavor = "multi_thread")]
async fn every_select_over_mirrors_gives_what_it_gives_over_the_tables() {
    let server = Throwaway::start(&[]).expect("start");
    server.psql("postgres", SCHEMA).expect("schema");
    let client = connect(&server, "postgres").await;
    let mut refused: BTreeMap<&str, &str> = REFUSED.iter().copied().collect();
    let mut wrong = Vec::new();
    for line in SELECTS.lines() {
        let (name, query) = line.split_once('|').expect("name|SELECT");
        let (plan, _) = match (read_select(&client, name, query).await, refused.remove(name)) {
            (Ok(read), None) => read,
            (Err(error), Some(reason)) if error.to_string().contains(reason) => continue,
            (Err(error), _) => {
                wrong.push(format!("{name}: refused: {error}"));
                continue;
            }
            (Ok(_), Some(_)) => {
                wrong.push(format!("{name}: not refused"));
                continue;
            }
        };
        fill(&client, &plan).await;
        let mapped = &plan.entities[0];
        let base = &plan.tables[mapped.base.expect("a base")];
        let all = plan.select(Entity::Posts, Variant::Live, &Restriction::All);
        let ours = texts(&client, &all).await;
        let outputs = |row: &String| -> Vec<Option<String>> {
            record::parse(row).expect("record").drain(base.key.len()..).map(|field| field.map(Into::into)).collect()
        };
        let original = texts(&client, &format!("SELECT (q.*)::text FROM ({query}) q")).await;
        let mut theirs: Vec<Vec<Option<String>>> = original
            .iter()
            .map(|row| record::parse(row).expect("record").into_iter().map(|field| field.map(Into::into)).collect())
            .collect();
        let mut shown: Vec<Vec<Option<String>>> = ours.iter().map(outputs).collect();
        theirs.sort();
        shown.sort();
        if shown != theirs {
            wrong.push(format!("{name}: {shown:?}\n instead of {theirs:?}"));
            continue;
        }
        if base.key.is_empty() {
            continue;
        }
        // Each row by its key; the keys come as text, as they do in the stream.
        let by_key = plan.select(Entity::Posts, Variant::Live, &Restriction::Keys);
        let mut singly = Vec::new();
        let keys: Vec<String> = base
            .key
            .iter()
            .map(|&index| format!("format('%s', {})", super::super::layout::quote(&base.columns[index].name)))
            .collect();
        for key in texts(&client, &format!("SELECT ROW({})::text FROM {}", keys.join(", "), base.mirror_name())).await {
            let fields = record::parse(&key).expect("key");
            let mut statement = by_key.clone();
            for (place, field) in fields.iter().enumerate() {
                let array = format!("ARRAY['{}']", field.as_deref().expect("a key is not null").replace('\'', "''"));
                statement = statement.replace(&format!("${}::", place + 1), &format!("{array}::"));
            }
            singly.extend(texts(&client, &statement).await);
        }
        singly.sort();
        if singly != ours {
            wrong.push(format!("{name}, key by key: {singly:?}\n instead of {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.is_empty(), "not among the SELECTs: {refused:?}");
}
