//! Changes of a text.

use super::syntax::Span;

/// Changes of a text, each at its place; applied at once, so that places stay what they are.
#[derive(Default)]
pub(super) struct Edits {
    edits: Vec<(Span, Edit)>,
}

enum Edit {
    Text(String),
    /// What stands before and after the hole.
    Hole(String, String),
    /// What is left; also takes away all edits within.
    Cut(&'static str),
}

impl Edits {
    pub(super) fn replace(&mut self, span: Span, text: String) {
        self.edits.push((span, Edit::Text(text)));
    }

    pub(super) fn insert(&mut self, place: usize, text: String) {
        self.edits.push((Span { start: place, end: place }, Edit::Text(text)));
    }

    pub(super) fn hole(&mut self, span: Span, before: String, after: String) {
        self.edits.push((span, Edit::Hole(before, after)));
    }

    pub(super) fn cut(&mut self, span: Span, left: &'static str) {
        self.edits.push((span, Edit::Cut(left)));
    }

    /// The edited text, in two pieces where it has the hole.
    pub(super) fn apply(mut self, text: &str) -> Vec<String> {
        // A cut comes before what it covers; an insertion at the end of a replacement comes after it.
        self.edits.sort_by_key(|(span, edit)| (span.start, !matches!(edit, Edit::Cut(_)), span.end));
        let mut pieces = vec![String::new()];
        let mut done = 0;
        for (span, edit) in self.edits {
            if span.start < done {
                continue;
            }
            let piece = pieces.last_mut().expect("there is one from the start");
            piece.push_str(&text[done..span.start]);
            done = span.end;
            match edit {
                Edit::Text(new) => piece.push_str(&new),
                Edit::Hole(before, after) => {
                    piece.push_str(&before);
                    pieces.push(after);
                }
                Edit::Cut(left) => piece.push_str(left),
            }
        }
        let piece = pieces.last_mut().expect("there is one from the start");
        piece.push_str(&text[done..]);
        pieces
    }
}
