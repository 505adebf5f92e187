//! A request that came in: what it says, and whether its signatures are right.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::Value;

use crate::deliver::sign::{Encoding, Secret};

/// Older or newer timestamps than this do not verify (Standard Webhooks, "Verifying webhooks").
const TOLERANCE_SECONDS: u64 = 5 * 60;
/// Longer texts are cut in summaries.
const LONGEST: usize = 60;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// Seconds since 1970-01-01 UTC.
    pub(crate) received_at: i64,
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) sequence: Option<i64>,
    pub(crate) attempt: Option<i64>,
    /// One line for people.
    pub(crate) summary: String,
    /// Or why it is not to be trusted.
    pub(crate) verdict: Result<(), String>,
    /// The same id came before.
    pub(crate) duplicate: bool,
    /// The status that it was answered with.
    pub(crate) answered: u16,
    /// Sequences that were passed over. They may still come: deliveries of one endpoint overlap.
    pub(crate) skipped: Option<(i64, i64)>,
    pub(crate) body: Bytes,
}

impl Delivery {
    pub(crate) fn read(headers: &HeaderMap, body: Bytes, secrets: &[Secret]) -> Self {
        let received_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let received_at = i64::try_from(received_at).unwrap_or(i64::MAX);
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let number = |name| text(headers, name).and_then(|value| value.parse().ok());
        let event = json["event"].as_str().unwrap_or("?").to_owned();
        Self {
            received_at,
            id: text(headers, "webhook-id").unwrap_or("?").to_owned(),
            sequence: number("webhook-sequence"),
            attempt: number("webhook-attempt"),
            summary: summary(&event, &json["data"]),
            verdict: verify(headers, &body, secrets, received_at),
            event,
            duplicate: false,
            answered: 0,
            skipped: None,
            body,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Both signatures; `Signature` may be missing, since an endpoint can have it under another name.
fn verify(headers: &HeaderMap, body: &[u8], secrets: &[Secret], now: i64) -> Result<(), String> {
    let header = |name| text(headers, name).ok_or_else(|| format!("no {name} header"));
    let (id, signatures) = (header("webhook-id")?, header("webhook-signature")?);
    let timestamp: i64 =
        header("webhook-timestamp")?.parse().map_err(|_| "webhook-timestamp is not a number".to_owned())?;
    let off = now.abs_diff(timestamp);
    if off > TOLERANCE_SECONDS {
        return Err(format!("webhook-timestamp is {off} s off"));
    }
    let signed_by = |secret: &&Secret| {
        signatures.split(' ').any(|signature| secret.verifies_webhook(signature, id, timestamp, body))
    };
    if !secrets.iter().any(|secret| signed_by(&secret)) {
        return Err("webhook-signature was not made with this secret for this body".to_owned());
    }
    let Some(signature) = text(headers, "signature") else { return Ok(()) };
    let mac = Encoding::Hex.decode(signature).or_else(|| Encoding::Base64.decode(signature)).unwrap_or_default();
    if secrets.iter().any(|secret| secret.verifies_body(&mac, body)) {
        Ok(())
    } else {
        Err("Signature was not made with this secret for this body".to_owned())
    }
}

/// What happened, in a few words.
fn summary(event: &str, data: &Value) -> String {
    let quoted = |value: &Value| format!("\"{}\"", short(value.as_str().unwrap_or("?")));
    let name = |person: &Value| match person {
        Value::Null => "anonymous".to_owned(),
        person => short(person["name"].as_str().unwrap_or("someone")),
    };
    let title = quoted(&data["post"]["title"]);
    let changes = || {
        let changes = data["changes"].as_object().into_iter().flatten();
        let each = |(key, change): (&String, &Value)| {
            format!("{key} {} → {}", short(&plain(&change["from"])), short(&plain(&change["to"])))
        };
        changes.map(each).collect::<Vec<_>>().join(", ")
    };
    match event.split_once('.') {
        Some(("vote", _)) => format!("{} → {title}", name(&data["vote"]["voter"])),
        Some(("comment", _)) => {
            format!("{}: {} on {title}", name(&data["comment"]["author"]), quoted(&data["comment"]["comment"]))
        }
        Some(("post", "status_changed" | "updated")) => format!("{title}: {}", changes()),
        Some(("post", _)) => format!("{title} by {}", name(&data["post"]["author"])),
        Some(("webhook" | "endpoint", _)) => short(&plain(&data["endpoint"]["url"])),
        _ => short(&data.to_string()),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// One line of bounded length without control characters: what came from elsewhere must not steer the terminal.
fn short(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST + 1).collect();
    if line.chars().count() > LONGEST {
        line.pop();
        line.push('…');
    }
    line
}
