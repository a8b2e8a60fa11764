//! The one way to wait here: look at the state again and again, up to a bound, and say at the end what was missing.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Short enough not to show in a test's duration, long enough not to load the API server.
const PERIOD: Duration = Duration::from_millis(50);

/// Repeats `check` about every 50 ms until it returns `Ok`, at most for `limit`.
///
/// `check` looks at a state and not at a change, so nothing can be missed. A check that hangs is cut off at the limit.
///
/// # Errors
/// After `limit`: `what` was waited for, and the last reason that `check` gave.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = "the first check did not return".to_owned();
    loop {
        match timeout_at(deadline, check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason,
            Err(_) => {}
        }
        if Instant::now() + PERIOD >= deadline {
            return Err(anyhow!("waited {limit:?} for: {what}; last: {last}"));
        }
        sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_value_is_returned_as_soon_as_a_check_succeeds() {
        let mut left = 3;
        let value = eventually("zero", Duration::from_secs(1), async || {
            left -= 1;
            if left == 0 {
                Ok("done")
            } else {
                Err(format!("{left} left"))
            }
        });
        assert_eq!(value.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn the_error_names_what_was_waited_for_and_the_last_reason() {
        let wait = eventually("a pod", Duration::from_millis(120), async || {
            Err::<(), _>("it is Pending".to_owned())
        });
        assert_eq!(
            wait.await.unwrap_err().to_string(),
            "waited 120ms for: a pod; last: it is Pending"
        );
    }

    #[tokio::test]
    async fn a_check_that_hangs_is_cut_off() {
        let wait = eventually("an answer", Duration::from_millis(120), async || {
            std::future::pending::<Result<(), String>>().await
        });
        assert!(
            wait.await
                .unwrap_err()
                .to_string()
                .contains("did not return")
        );
    }
}
