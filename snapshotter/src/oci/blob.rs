//! Streams of bytes that end in an error unless they are what their descriptor says.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, Stream, TryStreamExt};

use super::digest::{Hasher, OciDigest};
use super::error::OciError;

/// The bytes of a blob in order. After an error nothing follows.
pub type BlobStream = BoxStream<'static, Result<Bytes, OciError>>;

/// Passes on a blob and checks it on the way.
///
/// The bytes are handed out before the digest is known; only a stream that ended without an error
/// was sound. At most the announced number of bytes is handed out.
pub struct VerifiedBlob {
    inner: BlobStream,
    digest: OciDigest,
    size_bytes: u64,
    left_bytes: u64,
    /// `None` once the stream has ended.
    hasher: Option<Hasher>,
}

impl VerifiedBlob {
    /// Checks that `inner` is the blob `digest` of `size_bytes`.
    pub fn new(inner: BlobStream, digest: OciDigest, size_bytes: u64) -> Self {
        let hasher = Some(Hasher::new(digest.algorithm()));
        Self {
            inner,
            digest,
            size_bytes,
            left_bytes: size_bytes,
            hasher,
        }
    }

    /// Reads the whole blob into memory.
    ///
    /// # Errors
    /// [`OciError::TooLarge`], before anything is read, when it exceeds `limit_bytes`; and those
    /// of the stream.
    pub async fn collect(mut self, limit_bytes: u64) -> Result<Bytes, OciError> {
        let what = || self.digest.to_string();
        if self.size_bytes > limit_bytes {
            return Err(OciError::TooLarge {
                what: what(),
                limit_bytes,
            });
        }
        let mut all = BytesMut::new();
        while let Some(bytes) = self.try_next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    fn pass_on(&mut self, bytes: Bytes) -> Result<Bytes, OciError> {
        let left = self.left_bytes.checked_sub(bytes.len() as u64);
        self.left_bytes = left.ok_or_else(|| self.wrong_size(true))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        Ok(bytes)
    }

    fn end(&self, hasher: Hasher) -> Option<Result<Bytes, OciError>> {
        if self.left_bytes > 0 {
            return Some(Err(self.wrong_size(false)));
        }
        let actual = hasher.finish();
        let expected = self.digest.clone();
        (actual != expected).then_some(Err(OciError::Corrupt { expected, actual }))
    }

    fn wrong_size(&self, longer: bool) -> OciError {
        OciError::Size {
            digest: self.digest.clone(),
            expected: self.size_bytes,
            longer,
        }
    }
}

impl Stream for VerifiedBlob {
    type Item = Result<Bytes, OciError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.hasher.is_none() {
            return Poll::Ready(None);
        }
        let item = match ready!(self.inner.as_mut().poll_next(cx)) {
            Some(item) => Some(item.and_then(|bytes| self.pass_on(bytes))),
            None => self.hasher.take().and_then(|hasher| self.end(hasher)),
        };
        if !matches!(item, Some(Ok(_))) {
            self.hasher = None;
        }
        Poll::Ready(item)
    }
}

impl fmt::Debug for VerifiedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            digest,
            size_bytes,
            left_bytes,
            ..
        } = self;
        write!(
            f,
            "VerifiedBlob({digest}, {left_bytes} of {size_bytes} bytes left)"
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, StreamExt};

    use super::*;

    fn blob(pieces: &[&'static [u8]], of: &[u8], size_bytes: u64) -> VerifiedBlob {
        let pieces: Vec<_> = pieces.iter().map(|p| Ok(Bytes::from_static(p))).collect();
        VerifiedBlob::new(stream::iter(pieces).boxed(), OciDigest::of(of), size_bytes)
    }

    #[tokio::test]
    async fn a_sound_blob_passes_whole() {
        let bytes = blob(&[b"ab", b"", b"c"], b"abc", 3)
            .collect(3)
            .await
            .unwrap();
        assert_eq!(bytes, "abc");
        assert_eq!(blob(&[], b"", 0).collect(0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn wrong_bytes_end_in_an_error_and_nothing_follows() {
        let mut stream = blob(&[b"ab", b"d"], b"abc", 3);
        assert_eq!(stream.next().await.unwrap().unwrap(), "ab");
        assert_eq!(stream.next().await.unwrap().unwrap(), "d");
        assert!(matches!(
            stream.next().await,
            Some(Err(OciError::Corrupt { .. }))
        ));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_short_blob_is_an_error() {
        let mut stream = blob(&[b"ab"], b"ab", 3);
        assert!(stream.next().await.unwrap().is_ok());
        let end = stream.next().await;
        assert!(
            matches!(end, Some(Err(OciError::Size { longer: false, .. }))),
            "{end:?}"
        );
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_long_blob_stops_at_once() {
        let mut stream = blob(&[b"ab", b"cd", b"ef"], b"abcdef", 3);
        assert!(stream.next().await.unwrap().is_ok());
        let end = stream.next().await;
        assert!(
            matches!(end, Some(Err(OciError::Size { longer: true, .. }))),
            "{end:?}"
        );
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn collecting_is_bounded_by_the_announced_size() {
        let error = blob(&[b"abc"], b"abc", 3).collect(2).await.unwrap_err();
        assert!(
            matches!(error, OciError::TooLarge { limit_bytes: 2, .. }),
            "{error}"
        );
    }
}
