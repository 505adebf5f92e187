use std::io::Write as _;

use super::*;
use crate::error::Kind;

fn with(toml: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(toml.as_bytes()).expect("write");
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    load(Some(file.path()), owned(variables).into_iter(), &owned(flags))
}

#[test]
fn without_a_word_the_defaults_of_the_design_hold() {
    let config = with("", &[], &[]).expect("valid");
    assert_eq!(config.capture.slot, None);
    assert_eq!(config.capture.publication, "portalhook");
    assert_eq!(config.capture.max_wal, 8 * 1024 * 1024 * 1024);
    assert_eq!(config.mapping.cascades, Cascades::Emit);
    assert_eq!(config.mirror.cache, 32 * 1024 * 1024);
    assert_eq!(config.deliver.timeout, Duration::from_secs(15));
    assert_eq!(config.deliver.retries.len(), 9);
    assert_eq!(config.deliver.retries.iter().sum::<Duration>(), Duration::from_secs(75 * 3600 + 35 * 60 + 5));
    assert!(config.deliver.allow_networks.is_empty());
    assert_eq!(config.deliver.disable_after, 5);
    assert_eq!(config.deliver.max_in_flight, 16);
    assert_eq!(config.deliver.max_body, 1024 * 1024);
    assert_eq!(config.ledger.retention, Duration::from_secs(604_800));
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, tracing::Level::INFO);
    assert_eq!(config.database.url().expect_err("unset").kind(), Kind::Usage);
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let toml = "[deliver]\ntimeout = \"1s\"\ndisable_after = 1\nretries = [\"1s\"]\n[log]\nlevel = \"error\"";
    let variables = [
        ("PORTALHOOK_DELIVER__TIMEOUT", "2s"),
        ("PORTALHOOK_DELIVER__DISABLE_AFTER", "2"),
        ("PORTALHOOK_DELIVER__ALLOW_NETWORKS", "127.0.0.0/8, ::1/128"),
        ("PORTALHOOK_DELIVER__RETRIES", ""),
        ("HOME", "/root"),
    ];
    let config = with(toml, &variables, &[("deliver.timeout", "3s")]).expect("valid");
    assert_eq!(config.deliver.timeout, Duration::from_secs(3));
    assert_eq!(config.deliver.disable_after, 2);
    assert_eq!(config.deliver.allow_networks.len(), 2);
    assert!(config.deliver.retries.is_empty(), "an empty list is a list");
    assert_eq!(config.log.level, tracing::Level::ERROR);
}

#[test]
fn what_is_wrong_is_refused_by_name_with_what_is_allowed() {
    for (toml, message) in [
        ("[deliver]\ntimout = \"1s\"", "unknown setting `deliver.timout` in * did you mean `deliver.timeout`?"),
        ("colour = 1", "unknown setting `colour` in * known are database.url, *"),
        ("deliver = 1", "unknown setting `deliver` in *"),
        ("[deliver]\ntimeout = 15", "deliver.timeout = 15 in * expected a duration above zero*"),
        ("[deliver]\ntimeout = \"0s\"", "deliver.timeout = \"0s\" in * expected a duration above zero*"),
        ("[deliver]\nretries = \"5s\"", "deliver.retries = \"5s\" in * expected a list of durations*"),
        ("[deliver]\nretries = [\"5s\", 5]", "deliver.retries = [\"5s\", 5] in * expected a list of durations*"),
        ("[deliver]\nretries = [\"5\"]", "deliver.retries = [\"5\"] in * expected a list of durations*"),
        ("[deliver]\nallow_networks = [\"10.0.0.1/33\"]", "deliver.allow_networks = * expected a list of networks*"),
        ("[deliver]\ndisable_after = 0", "deliver.disable_after = 0 in * expected a number of deliveries, at least 1"),
        ("[deliver]\ndisable_after = \"5\"", "deliver.disable_after = \"5\" in * expected a number of deliveries*"),
        ("[deliver]\nmax_in_flight = -1", "deliver.max_in_flight = -1 in * expected a number of requests*"),
        ("[deliver]\nmax_body = \"1M\"", "deliver.max_body = \"1M\" in * expected a size*"),
        ("[capture]\nmode = \"trigger\"", "capture.mode = \"trigger\" is not available yet*"),
        ("[capture]\nmode = \"magic\"", "capture.mode = \"magic\" in * expected \"auto\", \"wal\" or \"trigger\""),
        ("[capture]\nslot = \"My-Slot\"", "capture.slot = \"My-Slot\" in * expected the name of a replication slot*"),
        ("[capture]\npublication = \"\"", "capture.publication = \"\" in * expected the name of a publication*"),
        ("[mapping]\ncascades = true", "mapping.cascades = true in * expected \"emit\" or \"fold\""),
        ("[admin]\nlisten = \"9464\"", "admin.listen = \"9464\" in * expected an address and port*"),
        ("[log]\nformat = \"xml\"", "log.format = \"xml\" in * expected \"text\", \"json\" or \"journald\""),
        ("[log]\nlevel = \"loud\"", "log.level = \"loud\" in * expected \"error\"*"),
        ("[log\nlevel = 1", "read * TOML parse error at line 1*"),
    ] {
        let error = with(toml, &[], &[]).expect_err(toml);
        assert_eq!(error.kind(), Kind::Usage, "{toml}");
        assert!(matches_glob(message, &error.to_string()), "{toml}\n  said     {error}\n  expected {message}");
    }
}

#[test]
fn unknown_variables_and_flags_are_refused_but_not_those_of_others() {
    for variable in ["PORTALHOOK_LOG", "PORTALHOOK_PG_BIN", "PORTALHOOK_SERVICE_HOST", "PORTALHOOKS__X"] {
        with("", &[(variable, "x")], &[]).expect(variable);
    }
    for (variable, message) in [
        (
            "PORTALHOOK_DELIVER__TIMOUT",
            "unknown setting `deliver.timout` in the variable * did you mean `deliver.timeout`?",
        ),
        ("PORTALHOOK_DATABASE_URL", "unknown variable PORTALHOOK_DATABASE_URL; did you mean PORTALHOOK_DATABASE__URL?"),
    ] {
        let error = with("", &[(variable, "postgres://never-send")], &[]).expect_err(variable);
        assert!(matches_glob(message, &error.to_string()), "{error}");
    }
    let error = with("", &[], &[("log.colour", "x")]).expect_err("unknown");
    assert!(matches_glob("unknown setting `log.colour` in the command line;*", &error.to_string()), "{error}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = load(Some(Path::new("/nowhere/portalhook.toml")), std::iter::empty(), &[]).expect_err("missing");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().starts_with("read /nowhere/portalhook.toml: "), "{error}");
}

#[test]
fn a_database_url_is_never_shown() {
    let secret = "postgres://portalhook:never-send@localhost/portal";
    let config = with("", &[("PORTALHOOK_DATABASE__URL", secret)], &[]).expect("valid");
    assert_eq!(config.database.url().expect("set").expose(), secret);
    assert!(!format!("{config:?}").contains("never-send"));
    for toml in [
        "[database]\nurl = \"mysql://never-send@localhost\"",
        "[database]\nurl = [\"never-send\"]",
        "[database]\nurl = \"postgres://never-send",
        "[database]\nurl = postgres://never-send",
    ] {
        let error = with(toml, &[], &[]).expect_err(toml);
        assert!(!format!("{error:?} {error}").contains("never-send"), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

/// `*` stands for any text; in messages the temporary file's path varies.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = pattern;
    for part in parts {
        last = part;
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    last.is_empty() || rest.is_empty()
}

/// The file that operators get.
const EXAMPLE: &str = include_str!("../../systemd/portalhook.toml");

/// Its settings, taken out of their comments: prose begins with `# `, a setting with `#name = `.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase()) => setting,
        _ => line,
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_names_every_setting_and_nothing_else() {
    let mut section = "";
    let mut named = Vec::new();
    let text = uncommented();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((name, _)) = line.split_once(" = ") {
            named.push(format!("{section}.{name}"));
        } else {
            assert!(line.is_empty(), "{line}");
        }
    }
    assert_eq!(named, keys::KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
}

#[test]
fn every_setting_of_the_example_is_explained() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with('#') && !line.starts_with("# ") && *line != "#" {
            assert!(number > 0 && lines[number - 1].starts_with("# "), "{line}");
        }
        assert!(line.len() <= 125, "{line}");
    }
}

#[test]
fn the_example_changes_nothing_as_it_is_and_holds_the_defaults() {
    let defaults = format!("{:?}", with("", &[], &[]).expect("valid"));
    assert_eq!(format!("{:?}", with(EXAMPLE, &[], &[]).expect("valid")), defaults);
    let mut all = with(&uncommented(), &[], &[]).expect("valid");
    // These two have no default that could be written down.
    assert_eq!(all.database.url().expect("set").expose(), "postgres://portalhook@localhost/portal");
    assert_eq!(all.capture.slot.as_deref(), Some("portalhook_16384"));
    (all.database.url, all.capture.slot) = (None, None);
    assert_eq!(format!("{all:?}"), defaults);
}
