use std::fmt;

use futures::stream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, ListResult, MultipartUpload, PutMultipartOptions, PutPayload, Result,
};

use super::*;

fn key() -> Key {
    Key::new("k").unwrap()
}

fn source(text: &str) -> Box<dyn std::error::Error + Send + Sync> {
    text.into()
}

/// Translates an error of a create.
fn created(error: Error) -> StoreError {
    Call {
        verb: "create",
        key: &key(),
    }
    .error(error)
}

#[test]
fn errors_become_what_callers_decide_on() {
    let path = || "k".to_owned();
    let not_found = Error::NotFound {
        path: path(),
        source: source("404"),
    };
    assert!(matches!(created(not_found), StoreError::NotFound(k) if k == key()));
    let exists = Error::AlreadyExists {
        path: path(),
        source: source("412"),
    };
    assert!(matches!(created(exists), StoreError::Exists(k) if k == key()));
    let stale = Error::Precondition {
        path: path(),
        source: source("412"),
    };
    assert!(matches!(created(stale), StoreError::Conflict(k) if k == key()));
    let body = "409 Conflict: <Code>ConditionalRequestConflict</Code>";
    let undecided = Error::AlreadyExists {
        path: path(),
        source: source(body),
    };
    assert!(created(undecided).is_retryable(), "nobody has won yet");
    let denied = Error::PermissionDenied {
        path: path(),
        source: source("403"),
    };
    assert!(matches!(created(denied), StoreError::Denied(_)));
    let denied = Error::Unauthenticated {
        path: path(),
        source: source("401"),
    };
    assert!(matches!(created(denied), StoreError::Denied(_)));
    let missing = Error::NotImplemented {
        operation: "x".into(),
        implementer: "y".into(),
    };
    assert!(matches!(created(missing), StoreError::Unsupported(_)));
    let other = Error::Generic {
        store: "S3",
        source: source("503 Slow Down"),
    };
    let StoreError::Unavailable { message, .. } = created(other) else {
        panic!("retryable")
    };
    assert!(message.contains("503 Slow Down"));
}

#[test]
fn versions_keep_both_parts() {
    for (e_tag, version) in [
        (Some("\"e\""), None),
        (None, Some("17")),
        (Some("e"), Some("17")),
    ] {
        let (e_tag, version) = (e_tag.map(str::to_owned), version.map(str::to_owned));
        let update = to_update_version(&to_version(e_tag.clone(), version.clone()));
        assert_eq!(update, UpdateVersion { e_tag, version });
    }
}

/// A server whose bodies are not as long as it announces.
#[derive(Debug)]
struct Liar {
    memory: InMemory,
    body: &'static str,
}

impl fmt::Display for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Liar")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Liar {
    async fn put_opts(
        &self,
        at: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.memory.put_opts(at, body, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.memory.get_opts(at, options).await?;
        let body = Bytes::from_static(self.body.as_bytes());
        let body = stream::iter([Ok(body.slice(..1)), Ok(body.slice(1..))]).boxed();
        result.payload = object_store::GetResultPayload::Stream(body);
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_never_returned() {
    for body in ["sho", "longer"] {
        let liar = Arc::new(Liar {
            memory: InMemory::new(),
            body,
        });
        let store = ObjectBackend::new(liar, "").unwrap();
        store.put(&key(), "four".into()).await.unwrap();
        assert!(
            store.get(&key(), 9).await.unwrap_err().is_retryable(),
            "{body}"
        );
        assert!(
            store
                .get_range(&key(), 0..4)
                .await
                .unwrap_err()
                .is_retryable(),
            "{body}"
        );
    }
}

#[tokio::test]
async fn stores_with_different_prefixes_do_not_see_one_another() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let [a, b, root] = ["x/a%41", "x/aA", ""].map(|p| ObjectBackend::new(Arc::clone(&memory), p));
    let (a, b, root) = (a.unwrap(), b.unwrap(), root.unwrap());
    a.put(&key(), "a".into()).await.unwrap();
    assert!(matches!(b.size(&key()).await, Err(StoreError::NotFound(_))));
    let all: Vec<_> = root.list("").try_collect().await.unwrap();
    assert_eq!(all[0].key.as_str(), "x/a%41/k");
    memory
        .put(&Path::parse("x/aA/not a key").unwrap(), "z".into())
        .await
        .unwrap();
    assert_eq!(
        b.list("").try_collect::<Vec<_>>().await.unwrap(),
        [],
        "passed over"
    );
    assert!(matches!(
        ObjectBackend::new(memory, "a/../b"),
        Err(StoreError::InvalidKey(_))
    ));
}
