//! The settings by name, and what each may be.

/// The shape of a setting, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Count,
    List,
}

/// A setting.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// What it may be, as the end of "expected …".
    pub(crate) allowed: &'static str,
}

impl Key {
    /// The environment variable of this setting: two underscores for the dot.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "__").to_uppercase())
    }

    /// Its value must never be printed.
    pub(crate) fn is_secret(&self) -> bool {
        self.name == "database.url"
    }
}

/// What the name of every environment variable of ours begins with.
pub(crate) const PREFIX: &str = "PORTALHOOK_";

const DURATION: &str = "a duration such as \"500ms\", \"15s\", \"5m\", \"2h\" or \"7d\"";
const SIZE: &str = "a size such as \"1MB\", \"32MB\" or \"8GB\" (1 kB is 1024 bytes)";

/// Every setting there is.
pub(crate) const KEYS: &[Key] = &[
    text("database.url", "postgres://USER@HOST:PORT/DATABASE"),
    text("capture.mode", "\"auto\", \"wal\" or \"trigger\""),
    text("capture.slot", "the name of a replication slot: up to 63 of a-z, 0-9 and _"),
    text("capture.publication", "the name of a publication: 1 to 63 bytes"),
    text("capture.max_wal", SIZE),
    text("mapping.cascades", "\"emit\" or \"fold\""),
    text("mirror.cache", SIZE),
    text("deliver.timeout", "a duration above zero such as \"15s\""),
    list("deliver.retries", "a list of durations such as [\"5s\", \"5m\", \"2h\"]"),
    list("deliver.allow_networks", "a list of networks such as [\"127.0.0.0/8\", \"fd00::/8\"]"),
    count("deliver.disable_after", "a number of deliveries, at least 1"),
    count("deliver.max_in_flight", "a number of requests, at least 1"),
    text("deliver.max_body", SIZE),
    text("ledger.retention", DURATION),
    text("admin.listen", "an address and port such as \"127.0.0.1:9464\""),
    text("log.format", "\"text\", \"json\" or \"journald\""),
    text("log.level", "\"error\", \"warn\", \"info\", \"debug\" or \"trace\""),
];

const fn text(name: &'static str, allowed: &'static str) -> Key {
    Key { name, shape: Shape::Text, allowed }
}

const fn count(name: &'static str, allowed: &'static str) -> Key {
    Key { name, shape: Shape::Count, allowed }
}

const fn list(name: &'static str, allowed: &'static str) -> Key {
    Key { name, shape: Shape::List, allowed }
}

pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The setting that somebody who wrote `name` probably meant.
pub(crate) fn suggest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let near = |key: &&Key| (distance(key.name, name), key.name);
    let (away, nearest) = KEYS.iter().map(|key| near(&key)).min()?;
    if away <= 3 {
        return Some(nearest);
    }
    // `timeout` without its section, or in the wrong one.
    KEYS.iter().find(|key| last(key.name) == last(name)).map(|key| key.name)
}

/// Levenshtein's edit distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_is_recognised() {
        for (written, meant) in [
            ("deliver.timout", Some("deliver.timeout")),
            ("deliver.retry", Some("deliver.retries")),
            ("database.uri", Some("database.url")),
            ("timeout", Some("deliver.timeout")),
            ("http.listen", Some("admin.listen")),
            ("colour", None),
        ] {
            assert_eq!(suggest(written), meant, "{written}");
        }
    }
}
