//! Connects to the first server that will do: the same way for SQL and for replication.

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::channel::Channel;
use super::database::Database;
use super::handshake::{self, Failure, Wish};
use super::server::{Address, Server};
use super::tls::Mode;
use crate::error::{Context as _, Error, Kind, Result};

/// A kind of connection: what is said over an open channel, up to the server's first readiness.
pub(super) trait Greet: Sized + Send {
    /// `database` is at one server.
    fn greet(
        channel: Channel,
        database: &Database,
        application_name: &str,
    ) -> impl Future<Output = Result<Self>> + Send;

    fn is_standby(&self) -> bool;
}

/// Tries each server, at each of its addresses, in order. A server that refuses the login ends it, as in libpq: the
/// others would be asked with a password that is wrong.
pub(super) async fn dial<C: Greet>(database: &Database, application_name: &str) -> Result<C> {
    let mut failures = Vec::new();
    for server in database.servers() {
        for place in places(database, server, &mut failures).await {
            let there = database.at(Server { address: place.clone(), password: server.password.clone() });
            match encrypted_or_not(&there, &place, application_name).await {
                Ok(connection) => match suits::<C>(&there, connection) {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failures.push(error),
                },
                Err(error) if is_refused_login(&error) => return Err(error),
                Err(error) => failures.push(error),
            }
        }
    }
    Err(together(database, failures))
}

/// The server's addresses; that it has none is one more failure.
async fn places(database: &Database, server: &Server, failures: &mut Vec<Error>) -> Vec<Address> {
    let there = database.at(server.clone());
    let limit = database.connect_timeout();
    let context = format!("connect to {there}");
    let found = match timeout(limit, server.address.resolve()).await {
        Ok(found) => found.context(context),
        Err(_) => {
            Err(Error::new(Kind::Unavailable, format!("{context}: no answer from the name service in {limit:?}")))
        }
    };
    found.unwrap_or_else(|error| {
        failures.push(error);
        Vec::new()
    })
}

/// Plays `sslmode` at one server.
async fn encrypted_or_not<C: Greet>(database: &Database, address: &Address, application_name: &str) -> Result<C> {
    let attempt = |wish| attempt::<C>(database, address, wish, application_name);
    let mode = if address.is_tcp() { database.tls().mode } else { Mode::Disable };
    let (first, second) = match mode {
        Mode::Disable => return attempt(Wish::Plain).await.map_err(Failure::into_error),
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => {
            return attempt(Wish::Encrypted).await.map_err(Failure::into_error);
        }
        Mode::Allow => (Wish::Plain, Wish::Encrypted),
        Mode::Prefer => (Wish::IfOffered, Wish::Plain),
    };
    let how = if second == Wish::Plain { "without" } else { "with" };
    let error = match attempt(first).await {
        Ok(connection) => return Ok(connection),
        Err(Failure::Handshake(error)) => {
            tracing::warn!("{error:?}; going on {how} TLS, as sslmode={} has it", mode.name());
            error
        }
        // pg_hba.conf lets nobody in this way. A wrong password is wrong both ways, and is not sent again in the clear.
        Err(Failure::Login { error, encrypted })
            if encrypted == (second == Wish::Plain)
                && error.sqlstate() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) =>
        {
            error
        }
        Err(failure) => return Err(failure.into_error()),
    };
    attempt(second).await.map_err(Failure::into_error).context(format!("{error:?}; then {how} TLS"))
}

/// Within the time limit, from the first packet to the end of authentication.
async fn attempt<C: Greet>(
    database: &Database,
    address: &Address,
    wish: Wish,
    application_name: &str,
) -> Result<C, Failure> {
    let limit = database.connect_timeout();
    let connecting = async {
        let channel = handshake::open(database, address, wish).await?;
        let encrypted = channel.is_encrypted();
        C::greet(channel, database, application_name).await.map_err(|error| Failure::Login { error, encrypted })
    };
    timeout(limit, connecting).await.unwrap_or_else(|_| {
        let context = format!("connect to {database}: no answer in {limit:?}");
        Err(Failure::Unreachable(Error::new(Kind::Unavailable, context)))
    })
}

/// We write: where the URL leaves a choice, a standby is none.
fn suits<C: Greet>(there: &Database, connection: C) -> Result<C> {
    if there.wants_primary() && connection.is_standby() {
        return Err(Error::new(Kind::Unavailable, format!("connect to {there}: this server is a standby")));
    }
    Ok(connection)
}

fn is_refused_login(error: &Error) -> bool {
    error.kind() == Kind::Usage && error.sqlstate().is_some()
}

/// One line for all that was tried.
fn together(database: &Database, mut failures: Vec<Error>) -> Error {
    match (failures.pop(), failures.is_empty()) {
        (None, _) => Error::usage(format!("connect to {database}: no server is named, or its name has no address")),
        (Some(only), true) => only,
        (Some(last), false) => {
            let before: Vec<String> = failures.iter().map(|error| format!("{error:?}")).collect();
            Error::because(last.kind(), before.join("; "), last)
        }
    }
}
