//! Large values on their way into the mirror: sent in pieces, put together by the server, so that no statement's message holds
//! one of them again.

use bytes::{BufMut, Bytes, BytesMut};

use super::prepared::Prepared;
use crate::change::{Row, TupleData};
use crate::error::Result;

/// Bytes from which on a value goes apart from its row.
pub(crate) const LARGE: usize = 1 << 20;
/// Bytes of a piece.
const PIECE: usize = 128 << 10;

/// Where they wait for their row's statement. Unlogged: they are nothing after the commit, or without it.
const TABLE: &str = "
    CREATE UNLOGGED TABLE IF NOT EXISTS portalhook_mirror.\"portalhook pieces\" (place int, number int, piece bytea);
    ALTER TABLE portalhook_mirror.\"portalhook pieces\" ALTER COLUMN piece SET STORAGE EXTERNAL;
    TRUNCATE portalhook_mirror.\"portalhook pieces\"";
const COPY: &str = "COPY portalhook_mirror.\"portalhook pieces\" FROM STDIN (FORMAT binary)";
const EMPTY: &str = "TRUNCATE portalhook_mirror.\"portalhook pieces\"";

/// Header and trailer of COPY's binary format (manual, COPY, "Binary Format").
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = b"\xff\xff";

/// Whether the row has a value that goes apart from it.
pub(crate) fn has_large(row: &Row) -> bool {
    row.iter().any(is_large)
}

fn is_large(value: &TupleData) -> bool {
    matches!(value, TupleData::Text(text) if text.len() > LARGE)
}

/// Sends the large values of one row; gives the row without them, and their places in it.
pub(super) async fn send(sql: &Prepared<'_>, row: &Row) -> Result<(Row, Vec<usize>)> {
    sql.run("prepare for large values", TABLE).await?;
    let places: Vec<usize> = (0..row.len()).filter(|&place| is_large(&row[place])).collect();
    let pieces = places.iter().flat_map(|&place| match &row[place] {
        TupleData::Text(text) => pieces(place, text).collect(),
        TupleData::Null | TupleData::UnchangedToast => Vec::new(),
    });
    let messages: Vec<Bytes> = std::iter::once(Bytes::from_static(HEADER))
        .chain(pieces)
        .chain(std::iter::once(Bytes::from_static(TRAILER)))
        .collect();
    sql.copy("send a large value", COPY, messages).await?;
    let rest =
        |(place, value): (usize, &TupleData)| if places.contains(&place) { TupleData::Null } else { value.clone() };
    Ok((row.iter().enumerate().map(rest).collect(), places))
}

/// Forgets what was sent.
pub(super) async fn forget(sql: &Prepared<'_>) -> Result<()> {
    sql.run("forget large values", EMPTY).await
}

/// The value at a place of the row that was sent, as an expression.
pub(super) fn value(place: usize) -> String {
    format!(
        "(SELECT convert_from(string_agg(piece, ''::bytea ORDER BY number), 'UTF8') \
         FROM portalhook_mirror.\"portalhook pieces\" WHERE place = {place})"
    )
}

/// The rows of one value: slices of it, each behind what COPY says of it.
fn pieces(place: usize, text: &Bytes) -> impl Iterator<Item = Bytes> {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    (0..).zip((0..text.len()).step_by(PIECE)).flat_map(move |(number, start)| {
        let piece = text.slice(start..text.len().min(start + PIECE));
        let mut head = BytesMut::with_capacity(22);
        head.put_u16(3);
        head.put_u32(4);
        head.put_u32(place);
        head.put_u32(4);
        head.put_u32(number);
        head.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        [head.freeze(), piece]
    })
}
