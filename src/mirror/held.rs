//! Values that are not in memory: the write session holds each of them once, under its digest, in a temporary table, from where
//! statements take it. They come in pieces before the transaction that has them (`change::Piece`), or out of a mirror.
//!
//! A temporary table is written by no other session, costs no write-ahead log, and is gone with the session: then the stream
//! brings everything again.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::array::TextArray;
use super::prepared::Prepared;
use crate::change::{Held, Piece, Row, TupleData};
use crate::error::{Error, Result};
use crate::mapping::record;

/// Rows of a mirror with more bytes are read without their values above this.
const SHORT: usize = 16 << 10;

const ARE_THERE: &str = "SELECT to_regclass('pg_temp.portalhook_values') IS NOT NULL";

/// Pieces without a digest are of the value that is arriving. Rows go to and fro as records whose fields are `s` and the value, or
/// `h` and what a held one is called.
const CREATE: &str = "
    CREATE TEMPORARY TABLE portalhook_values (digest bytea, number int NOT NULL, piece bytea NOT NULL);
    ALTER TABLE pg_temp.portalhook_values ALTER piece SET STORAGE EXTERNAL;
    CREATE INDEX ON pg_temp.portalhook_values (digest, number);
    CREATE FUNCTION pg_temp.portalhook_hold(value text, short int) RETURNS text LANGUAGE plpgsql STRICT AS $$
    DECLARE
        bytes bytea;
        named bytea;
    BEGIN
        IF octet_length(value) <= short THEN
            RETURN 's' || value;
        END IF;
        bytes := convert_to(value, 'UTF8');
        named := sha256(bytes);
        IF NOT EXISTS (SELECT FROM pg_temp.portalhook_values WHERE digest = named) THEN
            INSERT INTO pg_temp.portalhook_values VALUES (named, 0, bytes);
        END IF;
        RETURN 'h' || encode(named, 'hex') || octet_length(bytes);
    END $$;
    CREATE FUNCTION pg_temp.portalhook_given(field text) RETURNS text LANGUAGE plpgsql STRICT AS $$
    DECLARE
        named bytea;
        held  text;
    BEGIN
        IF left(field, 1) = 's' THEN
            RETURN substr(field, 2);
        END IF;
        named := decode(substr(field, 2, 64), 'hex');
        SELECT convert_from(string_agg(piece, ''::bytea ORDER BY number), 'UTF8') INTO held FROM pg_temp.portalhook_values WHERE digest = named;
        IF held IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'a large value is not held any more';
        END IF;
        RETURN held;
    END $$";

const PUT: &str = "INSERT INTO pg_temp.portalhook_values (number, piece)
    SELECT coalesce(max(number), 0) + 1, $1 FROM pg_temp.portalhook_values WHERE digest IS NULL";

/// The value that has arrived is called so; one that is there already is not kept twice.
const NAME: &str = "UPDATE pg_temp.portalhook_values SET digest = $1
    WHERE digest IS NULL AND NOT EXISTS (SELECT FROM pg_temp.portalhook_values WHERE digest = $1)";
const DROP: &str = "DELETE FROM pg_temp.portalhook_values WHERE digest IS NULL";
const EMPTY: &str = "TRUNCATE pg_temp.portalhook_values";

/// Makes the table and the functions, once in a session; to be called before whatever holds values.
pub(crate) async fn prepare(sql: &Prepared<'_>) -> Result<()> {
    let rows = sql.query("look for held values", ARE_THERE, &[]).await?;
    if !rows.first().is_some_and(|row| row.get(0)) {
        sql.run("prepare to hold values", CREATE).await?;
    }
    sql.holds.store(true, Ordering::Relaxed);
    Ok(())
}

/// Holds what the stream has brought of a value.
pub(crate) async fn take(sql: &Prepared<'_>, piece: Piece) -> Result<()> {
    if !sql.holds.load(Ordering::Relaxed) {
        prepare(sql).await?;
    }
    match piece {
        Piece::Of(..) => Ok(()),
        Piece::Bytes(bytes) => sql.execute("hold a large value", PUT, &[&&bytes[..]]).await.map(drop),
        Piece::End(Held { digest, .. }) => {
            sql.execute("hold a large value", NAME, &[&&digest[..]]).await?;
            sql.execute("hold a large value", DROP, &[]).await.map(drop)
        }
    }
}

/// Nothing that is under way has held values any more.
pub(crate) async fn forget(sql: &Prepared<'_>) -> Result<()> {
    if sql.holds.swap(false, Ordering::Relaxed) {
        sql.run("forget held values", EMPTY).await?;
    }
    Ok(())
}

pub(crate) fn has_held(row: &Row) -> bool {
    row.iter().any(|value| matches!(value, TupleData::Held(_)))
}

/// A statement over arrays of output texts, `unnest($1::text[], …) AS u(c0, …)`, for arrays that `given` makes.
pub(super) fn taking(text: &str) -> String {
    let rewritten = || {
        let start = text.find("unnest($1::text[]")?;
        let names = start + text[start..].find(" AS u(")? + " AS u(".len();
        let end = names + text[names..].find(')')?;
        let columns: Vec<String> = text[names..end]
            .split(", ")
            .map(|name| {
                let is_value =
                    name.strip_prefix('c').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
                if is_value { format!("pg_temp.portalhook_given({name}) AS {name}") } else { name.to_owned() }
            })
            .collect();
        let (before, source, after) = (&text[..start], &text[start..=end], &text[end + 1..]);
        Some(format!("{before}(SELECT {} FROM {source} OFFSET 0) AS u{after}", columns.join(", ")))
    };
    rewritten().unwrap_or_else(|| text.to_owned())
}

/// Rows as arrays, one for each of `count` columns, in which held values stand as what they are called.
pub(super) fn given<'r>(count: usize, rows: impl Iterator<Item = &'r Row>) -> Vec<TextArray> {
    let mut arrays: Vec<TextArray> = (0..count).map(|_| TextArray::default()).collect();
    for row in rows {
        for (array, value) in arrays.iter_mut().zip(row) {
            array.push(match value {
                TupleData::Text(text) => Some([b"s", &text[..]].concat().into()),
                TupleData::Held(held) => Some(called(held)),
                TupleData::Null | TupleData::UnchangedToast => None,
            });
        }
    }
    arrays
}

/// A held value as a field.
pub(crate) fn called(held: &Held) -> Bytes {
    Bytes::from(format!("h{held}"))
}

/// A mirror's or a table's columns as a query over `c0`, `c1` and so on reads them: the record where it is short, or one with what
/// is long held; `read` reads them. `record` is what the short one is.
pub(crate) fn columns(count: usize, record: &str) -> String {
    let fields: Vec<String> = (0..count).map(|place| format!("pg_temp.portalhook_hold(c{place}, {SHORT})")).collect();
    format!(
        "CASE WHEN octet_length({record}) <= {SHORT} THEN {record} END AS image, \
         CASE WHEN octet_length({record}) > {SHORT} THEN ROW({})::text END AS held",
        fields.join(", ")
    )
}

/// A column's output text.
pub(crate) fn output(name: &str) -> String {
    format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END")
}

/// A row out of what `columns` reads.
pub(crate) fn read(image: Option<&str>, held: Option<&str>) -> Result<Option<Row>> {
    if let Some(image) = image {
        let values = record::parse(image)?.into_iter();
        let text = |text: &str| TupleData::Text(Bytes::copy_from_slice(text.as_bytes()));
        return Ok(Some(values.map(|value| value.map_or(TupleData::Null, |value| text(&value))).collect()));
    }
    let Some(held) = held else { return Ok(None) };
    let value = |field: &str| match field.as_bytes() {
        [b's', text @ ..] => Ok(TupleData::Text(Bytes::copy_from_slice(text))),
        [b'h', ..] => match field[1..].parse() {
            Ok(held) => Ok(TupleData::Held(Box::new(held))),
            Err(crate::change::NotHeld) => Err(Error::failed("a held value has another name")),
        },
        _ => Err(Error::failed("a row with held values cannot be read back")),
    };
    let fields = record::parse(held)?.into_iter();
    fields.map(|field| field.map_or(Ok(TupleData::Null), |field| value(&field))).collect::<Result<_>>().map(Some)
}
