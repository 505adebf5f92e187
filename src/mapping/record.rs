//! PostgreSQL's text of a record (manual, "Composite Type Input and Output Syntax"): `(1,"a ""b""",,"")`.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// The fields of a record, in order; `None` is NULL.
pub(crate) fn parse(text: &str) -> Result<Vec<Option<Cow<'_, str>>>> {
    let wrong = || Error::failed("a record's text is not as PostgreSQL prints one");
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or_else(wrong)?;
    let mut fields = Vec::new();
    let mut rest = inner;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(rest) => quoted(rest).ok_or_else(wrong)?,
            None => plain(rest),
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err(wrong()),
        }
    }
}

/// A field without quotes, and what follows it. PostgreSQL quotes whatever has a comma, quote, backslash or blank.
fn plain(text: &str) -> (Option<Cow<'_, str>>, &str) {
    let end = text.find(',').unwrap_or(text.len());
    let field = if end == 0 { None } else { Some(Cow::Borrowed(&text[..end])) };
    (field, &text[end..])
}

/// A field behind its opening quote, and what follows it; `""` and `\x` stand for one character.
fn quoted(text: &str) -> Option<(Option<Cow<'_, str>>, &str)> {
    let mut owned = String::new();
    let mut rest = text;
    loop {
        let place = rest.find(['"', '\\'])?;
        let after = &rest[place + 1..];
        if rest.as_bytes()[place] == b'"' && !after.starts_with('"') {
            let field = if owned.is_empty() && rest.len() == text.len() {
                Cow::Borrowed(&rest[..place])
            } else {
                owned.push_str(&rest[..place]);
                Cow::Owned(owned)
            };
            return Some((Some(field), after));
        }
        owned.push_str(&rest[..place]);
        let character = after.chars().next()?;
        owned.push(character);
        rest = &after[character.len_utf8()..];
    }
}
