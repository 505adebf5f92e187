//! Arrays of output texts as statement parameters: `text[]` in binary, every other array type as its literal, so that the
//! server's own input functions read each value.

use std::fmt;
use std::io::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::types as wire;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// One array parameter; `None` is NULL.
#[derive(Debug, Default)]
pub(crate) struct TextArray(pub(crate) Vec<Option<Bytes>>);

impl TextArray {
    pub(crate) fn push(&mut self, value: Option<Bytes>) {
        self.0.push(value);
    }
}

impl FromIterator<Bytes> for TextArray {
    fn from_iter<I: IntoIterator<Item = Bytes>>(values: I) -> Self {
        Self(values.into_iter().map(Some).collect())
    }
}

impl<'a> FromIterator<&'a str> for TextArray {
    fn from_iter<I: IntoIterator<Item = &'a str>>(values: I) -> Self {
        values.into_iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect()
    }
}

type Failure = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for TextArray {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        if *ty == Type::TEXT_ARRAY {
            let dimension = wire::ArrayDimension { len: i32::try_from(self.0.len())?, lower_bound: 1 };
            wire::array_to_sql(
                Some(dimension),
                Type::TEXT.oid(),
                &self.0,
                |value, buffer| match value {
                    Some(value) => {
                        buffer.put_slice(value);
                        Ok(postgres_protocol::IsNull::No)
                    }
                    None => Ok(postgres_protocol::IsNull::Yes),
                },
                out,
            )?;
        } else {
            literal(&self.0, if *ty == Type::BOX_ARRAY { b';' } else { b',' }, out);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), tokio_postgres::types::Kind::Array(_))
    }

    fn encode_format(&self, ty: &Type) -> Format {
        if *ty == Type::TEXT_ARRAY { Format::Binary } else { Format::Text }
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A `text[]` of short texts that are made for it alone: one buffer for all of them.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    count: i32,
    has_null: bool,
    /// Each with its length before it (PostgreSQL's `array_recv`).
    values: Vec<u8>,
}

impl Texts {
    pub(crate) fn new<T: fmt::Display>(values: impl Iterator<Item = Option<T>>) -> Self {
        let mut texts = Self::default();
        values.for_each(|value| texts.push(value));
        texts
    }

    fn push(&mut self, value: Option<impl fmt::Display>) {
        self.count += 1;
        let Some(value) = value else {
            self.has_null = true;
            self.values.extend((-1_i32).to_be_bytes());
            return;
        };
        let start = self.values.len();
        self.values.extend([0; 4]);
        write!(self.values, "{value}").expect("a Vec takes everything");
        let length = i32::try_from(self.values.len() - start - 4).unwrap_or(i32::MAX);
        self.values[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl ToSql for Texts {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_i32(1);
        out.put_i32(i32::from(self.has_null));
        out.put_u32(Type::TEXT.oid());
        out.put_i32(self.count);
        out.put_i32(1);
        out.put_slice(&self.values);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    tokio_postgres::types::to_sql_checked!();
}

/// An array literal (PostgreSQL manual, "Array Input and Output Syntax") with every value quoted.
fn literal(values: &[Option<Bytes>], delimiter: u8, out: &mut BytesMut) {
    out.put_u8(b'{');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.put_u8(delimiter);
        }
        match value {
            None => out.put_slice(b"NULL"),
            Some(value) => {
                out.put_u8(b'"');
                for &byte in value {
                    if matches!(byte, b'"' | b'\\') {
                        out.put_u8(b'\\');
                    }
                    out.put_u8(byte);
                }
                out.put_u8(b'"');
            }
        }
    }
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_the_array_of_them_is() {
        let values = [Some("a\"b"), None, Some("")];
        let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
        Texts::new(values.into_iter()).to_sql(&Type::TEXT_ARRAY, &mut ours).expect("texts");
        let array = TextArray(values.map(|value| value.map(|text| Bytes::from_static(text.as_bytes()))).into());
        array.to_sql(&Type::TEXT_ARRAY, &mut theirs).expect("an array");
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_literal_quotes_what_an_array_would_misread() {
        let mut out = BytesMut::new();
        let values = [Some(Bytes::from_static(b"a\"b\\c,{}")), None, Some(Bytes::new())];
        literal(&values, b',', &mut out);
        assert_eq!(&out[..], br#"{"a\"b\\c,{}",NULL,""}"#);
    }
}
