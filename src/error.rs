//! The one error type: what kind it is (which decides the exit code), what was being done, and why it failed.
//!
//! A failed delivery is not an `Error`: it is a value (`deliver::outcome`). An `Error` means that we, PostgreSQL or the
//! operator's input broke. It is printed once, as a chain, where it is handled.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::SqlState;

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
    /// Nothing is wrong: what goes on has to begin anew at the checkpoint.
    Again,
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

    /// An error with a cause that has no conversion of its own.
    pub(crate) fn because(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
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
            Kind::Fenced | Kind::Again | Kind::Failed => 1,
        }
    }

    /// The SQLSTATE that PostgreSQL gave, if the chain holds one (on an SQL or on a replication connection).
    pub(crate) fn sqlstate(&self) -> Option<&SqlState> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(refusal) = error.downcast_ref::<Refusal>() {
                return Some(&refusal.code);
            }
            cause = error.source();
        }
        self.postgres().map(tokio_postgres::error::DbError::code)
    }

    /// A cause of this type, if the chain holds one.
    pub(crate) fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<T>() {
                return Some(found);
            }
            cause = error.source();
        }
        None
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
            // No answer from a server is a matter of waiting, too.
            let kind = error.as_db_error().map_or(Kind::Unavailable, |db| kind_of(db.code()));
            Error { kind, context: context.into(), source: Some(Box::new(error)) }
        })
    }
}

impl<T> Context<T> for Result<T, Refusal> {
    fn context(self, context: impl Into<String>) -> Result<T> {
        self.map_err(|refusal| Error {
            kind: kind_of(&refusal.code),
            context: context.into(),
            source: Some(Box::new(refusal)),
        })
    }
}

/// A server that ends the session (class 57P: shutdown, crash), has no room (53) or lost us (08) is a matter of waiting.
fn kind_of(code: &SqlState) -> Kind {
    let code = code.code();
    if code.starts_with("08") || code.starts_with("57P") || code.starts_with("53") {
        Kind::Unavailable
    } else {
        Kind::Failed
    }
}

/// PostgreSQL's report of an error on a replication connection, where tokio-postgres does not speak for us.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub(crate) struct Refusal {
    pub(crate) code: SqlState,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
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
