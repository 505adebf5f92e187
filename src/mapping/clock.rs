//! `now()` and its kin in a mapping mean the commit time of the event's transaction, however much later it is evaluated.

use pg_query::protobuf::Token;

use super::edits::Edits;
use super::syntax::{Span, Statement, strings};

/// The setting that holds the commit time while a transaction is evaluated.
pub(crate) const COMMIT_TIME: &str = "portalhook.commit_time";

/// What the SELECTs read instead of the clock; where no transaction is evaluated (a copy, a view) the clock itself.
const TIME: &str = "COALESCE(NULLIF(current_setting('portalhook.commit_time'::text, true), ''::text)::timestamp with time zone, now())";

/// Functions of pg_catalog that say when the transaction or the statement began.
const NOW: [&str; 3] = ["now", "transaction_timestamp", "statement_timestamp"];

/// Whether a text reads the clock.
pub(super) fn is_read(statement: &Statement) -> bool {
    !places(statement).is_empty()
}

/// Puts the commit time wherever the text reads the clock.
pub(super) fn replace(statement: &Statement, edits: &mut Edits) {
    for (span, text) in places(statement) {
        if span.start == span.end { edits.insert(span.start, text) } else { edits.replace(span, text) }
    }
}

fn places(statement: &Statement) -> Vec<(Span, String)> {
    let tokens = &statement.tokens;
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let (name, zone) = match token.token {
            Token::CurrentTimestamp => ("timestamp", " with time zone"),
            Token::CurrentTime => ("time", " with time zone"),
            Token::Localtimestamp => ("timestamp", ""),
            Token::Localtime => ("time", ""),
            Token::CurrentDate => ("date", ""),
            _ => continue,
        };
        let mut span = token.span;
        let mut precision = String::new();
        // CURRENT_TIMESTAMP(3)
        if let [open, digits, close, ..] = &tokens[index + 1..]
            && (open.token, digits.token, close.token) == (Token::Ascii40, Token::Iconst, Token::Ascii41)
        {
            precision = format!("({})", &statement.text[digits.span.start..digits.span.end]);
            span.end = close.span.end;
        }
        found.push((span, format!("({TIME})::{name}{precision}{zone}")));
    }
    statement.walk(&mut |kind, node| {
        if kind == "FuncCall" {
            found.extend(call(statement, node));
        }
    });
    found
}

/// `now()` as a whole; `age(x)`, which counts from today, gets today as its first argument.
fn call(statement: &Statement, node: &serde_json::Value) -> Option<(Span, String)> {
    let path = strings(node, "funcname");
    let name = match &path[..] {
        [name] => name,
        [schema, name] if schema == "pg_catalog" => name,
        _ => return None,
    };
    let location = usize::try_from(node.get("location")?.as_u64()?).ok()?;
    let first = statement.token_at(location).ok()?;
    let open = (first..statement.tokens.len()).find(|&index| statement.tokens[index].token == Token::Ascii40)?;
    let arguments = node.get("args")?.as_array()?.len();
    if NOW.contains(&name.as_str()) {
        let close = statement.closing(open)?;
        return Some((Span { start: location, end: statement.tokens[close].span.end }, format!("({TIME})")));
    }
    let place = statement.tokens[open].span.end;
    (name == "age" && arguments == 1).then(|| (Span { start: place, end: place }, format!("({TIME})::date, ")))
}
