//! Two that give a name at once.

use std::time::Duration;

use nacre_blobstore::testing::memory_store;
use nacre_blobstore::{DelayStore, SystemClock};

use crate::snapshot::*;

#[tokio::test]
async fn of_two_that_give_a_name_at_once_one_fails_unless_both_mean_the_same() {
    let clock = Arc::new(SystemClock::new());
    // Both have read before either writes.
    let store = DelayStore::new(memory_store(), clock, Duration::from_millis(20));
    let record = |text: &[u8]| RecordId::new(Digest::of(text));
    for round in 0..2 {
        let same = name_snapshot(&store, record(&[round]), "same", 1);
        let again = name_snapshot(&store, record(&[round]), "same", 2);
        let (same, again) = tokio::join!(same, again);
        assert!(same.is_ok() && again.is_ok(), "{same:?} {again:?}");
        let one = name_snapshot(&store, record(&[round]), "other", 1);
        let two = name_snapshot(&store, record(&[round, round]), "other", 1);
        let (one, two) = tokio::join!(one, two);
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    }
}
