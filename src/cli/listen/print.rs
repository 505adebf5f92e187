//! Deliveries as a person reads them, and as a script does.

use std::fmt;

use serde_json::json;
use serde_json::value::RawValue;

use super::Delivery;

/// What came in all.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) verified: u64,
    refused: u64,
    duplicates: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, delivery: &Delivery) {
        match delivery.verdict {
            Ok(()) => self.verified += 1,
            Err(_) => self.refused += 1,
        }
        self.duplicates += u64::from(delivery.duplicate);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} verified, {} not verified, {} duplicates", self.verified, self.refused, self.duplicates)
    }
}

/// `18:17:37  verified  vote.created  Rubenb → "This is a great idea"` and a second line with the numbers.
pub(crate) fn text(delivery: &Delivery, verbose: bool) -> String {
    let Delivery { event, summary, id, sequence, attempt, .. } = delivery;
    let time = jiff::Timestamp::from_second(delivery.received_at).unwrap_or_default().strftime("%H:%M:%SZ");
    let verdict = match &delivery.verdict {
        Ok(()) => "verified".to_owned(),
        Err(reason) => format!("NOT VERIFIED ({reason})"),
    };
    let number = |number: &Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
    let mut text = format!("{time}  {verdict}  {}  {summary}\n", clean(event));
    text.push_str(&format!("           id {}  sequence {}  attempt {}", clean(id), number(sequence), number(attempt)));
    if delivery.answered != 200 {
        text.push_str(&format!("  answered {}", delivery.answered));
    }
    if delivery.duplicate {
        text.push_str("  duplicate: this id came before");
    }
    if let Some((first, last)) = delivery.skipped {
        text.push_str(&format!(
            "  not seen yet: {}",
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        ));
    }
    if verbose {
        text.push('\n');
        text.push_str(&indent(&String::from_utf8_lossy(&delivery.body)));
    }
    text
}

/// One JSON object; the body is in it as it came, if it is JSON.
pub(crate) fn json(delivery: &Delivery) -> String {
    let body: Option<&RawValue> = serde_json::from_slice(&delivery.body).ok();
    let head = json!({
        "received_at": jiff::Timestamp::from_second(delivery.received_at).unwrap_or_default().to_string(),
        "event": delivery.event, "id": delivery.id, "sequence": delivery.sequence, "attempt": delivery.attempt,
        "verified": delivery.verdict.is_ok(), "reason": delivery.verdict.as_ref().err(),
        "answered": delivery.answered, "duplicate": delivery.duplicate, "skipped": delivery.skipped, "summary": delivery.summary,
    })
    .to_string();
    let body = body.map_or("null", RawValue::get).replace(['\n', '\r'], " ");
    format!("{},\"body\":{body}}}", head.strip_suffix('}').unwrap_or(&head))
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// JSON text with line breaks and indentation. Values stay as they were written: numbers do not pass through a float.
fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (1_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    out.push_str("  ");
    for c in json.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            out.push(c);
            continue;
        }
        match c {
            '{' | '[' => {
                depth += 1;
                out.push(c);
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => {
                quoted = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::indent;

    #[test]
    fn a_body_is_indented_without_touching_its_values() {
        let indented = indent(r#"{"a":12345678901234567890.10,"b":["x, \"{y}\"",null]}"#);
        let expected =
            "  {\n    \"a\": 12345678901234567890.10,\n    \"b\": [\n      \"x, \\\"{y}\\\"\",\n      null\n    ]\n  }";
        assert_eq!(indented, expected);
    }
}
