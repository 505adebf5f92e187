//! The applications in `tests/portals`: their schema, what they do, and the events that must come of it.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::receiver::Received;

/// Actions in which one UPDATE changes several posts: their order is the order in which the server finds the rows.
const UNORDERED: [&str; 1] = ["delete a status that posts have"];

pub(crate) struct Application {
    pub(crate) schema: String,
    pub(crate) views: String,
    pub(crate) actions: Vec<Action>,
    pub(crate) expected: Vec<Expected>,
}

pub(crate) struct Action {
    pub(crate) name: String,
    pub(crate) sql: String,
}

/// A line of `expected.ndjson`; `data` is a subset of the event's.
#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) action: String,
    event: String,
    data: Value,
    description_length: Option<usize>,
}

impl Application {
    pub(crate) fn load(name: &str) -> Self {
        let read = |file: &str| {
            let path = format!("{}/tests/portals/{name}/{file}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        Self {
            // \connect: the schema may change settings of the database, which hold for new sessions.
            schema: format!("{}\n\\connect\n{}", read("schema.sql"), read("seed.sql")),
            views: read("views.sql"),
            actions: read("activity.sql").split("-- action: ").skip(1).map(Action::read).collect(),
            expected: read("expected.ndjson").lines().map(line).collect(),
        }
    }

    /// How many events the actions up to and with number `last` give.
    pub(crate) fn expected_until(&self, last: usize) -> usize {
        let done: Vec<&str> = self.actions[..=last].iter().map(|action| action.name.as_str()).collect();
        self.expected.iter().filter(|expected| done.contains(&expected.action.as_str())).count()
    }

    /// Panics unless the events are exactly the expected ones, in their order.
    #[track_caller]
    pub(crate) fn check(&self, events: &[Received]) {
        let mut rest = events;
        for group in self.expected.chunk_by(|a, b| a.action == b.action) {
            let (these, later) = rest.split_at(group.len().min(rest.len()));
            rest = later;
            let differences = if UNORDERED.contains(&group[0].action.as_str()) {
                differences_in_any_order(group, these)
            } else {
                differences(group, these)
            };
            assert!(differences.is_empty(), "{}:\n{differences}\nall events:\n{}", group[0].action, names(events));
        }
        assert!(rest.is_empty(), "more events than expected:\n{}", names(rest));
        for event in events {
            assert!(!event.text().contains("never-send"), "a secret in {}", event.text());
        }
    }
}

impl Action {
    fn read(text: &str) -> Self {
        let (name, sql) = text.split_once('\n').expect("an action has statements");
        Self { name: name.trim().to_owned(), sql: sql.to_owned() }
    }
}

fn names(events: &[Received]) -> String {
    events.iter().fold(String::new(), |mut all, event| {
        writeln!(all, "  {}", event.text().chars().take(220).collect::<String>()).expect("a String takes anything");
        all
    })
}

fn differences(expected: &[Expected], events: &[Received]) -> String {
    let missing = expected.iter().skip(events.len()).map(|expected| format!("  {} is missing", expected.event));
    let differing = expected.iter().zip(events).filter_map(|(expected, event)| difference(expected, event));
    differing.chain(missing).collect::<Vec<_>>().join("\n")
}

fn differences_in_any_order(expected: &[Expected], events: &[Received]) -> String {
    let mut left: Vec<&Received> = events.iter().collect();
    let mut missing = Vec::new();
    for wanted in expected {
        match left.iter().position(|event| difference(wanted, event).is_none()) {
            Some(found) => drop(left.remove(found)),
            None => missing.push(format!("  {} {} is missing", wanted.event, wanted.data)),
        }
    }
    missing.join("\n")
}

/// How an event differs from what is expected; `None` when it does not.
fn difference(expected: &Expected, event: &Received) -> Option<String> {
    let json = event.json();
    if json["event"] != expected.event.as_str() {
        return Some(format!("  expected {}, not {}", expected.event, json["event"]));
    }
    let description = json.pointer("/data/post/description").and_then(Value::as_str).unwrap_or_default();
    if expected.description_length.is_some_and(|length| length != description.chars().count()) {
        return Some(format!("  {}: the description has {} characters", expected.event, description.chars().count()));
    }
    let mut found = Vec::new();
    compare("data", &expected.data, &json["data"], &mut found);
    (!found.is_empty()).then(|| found.join("\n"))
}

/// Every field that `expected` names must be there and equal; objects may have more.
fn compare(path: &str, expected: &Value, actual: &Value, found: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(fields), Value::Object(there)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match there.get(name) {
                    Some(actual) => compare(&path, value, actual, found),
                    None => found.push(format!("  {path} is missing, expected {value}")),
                }
            }
        }
        _ if expected == actual => {}
        _ => found.push(format!("  {path} is {actual}, expected {expected}")),
    }
}
