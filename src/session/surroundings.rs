//! What the process finds around it and the URL does not say: a password (`PGPASSWORD`, a systemd credential, or a password
//! file), libpq's variables, and the home of its default files.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::parameters;
use crate::error::{Error, Result};

/// The name of the credential (`systemd.exec(5)`, Credentials).
const CREDENTIAL: &str = "database_password";

/// Whom a password is for, as lines of a password file name it.
pub(super) struct Place<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) role: &'a str,
}

/// Variables and places; the default is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// `PGPASSWORD`
    pub(super) variable: Option<Hidden>,
    /// `CREDENTIALS_DIRECTORY`
    pub(super) credentials: Option<PathBuf>,
    /// `PGPASSFILE`, or `.pgpass` at home.
    pub(super) file: Option<PathBuf>,
    /// `HOME`, in whose `.postgresql` certificates may be.
    pub(super) home: Option<PathBuf>,
    /// Those of libpq's variables that `parameters` knows, where they are not empty.
    pub(super) libpq: Vec<(&'static str, String)>,
}

/// Text that Debug does not show.
#[derive(Clone)]
pub(super) struct Hidden(pub(super) String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Surroundings {
    pub(super) fn of_the_process() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let home = path("HOME").filter(|home| home.is_absolute());
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value));
        Self {
            variable: std::env::var("PGPASSWORD").ok().map(Hidden),
            credentials: path("CREDENTIALS_DIRECTORY"),
            file: path("PGPASSFILE").or_else(|| home.as_ref().map(|home| home.join(".pgpass"))),
            home,
            libpq: parameters::variables().filter_map(set).collect(),
        }
    }

    /// The value of one of libpq's variables.
    pub(super) fn libpq(&self, name: &str) -> Option<&str> {
        self.libpq.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The first that is there: the variable, the credential, the file's line. An empty one counts as none.
    ///
    /// # Errors
    /// `Kind::Usage` for a file that cannot be read, or that others may read.
    pub(super) fn password(&self, place: &Place<'_>) -> Result<Option<String>> {
        if let Some(Hidden(password)) = &self.variable {
            return Ok(Some(password.clone()));
        }
        if let Some(directory) = &self.credentials {
            let path = directory.join(CREDENTIAL);
            if path.exists() {
                let text = read(&path, "the credential")?;
                let password = text.strip_suffix('\n').unwrap_or(&text);
                if !password.is_empty() {
                    return Ok(Some(password.to_owned()));
                }
            }
        }
        match &self.file {
            Some(path) if path.exists() => {
                only_ours(path)?;
                Ok(line_for(&read(path, "the password file")?, place))
            }
            _ => Ok(None),
        }
    }
}

fn read(path: &Path, what: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::usage(format!("read {what} {}: {error}", path.display())))
}

/// libpq, too, does not take a password from a file that others can read.
fn only_ours(path: &Path) -> Result<()> {
    let others = std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0);
    if others {
        return Err(Error::usage(format!("the password file {} can be read by others: chmod 600 it", path.display())));
    }
    Ok(())
}

/// The password of the first line that fits: `host:port:database:role:password`, `*` fits all, `\` escapes `:` and `\`
/// (PostgreSQL manual, "The Password File").
fn line_for(text: &str, place: &Place<'_>) -> Option<String> {
    let port = place.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [place.host, &port, place.database, place.role] {
            let (field, after) = field(rest)?;
            if field != "*" && unescaped(field) != wanted {
                return None;
            }
            rest = after;
        }
        // A password needs no escape for `:`, but may have one; nothing comes after it.
        Some(unescaped(rest)).filter(|password| !password.is_empty())
    })
}

/// Up to the next `:` that is not escaped, and what comes after it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (index, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((&text[..index], &text[index + 1..])),
            _ => {}
        }
    }
    None
}

fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut letters = field.chars();
    while let Some(letter) = letters.next() {
        text.push(if letter == '\\' { letters.next().unwrap_or(letter) } else { letter });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::Kind;

    const PLACE: Place<'static> = Place { host: "db.example", port: 5432, database: "portal", role: "portalhook" };

    fn directory(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text, mode) in files {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).expect("set the mode");
        }
        directory
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let found = |text: &str| line_for(text, &PLACE);
        assert_eq!(found("db.example:5432:portal:portalhook:secret").as_deref(), Some("secret"));
        assert_eq!(found("*:*:*:portalhook:one\n*:*:*:*:two").as_deref(), Some("one"));
        assert_eq!(
            found("# a remark\nother:*:*:*:no\n*:5433:*:*:no\n*:*:portal:*:a:b\\:c\\\\d").as_deref(),
            Some("a:b:c\\d")
        );
        assert_eq!(found("db.example:5432:portal:somebody:secret"), None);
        assert_eq!(found("db.example:5432:portal"), None);
        assert_eq!(found("*:*:*:*:"), None);
        let socket = Place { host: "/tmp/a:b", ..PLACE };
        assert_eq!(line_for("/tmp/a\\:b:*:*:*:secret", &socket).as_deref(), Some("secret"));
    }

    #[test]
    fn a_variable_goes_before_the_credential_and_that_before_the_file() {
        let files =
            directory(&[(CREDENTIAL, "from the credential\n", 0o400), ("pgpass", "*:*:*:*:from the file", 0o600)]);
        let mut around = Surroundings {
            variable: Some(Hidden("from the variable".to_owned())),
            credentials: Some(files.path().to_owned()),
            file: Some(files.path().join("pgpass")),
            ..Surroundings::default()
        };
        assert_eq!(around.password(&PLACE).expect("readable").as_deref(), Some("from the variable"));
        assert!(!format!("{around:?}").contains("from the variable"));
        around.variable = None;
        assert_eq!(around.password(&PLACE).expect("readable").as_deref(), Some("from the credential"));
        std::fs::remove_file(files.path().join(CREDENTIAL)).expect("remove");
        assert_eq!(around.password(&PLACE).expect("readable").as_deref(), Some("from the file"));
        around.file = None;
        assert_eq!(around.password(&PLACE).expect("readable"), None);
    }

    #[test]
    fn an_empty_credential_is_none() {
        let files = directory(&[(CREDENTIAL, "", 0o400)]);
        let around = Surroundings { credentials: Some(files.path().to_owned()), ..Surroundings::default() };
        assert_eq!(around.password(&PLACE).expect("readable"), None);
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let files = directory(&[("pgpass", "*:*:*:*:secret", 0o644)]);
        let around = Surroundings { file: Some(files.path().join("pgpass")), ..Surroundings::default() };
        let error = around.password(&PLACE).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("chmod 600") && !error.to_string().contains("secret"), "{error}");
    }
}
