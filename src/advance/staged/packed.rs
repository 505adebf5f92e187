//! Rows and evaluated rows as one text each, for tables that only we read.

use bytes::Bytes;

use crate::change::{NotHeld, Row, TupleData};
use crate::error::{Error, Result};
use crate::event::shape::Entry;
use crate::mirror::net::Key;

/// Fields one after another: `3:abc` is a text of three bytes, `-` is NULL, `~` a value that the stream did not send, `#…:` one
/// that is held.
#[derive(Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    fn text(&mut self, text: &[u8]) {
        self.0.extend_from_slice(text.len().to_string().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(text);
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text.as_bytes()),
            None => self.0.push(b'-'),
        }
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Reads fields back; the values share the text's memory.
pub(super) struct Fields {
    text: Bytes,
}

impl Fields {
    pub(super) fn new(text: &str) -> Self {
        Self { text: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn next(&mut self) -> Result<Option<TupleData>> {
        let Some(first) = self.text.first().copied() else { return Ok(None) };
        if matches!(first, b'-' | b'~') {
            drop(self.text.split_to(1));
            return Ok(Some(if first == b'-' { TupleData::Null } else { TupleData::UnchangedToast }));
        }
        let colon = self.text.iter().position(|&byte| byte == b':').ok_or_else(broken)?;
        let head = self.text.split_to(colon + 1);
        let head = std::str::from_utf8(&head[..colon]).map_err(|_| broken())?;
        if let Some(held) = head.strip_prefix('#') {
            return Ok(Some(TupleData::Held(Box::new(held.parse().map_err(|NotHeld| broken())?))));
        }
        let length: usize = head.parse().map_err(|_| broken())?;
        if length > self.text.len() {
            return Err(broken());
        }
        Ok(Some(TupleData::Text(self.text.split_to(length))))
    }

    fn optional(&mut self) -> Result<Option<Box<str>>> {
        match self.next()?.ok_or_else(broken)? {
            TupleData::Text(text) => Ok(Some(std::str::from_utf8(&text).map_err(|_| broken())?.into())),
            TupleData::Null => Ok(None),
            TupleData::UnchangedToast | TupleData::Held(_) => Err(broken()),
        }
    }

    fn required(&mut self) -> Result<Box<str>> {
        self.optional()?.ok_or_else(broken)
    }

    fn count(&mut self) -> Result<usize> {
        self.required()?.parse().map_err(|_| broken())
    }
}

fn broken() -> Error {
    Error::failed("a staged row cannot be read back")
}

pub(super) fn row(row: &Row) -> Bytes {
    let mut packer = Packer::default();
    for value in row {
        match value {
            TupleData::Text(text) => packer.text(text),
            TupleData::Held(held) => packer.0.extend_from_slice(format!("#{held}:").as_bytes()),
            TupleData::Null => packer.0.push(b'-'),
            TupleData::UnchangedToast => packer.0.push(b'~'),
        }
    }
    packer.finish()
}

pub(super) fn read_row(text: &str) -> Result<Row> {
    let mut fields = Fields::new(text);
    let mut row = Row::new();
    while let Some(value) = fields.next()? {
        row.push(value);
    }
    Ok(row)
}

pub(super) fn key(key: &Key) -> Bytes {
    let mut packer = Packer::default();
    for part in key {
        packer.text(part);
    }
    packer.finish()
}

pub(super) fn read_key(text: &str) -> Result<Key> {
    let values = read_row(text)?.into_iter();
    values
        .map(|value| match value {
            TupleData::Text(text) => Ok(text),
            TupleData::Null | TupleData::UnchangedToast | TupleData::Held(_) => Err(broken()),
        })
        .collect()
}

pub(super) fn entry(entry: &Entry) -> Bytes {
    let mut packer = Packer(Vec::with_capacity(entry.size()));
    packer.text(if entry.is_cut { b"1" } else { b"0" });
    packer.text(entry.key.len().to_string().as_bytes());
    packer.text(entry.references.len().to_string().as_bytes());
    for part in &entry.key {
        packer.text(part);
    }
    packer.text(entry.id.as_bytes());
    for reference in &entry.references {
        packer.optional(reference.as_deref());
    }
    for json in &entry.json {
        packer.text(json.as_bytes());
    }
    packer.finish()
}

pub(super) fn read_entry(text: &str) -> Result<Entry> {
    let mut fields = Fields::new(text);
    let is_cut = fields.count()? == 1;
    let (keys, references) = (fields.count()?, fields.count()?);
    let key = (0..keys).map(|_| Ok(Bytes::from(fields.required()?.into_string()))).collect::<Result<_>>()?;
    let id = fields.required()?;
    let references = (0..references).map(|_| fields.optional()).collect::<Result<_>>()?;
    let mut json = Vec::new();
    while !fields.text.is_empty() {
        json.push(fields.required()?);
    }
    Ok(Entry { key, id, references, json: json.into(), is_cut })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Held;

    fn text(value: &'static str) -> TupleData {
        TupleData::Text(Bytes::from_static(value.as_bytes()))
    }

    fn read(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).expect("text")
    }

    #[test]
    fn what_is_packed_is_read_back() {
        let held = TupleData::Held(Box::new(Held { digest: [0xa5; 32], length: 52_428_800 }));
        let values = vec![text("3:abc"), text(""), TupleData::Null, held, TupleData::UnchangedToast, text("ü~-#")];
        assert_eq!(read_row(read(&row(&values))).expect("a row"), values);
        let parts: Key = Box::new([Bytes::from("a:b"), Bytes::from("")]);
        assert_eq!(read_key(read(&key(&parts))).expect("a key"), parts);
        for (references, is_cut) in [(vec![None, Some("7".into())], false), (vec![], true)] {
            let json: Box<[Box<str>]> = Box::new(["\"x\"".into(), "null".into()]);
            let whole = Entry { key: parts.clone(), id: "9".into(), references: references.into(), json, is_cut };
            assert_eq!(read_entry(read(&entry(&whole))).expect("an entry"), whole);
        }
        for wrong in ["5:abc", "x:abc", "3", "99999999999999999999999:", "#a5:"] {
            read_row(wrong).expect_err(wrong);
        }
        read_entry("1:01:1~").expect_err("no entry");
    }
}
