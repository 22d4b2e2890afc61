//! The members that are asked, while the list changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::breaker::Breaker;
use super::place::{Spot, member_hash, rank, relieve};

/// Members of one region.
pub(crate) const MEMBERS_MAX: usize = 256;
/// How long a member is not asked for what it gave wrongly.
const DISTRUST: Duration = Duration::from_secs(60);
/// Spots that members are distrusted with; beyond them all is forgotten.
const DISTRUSTED_MAX: usize = 1024;

/// A member, as long as it is on the list.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: Arc<str>,
    pub(crate) breaker: Breaker,
    hash: u64,
    loads: AtomicUsize,
}

/// A request under way at a member.
#[derive(Debug)]
pub(crate) struct Load<'a>(&'a Member);

impl Member {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            breaker: Breaker::default(),
            hash: member_hash(name),
            loads: AtomicUsize::new(0),
        }
    }

    /// Counts a request until the result is dropped.
    pub(crate) fn load(&self) -> Load<'_> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Load(self)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.loads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The list, and with what some of its members are not trusted.
#[derive(Debug, Default)]
pub(crate) struct Members {
    list: RwLock<Arc<[Arc<Member>]>>,
    distrusted: Mutex<HashMap<(Arc<str>, Spot), Duration>>,
    /// Whether the list is what was looked up, not what was there before.
    looked: watch::Sender<bool>,
}

impl Members {
    /// Replaces the list. What is known of members that stay is kept. Those beyond
    /// [`MEMBERS_MAX`] are left out, the same ones on every node.
    pub(crate) fn replace(&self, names: &BTreeSet<String>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let names: BTreeSet<&String> = names.iter().take(MEMBERS_MAX).collect();
        let known: HashMap<_, _> = list.iter().map(|m| (Arc::clone(&m.name), m)).collect();
        let member = |name: &&String| match known.get(name.as_str()) {
            Some(member) => Arc::clone(member),
            None => Arc::new(Member::new(name)),
        };
        if names.len() == known.len() && names.iter().all(|n| known.contains_key(n.as_str())) {
            return;
        }
        tracing::info!(members = names.len(), "the region has other members");
        let new: Arc<[_]> = names.iter().map(member).collect();
        drop(known);
        *list = new;
    }

    /// Says that the list was looked up.
    pub(crate) fn note_looked(&self) {
        self.looked
            .send_if_modified(|looked| !std::mem::replace(looked, true));
    }

    /// Waits until the list was looked up.
    pub(crate) async fn looked(&self) {
        // The sender is here.
        drop(self.looked.subscribe().wait_for(|looked| *looked).await);
    }

    /// Returns the list.
    pub(crate) fn list(&self) -> Arc<[Arc<Member>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whom to ask for a spot, best first: not those that gave it wrongly, and last those
    /// that have more than their share under way.
    pub(crate) fn candidates(&self, spot: Spot, now: Duration) -> Vec<Arc<Member>> {
        let mut candidates = self.ranked(spot);
        candidates.retain(|member| self.trusts(member, spot, now));
        let list = self.list();
        let load = |member: &Arc<Member>| member.loads.load(Ordering::Relaxed);
        let loads: Vec<usize> = candidates.iter().map(load).collect();
        relieve(
            &mut candidates,
            &loads,
            list.iter().map(load).sum(),
            list.len(),
        );
        candidates
    }

    /// Returns who has a spot, best first, whatever their state.
    pub(crate) fn ranked(&self, spot: Spot) -> Vec<Arc<Member>> {
        let list = self.list();
        let hashes: Vec<u64> = list.iter().map(|member| member.hash).collect();
        rank(spot, &hashes)
            .into_iter()
            .map(|n| Arc::clone(&list[n]))
            .collect()
    }

    /// Does not ask `member` for `spot` for a while.
    pub(crate) fn distrust(&self, member: &str, spot: Spot, now: Duration) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if distrusted.len() >= DISTRUSTED_MAX {
            distrusted.clear();
        }
        distrusted.insert((member.into(), spot), now + DISTRUST);
    }

    fn trusts(&self, member: &Member, spot: Spot, now: Duration) -> bool {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if distrusted.is_empty() {
            return true;
        }
        let key = (Arc::clone(&member.name), spot);
        match distrusted.get(&key) {
            Some(until) if now < *until => false,
            Some(_) => {
                distrusted.remove(&key);
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use nacre_blobstore::Key;

    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn spot(number: u32) -> Spot {
        Spot::of(&Key::new(format!("packs/{number}")).unwrap(), 0)
    }

    #[test]
    fn members_that_stay_keep_their_state() {
        let members = Members::default();
        assert!(members.candidates(spot(1), Duration::ZERO).is_empty());
        members.replace(&set(&["a:1", "b:1"]));
        let a = Arc::clone(&members.list()[0]);
        members.replace(&set(&["a:1", "c:1"]));
        let list = members.list();
        assert!(Arc::ptr_eq(&a, &list[0]));
        assert_eq!(&*list[1].name, "c:1");
        members.replace(&set(&[]));
        assert!(members.list().is_empty());
    }

    #[test]
    fn who_gave_wrong_bytes_is_not_asked_for_them_for_a_while() {
        let members = Members::default();
        members.replace(&set(&["a:1", "b:1", "c:1"]));
        let first = |spot, now| Arc::clone(&members.candidates(spot, now)[0].name);
        let wrong = first(spot(1), Duration::ZERO);
        let elsewhere = (2..)
            .find(|n| first(spot(*n), Duration::ZERO) == wrong)
            .unwrap();
        members.distrust(&wrong, spot(1), Duration::ZERO);
        assert_ne!(first(spot(1), Duration::ZERO), wrong);
        assert_eq!(members.candidates(spot(1), Duration::ZERO).len(), 2);
        assert_eq!(first(spot(elsewhere), Duration::ZERO), wrong);
        assert_eq!(first(spot(1), DISTRUST), wrong);
    }

    #[test]
    fn loads_are_counted_until_they_end() {
        let members = Members::default();
        members.replace(&set(&["a:1", "b:1", "c:1"]));
        let first = Arc::clone(&members.candidates(spot(1), Duration::ZERO)[0]);
        let loads: Vec<_> = (0..200).map(|_| first.load()).collect();
        let relieved = members.candidates(spot(1), Duration::ZERO);
        assert!(!Arc::ptr_eq(&relieved[0], &first) && Arc::ptr_eq(&relieved[1], &first));
        drop(loads);
        assert!(Arc::ptr_eq(
            &members.candidates(spot(1), Duration::ZERO)[0],
            &first
        ));
    }
}
