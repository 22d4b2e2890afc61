//! Promises to a single caller.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{LIMIT, PREPARING_MAX, StoreError, Suite, assert_error};
use crate::{Key, Version};

impl Suite {
    pub(super) async fn absent_objects(&self) {
        let key = self.key("absent/object");
        assert_error!(self.store.get(&key, LIMIT).await, StoreError::NotFound(k) if k == key);
        assert_error!(self.store.get_range(&key, 0..1).await, StoreError::NotFound(k) if k == key);
        assert_error!(self.store.size(&key).await, StoreError::NotFound(k) if k == key);
        self.store
            .delete(&key)
            .await
            .expect("delete what is not there");
        assert_eq!(self.list("absent").await, []);
    }

    pub(super) async fn puts_and_gets(&self) {
        let key = self.put("object", "twelve bytes").await;
        assert_eq!(self.read(&key).await, "twelve bytes");
        assert_eq!(self.store.size(&key).await.expect("size"), 12);
        let (_, version) = self
            .store
            .get(&key, 12)
            .await
            .expect("get within its limit");
        let (_, again) = self.store.get(&key, 12).await.expect("get");
        assert_eq!(version, again, "the version changed by itself");
        assert_error!(
            self.store.get(&key, 11).await,
            StoreError::Size {
                expected: 11,
                actual: 12,
                ..
            }
        );
        self.put("object", "twelve bytes").await;
        assert_eq!(self.read(&key).await, "twelve bytes", "after a second put");
        self.put("object", "other").await;
        assert_eq!(self.read(&key).await, "other", "after a put of other bytes");

        let empty = self.put("empty", "").await;
        assert_eq!(
            self.store
                .get(&empty, 0)
                .await
                .expect("get of an empty object")
                .0,
            ""
        );
        assert_eq!(self.store.size(&empty).await.expect("size"), 0);
        assert_error!(
            self.store.get_range(&empty, 0..1).await,
            StoreError::Size { actual: 0, .. }
        );
    }

    pub(super) async fn ranges(&self) {
        let key = self.put("ranges", "0123456789").await;
        for (range, expected) in [
            (0..1, "0"),
            (0..10, "0123456789"),
            (9..10, "9"),
            (3..7, "3456"),
            (4..4, ""),
            (10..10, ""),
            (99..99, ""),
        ] {
            let bytes = self.store.get_range(&key, range.clone()).await;
            assert_eq!(
                bytes.expect("range within the object"),
                expected,
                "{range:?}"
            );
        }
        for range in [
            0..11,
            9..11,
            10..11,
            11..12,
            5..u64::MAX,
            u64::MAX - 1..u64::MAX,
        ] {
            let end = range.end;
            assert_error!(
                self.store.get_range(&key, range).await,
                StoreError::Size { expected, actual: 10, .. } if expected == end
            );
        }
    }

    pub(super) async fn parts(&self) {
        let key = self.put("parts", "0123456789").await;
        for (range, expected) in [
            (0..1, "0"),
            (0..10, "0123456789"),
            (0..11, "0123456789"),
            (9..11, "9"),
            (9..u64::MAX, "9"),
            (3..7, "3456"),
            (4..4, ""),
        ] {
            let (bytes, actual) = self
                .store
                .get_part(&key, range.clone())
                .await
                .expect("range that starts within the object");
            assert_eq!((bytes, actual), (expected.into(), 10), "{range:?}");
        }
        for range in [10..11, 10..10, 11..12, u64::MAX - 1..u64::MAX] {
            assert_error!(
                self.store.get_part(&key, range).await,
                StoreError::Size { actual: 10, .. }
            );
        }
        let empty = self.put("empty-part", "").await;
        assert_error!(
            self.store.get_part(&empty, 0..1).await,
            StoreError::Size { actual: 0, .. }
        );
        assert_error!(
            self.store.get_part(&self.key("no-part"), 0..1).await,
            StoreError::NotFound(_)
        );
    }

    /// Every byte that a key may have, in both places; and names that differ only in case, or look
    /// like encodings of one another.
    pub(super) async fn keys(&self) {
        let bytes = (b'0'..=b'9')
            .chain(b'A'..=b'Z')
            .chain(b'a'..=b'z')
            .chain(*b"._%~-");
        let every: String = bytes.map(char::from).collect();
        let long = "k".repeat(200);
        let mut names = vec![
            every.clone(),
            format!("{every}/{every}"),
            format!("{long}/{long}/{long}"),
            "a%2Fb".to_owned(),
            "a%252Fb".to_owned(),
            "A%2fb".to_owned(),
            "...".to_owned(),
            ".hidden".to_owned(),
            "-".to_owned(),
        ];
        // One object cannot be the folder of another in a local directory.
        names[0].push('x');
        for name in &names {
            self.put(&format!("keys/{name}"), name.clone()).await;
        }
        for name in &names {
            let key = self.key(&format!("keys/{name}"));
            assert_eq!(self.read(&key).await, *name, "another object was read");
        }
        let mut expected: Vec<Key> = names
            .iter()
            .map(|n| self.key(&format!("keys/{n}")))
            .collect();
        expected.sort();
        let listed: Vec<Key> = self.list("keys").await.into_iter().map(|o| o.key).collect();
        assert_eq!(listed, expected);
    }

    pub(super) async fn large_body(&self) {
        let len = self.options.large_body_bytes;
        let body: Bytes = (0..=250_u8).cycle().take(len).collect::<Vec<_>>().into();
        let key = self.put("large", body.clone()).await;
        let (stored, _) = self.store.get(&key, len as u64).await.expect("get");
        assert!(stored == body, "a large body came back changed");
        let end = len as u64;
        let tail = self
            .store
            .get_range(&key, end / 2..end)
            .await
            .expect("range");
        assert!(
            tail == body.slice(len / 2..),
            "half of a large body came back changed"
        );
    }

    pub(super) async fn creates_and_replaces(&self) {
        let key = self.key("refs/main");
        let zero = Version("\"0\"".to_owned());
        assert_error!(
            self.store.replace(&key, "early".into(), &zero).await,
            StoreError::Conflict(k) if k == key
        );
        let first = self
            .store
            .create(&key, "first".into())
            .await
            .expect("create");
        assert_error!(
            self.store.create(&key, "other".into()).await,
            StoreError::Exists(k) if k == key
        );
        assert_eq!(
            self.store.get(&key, LIMIT).await.expect("get"),
            ("first".into(), first.clone())
        );

        let second = self
            .store
            .replace(&key, "second".into(), &first)
            .await
            .expect("replace");
        assert_ne!(first, second);
        assert_error!(
            self.store.replace(&key, "third".into(), &first).await,
            StoreError::Conflict(k) if k == key
        );
        let stored = self.store.get(&key, LIMIT).await.expect("get");
        assert_eq!(stored, ("second".into(), second.clone()));

        self.store.delete(&key).await.expect("delete");
        assert_error!(
            self.store.replace(&key, "late".into(), &second).await,
            StoreError::Conflict(k) if k == key
        );
        assert_error!(self.store.size(&key).await, StoreError::NotFound(_));
        self.store
            .create(&key, "again".into())
            .await
            .expect("create after a delete");
        let over = self.put("over", "put").await;
        assert_error!(
            self.store.create(&over, "x".into()).await,
            StoreError::Exists(_)
        );
    }

    pub(super) async fn deletes(&self) {
        let key = self.put("deleted/object", "x").await;
        let beside = self.put("deleted/object2", "y").await;
        self.store.delete(&key).await.expect("delete");
        self.store.delete(&key).await.expect("delete again");
        assert_error!(self.store.get(&key, LIMIT).await, StoreError::NotFound(_));
        assert_eq!(
            self.read(&beside).await,
            "y",
            "the wrong object was deleted"
        );
    }

    pub(super) async fn listings(&self) {
        for (name, body) in [
            ("l/a", "1"),
            ("l/b/c", "22"),
            ("l/b/d/e", "333"),
            ("lx/f", "4"),
        ] {
            self.put(name, body).await;
        }
        let names = async |folder: &str| -> Vec<(String, u64)> {
            let strip = self.options.folder.len() + 1;
            let objects = self.list(folder).await;
            objects
                .into_iter()
                .map(|o| (o.key.as_str()[strip..].to_owned(), o.size_bytes))
                .collect()
        };
        let expected = [
            ("l/a".into(), 1),
            ("l/b/c".into(), 2),
            ("l/b/d/e".into(), 3),
        ];
        assert_eq!(names("l").await, expected);
        assert_eq!(names("l/b").await, expected[1..]);
        assert_eq!(names("l/a").await, [], "an object is not a folder");
        assert_eq!(names("none").await, []);
        let escape = self.store.list("../..").try_collect::<Vec<_>>().await;
        assert_error!(escape, StoreError::InvalidKey(_));
        let [object] = &self.list("lx").await[..] else {
            panic!("one object below lx")
        };
        let year_2020_ms = 1_577_836_800_000;
        assert!(
            object.modified_ms > year_2020_ms,
            "modified at {} ms",
            object.modified_ms
        );
        self.many_objects().await;
    }

    async fn many_objects(&self) {
        let count = self.options.list_objects;
        let name = |i: usize| format!("many/{:02}/{i}", i % 7);
        futures::stream::iter(0..count)
            .for_each_concurrent(PREPARING_MAX, |i| async move {
                self.put(&name(i), "x").await;
            })
            .await;
        let mut expected: Vec<Key> = (0..count).map(|i| self.key(&name(i))).collect();
        expected.sort();
        let listed: Vec<Key> = self.list("many").await.into_iter().map(|o| o.key).collect();
        assert!(
            listed == expected,
            "listed {} objects of {count}",
            listed.len()
        );
        self.clean_up("many").await;
    }
}
