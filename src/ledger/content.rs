//! The bytes of a body. What many bodies have in common, a large post with its portal, stands once: in memory, and in the
//! ledger (`portalhook.parts`).

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;

/// Shorter parts are repeated: below this a reference saves less than it costs to look for.
const LARGE: usize = 512;
/// Bytes of parts that are remembered in each of two generations; the last one may exceed it.
const REMEMBERED: usize = 1 << 20;

/// A body, whole or around a part that other bodies have too.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    head: Bytes,
    shared: Option<Box<Shared>>,
}

/// What follows a body's head where it refers to a part.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The position of the first event that refers to this part, which is its number.
    pub(crate) number: i64,
    pub(crate) part: Bytes,
    pub(crate) tail: Bytes,
}

impl From<Bytes> for Content {
    fn from(whole: Bytes) -> Self {
        Self { head: whole, shared: None }
    }
}

impl Content {
    pub(crate) fn around(head: Bytes, shared: Shared) -> Self {
        Self { head, shared: Some(Box::new(shared)) }
    }

    /// Everything, or what stands before the part.
    pub(crate) fn head(&self) -> &Bytes {
        &self.head
    }

    pub(crate) fn shared(&self) -> Option<&Shared> {
        self.shared.as_deref()
    }

    /// Bytes that it holds alone.
    pub(crate) fn held(&self) -> usize {
        self.head.len() + self.shared.as_ref().map_or(0, |shared| shared.tail.len())
    }

    /// Bytes of the whole body.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.shared.as_ref().map_or(0, |shared| shared.part.len() + shared.tail.len())
    }

    /// The whole body, in one piece.
    pub(crate) fn whole(self) -> Bytes {
        match self.shared {
            None => self.head,
            Some(shared) => [self.head, shared.part, shared.tail].concat().into(),
        }
    }
}

/// The parts of the last bodies of a day. A part that comes for the second time gets a number, and from then on bodies refer to
/// it; what comes once stays where it is.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    young: HashMap<Bytes, Option<i64>>,
    old: HashMap<Bytes, Option<i64>>,
    /// Bytes in the young generation.
    bytes: usize,
}

impl Parts {
    /// Nothing is referred to across days: they leave the ledger one by one.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The body of the event at `position`, of which others may have the bytes in `part`.
    pub(crate) fn content(&mut self, body: Bytes, part: Range<usize>, position: i64) -> Content {
        if part.len() < LARGE {
            return body.into();
        }
        let Some((bytes, number)) = self.look(&body[part.clone()], position) else { return body.into() };
        // Copied: a slice would keep the whole body in memory.
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Content::around(copy(&body[..part.start]), Shared { number, part: bytes, tail: copy(&body[part.end..]) })
    }

    /// The part as it is kept, and its number: `position` where this is the second time. `None` the first time.
    fn look(&mut self, part: &[u8], position: i64) -> Option<(Bytes, i64)> {
        if let Some((kept, number)) = self.young.get_key_value(part) {
            let (kept, number) = (kept.clone(), number.unwrap_or(position));
            self.young.insert(kept.clone(), Some(number));
            return Some((kept, number));
        }
        let known = self.old.remove_entry(part);
        let (kept, number) = match known {
            Some((kept, number)) => (kept, Some(number.unwrap_or(position))),
            None => (Bytes::copy_from_slice(part), None),
        };
        if self.bytes >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += kept.len();
        self.young.insert(kept.clone(), number);
        number.map(|number| (kept, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(number: usize, post: char, size: usize) -> (Bytes, Range<usize>) {
        let head = format!("{{\"vote\":{number}");
        let part = post.to_string().repeat(size);
        (Bytes::from(format!("{head}{part}}}")), head.len()..head.len() + part.len())
    }

    #[test]
    fn a_part_that_comes_again_is_referred_to_and_every_body_is_what_it_was() {
        let mut parts = Parts::default();
        let mut numbers = Vec::new();
        for (position, post) in [(1, 'a'), (2, 'b'), (3, 'a'), (4, 'a'), (5, 'b')] {
            let (bytes, part) = body(position, post, LARGE);
            let content = parts.content(bytes.clone(), part, position as i64);
            numbers.push(content.shared().map(|shared| shared.number));
            assert_eq!((content.len(), content.whole()), (bytes.len(), bytes));
        }
        assert_eq!(numbers, [None, None, Some(3), Some(3), Some(5)]);
        parts.forget();
        let (bytes, part) = body(6, 'a', LARGE);
        assert!(parts.content(bytes, part, 6).shared().is_none(), "another day has parts of its own");
    }

    #[test]
    fn a_short_part_is_repeated() {
        let mut parts = Parts::default();
        for position in 1..4 {
            let (bytes, part) = body(0, 'a', LARGE - 1);
            assert!(parts.content(bytes, part, position).shared().is_none());
        }
    }

    #[test]
    fn what_is_remembered_has_a_limit_and_what_is_used_stays() {
        let mut parts = Parts::default();
        let mut position = 0;
        let mut add = |parts: &mut Parts, post: char| {
            position += 1;
            let (bytes, part) = body(0, post, REMEMBERED / 4);
            parts.content(bytes, part, position).shared().map(|shared| shared.number)
        };
        assert_eq!((add(&mut parts, 'a'), add(&mut parts, 'a')), (None, Some(2)));
        for post in 'b'..='z' {
            assert_eq!(add(&mut parts, post), None);
            assert_eq!(add(&mut parts, 'a'), Some(2));
            let kept: usize = parts.young.keys().chain(parts.old.keys()).map(Bytes::len).sum();
            assert!(kept <= 3 * REMEMBERED, "{kept}");
        }
        assert_eq!(add(&mut parts, 'b'), None, "forgotten long ago");
    }
}
