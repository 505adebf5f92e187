//! The portals' secrets, in memory for as long as the settings are; the table is the truth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Client;

use super::sign::{Keys, Secret};
use crate::error::{Context as _, Error, Result};

/// Keys by portal; the empty name stands for events without a portal.
#[derive(Default)]
pub(crate) struct Secrets {
    known: Mutex<HashMap<String, Arc<Keys>>>,
}

impl Secrets {
    /// What signs for a portal now. Creates the portal's secret if it has none.
    pub(crate) async fn keys(&self, client: &Client, portal: &str) -> Result<Arc<Keys>> {
        if let Some(keys) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(portal) {
            return Ok(Arc::clone(keys));
        }
        let context = || format!("load the secret of portal '{portal}'");
        let row = client.query_one("SELECT portalhook.secret($1)", &[&portal]).await.context(context())?;
        let current: String = row.try_get(0).context(context())?;
        let sql = "SELECT previous FROM portalhook.secrets WHERE portal = $1 AND previous_until > now()";
        let previous: Option<String> = match client.query_opt(sql, &[&portal]).await.context(context())? {
            Some(row) => row.try_get(0).context(context())?,
            None => None,
        };
        let parse = |text: &str| Secret::parse(text).map_err(|error| Error::failed(format!("{}: {error}", context())));
        let previous = previous.as_deref().map(parse).transpose()?;
        let keys = Arc::new(Keys { current: parse(&current)?, previous });
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(portal.to_owned(), Arc::clone(&keys));
        Ok(keys)
    }

    /// Forgets everything: the next attempts load again what they need.
    pub(crate) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
