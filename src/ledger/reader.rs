//! A session that reads the ledger, and hears when something in it may have changed.

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Connection};

/// A client, and a hint for each burst of notifications on the channels that it listens to.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) notices: mpsc::Receiver<()>,
}

impl Session {
    /// Drives the connection in a task of its own, which ends with the client.
    pub(crate) fn over<S, T>(client: Client, mut connection: Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (hint, notices) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    // A full channel holds a hint already.
                    Ok(AsyncMessage::Notification(_)) => drop(hint.try_send(())),
                    Ok(_) => {}
                    // Whoever uses the client gets the error.
                    Err(error) => {
                        tracing::debug!("connection ended: {error}");
                        break;
                    }
                }
            }
        });
        Self { client, notices }
    }
}
