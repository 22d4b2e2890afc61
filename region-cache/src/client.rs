//! The client.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use nacre_blobstore::{ChunkSource, Digest, PackName, StoreError, Tier, UnverifiedBytes};
use reqwest::StatusCode;
use reqwest::header::RANGE;

/// How long a member may take to accept a connection before the store is asked instead.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// How long a whole answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The members of a region's cache.
#[derive(Debug)]
pub struct RegionCache {
    members: Vec<String>,
    http: reqwest::Client,
}

/// The client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up region cache: {0}")]
pub struct RegionCacheError(#[from] reqwest::Error);

impl RegionCache {
    /// Asks `members`, each `HOST:PORT`. No member is contacted yet.
    ///
    /// # Errors
    /// [`RegionCacheError`] when the HTTP client cannot be made.
    pub fn new(members: Vec<String>) -> Result<Self, RegionCacheError> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .no_proxy()
            .build()?;
        Ok(Self { members, http })
    }

    /// Returns the member that has the largest hash with the pack's id.
    fn member(&self, pack: PackName) -> Option<&str> {
        let weight = |member: &&String| {
            let text = [member.as_bytes(), pack.id.as_bytes()].concat();
            *Digest::of(&text).as_bytes()
        };
        self.members.iter().max_by_key(weight).map(String::as_str)
    }
}

#[async_trait::async_trait]
impl ChunkSource for RegionCache {
    fn tier(&self) -> Tier {
        Tier::Region
    }

    async fn fetch(
        &self,
        pack: PackName,
        range: Range<u64>,
    ) -> Result<UnverifiedBytes, StoreError> {
        let key = pack.key();
        let failed = |message: String| StoreError::Unavailable {
            operation: "get from region",
            target: key.to_string(),
            message,
        };
        let member = self
            .member(pack)
            .ok_or_else(|| failed("there are no members".to_owned()))?;
        let expected = range.end.saturating_sub(range.start);
        let last = range.end.saturating_sub(1);
        let request = self.http.get(format!("http://{member}/{key}"));
        let request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        let response = request
            .send()
            .await
            .map_err(|error| failed(error.to_string()))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(failed(format!("{member} answers {}", response.status())));
        }
        // Bounded before it is read: a frame's length is known.
        if response
            .content_length()
            .is_none_or(|length| length != expected)
        {
            return Err(failed(format!(
                "{member} does not answer with {expected} bytes"
            )));
        }
        let body: Bytes = response
            .bytes()
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(UnverifiedBytes::new(body))
    }
}

#[cfg(test)]
mod tests;
