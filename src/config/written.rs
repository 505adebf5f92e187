//! The settings as written: file, then environment, then flags, merged; names and shapes checked, meaning not yet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::keys::{self, Key, PREFIX, Shape};
use crate::error::{Error, Result};

/// What an operator wrote, by name. Only names in `keys::KEYS`, each in its shape.
pub(crate) struct Written {
    values: BTreeMap<&'static str, Value>,
}

impl Written {
    /// Merges a file (which must exist if `file` names one), `PORTALHOOK_…` variables and `key=value` flags; later wins.
    pub(crate) fn collect(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self> {
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml).required(true));
        }
        let merged = builder
            .add_source(Layer::of_environment(variables)?)
            .add_source(Layer::of_flags(flags)?)
            .build()
            .and_then(|merged| config::Source::collect(&merged))
            .map_err(|error| Error::usage(one_line(file, &error)))?;
        let mut values = BTreeMap::new();
        flatten("", merged, &mut values)?;
        Ok(Self { values })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.values.get(name)?.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn count(&self, name: &str) -> Option<i64> {
        match &self.values.get(name)?.kind {
            ValueKind::I64(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<Vec<&str>> {
        match &self.values.get(name)?.kind {
            ValueKind::Array(items) => Some(
                items
                    .iter()
                    .filter_map(|item| match &item.kind {
                        ValueKind::String(text) => Some(text.as_str()),
                        _ => None,
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The error for a value of the right shape that means nothing.
    pub(crate) fn refuse(&self, name: &str) -> Error {
        match (keys::find(name), self.values.get(name)) {
            (Some(key), Some(value)) => refusal(key, value),
            _ => Error::usage(format!("{name} has no value")),
        }
    }
}

/// Takes the tree apart into dotted names; every leaf must be a setting, in its shape.
fn flatten(path: &str, tree: Map<String, Value>, into: &mut BTreeMap<&'static str, Value>) -> Result<()> {
    for (part, value) in tree {
        let name = if path.is_empty() { part } else { format!("{path}.{part}") };
        if let ValueKind::Table(inner) = value.kind {
            flatten(&name, inner, into)?;
            continue;
        }
        let Some(key) = keys::find(&name) else {
            return Err(unknown(&name, value.origin().unwrap_or("the configuration file")));
        };
        let fits = match (&value.kind, key.shape) {
            (ValueKind::String(_), Shape::Text) | (ValueKind::I64(_), Shape::Count) => true,
            (ValueKind::Array(items), Shape::List) => {
                items.iter().all(|item| matches!(item.kind, ValueKind::String(_)))
            }
            _ => false,
        };
        if !fits {
            return Err(refusal(key, &value));
        }
        into.insert(key.name, value);
    }
    Ok(())
}

fn unknown(name: &str, origin: &str) -> Error {
    let hint = match keys::suggest(name) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are {}", keys::KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    };
    Error::usage(format!("unknown setting `{name}` in {origin}; {hint}"))
}

fn refusal(key: &Key, value: &Value) -> Error {
    let shown = match &value.kind {
        _ if key.is_secret() => "(not shown)".to_owned(),
        ValueKind::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        _ => shown(value),
    };
    let origin = value.origin().unwrap_or("the configuration file");
    Error::usage(format!("{} = {shown} in {origin}: expected {}", key.name, key.allowed))
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// A syntax error without the excerpt of the file, which can hold a password.
fn one_line(file: Option<&Path>, error: &ConfigError) -> String {
    let path = file.map(|path| path.display().to_string()).unwrap_or_default();
    match error {
        ConfigError::FileParse { cause, .. } => {
            let text = cause.to_string();
            let said: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.contains('|')).collect();
            format!("read {path}: {}", said.join(": "))
        }
        _ => format!("read {path}: there is no such file, or it cannot be read"),
    }
}

/// Settings that came as text, from variables or from flags.
#[derive(Clone)]
struct Layer(Vec<(&'static Key, String, String)>);

impl Layer {
    /// Variables of ours that are no setting: the log's filter, and what tests use.
    const OTHERS: [&str; 4] = ["PORTALHOOK_LOG", "PORTALHOOK_PG_BIN", "PORTALHOOK_FAILPOINT", "PORTALHOOK_LIMITS"];

    /// Only a name with two underscores is a setting, so what others set (Kubernetes puts `PORTALHOOK_SERVICE_HOST` into every
    /// container beside a service of our name) does not stop us; one underscore too few is told.
    fn of_environment(variables: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut layer = Vec::new();
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            if Self::OTHERS.contains(&variable.as_str()) {
                continue;
            }
            let name = rest.to_lowercase().replace("__", ".");
            match keys::find(&name) {
                Some(key) => layer.push((key, value, variable)),
                None if rest.contains("__") => return Err(unknown(&name, &format!("the variable {variable}"))),
                None => {
                    let meant = keys::KEYS.iter().find(|key| key.name.replace('.', "_") == name);
                    if let Some(key) = meant {
                        return Err(Error::usage(format!(
                            "unknown variable {variable}; did you mean {}?",
                            key.variable()
                        )));
                    }
                }
            }
        }
        Ok(Self(layer))
    }

    fn of_flags(flags: &[(String, String)]) -> Result<Self> {
        flags
            .iter()
            .map(|(name, value)| {
                let key = keys::find(name).ok_or_else(|| unknown(name, "the command line"))?;
                Ok((key, value.clone(), "the command line".to_owned()))
            })
            .collect::<Result<Vec<_>>>()
            .map(Self)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _, _)| key.name)).finish()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = |key: &Key, text: &str, origin: &String| {
            let kind = match key.shape {
                Shape::Text => ValueKind::String(text.to_owned()),
                Shape::Count => text.parse().map_or_else(|_| ValueKind::String(text.to_owned()), ValueKind::I64),
                Shape::List => ValueKind::Array(
                    text.split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty())
                        .map(|item| Value::new(Some(origin), ValueKind::String(item.to_owned())))
                        .collect(),
                ),
            };
            Value::new(Some(origin), kind)
        };
        Ok(self.0.iter().map(|(key, text, origin)| (key.name.to_owned(), value(key, text, origin))).collect())
    }
}
