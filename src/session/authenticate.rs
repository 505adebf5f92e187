//! Startup and authentication of a replication connection: trust, password, md5, SCRAM-SHA-256 with and without channel
//! binding. tokio-postgres does the same for SQL.
//!
//! Source: the PostgreSQL manual, "Message Flow", Start-up and SASL Authentication.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use tokio_postgres::config::ChannelBinding as Binding;

use super::database::Database;
use super::sql::{binding_missing, broken_off, connecting, kind_of_refusal, password_missing};
use super::wire::{Incoming, Wire, invalid, notice, refusal};
use crate::error::{Context, Error, Kind, Refusal, Result};

/// Sends the startup message and proves who we are; `binding` is what the channel's TLS can be bound to.
pub(super) async fn start(
    wire: &mut Wire,
    database: &Database,
    application_name: &str,
    binding: Option<&[u8]>,
) -> Result<()> {
    let options = database.config().get_options().unwrap_or_default();
    let parameters = [
        ("user", database.role()),
        ("database", database.name()),
        ("replication", "database"),
        ("application_name", application_name),
        ("client_encoding", "UTF8"),
        ("options", options),
    ];
    frontend::startup_message(parameters, &mut wire.output).context("write the startup message")?;
    let asked = next(wire, database).await?;
    if database.config().get_channel_binding() == Binding::Require && !matches!(asked, Message::AuthenticationSasl(_)) {
        return Err(binding_missing(database));
    }
    match asked {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            let password = password(database)?;
            frontend::password_message(password, &mut wire.output).context("send the password")?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(database.role().as_bytes(), password(database)?, body.salt());
            frontend::password_message(hash.as_bytes(), &mut wire.output).context("send the password")?;
        }
        Message::AuthenticationSasl(body) => scram(wire, database, &body, binding).await?,
        _ => {
            return Err(Error::usage(format!(
                "connect to {database}: the server asks for a way of authentication other than password, md5 or SCRAM"
            )));
        }
    }
    match next(wire, database).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(unexpected(database)),
    }
}

/// RFC 5802, bound to the channel where both sides can (RFC 5929).
async fn scram(
    wire: &mut Wire,
    database: &Database,
    body: &AuthenticationSaslBody,
    binding: Option<&[u8]>,
) -> Result<()> {
    let mechanisms: Vec<&str> = body.mechanisms().collect().context(connecting(database))?;
    let wanted = database.config().get_channel_binding();
    let binding = binding.filter(|_| wanted != Binding::Disable);
    let (mechanism, binding) = match binding {
        Some(binding) if mechanisms.contains(&SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(binding.to_vec()))
        }
        _ if wanted == Binding::Require => return Err(binding_missing(database)),
        // Says that we could: a server that can, too, knows then that somebody stands between.
        Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    if !mechanisms.contains(&mechanism) {
        return Err(Error::usage(format!("{}: the server does not offer SCRAM-SHA-256", connecting(database))));
    }
    let mut scram = ScramSha256::new(password(database)?, binding);
    frontend::sasl_initial_response(mechanism, scram.message(), &mut wire.output).context(connecting(database))?;
    let Message::AuthenticationSaslContinue(body) = next(wire, database).await? else {
        return Err(unexpected(database));
    };
    scram.update(body.data()).context(connecting(database))?;
    frontend::sasl_response(scram.message(), &mut wire.output).context(connecting(database))?;
    let Message::AuthenticationSaslFinal(body) = next(wire, database).await? else {
        return Err(unexpected(database));
    };
    // The server proves that it knows the password, too.
    scram.finish(body.data()).context(connecting(database))
}

fn password(database: &Database) -> Result<&[u8]> {
    database.password().ok_or_else(|| password_missing(database))
}

/// The next message; an ErrorResponse is an error that names role, database and address.
async fn next(wire: &mut Wire, database: &Database) -> Result<Message> {
    let received = wire.receive(true).await.map_err(|error| {
        broken_off(database, &error).unwrap_or_else(|| Error::because(Kind::Unavailable, connecting(database), error))
    });
    match received? {
        Incoming::Other(Message::ErrorResponse(body)) => refused(database, refusal(body.fields())),
        Incoming::Other(message) => Ok(message),
        Incoming::CopyBoth | Incoming::CopyData(_) | Incoming::Part(..) => Err(unexpected(database)),
    }
}

/// Reads what follows authentication, up to the first ReadyForQuery.
pub(super) async fn greeting(wire: &mut Wire, database: &Database) -> Result<Greeting> {
    let mut greeting = Greeting::default();
    loop {
        match next(wire, database).await? {
            Message::ParameterStatus(body) => {
                let name = body.name().context(connecting(database))?;
                let value = body.value().context(connecting(database))?;
                match name {
                    "server_version" => greeting.version = super::settings::major_version(value).unwrap_or(0),
                    "in_hot_standby" => greeting.standby = value == "on",
                    _ => {}
                }
            }
            Message::BackendKeyData(body) => greeting.process = body.process_id(),
            Message::NoticeResponse(body) => notice(&body),
            Message::ReadyForQuery(_) => return Ok(greeting),
            _ => return Err(unexpected(database)),
        }
    }
}

/// What the server says of itself after authentication.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Greeting {
    /// Major version; 0 where it cannot be read.
    pub(super) version: u32,
    pub(super) standby: bool,
    /// The process that serves us.
    pub(super) process: i32,
}

fn refused<T>(database: &Database, refusal: Refusal) -> Result<T> {
    let context = connecting(database);
    match kind_of_refusal(&refusal.code) {
        Some(kind) => Err(Error::because(kind, context, refusal)),
        None => Err(refusal).context(context),
    }
}

fn unexpected(database: &Database) -> Error {
    let cause = invalid("the server sent a message out of turn");
    Error::because(Kind::Unavailable, connecting(database), cause)
}
