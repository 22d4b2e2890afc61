//! Requests that are sent again while the trouble is the network's or the server's.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use nacre_blobstore::Clock;
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};

use crate::oci::error::OciError;

/// Most attempts of one request.
const ATTEMPTS_MAX: u32 = 6;

/// Wait after the first attempt; doubled for each further one.
const BACKOFF_START_MS: u64 = 200;

/// Longest wait that is chosen here.
const BACKOFF_MAX_MS: u64 = 10_000;

/// Longest wait that a server may ask for. Rate limits can last hours; a pull does not.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Sends a request and returns the first answer that is not a passing trouble.
pub(super) async fn send(
    clock: &dyn Clock,
    what: &str,
    request: impl Fn() -> RequestBuilder + Send + Sync,
) -> Result<Response, OciError> {
    let mut attempt = 1;
    loop {
        let (error, asked) = match request().send().await {
            Ok(response) if !is_transient(response.status()) => return Ok(response),
            Ok(response) => {
                let message = format!("the server says {}", response.status());
                (
                    OciError::Unavailable {
                        what: what.to_owned(),
                        message,
                    },
                    retry_after(&response),
                )
            }
            Err(error) if error.is_builder() || error.is_redirect() => {
                return Err(OciError::malformed(what, describe(error)));
            }
            Err(error) => (unavailable(what, error), None),
        };
        if attempt == ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::debug!(what, attempt, error = %error, "request is sent again");
        clock.sleep(asked.unwrap_or_else(|| backoff(attempt))).await;
        attempt += 1;
    }
}

fn is_transient(status: StatusCode) -> bool {
    let also = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    status.is_server_error() || also.contains(&status)
}

/// Returns the wait that the server asks for. A date is not understood; few registries send one.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Returns the wait after the `attempt`th attempt in a row: doubling, and half of it random, so
/// that clients that were cut off together do not come back together.
pub(super) fn backoff(attempt: u32) -> Duration {
    let doubled = 1_u64
        .checked_shl(attempt.saturating_sub(1))
        .unwrap_or(u64::MAX);
    let full_ms = BACKOFF_START_MS.saturating_mul(doubled).min(BACKOFF_MAX_MS);
    // Without randomness, waiting in full is right and only less even.
    let random = getrandom::u64().unwrap_or(u64::MAX);
    Duration::from_millis(full_ms / 2 + random % (full_ms / 2 + 1))
}

pub(super) fn unavailable(what: &str, error: reqwest::Error) -> OciError {
    OciError::Unavailable {
        what: what.to_owned(),
        message: describe(error),
    }
}

/// Tells an error and its causes, without the URL: that of a redirect holds a signature.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a String takes any text");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_bounds() {
        for attempt in [0, 1, 2, 5, 40, 64, u32::MAX] {
            let wait = backoff(attempt);
            assert!(
                wait <= Duration::from_millis(BACKOFF_MAX_MS),
                "{attempt}: {wait:?}"
            );
            assert!(
                wait >= Duration::from_millis(BACKOFF_START_MS / 2),
                "{attempt}: {wait:?}"
            );
        }
        assert!(backoff(4) > backoff(1));
    }
}
