//! PostgreSQL's output text of a value as JSON, as a body shows it (DESIGN §1, Values).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::plan::ValueKind;

impl ValueKind {
    /// The kind of one of PostgreSQL's own types, by oid (`pg_type.dat`); domains and arrays are for the caller to resolve.
    pub(super) fn of_builtin(oid: u32) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            // int8, int2, int4, oid, float4, float8, numeric
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Self::Number,
            // text, bpchar, varchar
            25 | 1042 | 1043 => Self::Text,
            114 | 3802 => Self::Json,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            _ => return None,
        })
    }

    /// Appends a value as JSON; `None` is `null`. `text` is what PostgreSQL prints under our pinned settings.
    pub(crate) fn write(&self, text: Option<&str>, json: &mut String) {
        match text {
            None => json.push_str("null"),
            Some(text) => self.write_text(text, json),
        }
    }

    fn write_text(&self, text: &str, json: &mut String) {
        match self {
            Self::Number if is_number(text) => json.push_str(text),
            Self::Bool => json.push_str(if text == "t" || text == "true" { "true" } else { "false" }),
            Self::Timestamp | Self::TimestampTz => match timestamp(text) {
                Some(time) => write_string(&time, json),
                None => write_string(text, json),
            },
            Self::Json => json.push_str(text),
            Self::Bytea => match text.strip_prefix("\\x").and_then(unhex) {
                Some(bytes) => write_string(&STANDARD.encode(bytes), json),
                None => write_string(text, json),
            },
            Self::Array(element) => {
                let start = json.len();
                if array(text, element, json).is_none() {
                    json.truncate(start);
                    write_string(text, json);
                }
            }
            Self::Number | Self::Text => write_string(text, json),
        }
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, json: &mut String) {
    json.push('"');
    let mut done = 0;
    for (place, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0x00..0x20 => "",
            _ => continue,
        };
        json.push_str(&text[done..place]);
        if escape.is_empty() {
            json.push_str(&format!("\\u{byte:04x}"));
        } else {
            json.push_str(escape);
        }
        done = place + 1;
    }
    json.push_str(&text[done..]);
    json.push('"');
}

/// Whether the text of a number is one for JSON, too: NaN and the infinities are not.
fn is_number(text: &str) -> bool {
    text.bytes().last().is_some_and(|byte| byte.is_ascii_digit())
}

/// `2022-06-01 18:17:37.8+00` as `2022-06-01T18:17:37.800000Z`; none for infinity, years BC and other zones than UTC.
fn timestamp(text: &str) -> Option<String> {
    let (day, time) = text.split_once(' ')?;
    let time = time.strip_suffix("+00").unwrap_or(time);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let sound = clock.len() == 8 && clock.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    if !sound || fraction.len() > 6 || !digits(fraction) {
        return None;
    }
    Some(format!("{day}T{clock}.{fraction:0<6}Z"))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// An array's text (manual, "Array Input and Output Syntax") as a JSON array of arrays; none if the text is no array's.
fn array(text: &str, element: &ValueKind, json: &mut String) -> Option<()> {
    // Bounds that are not 1 stand before the value: `[0:1]={1,2}`. JSON has no place for them.
    let text = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    let mut rest = text.strip_prefix('{')?;
    json.push('[');
    let mut depth = 1;
    let mut first = true;
    while depth > 0 {
        if let Some(after) = rest.strip_prefix('}') {
            json.push(']');
            depth -= 1;
            first = false;
            rest = after;
            continue;
        }
        if !first {
            rest = rest.strip_prefix(',')?;
            json.push(',');
        }
        if let Some(after) = rest.strip_prefix('{') {
            json.push('[');
            depth += 1;
            first = true;
            rest = after;
            continue;
        }
        first = false;
        rest = item(rest, element, json)?;
    }
    rest.is_empty().then_some(())
}

/// One element, and what follows it.
fn item<'a>(text: &'a str, element: &ValueKind, json: &mut String) -> Option<&'a str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '}'])?;
        let plain = &text[..end];
        element.write(if plain == "NULL" { None } else { Some(plain) }, json);
        return Some(&text[end..]);
    };
    let mut value = String::new();
    loop {
        let place = rest.find(['"', '\\'])?;
        value.push_str(&rest[..place]);
        let after = &rest[place + 1..];
        if rest.as_bytes()[place] == b'"' {
            element.write(Some(&value), json);
            return Some(after);
        }
        let character = after.chars().next()?;
        value.push(character);
        rest = &after[character.len_utf8()..];
    }
}
