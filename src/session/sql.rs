//! SQL sessions by tokio-postgres.

use std::error::Error as _;
use std::ops::{Deref, DerefMut};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Socket, tls::NoTlsStream};

use super::database::Database;
use super::settings;
use crate::error::{Context, Error, Kind, Result};

/// A connected client and the task that moves its bytes; both end when it is dropped.
pub(crate) struct Session {
    client: Client,
    hints: mpsc::Receiver<()>,
    connection: JoinHandle<()>,
}

/// Connects, with the pinned settings.
///
/// # Errors
/// `Kind::Unavailable` where no server answers; `Kind::Usage` where it refuses the role, the password or the database.
pub(crate) async fn connect(database: &Database, application_name: &str) -> Result<Session> {
    let mut config = database.config().clone();
    config.application_name(application_name);
    // tokio-postgres limits only the TCP handshake; a server that accepts and then says nothing must not hold us.
    let servers = u32::try_from(database.addresses().len()).unwrap_or(u32::MAX);
    let limit = database.connect_timeout().saturating_mul(servers.saturating_mul(2));
    let (client, connection) = match tokio::time::timeout(limit, config.connect(NoTls)).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return refused(database, error),
        Err(_) => return Err(Error::new(Kind::Unavailable, format!("connect to {database}: no answer in {limit:?}"))),
    };
    let newer = connection.parameter("server_version").and_then(settings::major_version) >= Some(settings::NEWER);
    let (hint, hints) = mpsc::channel(1);
    let session = Session { client, hints, connection: tokio::spawn(drive(connection, hint)) };
    if newer {
        session.batch_execute(settings::PIN_NEWER).await.context("pin the session's settings")?;
    }
    Ok(session)
}

/// Moves bytes until the client is dropped or the connection ends.
async fn drive(mut connection: Connection<Socket, NoTlsStream>, hint: mpsc::Sender<()>) {
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

/// What both kinds of connections say when the server wants a password and there is none.
pub(super) fn password_missing(database: &Database) -> Error {
    Error::usage(format!(
        "connect to {database}: the server asks for a password (in the URL, PGPASSWORD, the systemd credential database_password, or PGPASSFILE)"
    ))
}

fn refused<T>(database: &Database, error: tokio_postgres::Error) -> Result<T> {
    // The only error of tokio-postgres that we must tell from the others by its words.
    if error.source().is_some_and(|cause| cause.to_string() == "password missing") {
        return Err(password_missing(database));
    }
    // The server does not say in a word of its own that the role is missing: 28000 is also pg_hba.conf's.
    let context = if error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) {
        format!("connect to {database} (portalhook setup creates the role)")
    } else {
        format!("connect to {database}")
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
