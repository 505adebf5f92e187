//! What holds for every message and for any bytes.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Frame, Message, OldRow};
use crate::change::{Column, Relation, ReplicaIdentity, Row, TupleData};
use crate::lsn::Lsn;

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

/// Any time that both clocks can say.
fn micros() -> impl Strategy<Value = i64> {
    i64::MIN + super::decode::POSTGRES_EPOCH_MICROS..=i64::MAX
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{1,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn row() -> impl Strategy<Value = Row> {
    let value = prop_oneof![Just(TupleData::Null), Just(TupleData::UnchangedToast), bytes().prop_map(TupleData::Text)];
    vec(value, 0..6)
}

fn old() -> impl Strategy<Value = OldRow> {
    prop_oneof![row().prop_map(OldRow::Key), row().prop_map(OldRow::Full)]
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    let column = (name(), any::<u32>(), any::<i32>(), any::<bool>())
        .prop_map(|(name, type_oid, type_modifier, key)| Column { name, type_oid, type_modifier, key });
    (any::<u32>(), name(), name(), identity, vec(column, 0..6))
        .prop_map(|(oid, schema, name, identity, columns)| Relation { oid, schema, name, identity, columns })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (lsn(), micros(), any::<u32>()).prop_map(|(final_lsn, commit_micros, xid)| Message::Begin {
            final_lsn,
            commit_micros,
            xid
        }),
        (any::<bool>(), lsn(), "[^\0]{0,12}", bytes()).prop_map(|(transactional, lsn, prefix, content)| {
            Message::Logical { transactional, lsn, prefix, content }
        }),
        (lsn(), lsn(), micros()).prop_map(|(commit_lsn, end_lsn, commit_micros)| Message::Commit {
            commit_lsn,
            end_lsn,
            commit_micros
        }),
        (lsn(), name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
        relation().prop_map(Message::Relation),
        (any::<u32>(), name(), name()).prop_map(|(oid, schema, name)| Message::Type { oid, schema, name }),
        (any::<u32>(), row()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), proptest::option::of(old()), row()).prop_map(|(relation, old, new)| Message::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(|(relations, cascade, restart_identity)| {
            Message::Truncate { relations, cascade, restart_identity }
        }),
    ]
}

proptest! {
    #[test]
    fn every_message_survives_a_round_trip(message in message()) {
        prop_assert_eq!(Message::decode(message.encode()), Ok(message));
    }

    #[test]
    fn every_strict_prefix_is_refused(message in message()) {
        let whole = message.encode();
        for length in 0..whole.len() {
            prop_assert!(Message::decode(whole.slice(..length)).is_err(), "{} of {}", length, whole.len());
        }
    }

    #[test]
    fn bytes_after_a_message_are_refused(message in message(), more in vec(any::<u8>(), 1..9)) {
        let mut long = BytesMut::from(&message.encode()[..]);
        long.put_slice(&more);
        prop_assert!(Message::decode(long.freeze()).is_err());
    }

    #[test]
    fn garbage_never_panics(tag in prop::sample::select(&b"BMCORYIUDTwkx"[..]), rest in vec(any::<u8>(), 0..200)) {
        let mut bytes = BytesMut::from(&[tag][..]);
        bytes.put_slice(&rest);
        let bytes = bytes.freeze();
        drop(Message::decode(bytes.clone()));
        drop(Frame::decode(bytes));
    }

    #[test]
    fn a_damaged_message_never_panics(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = message.encode().to_vec();
        let at = at.index(bytes.len());
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        drop(Message::decode(bytes.into()));
    }
}
