//! x
use crate::error::Result;
pub(crate) async fn run(shutdown: impl Future<Output = ()>) -> Result<()> {
    shutdown.await;
    Ok(())
}
