//! Records and values as PostgreSQL prints them: garbage is an error or a string, and what is written is JSON.
#![no_main]
#![allow(dead_code)]

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/mapping/layout.rs"]
mod layout;
#[path = "../../../src/mapping/plan.rs"]
mod plan;
#[path = "../../../src/mapping/record.rs"]
mod record;
#[path = "../../../src/mapping/value.rs"]
mod value;

use plan::ValueKind;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(record::parse(text));
    for kind in [
        ValueKind::Number,
        ValueKind::Bool,
        ValueKind::Timestamp,
        ValueKind::TimestampTz,
        ValueKind::Bytea,
        ValueKind::Text,
        ValueKind::Array(Box::new(ValueKind::Number)),
        ValueKind::Array(Box::new(ValueKind::Text)),
    ] {
        let mut json = String::new();
        kind.write(Some(text), &mut json);
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{kind:?} {text:?} {json}");
    }
});
