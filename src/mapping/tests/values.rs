use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::plan::ValueKind;
use super::super::record;
use super::connect;
use crate::throwaway::Throwaway;

fn shown(kind: &ValueKind, text: &str) -> String {
    let mut json = String::new();
    kind.write(Some(text), &mut json);
    json
}

fn array(of: ValueKind) -> ValueKind {
    ValueKind::Array(Box::new(of))
}

#[test]
fn values_are_written_as_the_design_says() {
    use ValueKind::{Bool, Bytea, Json, Number, Text, Timestamp, TimestampTz};
    for (kind, text, expected) in [
        (Number, "12345678901234567890.10", "12345678901234567890.10"),
        (Number, "-1e-07", "-1e-07"),
        (Number, "NaN", r#""NaN""#),
        (Number, "-Infinity", r#""-Infinity""#),
        (Bool, "t", "true"),
        (Bool, "f", "false"),
        (TimestampTz, "2022-06-01 18:17:37.808782+00", r#""2022-06-01T18:17:37.808782Z""#),
        (TimestampTz, "2022-06-01 18:17:37+00", r#""2022-06-01T18:17:37.000000Z""#),
        (Timestamp, "2022-06-01 18:17:37.5", r#""2022-06-01T18:17:37.500000Z""#),
        (Timestamp, "infinity", r#""infinity""#),
        (TimestampTz, "0044-03-15 12:00:00+00 BC", r#""0044-03-15 12:00:00+00 BC""#),
        (TimestampTz, "2022-06-01 18:17:37+05:30", r#""2022-06-01 18:17:37+05:30""#),
        (Json, r#"{"a": [1, null]}"#, r#"{"a": [1, null]}"#),
        (Bytea, r"\x00ff10", r#""AP8Q""#),
        (Bytea, r"\x", r#""""#),
        (Text, "a\"\\\n\t\u{1}é/", r#""a\"\\\n\t\u0001é/""#),
        (array(Number), "{1,NULL,3}", "[1,null,3]"),
        (array(Number), "{}", "[]"),
        (array(Number), "[0:1]={1,2}", "[1,2]"),
        (array(Number), "[2:2][0:1]={{1,2}}", "[[1,2]]"),
        (array(Text), r#"{a,"b,\"c\\","NULL",NULL,""}"#, r#"["a","b,\"c\\","NULL",null,""]"#),
        (array(Bool), "{{t,f},{f,NULL}}", "[[true,false],[false,null]]"),
        (array(TimestampTz), r#"{"2022-06-01 18:17:37+00"}"#, r#"["2022-06-01T18:17:37.000000Z"]"#),
        (array(Json), r#"{"{\"a\": 1}"}"#, r#"[{"a": 1}]"#),
        (array(Number), "(1,2)", r#""(1,2)""#),
    ] {
        assert_eq!(shown(&kind, text), expected, "{kind:?} {text}");
    }
    let mut json = String::new();
    ValueKind::Number.write(None, &mut json);
    assert_eq!(json, "null");
}

#[test]
fn records_are_taken_apart_or_refused() {
    let fields =
        |text| record::parse(text).map(|fields| fields.into_iter().map(|f| f.map(String::from)).collect::<Vec<_>>());
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        fields(r#"(1,"a ""b"" \\ c",,"",é)"#).expect("record"),
        [some("1"), some(r#"a "b" \ c"#), None, some(""), some("é")]
    );
    assert_eq!(fields("()").expect("record"), [None]);
    for text in ["", "1,2", "(1", r#"("a)"#, r#"("a"b)"#, r#"("a\"#] {
        assert!(fields(text).is_err(), "{text}");
    }
}

/// Text with much of what records and arrays quote.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(prop_oneof!["[\"\\\\,(){}' \n\tNUL]", any::<char>().prop_map(String::from)], 0..9)
            .prop_map(|parts| parts.concat()),
        proptest::strategy::Just("NULL".to_owned()),
    ]
    .prop_map(|text| text.replace('\0', ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_arrays_of_any_text_come_back_as_the_server_printed_them() {
    let server = Throwaway::start(&[]).expect("start");
    let client = connect(&server, "postgres").await;
    let statement = client
        .prepare("SELECT ROW($1::text, $2::text[], $3::text)::text, to_jsonb($2::text[])::text, $2::text[]::text")
        .await
        .expect("prepare");
    let mut runner = TestRunner::deterministic();
    let strategy = (option::of(text()), vec(option::of(text()), 0..5), option::of(text()));
    for _ in 0..500 {
        let (first, items, last) = strategy.new_tree(&mut runner).expect("a case").current();
        let row = client.query_one(&statement, &[&first, &items, &last]).await.expect("query");
        let printed: String = row.get(0);
        let fields = record::parse(&printed).expect("record");
        let listed: String = row.get(2);
        let expected = [first.as_deref(), Some(listed.as_str()), last.as_deref()];
        assert_eq!(fields.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{printed}");
        let json = shown(&array(ValueKind::Text), &listed);
        let ours: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let theirs: serde_json::Value = serde_json::from_str(row.get(1)).expect("JSON");
        assert_eq!(ours, theirs, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_value_is_recognised_and_is_sound_json() {
    let server = Throwaway::start(&[]).expect("start");
    server
        .psql(
            "postgres",
            "CREATE DOMAIN amount AS numeric CHECK (VALUE > 0); CREATE DOMAIN amounts AS amount[];
             CREATE TYPE mood AS ENUM ('so so'); CREATE TYPE pair AS (a int, b text);
             CREATE TABLE things (id int PRIMARY KEY)",
        )
        .expect("types");
    let client = connect(&server, "postgres").await;
    let cases = [
        ("1::smallint", "1"),
        ("2::bigint", "2"),
        ("3::oid", "3"),
        ("1.50::numeric", "1.50"),
        ("'NaN'::float4", r#""NaN""#),
        ("1e300::float8", "1e+300"),
        ("2.5::amount", "2.5"),
        ("ARRAY[1.5, 2.25]::amounts", "[1.5,2.25]"),
        ("ARRAY[[1, 2], [3, NULL]]", "[[1,2],[3,null]]"),
        ("true", "true"),
        ("'so so'::mood", r#""so so""#),
        ("ARRAY['so so'::mood]", r#"["so so"]"#),
        ("ROW(1, 'x y')::pair", r#""(1,\"x y\")""#),
        ("ARRAY[ROW(1, 'x y')::pair]", r#"["(1,\"x y\")"]"#),
        ("'[1, {\"a\": \"b\\\"\"}]'::jsonb", r#"[1, {"a": "b\""}]"#),
        ("'{\"k\" : 1}'::json", r#"{"k" : 1}"#),
        ("ARRAY['{\"k\": \"a,b\"}'::jsonb, 'null']", r#"[{"k": "a,b"},null]"#),
        ("'\\x00ff'::bytea", r#""AP8=""#),
        ("ARRAY['\\x00ff'::bytea]", r#"["AP8="]"#),
        ("'2024-02-29'::date", r#""2024-02-29""#),
        ("'2024-02-29 10:00+02'::timestamptz", r#""2024-02-29T08:00:00.000000Z""#),
        ("'2024-02-29 10:00:00.123'::timestamp", r#""2024-02-29T10:00:00.123000Z""#),
        ("'-infinity'::timestamptz", r#""-infinity""#),
        ("'1 day 02:03'::interval", r#""1 day 02:03:00""#),
        ("'(2,2),(1,1)'::box", r#""(2,2),(1,1)""#),
        ("ARRAY['(2,2),(1,1)'::box, '(4,4),(3,3)']", r#""{(2,2),(1,1);(4,4),(3,3)}""#),
        ("'1 2'::int2vector", r#""1 2""#),
        ("12.5::money", r#""$12.50""#),
        ("'a'::name", r#""a""#),
        ("'{}'::text[]", "[]"),
    ];
    let targets: Vec<String> =
        cases.iter().enumerate().map(|(index, (value, _))| format!("{value} AS c{index}")).collect();
    let query = format!("SELECT t.id, {} FROM public.things t", targets.join(", "));
    server
        .psql("postgres", "ALTER DATABASE postgres SET search_path = public; INSERT INTO things VALUES (1)")
        .expect("row");
    let (plan, _) = super::super::read::read_select(&client, "kinds", &query).await.expect("read");
    super::fill(&client, &plan).await;
    let all = plan.select(
        super::super::plan::Entity::Posts,
        super::super::select::Variant::Live,
        &super::super::select::Restriction::All,
    );
    let rows = super::texts(&client, &all).await;
    let fields = record::parse(&rows[0]).expect("record");
    for (index, (value, expected)) in cases.iter().enumerate() {
        let mut json = String::new();
        plan.entities[0].outputs[index + 1].kind.write(fields[index + 2].as_deref(), &mut json);
        assert_eq!(&json, expected, "{value}");
        serde_json::from_str::<serde_json::Value>(&json).expect("sound JSON");
    }
}
