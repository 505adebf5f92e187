//! Large messages as they arrive: their large values are taken out, so that nobody holds one whole. What is left is a message
//! in which such a value stands as its length and digest.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::change::{Held, LARGE, Piece};

/// The kind of a value that was taken out: the protocol has no such one.
pub(super) const HELD: u8 = b'h';

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// What stands before the message in XLogData.
const FRAME: usize = 25;

/// What the next bytes are.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The frame's head and the message's tag.
    Head,
    /// A row's kind and its number of columns.
    RowHead,
    /// A value's kind, with so many values from here on.
    Kind(u16),
    Length(u16),
    /// A value that stays.
    Small(u16),
    /// A value that goes: so many bytes.
    Large(u16, usize),
    /// A byte of the prefix of a logical message.
    Prefix,
    ContentLength,
    /// The content of another program's logical message, which nobody wants: so many bytes.
    Skipped(usize),
    /// Whatever comes stays.
    Rest,
}

/// One large message, from its first byte.
pub(crate) struct Sieve {
    rest: BytesMut,
    step: Step,
    /// The step is done when `rest` has so many bytes.
    until: usize,
    /// The table that the message is about.
    relation: u32,
    /// Columns of the row that is arriving.
    columns: u16,
    /// The message is an UPDATE, and its old row may be before us.
    may_have_old: bool,
    /// Of the value that is arriving.
    piece: BytesMut,
    length: u64,
    digest: Sha256,
}

impl Sieve {
    pub(crate) fn new() -> Self {
        Self {
            rest: BytesMut::new(),
            step: Step::Head,
            until: FRAME + 1,
            relation: 0,
            columns: 0,
            may_have_old: false,
            piece: BytesMut::new(),
            length: 0,
            digest: Sha256::new(),
        }
    }

    /// Takes the next bytes; gives what they are of large values.
    pub(crate) fn push(&mut self, mut bytes: Bytes) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            match &mut self.step {
                Step::Large(_, left) | Step::Skipped(left) => {
                    let some = bytes.split_to(bytes.len().min(*left));
                    *left -= some.len();
                    let is_done = *left == 0;
                    match self.step {
                        Step::Large(columns, _) => self.take(&some, is_done, columns, &mut pieces),
                        _ if is_done => self.next(Step::Rest, usize::MAX),
                        _ => {}
                    }
                }
                _ => {
                    let lacking = self.until.saturating_sub(self.rest.len());
                    self.rest.extend_from_slice(&bytes.split_to(bytes.len().min(lacking)));
                    while self.rest.len() >= self.until && !matches!(self.step, Step::Large(..) | Step::Skipped(_)) {
                        self.advance();
                    }
                    if let Step::Large(left, _) = self.step {
                        pieces.push(Piece::Of(self.relation, usize::from(self.columns - left)));
                    }
                }
            }
        }
        pieces
    }

    /// What is left, once all bytes have come.
    pub(crate) fn finish(self) -> Bytes {
        self.rest.freeze()
    }

    /// Bytes of a large value.
    fn take(&mut self, bytes: &Bytes, is_last: bool, columns: u16, pieces: &mut Vec<Piece>) {
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE || is_last {
            pieces.push(Piece::Bytes(std::mem::take(&mut self.piece).freeze()));
        }
        if !is_last {
            return;
        }
        let digest: [u8; 32] = self.digest.finalize_reset().into();
        let length = std::mem::take(&mut self.length);
        self.rest.extend_from_slice(&[HELD]);
        self.rest.extend_from_slice(&length.to_be_bytes());
        self.rest.extend_from_slice(&digest);
        pieces.push(Piece::End(Held { digest, length }));
        self.value_is_over(columns);
    }

    /// The bytes of a step are there.
    fn advance(&mut self) {
        match self.step {
            Step::Head => match self.last() {
                b'I' | b'D' => self.next(Step::RowHead, 4 + 3),
                b'U' => {
                    self.may_have_old = true;
                    self.next(Step::RowHead, 4 + 3);
                }
                b'M' => self.next(Step::Prefix, 1 + 8 + 1),
                _ => self.next(Step::Rest, usize::MAX),
            },
            Step::RowHead => {
                let [kind, high, low] = self.tail();
                if self.rest.len() == FRAME + 1 + 4 + 3 {
                    let [relation @ .., _, _, _] = self.tail::<7>();
                    self.relation = u32::from_be_bytes(relation);
                }
                self.may_have_old &= kind != b'N';
                self.columns = u16::from_be_bytes([high, low]);
                self.values(self.columns);
            }
            Step::Kind(columns) => match self.last() {
                b'n' | b'u' => self.value_is_over(columns),
                b't' => self.next(Step::Length(columns), 4),
                // Whoever decodes it says what is wrong.
                _ => self.next(Step::Rest, usize::MAX),
            },
            Step::Length(columns) => match self.counted() {
                length if length > LARGE => {
                    self.rest.truncate(self.rest.len() - 5);
                    self.next(Step::Large(columns, length), 0);
                }
                0 => self.value_is_over(columns),
                length => self.next(Step::Small(columns), length),
            },
            Step::Small(columns) => self.value_is_over(columns),
            Step::Prefix if self.last() != 0 => self.next(Step::Prefix, 1),
            Step::Prefix => self.next(Step::ContentLength, 4),
            Step::ContentLength => match self.counted() {
                length if length > LARGE => {
                    self.rest.truncate(self.rest.len() - 4);
                    self.rest.extend_from_slice(&[0; 4]);
                    self.next(Step::Skipped(length), 0);
                }
                _ => self.next(Step::Rest, usize::MAX),
            },
            Step::Large(..) | Step::Skipped(_) | Step::Rest => {}
        }
    }

    fn next(&mut self, step: Step, bytes: usize) {
        self.step = step;
        self.until = self.rest.len().saturating_add(bytes);
    }

    fn value_is_over(&mut self, columns: u16) {
        self.values(columns - 1);
    }

    /// So many values of the row are left.
    fn values(&mut self, columns: u16) {
        if columns > 0 {
            self.next(Step::Kind(columns), 1);
        } else if std::mem::take(&mut self.may_have_old) {
            self.next(Step::RowHead, 3);
        } else {
            self.next(Step::Rest, usize::MAX);
        }
    }

    fn last(&self) -> u8 {
        self.rest.last().copied().unwrap_or_default()
    }

    fn tail<const N: usize>(&self) -> [u8; N] {
        self.rest.last_chunk().copied().unwrap_or([0; N])
    }

    fn counted(&self) -> usize {
        usize::try_from(u32::from_be_bytes(self.tail())).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, Message, OldRow};
    use super::*;
    use crate::change::{Row, TupleData};
    use crate::lsn::Lsn;

    fn text(byte: u8, length: usize) -> TupleData {
        TupleData::Text(Bytes::from(vec![byte; length]))
    }

    fn held(value: &TupleData) -> TupleData {
        let TupleData::Text(text) = value else { panic!("no text") };
        TupleData::Held(Box::new(Held { digest: Sha256::digest(text).into(), length: text.len() as u64 }))
    }

    /// What is left of a message, and the large values with their tables and columns.
    struct Sifted {
        rest: Message,
        values: Vec<Bytes>,
        names: Vec<Held>,
        whose: Vec<(u32, usize)>,
    }

    /// A message that arrives in chunks.
    fn sift(message: &Message, chunk: usize) -> Sifted {
        let whole = [&[b'w'][..], &[0; 24], &message.encode()].concat();
        let mut sieve = Sieve::new();
        let (mut values, mut names, mut whose) = (vec![BytesMut::new()], Vec::new(), Vec::new());
        for chunk in whole.chunks(chunk) {
            for piece in sieve.push(Bytes::copy_from_slice(chunk)) {
                match piece {
                    Piece::Of(relation, column) => whose.push((relation, column)),
                    Piece::Bytes(bytes) => values.last_mut().expect("one").extend_from_slice(&bytes),
                    Piece::End(held) => {
                        names.push(held);
                        values.push(BytesMut::new());
                    }
                }
            }
        }
        values.pop();
        let Ok(Frame::Data { body }) = Frame::decode(sieve.finish()) else { panic!("no frame") };
        let values = values.into_iter().map(BytesMut::freeze).collect();
        Sifted { rest: Message::decode_rest(body).expect("a message"), values, names, whose }
    }

    #[test]
    fn large_values_are_taken_out_and_all_else_stays() {
        let (one, other) = (text(b'a', LARGE + 1), text(b'b', 2 * LARGE));
        let small: Row = vec![TupleData::Null, text(b'c', LARGE), TupleData::UnchangedToast, text(b'd', 0)];
        let (old, new) = ([small.clone(), vec![one.clone()]].concat(), [vec![other.clone()], small.clone()].concat());
        let message = Message::Update { relation: 7, old: Some(OldRow::Full(old)), new };
        let (left, right) = ([small.clone(), vec![held(&one)]].concat(), [vec![held(&other)], small].concat());
        let expected = Message::Update { relation: 7, old: Some(OldRow::Full(left)), new: right };
        for chunk in [1 << 16, 4097, usize::MAX] {
            let Sifted { rest, values, names, whose } = sift(&message, chunk);
            assert!(rest == expected, "in chunks of {chunk}");
            assert_eq!(whose, [(7, 4), (7, 0)]);
            for ((value, name), expected) in values.into_iter().zip(names).zip([&one, &other]) {
                assert!(held(&TupleData::Text(value)) == TupleData::Held(Box::new(name.clone())));
                assert!(held(expected) == TupleData::Held(Box::new(name)));
            }
        }
    }

    #[test]
    fn the_content_of_a_large_logical_message_is_left_out() {
        let message = |content: Bytes| Message::Logical {
            transactional: true,
            lsn: Lsn(1),
            prefix: "another".to_owned(),
            content,
        };
        let Sifted { rest, values, whose, .. } = sift(&message(Bytes::from(vec![b'x'; LARGE + 1])), 1 << 16);
        assert_eq!((rest, values, whose), (message(Bytes::new()), Vec::new(), Vec::new()));
        let small = message(Bytes::from(vec![b'x'; LARGE]));
        assert!(sift(&small, 1 << 16).rest == small);
    }

    #[test]
    fn the_server_cannot_name_a_value() {
        let mut bytes = b"I\0\0\0\x01N\0\x01h".to_vec();
        bytes.extend_from_slice(&[0; 40]);
        Message::decode(Bytes::from(bytes.clone())).expect_err("refused");
        Message::decode_rest(Bytes::from(bytes)).expect("what a sieve leaves");
    }
}
