use futures::TryStreamExt;

use super::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn listing_passes_over_foreign_names_and_sweeps_what_dead_writers_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    let version = store.create(&key("refs/a"), "1".into()).await.unwrap();
    store
        .replace(&key("refs/a"), "2".into(), &version)
        .await
        .unwrap();
    let half = directory.path().join("refs/#0123456789abcdef");
    std::fs::write(&half, b"half").unwrap();
    std::fs::write(directory.path().join("refs/not a key"), b"x").unwrap();
    let objects: Vec<_> = store.list("").try_collect().await.unwrap();
    assert_eq!(
        objects.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(),
        ["refs/a"]
    );
    assert!(!half.exists(), "swept");
    assert!(directory.path().join(LOCK_FILE).exists(), "not listed");
}

#[tokio::test]
async fn two_stores_on_one_directory_exclude_one_another() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] = [0, 1].map(|_| LocalStore::open(directory.path()).unwrap());
    let r = key("r");
    let version = one.create(&r, "1".into()).await.unwrap();
    let lock = other.shared.lock().unwrap();
    let mut replacing = one.replace(&r, "2".into(), &version);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), &mut replacing).await;
    assert!(waited.is_err(), "replaced under the other's lock");
    std::fs::write(directory.path().join("r"), "3").unwrap();
    drop(lock);
    assert!(matches!(replacing.await, Err(StoreError::Conflict(_))));
    assert_eq!(other.get(&key("r"), 9).await.unwrap().0, "3");
}

#[tokio::test]
async fn a_folder_that_was_removed_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    store.put(&key("a/b"), "1".into()).await.unwrap();
    std::fs::remove_dir_all(directory.path().join("a")).unwrap();
    assert!(
        store
            .put(&key("a/b"), "1".into())
            .await
            .unwrap_err()
            .is_retryable()
    );
    store.put(&key("a/b"), "1".into()).await.unwrap();
}

#[tokio::test]
async fn keys_that_a_directory_cannot_hold_are_refused_clearly() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    let long = key(&"k".repeat(256));
    assert!(matches!(
        store.put(&long, "".into()).await,
        Err(StoreError::InvalidKey(_))
    ));
    store.put(&key("a"), "1".into()).await.unwrap();
    let below = store.put(&key("a/b"), "1".into()).await;
    assert!(
        matches!(below, Err(StoreError::Unsupported(_))),
        "{below:?}"
    );
    assert!(matches!(
        store.size(&key("a/b")).await,
        Err(StoreError::NotFound(_))
    ));
    store.put(&key("c/d"), "1".into()).await.unwrap();
    assert!(matches!(
        store.put(&key("c"), "1".into()).await,
        Err(StoreError::Unsupported(_))
    ));
    assert!(matches!(
        store.get(&key("c"), 9).await,
        Err(StoreError::NotFound(_))
    ));
}

#[tokio::test]
async fn nothing_is_read_beyond_a_sparse_file_s_length() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    File::create(directory.path().join("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let huge = store.get(&key("huge"), 1 << 20).await;
    assert!(matches!(huge, Err(StoreError::Size { actual, .. }) if actual == 1 << 40));
    assert_eq!(store.get_range(&key("huge"), 5..7).await.unwrap(), "\0\0");
}
