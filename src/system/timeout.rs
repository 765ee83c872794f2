//! Work with a time limit.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

/// Waits for the result of `work`, or returns the error of `timed_out` after `limit`.
///
/// # Errors
/// That of `timed_out`; those of `work`.
pub(crate) fn with_timeout<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    timed_out: impl FnOnce(Duration) -> E,
) -> impl Future<Output = Result<T, E>> {
    timeout(limit, work).map(move |result| result.unwrap_or_else(|_elapsed| Err(timed_out(limit))))
}
