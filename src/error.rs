//! The one error type: what kind it is (which decides the exit code), what was being done, and why it failed.
//!
//! A failed delivery is not an `Error`: it is a value (`deliver::outcome`). An `Error` means that we, PostgreSQL or the
//! operator's input broke. It is printed once, as a chain, where it is handled.

use std::error::Error as StdError;
use std::fmt;

/// `std::result::Result` with our error.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error; decides the exit code (DESIGN: 64, 69, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Wrong usage or configuration: the operator has to change something before trying again.
    Usage,
    /// The database cannot be reached, or went away: trying again later can help.
    Unavailable,
    /// Another process owns the capture now: this one must stop writing.
    Fenced,
    /// Anything else.
    Failed,
}

/// An error with its kind, what was being done, and its cause in `source()`.
pub(crate) struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause of its own; `context` is the whole message, lower case, no full stop.
    pub(crate) fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Wrong usage or configuration.
    pub(crate) fn usage(context: impl Into<String>) -> Self {
        Self::new(Kind::Usage, context)
    }

    /// Anything that is neither the operator's nor the network's fault.
    pub(crate) fn failed(context: impl Into<String>) -> Self {
        Self::new(Kind::Failed, context)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The process exit code: 64 usage, 69 database not reachable, 1 otherwise.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 64,
            Kind::Unavailable => 69,
            Kind::Fenced | Kind::Failed => 1,
        }
    }

    /// The SQLSTATE that PostgreSQL gave, if the chain holds one.
    pub(crate) fn sqlstate(&self) -> Option<&tokio_postgres::error::SqlState> {
        self.postgres().map(tokio_postgres::error::DbError::code)
    }

    /// PostgreSQL's own report of the error, if the chain holds one.
    pub(crate) fn postgres(&self) -> Option<&tokio_postgres::error::DbError> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(postgres) = error.downcast_ref::<tokio_postgres::Error>() {
                return postgres.as_db_error();
            }
            cause = error.source();
        }
        None
    }
}

/// Adds what was being done to an error on its way up.
pub(crate) trait Context<T> {
    /// `context` reads like "load endpoints"; the kind is taken from the cause.
    fn context(self, context: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error { kind: error.kind, context: context.into(), source: Some(Box::new(error)) })
    }
}

impl<T> Context<T> for Result<T, tokio_postgres::Error> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|error| {
            // No answer from a server, or one that ends the session (class 57: shutdown, crash), is a matter of waiting.
            let away = error.as_db_error().is_none_or(|db| {
                let code = db.code().code();
                code.starts_with("08") || code.starts_with("57P") || code.starts_with("53")
            });
            let kind = if away { Kind::Unavailable } else { Kind::Failed };
            Error { kind, context: context.into(), source: Some(Box::new(error)) }
        })
    }
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error { kind: Kind::Unavailable, context: context.into(), source: Some(Box::new(error)) })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

/// The whole chain on one line: "load endpoints: connection closed".
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            if let Some(db) = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error()) {
                write!(f, ": {}", db.message())?;
                if let Some(hint) = db.hint() {
                    write!(f, " ({hint})")?;
                }
                break;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
