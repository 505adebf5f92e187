//! Which writes alter the mirror: counters, ranks and sign-in times that no SELECT reads cost one comparison and are gone.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::apply::MirrorSql;
use super::net::{Key, Net, Write, fill_unsent};
use super::prepared::Prepared;
use crate::change::{Row, TupleData};
use crate::error::Result;
use crate::mapping::plan::Plan;

/// Marks what alters and drops what does not, in transactions that arrived together.
///
/// One statement for each table asks the mirror about every key's first write; later writes of a key are compared with the
/// image before them, never with the mirror, which is older.
/// Gives the tables whose mirrors lack rows that are updated, as `mark` does.
pub(crate) async fn filter(
    sql: &Prepared<'_>,
    plan: &Plan,
    mirrors: &[MirrorSql],
    nets: &mut [Net],
) -> Result<BTreeSet<usize>> {
    let lacking = mark(sql, mirrors, nets).await?;
    for net in nets {
        drop_silent(plan, net);
    }
    Ok(lacking)
}

/// Marks what alters. An update of a row that the mirror does not have is left out: a migration brought the row without a word
/// in the stream (an attached partition, other keys), and nobody knows what it was before. Gives the tables of such rows, which
/// need a fresh copy.
pub(crate) async fn mark(sql: &Prepared<'_>, mirrors: &[MirrorSql], nets: &mut [Net]) -> Result<BTreeSet<usize>> {
    let mut lacking = HashSet::new();
    let asked = ask(nets, mirrors.len());
    for (table, candidates) in asked.iter().enumerate().filter(|(_, candidates)| !candidates.is_empty()) {
        let rows: Vec<&Row> =
            candidates.iter().filter_map(|&(net, write)| nets[net].writes[write].image.as_ref()).collect();
        let differing = mirrors[table].differing(sql, &rows).await?;
        for (index, is_lacking) in differing {
            let (net, write) = candidates[index];
            let write = &mut nets[net].writes[write];
            write.alters = true;
            if is_lacking {
                lacking.insert((table, write.key.clone()));
            }
        }
    }
    let tables = lacking.iter().map(|(table, _)| *table).collect();
    if !lacking.is_empty() {
        leave_out(nets, lacking);
    }
    Ok(tables)
}

/// Removes updates of rows that nobody has, until they are inserted.
fn leave_out(nets: &mut [Net], mut lacking: HashSet<(usize, Key)>) {
    for net in nets {
        net.writes.retain(|write| {
            let at = (write.table, write.key.clone());
            if write.existed {
                write.image.is_none() || !lacking.contains(&at)
            } else {
                lacking.remove(&at);
                true
            }
        });
    }
}

/// Settles what memory can settle; returns for each table the writes (transaction, write) that only the mirror can.
fn ask(nets: &mut [Net], tables: usize) -> Vec<Vec<(usize, usize)>> {
    let mut asked = vec![Vec::new(); tables];
    let mut latest: HashMap<(usize, Key), Option<Row>> = HashMap::new();
    for (number, net) in nets.iter_mut().enumerate() {
        for (index, write) in net.writes.iter_mut().enumerate() {
            // Rows without a key are netted as whole rows: what is left of them alters.
            if write.key.is_empty() {
                continue;
            }
            let at = (write.table, write.key.clone());
            let plain = write.existed && write.moved_from.is_none();
            write.alters = match (latest.get(&at), &write.image) {
                (None, Some(_)) if plain => {
                    asked[write.table].push((number, index));
                    false
                }
                (Some(Some(previous)), Some(image)) if plain => differs(previous, image),
                _ => true,
            };
            let known = write.image.clone().map(|mut image| {
                fill_unsent(&mut image, latest.get(&at).and_then(Option::as_ref));
                image
            });
            latest.insert(at, known);
        }
    }
    asked
}

/// Whether an image differs from the one before it; where that one does not tell, it does.
fn differs(previous: &Row, image: &Row) -> bool {
    previous.iter().zip(image).any(|(before, value)| *value != TupleData::UnchangedToast && value != before)
}

/// Drops writes that alter nothing, unless the row's SELECT may read another row that the transaction alters.
fn drop_silent(plan: &Plan, net: &mut Net) {
    let altered: Vec<(usize, Key)> =
        net.writes.iter().filter(|write| write.alters).map(|write| (write.table, write.key.clone())).collect();
    let truncated: Vec<usize> = net.truncated.iter().map(|(table, _)| *table).collect();
    let may_read = |write: &Write| {
        plan.entities.iter().filter(|entity| entity.base == Some(write.table)).any(|entity| {
            entity.reads.iter().any(|read| {
                truncated.contains(read)
                    || altered.iter().any(|(table, key)| table == read && (*table != write.table || *key != write.key))
            })
        })
    };
    net.writes.retain(|write| write.alters || may_read(write));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lsn::Lsn;

    fn text(value: &str) -> TupleData {
        TupleData::Text(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn net(existed: bool, image: Option<Row>) -> Net {
        let write = Write {
            table: 0,
            key: Box::new([Bytes::from("1")]),
            existed,
            image,
            gone: None,
            moved_from: None,
            place: 0,
            alters: true,
        };
        Net {
            xid: 1,
            commit_lsn: Lsn(1),
            end_lsn: Lsn(2),
            commit_micros: 0,
            writes: vec![write],
            operations: Vec::new(),
            truncated: Vec::new(),
        }
    }

    /// A → B, then B → A: the second is older than the mirror, which still says A, and must not be dropped.
    #[test]
    fn a_later_write_is_compared_with_the_one_before_it() {
        let mut nets = vec![
            net(true, Some(vec![text("1"), text("B")])),
            net(true, Some(vec![text("1"), text("A")])),
            net(true, Some(vec![text("1"), TupleData::UnchangedToast])),
            net(true, Some(vec![text("1"), text("A")])),
            net(true, None),
            net(false, Some(vec![text("1"), text("A")])),
        ];
        let asked = ask(&mut nets, 1);
        assert_eq!(asked, [vec![(0, 0)]]);
        let alters: Vec<bool> = nets.iter().map(|net| net.writes[0].alters).collect();
        assert_eq!(alters, [false, true, false, false, true, true]);
    }

    #[test]
    fn updates_of_a_row_that_nobody_has_are_left_out_until_it_is_inserted() {
        let row = || Some(vec![text("1"), text("A")]);
        let mut nets = vec![net(true, row()), net(true, row()), net(true, None), net(false, row()), net(true, row())];
        let key = nets[0].writes[0].key.clone();
        leave_out(&mut nets, HashSet::from([(0, key)]));
        let left: Vec<usize> = nets.iter().map(|net| net.writes.len()).collect();
        assert_eq!(left, [0, 0, 1, 1, 1]);
    }

    #[test]
    fn an_image_that_does_not_tell_counts_as_altering() {
        let mut nets = vec![
            net(true, Some(vec![text("1"), TupleData::UnchangedToast])),
            net(true, Some(vec![text("1"), text("A")])),
        ];
        assert_eq!(ask(&mut nets, 1), [vec![(0, 0)]]);
        assert!(nets[1].writes[0].alters);
    }
}
