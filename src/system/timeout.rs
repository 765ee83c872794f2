//! Work with a time limit.

use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;

/// The work did not finish within its time limit.
#[derive(Debug, thiserror::Error)]
#[error("the {object} did not come within {} s", .limit.as_secs())]
pub(crate) struct TimedOut {
    object: String,
    limit: Duration,
}

/// Waits for the result of `work`, which `object` names in the error.
///
/// # Errors
/// [`TimedOut`]; an error of the work.
pub(crate) async fn with_timeout<T>(
    limit: Duration,
    object: impl Into<String>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(limit, work).await.map_err(|_elapsed| TimedOut { object: object.into(), limit })?
}
