//! SQL sessions by tokio-postgres.

use std::error::Error as _;
use std::ops::{Deref, DerefMut};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection};

use super::channel::{AsItIs, Channel};
use super::database::Database;
use super::dial::{Greet, dial};
use super::handshake::refused_by_server;
use super::protection::{self, Protection};
use super::settings;
use crate::error::{Context, Error, Kind, Result};

/// A connected client and the task that moves its bytes; both end when it is dropped.
pub(crate) struct Session {
    client: Client,
    hints: mpsc::Receiver<()>,
    connection: JoinHandle<()>,
    /// At the server that it is connected to.
    database: Database,
    standby: bool,
    encrypted: bool,
}

/// Connects, with the pinned settings.
///
/// # Errors
/// `Kind::Unavailable` where no server answers, or none with which TLS comes about as the URL demands; `Kind::Usage` where
/// one refuses the role, the password or the database.
pub(crate) async fn connect(database: &Database, application_name: &str) -> Result<Session> {
    dial(database, application_name).await
}

impl Greet for Session {
    async fn greet(channel: Channel, database: &Database, application_name: &str) -> Result<Self> {
        let encrypted = channel.is_encrypted();
        let mut config = database.config().clone();
        config.application_name(application_name);
        if let Some(password) = database.password() {
            config.password(password);
        }
        // What AsItIs wants: the channel is ready, with TLS or without.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let (client, connection) = match config.connect_raw(channel, AsItIs).await {
            Ok(connected) => connected,
            Err(error) => return refused(database, error),
        };
        let newer = connection.parameter("server_version").and_then(settings::major_version) >= Some(settings::NEWER);
        let standby = connection.parameter("in_hot_standby") == Some("on");
        let (hint, hints) = mpsc::channel(1);
        let connection = tokio::spawn(drive(connection, hint));
        let session = Self { client, hints, connection, database: database.clone(), standby, encrypted };
        if newer {
            session.batch_execute(settings::PIN_NEWER).await.context("pin the session's settings")?;
        }
        Ok(session)
    }

    fn is_standby(&self) -> bool {
        self.standby
    }
}

/// Moves bytes until the client is dropped or the connection ends.
async fn drive(mut connection: Connection<Channel, Channel>, hint: mpsc::Sender<()>) {
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!(%notice, "postgresql says"),
            // A full channel holds a hint already.
            Some(Ok(AsyncMessage::Notification(_))) => drop(hint.try_send(())),
            Some(Ok(_)) => {}
            // The client's next call fails with "connection closed"; only here can be seen why.
            Some(Err(error)) => {
                let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                tracing::debug!(error, "the connection to postgresql ended");
                return;
            }
            None => return,
        }
    }
}

/// What a refused connection means to the operator; used by both kinds of connections.
pub(super) fn kind_of_refusal(code: &SqlState) -> Option<Kind> {
    let wrong = code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME;
    wrong.then_some(Kind::Usage)
}

pub(super) fn connecting(database: &Database) -> String {
    format!("connect to {database}")
}

/// What both kinds of connections say when the server wants a password and there is none.
pub(super) fn password_missing(database: &Database) -> Error {
    Error::usage(format!(
        "{}: the server asks for a password (in the URL, PGPASSWORD, the systemd credential database_password, or PGPASSFILE)",
        connecting(database)
    ))
}

/// What both say when `channel_binding=require` is not met.
pub(super) fn binding_missing(database: &Database) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "{}: channel_binding=require, but the server does not bind the login to TLS: that needs TLS, scram-sha-256 in \
             pg_hba.conf, a password stored as SCRAM, and a certificate whose signature names a hash (Ed25519 names none)",
            connecting(database)
        ),
    )
}

/// What both say when the server breaks TLS off before the login is done: with TLS 1.3 it says only then what it thinks of
/// our certificate.
pub(super) fn broken_off(database: &Database, error: &std::io::Error) -> Option<Error> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = cause else { return None };
    let why = refused_by_server(*alert, database.tls());
    Some(Error::new(Kind::Unavailable, format!("{}: {why}", connecting(database))))
}

fn refused<T>(database: &Database, error: tokio_postgres::Error) -> Result<T> {
    let cause = error.source();
    // The only errors of tokio-postgres that we must tell from the others by their words.
    match cause.map(ToString::to_string).as_deref() {
        Some("password missing") => return Err(password_missing(database)),
        Some("server did not use channel binding") => return Err(binding_missing(database)),
        _ => {}
    }
    if let Some(broken) = cause.and_then(|cause| broken_off(database, cause.downcast_ref()?)) {
        return Err(broken);
    }
    // The server does not say in a word of its own that the role is missing: 28000 is also pg_hba.conf's.
    let context = if error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) {
        format!("{} (portalhook setup creates the role)", connecting(database))
    } else {
        connecting(database)
    };
    match error.code().and_then(kind_of_refusal) {
        Some(kind) => Err(Error::because(kind, context, error)),
        None => Err(error).context(context),
    }
}

impl Session {
    /// A hint for each burst of notifications on the channels that the session listens to, until its connection ends.
    /// The first caller gets them.
    pub(crate) fn hints(&mut self) -> mpsc::Receiver<()> {
        std::mem::replace(&mut self.hints, mpsc::channel(1).1)
    }

    /// The same database at the one server that this session is connected to: other connections that must not meet another
    /// one (a rival primary after a failover, say) are made with this.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Who could read what is said here.
    pub(crate) fn protection(&self) -> Protection {
        protection::judge(&self.database, self.encrypted)
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
