//! Aligned columns for people.

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lines of a table with its header; every column is as wide as its widest cell, the last one is not padded.
pub(crate) fn lines(header: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(header).zip(&widths).map(|((cell, (_, align)), &width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().map(|(name, _)| *name))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

/// One line of bounded length without control characters: what came from elsewhere must not steer the terminal.
pub(crate) fn clean(text: &str, longest: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(longest + 1).collect();
    if line.chars().count() > longest {
        line.pop();
        line.push('…');
    }
    line
}

/// Bytes as PostgreSQL says them: `512 B`, `16 kB`, `1.2 GB`.
pub(crate) fn bytes(number: i64) -> String {
    let mut value = number as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 10.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// A time span in its largest unit: `3 s`, `12 min`, `5 h`, `2 d`.
pub(crate) fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86400),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let header = [("ID", Align::Right), ("NAME", Align::Left), ("NOTE", Align::Left)];
        let rows = vec![vec!["7".into(), "Zoë".into(), "x".into()], vec!["12".into(), "Robin".into(), String::new()]];
        assert_eq!(lines(&header, &rows), ["ID  NAME   NOTE", " 7  Zoë    x", "12  Robin"]);
    }

    #[test]
    fn amounts_are_said_as_people_say_them() {
        assert_eq!([0, 512, 2048, 20_480, 3 << 30].map(bytes), ["0 B", "512 B", "2.0 kB", "20 kB", "3.0 GB"]);
        assert_eq!([-1, 0, 119, 120, 7200, 172_800].map(span), ["0 s", "0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!([0, 999, 1000, 1_234_567, -1000].map(count), ["0", "999", "1,000", "1,234,567", "-1,000"]);
        assert_eq!(clean("a\u{1b}[31m\nb", 20), "a [31m b");
        assert_eq!(clean("abcdef", 3), "abc…");
    }
}
