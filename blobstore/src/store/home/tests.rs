use super::*;
use crate::testing::{FaultStore, Operation, memory_store};
use crate::{Digest, PackId, PackKind, PackName};

fn pack(number: u8) -> Key {
    let id = PackId::new(Digest::of(&[number]));
    let kind = PackKind::Data;
    PackName { kind, id }.key()
}

struct Scene {
    own: Arc<dyn BlobStore>,
    home: Arc<FaultStore>,
    store: HomeStore,
}

fn scene(resident: &[&str]) -> Scene {
    let own = memory_store();
    let home = Arc::new(FaultStore::new(memory_store()));
    let resident = resident.iter().map(|folder| (*folder).to_owned());
    let store = HomeStore::new(Arc::clone(&own), Arc::clone(&home) as _, resident);
    Scene { own, home, store }
}

async fn put(store: &dyn BlobStore, key: &Key, body: &'static [u8]) {
    store.put(key, Bytes::from_static(body)).await.unwrap();
}

#[tokio::test]
async fn what_the_home_region_has_is_read_there_once() {
    let scene = scene(&[]);
    put(&*scene.home, &pack(1), b"0123456789").await;
    let store = &scene.store;
    assert_eq!(store.get_range(&pack(1), 2..5).await.unwrap(), "234");
    store.settle().await;
    assert_eq!(scene.own.get(&pack(1), 99).await.unwrap().0, "0123456789");
    scene.home.set_partitioned(true);
    assert_eq!(store.get_range(&pack(1), 5..7).await.unwrap(), "56");
    assert_eq!(store.size(&pack(1)).await.unwrap(), 10);
    // What is not here says whom it lacks, and heals.
    let error = store.get(&pack(2), 99).await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("home region"),
        "{error}"
    );
    scene.home.set_partitioned(false);
    assert!(matches!(
        store.get(&pack(2), 99).await,
        Err(StoreError::NotFound(_))
    ));
    put(&*scene.home, &pack(2), b"late").await;
    assert_eq!(store.get(&pack(2), 99).await.unwrap().0, "late");
}

#[tokio::test]
async fn small_objects_are_asked_for_once() {
    let scene = scene(&[]);
    put(&*scene.home, &pack(1), b"0123456789").await;
    scene.home.reset_counts();
    scene.store.get(&pack(1), 99).await.unwrap();
    scene.store.settle().await;
    assert_eq!(scene.home.requests(), 1);
    assert_eq!(scene.own.get(&pack(1), 99).await.unwrap().0, "0123456789");
}

#[tokio::test]
async fn what_somebody_is_about_to_rely_on_is_here() {
    let scene = scene(&[]);
    put(&*scene.home, &pack(1), b"0123").await;
    assert_eq!(scene.store.size(&pack(1)).await.unwrap(), 4);
    assert_eq!(scene.own.size(&pack(1)).await.unwrap(), 4, "copied by then");
    let missing = scene.store.size(&pack(2)).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_changes_and_what_is_written_is_the_own_store_s() {
    let scene = scene(&[]);
    let store = &scene.store;
    let name = Key::new("refs/images/a").unwrap();
    let version = scene
        .home
        .create(&name, Bytes::from_static(b"theirs"))
        .await
        .unwrap();
    scene.home.reset_counts();
    assert!(matches!(
        store.get(&name, 99).await,
        Err(StoreError::NotFound(_))
    ));
    // Stores number versions alike: one step makes the two differ.
    let first = store.create(&name, Bytes::from_static(b"first")).await;
    let ours = Bytes::from_static(b"ours");
    store.replace(&name, ours, &first.unwrap()).await.unwrap();
    assert_eq!(store.get(&name, 99).await.unwrap().0, "ours");
    assert!(store.replace(&name, Bytes::new(), &version).await.is_err());
    put(store, &pack(3), b"new").await;
    store.delete(&pack(3)).await.unwrap();
    assert_eq!(scene.home.requests(), 0);
}

#[tokio::test]
async fn what_is_to_stay_in_its_region_does() {
    let scene = scene(&["eu/"]);
    let key = |folder: &str| Key::new(format!("{folder}/{}", pack(1))).unwrap();
    for folder in ["eu", "eu/a", "us", "europe"] {
        put(&*scene.home, &key(folder), b"x").await;
    }
    scene.home.reset_counts();
    for folder in ["eu", "eu/a"] {
        let got = scene.store.get_range(&key(folder), 0..1).await;
        assert!(matches!(got, Err(StoreError::NotFound(_))), "{folder}");
    }
    assert_eq!(scene.home.requests(), 0);
    for folder in ["us", "europe"] {
        assert_eq!(
            scene.store.get_range(&key(folder), 0..1).await.unwrap(),
            "x"
        );
    }
    assert_eq!(scene.home.count(Operation::GetRange).requests, 2);
}
