use super::*;
use crate::change::Column;
use crate::lsn::Lsn;
use crate::mapping::plan;

fn plan(key: &[usize]) -> Plan {
    let column = |name: &str, type_oid| plan::Column {
        name: name.into(),
        number: 0,
        type_oid,
        source_type: "x".into(),
        mirror_type: "x".into(),
        generated: None,
        collation: None,
    };
    Plan {
        tables: vec![plan::Table {
            oid: 7,
            schema: "public".into(),
            name: "posts".into(),
            said: "public.posts".into(),
            mirror: "public.posts".into(),
            columns: vec![column("id", 20), column("body", 25)],
            key: key.to_vec(),
            only: false,
        }],
        entities: Vec::new(),
    }
}

fn relation() -> Arc<Relation> {
    let column = |name: &str, type_oid, key| Column { name: name.into(), type_oid, type_modifier: -1, key };
    Arc::new(Relation {
        oid: 7,
        schema: "public".into(),
        name: "posts".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![column("unmapped", 25, false), column("body", 25, false), column("id", 20, true)],
    })
}

fn text(value: &str) -> TupleData {
    TupleData::Text(Bytes::copy_from_slice(value.as_bytes()))
}

fn row(id: &str, body: TupleData) -> Row {
    vec![text("noise"), body, text(id)]
}

fn net(changes: Vec<Change>) -> Vec<Write> {
    let transaction = Transaction { xid: 1, commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_micros: 0, changes };
    Netting::new(&plan(&[0])).net(transaction).expect("nets").writes
}

fn insert(relation: &Arc<Relation>, id: &str, body: &str) -> Change {
    Change::Insert { relation: Arc::clone(relation), new: row(id, text(body)) }
}

fn delete(relation: &Arc<Relation>, id: &str) -> Change {
    Change::Delete { relation: Arc::clone(relation), old: row(id, TupleData::Null) }
}

#[test]
fn what_comes_and_goes_in_one_transaction_is_nothing() {
    let relation = relation();
    assert!(net(vec![insert(&relation, "1", "a"), delete(&relation, "1")]).is_empty());
}

#[test]
fn a_row_deleted_and_inserted_again_existed_before() {
    let relation = relation();
    let writes = net(vec![delete(&relation, "1"), insert(&relation, "1", "b")]);
    assert_eq!(writes.len(), 1);
    assert!(writes[0].existed);
    assert_eq!(writes[0].image, Some(vec![text("1"), text("b")]));
    assert_eq!(writes[0].place, 1);
}

#[test]
fn an_unsent_value_is_the_one_that_the_transaction_wrote_before() {
    let relation = relation();
    let update =
        Change::Update { relation: Arc::clone(&relation), old: None, new: row("1", TupleData::UnchangedToast) };
    let writes = net(vec![insert(&relation, "1", "long"), update.clone()]);
    assert_eq!(writes[0].image, Some(vec![text("1"), text("long")]));
    assert!(!writes[0].existed);
    let writes = net(vec![update]);
    assert!(writes[0].has_unsent());
}

#[test]
fn a_changed_key_leaves_the_old_and_knows_where_unsent_values_are() {
    let relation = relation();
    let rekey = |from: &str, to: &str| Change::Update {
        relation: Arc::clone(&relation),
        old: Some(row(from, TupleData::Null)),
        new: row(to, TupleData::UnchangedToast),
    };
    let writes = net(vec![rekey("1", "2"), rekey("2", "3")]);
    let seen: Vec<_> =
        writes.iter().map(|write| (write.key[0].clone(), write.existed, write.image.is_some())).collect();
    assert_eq!(seen, [(Bytes::from("1"), true, false), (Bytes::from("3"), false, true)]);
    assert_eq!(writes[1].moved_from.as_deref(), Some(&[Bytes::from("1")][..]));
}

/// Without a key the old row says which one is meant, unsent values included.
#[test]
fn a_row_without_a_key_is_removed_as_a_whole_and_added_as_a_whole() {
    let mut relation = (*relation()).clone();
    relation.identity = ReplicaIdentity::Full;
    let relation = Arc::new(relation);
    let update = Change::Update {
        relation: Arc::clone(&relation),
        old: Some(row("1", text("long"))),
        new: row("2", TupleData::UnchangedToast),
    };
    let net = |changes| {
        let transaction = Transaction { xid: 1, commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_micros: 0, changes };
        Netting::new(&plan(&[])).net(transaction)
    };
    let mut writes = net(vec![
        update.clone(),
        insert(&relation, "3", "a"),
        Change::Delete { relation: Arc::clone(&relation), old: row("3", text("a")) },
    ])
    .expect("nets")
    .writes;
    writes.sort_by_key(|write| !write.existed);
    let seen: Vec<_> = writes.iter().map(|write| (write.gone.clone(), write.image.clone())).collect();
    assert_eq!(seen, [(Some(vec![text("1"), text("long")]), None), (None, Some(vec![text("2"), text("long")]))]);
    let Change::Update { new, .. } = update else { unreachable!() };
    let error = net(vec![Change::Update { relation: Arc::clone(&relation), old: None, new }]).expect_err("refused");
    assert!(error.to_string().contains("REPLICA IDENTITY FULL"), "{error}");
}

#[test]
fn a_type_or_a_column_that_left_is_named() {
    let mut other = (*relation()).clone();
    other.columns.remove(1);
    let error = Netting::new(&plan(&[0]))
        .net(Transaction {
            xid: 1,
            commit_lsn: Lsn(1),
            end_lsn: Lsn(2),
            commit_micros: 0,
            changes: vec![Change::Insert { relation: Arc::new(other), new: vec![text("n"), text("1")] }],
        })
        .expect_err("refused");
    assert!(error.to_string().contains("column body of public.posts"), "{error}");
}
